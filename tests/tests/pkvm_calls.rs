//! The pKVM dialect: exact register results of every call (Linux `hypercalls.rst`), the quick way and the long way.

use abi::host::{self, counter, dialect, frame};
use abi::run::{self, exit};
use abi::{FRAME_SIZE, pkvm::*, psci, smccc};
use arch::Conduit;
use arch::machine::{Exception, Instruction};
use tests::{Guest, World};

const INVALID: [u64; 4] = [INVALID_PARAMETER as u64, 0, 0, 0];
const NOT_SUPPORTED: [u64; 4] = [u64::MAX, 0, 0, 0];

fn each_way(test: impl Fn(&World, &Guest<'_>)) {
    for quick in [true, false] {
        let world = World::new();
        let guest = Guest::sealed(&world, dialect::PKVM, 1);
        guest.vcpu(0, |vcpu| vcpu.quick = quick);
        test(&world, &guest);
        world.check();
        guest.end();
        world.check_empty();
    }
}

#[test]
fn discovery_as_linux_does_it() {
    each_way(|_, guest| {
        assert_eq!(guest.call(&[psci::VERSION]), [psci::VERSION_1_1, 0, 0, 0]);
        assert_eq!(guest.call(&[psci::MIGRATE_INFO_TYPE]), [2, 0, 0, 0]);
        assert_eq!(guest.call(&[psci::FEATURES, smccc::VERSION]), [0; 4]);
        assert_eq!(guest.call(&[smccc::VERSION]), [0x1_0002, 0, 0, 0]);
        assert_eq!(guest.call(&[smccc::ARCH_FEATURES, smccc::VERSION]), [0; 4]);
        for unknown in [0x8000_0002, 0x8000_8000, 0x8000_7FFF, 0x8000_3FFF] {
            assert_eq!(guest.call(&[smccc::ARCH_FEATURES, unknown]), NOT_SUPPORTED);
        }
        assert_eq!(guest.call(&[smccc::VENDOR_UID]), [0xb66f_b428, 0xe911_c52e, 0x564b_caa9, 0x743a_004d]);
        assert_eq!(guest.call(&[FEATURES]), [0xFD, 0, 0, 0]);
        assert_eq!(guest.call(&[HYP_MEMINFO, 0, 0, 0]), [4096, 0, 0, 0]);
        for arguments in [[1, 0, 0], [0, 1, 0], [0, 0, u64::MAX]] {
            assert_eq!(guest.call(&[HYP_MEMINFO, arguments[0], arguments[1], arguments[2]]), INVALID);
        }
    });
}

#[test]
fn museum_9_everything_unknown_is_not_supported() {
    each_way(|world, guest| {
        let before = world.counter(counter::GUEST_REFUSALS);
        let unknown = [
            0,
            1,
            0x8400_0050,
            0x8400_0060,
            0xC400_0060,
            0xC500_0020,
            0x8600_0001,
            0xC600_0008,
            0xC600_0040,
            host::VERSION,
            host::VM_CREATE,
            host::PIN,
            abi::rsi::VERSION,
            abi::rsi::IPA_STATE_SET,
            psci::CPU_SUSPEND,
            psci::CPU_SUSPEND_32,
            psci::SYSTEM_SUSPEND,
            psci::SYSTEM_RESET2,
            MEM_SHARE | 1 << 32,
            MEM_SHARE | 1 << 63,
            u64::MAX,
        ];
        for function in unknown {
            assert_eq!(guest.call(&[function, guest.ipa(0), 7, 7]), NOT_SUPPORTED, "{function:#x}");
        }
        assert_eq!(world.counter(counter::GUEST_REFUSALS), before + unknown.len() as u64);
    });
}

#[test]
fn the_hint_about_sve_is_masked() {
    each_way(|_, guest| {
        assert_eq!(guest.call(&[FEATURES | smccc::SVE_HINT]), [0xFD, 0, 0, 0]);
        assert_eq!(guest.call(&[psci::VERSION | smccc::SVE_HINT]), [psci::VERSION_1_1, 0, 0, 0]);
    });
}

#[test]
fn hvc_returns_past_itself_and_smc_at_itself() {
    each_way(|_, guest| {
        for conduit in [Conduit::Hvc, Conduit::Smc] {
            for function in [FEATURES, psci::VERSION] {
                let before = guest.vcpu(0, |vcpu| vcpu.next());
                let call = [Instruction::Set(vec![function, 0, 0, 0]), Instruction::Call(conduit)];
                assert_eq!(guest.does(0, call), exit::WAIT);
                assert_eq!(guest.vcpu(0, |vcpu| vcpu.next()), before + 2, "{conduit:?}");
            }
        }
    });
}

#[test]
fn a6_b1_c3_share_and_unshare_a_page_wiped_both_ways() {
    each_way(|world, guest| {
        let (page, ipa) = (guest.donate(guest.ipa(1)), guest.ipa(1));
        assert!(guest.writes(ipa, 0x5EC));
        assert_eq!(world.host_reads(page), None);
        let calls = world.counter(counter::GUEST_CALLS);
        assert_eq!(guest.call(&[MEM_SHARE, ipa, 0, 0]), [0; 4]);
        assert_eq!(world.counter(counter::GUEST_CALLS), calls + 1, "quick ones are counted too");
        assert_eq!(world.frame(page), (frame::SHARED, 0));
        assert_eq!(world.host_reads(page), Some(0), "the secret went before the host came");
        world.check();
        assert!(world.host_writes(page, 0xBAD) && guest.reads(ipa) == Some(0xBAD));
        assert_eq!(guest.call(&[MEM_UNSHARE, ipa, 0, 0]), [0; 4]);
        assert_eq!(guest.reads(ipa), Some(0), "what the host wrote went before the page was private");
        assert_eq!(world.host_reads(page), None, "museum 3: the host's translation is flushed");
        assert_eq!(guest.info()[11..], [1, 1]);
    });
}

#[test]
fn pkvm_s7_s8_s9_what_must_fail_in_each_state_does() {
    each_way(|world, guest| {
        let (page, ipa) = (guest.donate(guest.ipa(1)), guest.ipa(1));
        let host_may_not = || {
            for ipa in [guest.ipa(1), guest.ipa(2)] {
                let refused = world.refusal(host::VM_DONATE, [guest.handle, page, ipa, 1]);
                assert_eq!(refused, host::OWNER);
            }
            assert_eq!(world.refusal(host::VM_DONATE_META, [guest.handle, page, 1]), host::OWNER);
            assert_eq!(world.refusal(host::POOL_TOPUP, [page, 1]), host::OWNER);
        };
        host_may_not();
        assert_eq!(guest.call(&[MEM_UNSHARE, ipa]), INVALID, "not shared");
        assert_eq!(guest.call(&[MEM_SHARE, ipa]), [0; 4]);
        host_may_not();
        assert_eq!(guest.call(&[MEM_SHARE, ipa]), INVALID, "museum 5: shared already");
        assert_eq!(guest.call(&[MEM_UNSHARE, ipa]), [0; 4]);
        host_may_not();
        assert_eq!(guest.call(&[MEM_UNSHARE, ipa]), INVALID);
    });
}

#[test]
fn malformed_conversions_are_refused_and_change_nothing() {
    each_way(|world, guest| {
        let page = guest.donate(guest.ipa(1));
        let ipa = guest.ipa(1);
        let end = guest.config.ram_base + guest.config.ram_size;
        for call in [MEM_SHARE, MEM_UNSHARE] {
            for arguments in [
                [ipa + 1, 0, 0],
                [ipa + 2048, 0, 0],
                [ipa, 1, 0],
                [ipa, 0, 1],
                [0, 0, 0],
                [end, 0, 0],
                [guest.config.gicd_base, 0, 0],
                [1 << 39 | ipa, 0, 0],
                [1 << 52 | ipa, 0, 0],
                [u64::MAX, 0, 0],
                [u64::MAX - 4095, 0, 0],
            ] {
                assert_eq!(guest.call(&[call, arguments[0], arguments[1], arguments[2]]), INVALID, "{arguments:x?}");
            }
        }
        assert_eq!(world.frame(page), (frame::PRIVATE, 0));
        assert_eq!(guest.call(&[MEM_UNSHARE, guest.ipa(9)]), INVALID, "nothing there: no exit");
    });
}

#[test]
fn e15_share_of_a_page_that_is_not_there_asks_the_host_and_is_executed_again() {
    each_way(|world, guest| {
        let ipa = guest.ipa(3);
        let before = guest.vcpu(0, |vcpu| vcpu.next());
        assert_eq!(guest.does(0, guest.instructions(&[MEM_SHARE, ipa, 0, 0])), exit::MEMORY_FAULT);
        assert_eq!(guest.fault(0), (ipa, 0));
        assert_eq!(guest.x(0), [MEM_SHARE, ipa, 0, 0], "the registers are as they were");
        assert_eq!(guest.run(0), exit::MEMORY_FAULT, "again until there is something");
        assert_eq!(guest.vcpu(0, |vcpu| vcpu.next()), before + 1, "at the HVC");
        let page = guest.donate(ipa);
        assert_eq!(guest.run(0), exit::WAIT);
        assert_eq!(guest.x(0), [0; 4]);
        assert_eq!(world.frame(page), (frame::SHARED, 0));
    });
}

#[test]
fn c7_c10_a_page_that_the_host_holds_cannot_be_unshared_until_it_lets_go() {
    each_way(|world, guest| {
        let (page, ipa) = (guest.donate(guest.ipa(1)), guest.ipa(1));
        guest.share(ipa, true);
        world.ok(host::PIN, [page]);
        assert_eq!(guest.call(&[MEM_UNSHARE, ipa]), INVALID);
        assert_eq!(world.frame(page), (frame::SHARED, 1));
        world.ok(host::UNPIN, [page]);
        assert_eq!(guest.call(&[MEM_UNSHARE, ipa]), [0; 4]);
    });
}

#[test]
fn museum_13_need_pool_asks_for_frames_and_is_executed_again() {
    for quick in [true, false] {
        let world = World::with_little_pool();
        let guest = Guest::sealed(&world, dialect::PKVM, 1);
        guest.vcpu(0, |vcpu| vcpu.quick = quick);
        // Every shared page of a block that was whole takes record and table pages.
        for n in 1..12 {
            guest.donate_block(guest.ipa(512 * n));
        }
        let (mut asked, mut n) = (false, 1);
        while !asked {
            match guest.does(0, guest.instructions(&[MEM_SHARE, guest.ipa(512 * n), 0, 0])) {
                exit::WAIT => assert_eq!(guest.x(0), [0; 4]),
                exit::NEED_POOL => asked = true,
                other => panic!("exit {other}"),
            }
            world.check();
            n += 1;
        }
        assert_eq!(guest.run(0), exit::NEED_POOL);
        world.ok(host::POOL_TOPUP, [world.pages(4), 4]);
        assert_eq!(guest.run(0), exit::WAIT);
        assert_eq!(guest.x(0), [0; 4]);
        guest.end();
        world.check();
    }
}

#[test]
fn mmio_guard_takes_what_is_no_ram() {
    each_way(|_, guest| {
        for device in [0, 0x0900_0000, 0x3FFF_F000, 0x4200_0000, (1 << 40) - FRAME_SIZE] {
            assert_eq!(guest.call(&[MMIO_GUARD, device]), [0; 4], "{device:#x}");
            assert_eq!(guest.call(&[MMIO_GUARD, device]), [0; 4], "twice");
        }
        for address in [guest.ipa(0), guest.ipa(8191), 0x0900_0004, 1 << 40, u64::MAX - 4095] {
            assert_eq!(guest.call(&[MMIO_GUARD, address]), INVALID, "{address:#x}");
        }
    });
}

#[test]
fn once_enrolled_only_guarded_addresses_are_devices() {
    each_way(|_, guest| {
        let (uart, timer) = (0x0900_0000, 0x0901_0000);
        let access = |address| Instruction::Access(Guest::device(address, 3, Some(7)));
        assert_eq!(guest.call(&[MMIO_GUARD_INFO, 0, 0, 0]), [FRAME_SIZE, 0, 0, 0]);
        assert_eq!(guest.call(&[MMIO_GUARD, timer]), [0; 4], "not remembered");
        for address in [uart, timer] {
            assert_eq!(guest.does(0, [access(address)]), exit::MMIO_WRITE, "{address:#x}, not enrolled");
        }
        assert_eq!(guest.call(&[MMIO_GUARD_ENROLL]), [0; 4]);
        assert_eq!(guest.call(&[MMIO_GUARD, uart]), [0; 4]);
        assert_eq!(guest.does(0, [access(uart + 0xffc)]), exit::MMIO_WRITE);
        assert_eq!(guest.vcpu(0, |vcpu| vcpu.exceptions.len()), 0);
        for address in [timer, uart + FRAME_SIZE, uart - 4] {
            assert_eq!(guest.does(0, [access(address)]), exit::WAIT, "{address:#x} is not shown to the host");
            let exceptions = guest.vcpu(0, |vcpu| core::mem::take(&mut vcpu.exceptions));
            assert_eq!(exceptions, [Exception::Abort { fetch: false, write: true }]);
        }
        assert_eq!(guest.call(&[MMIO_GUARD, timer]), [0; 4], "later, too");
        assert_eq!(guest.does(0, [access(timer)]), exit::MMIO_WRITE);
        for granule in (guest.config.gicr_base..guest.config.gicr_base + 0x2_0000).step_by(FRAME_SIZE as usize) {
            assert_eq!(guest.call(&[MMIO_GUARD, granule]), [0; 4], "Postern's own devices take no room");
        }
        let more = (0..MMIO_GUARD_MAX as u64).map(|n| guest.call(&[MMIO_GUARD, n * FRAME_SIZE])[0]);
        assert_eq!(more.filter(|status| *status != 0).count(), 2, "the table has an end");
    });
}

#[test]
fn a_guest_cannot_call_as_the_host_does() {
    each_way(|world, guest| {
        let page = world.page();
        for number in host::BASE..host::END {
            assert_eq!(guest.call(&[number, page, 1, 1]), NOT_SUPPORTED);
        }
        assert_eq!(world.frame(page), (frame::HOST, 0));
        assert_eq!(guest.vcpu(0, |vcpu| vcpu.exceptions.clone()), Vec::<Exception>::new());
        assert_eq!(guest.word(0, run::FAILURE), 0);
    });
}
