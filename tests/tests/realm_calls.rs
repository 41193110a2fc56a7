//! The realm dialect: exact register results of every call (Arm DEN0137), the quick way and the long way.

use abi::host::{self, counter, dialect, frame};
use abi::run::{self, exit};
use abi::{FRAME_SIZE, psci, rsi::*, smccc};
use arch::Conduit;
use arch::machine::{Exception, Instruction};
use sha2::{Digest, Sha384};
use tests::{Guest, World};

const INPUT: [u64; 4] = [ERROR_INPUT, 0, 0, 0];
const NOT_SUPPORTED: [u64; 4] = [u64::MAX, 0, 0, 0];

fn realm(test: impl Fn(&World, &Guest<'_>)) {
    for quick in [true, false] {
        let world = World::new();
        let guest = Guest::sealed(&world, dialect::REALM, 1);
        guest.vcpu(0, |vcpu| vcpu.quick = quick);
        test(&world, &guest);
        world.check();
        guest.end();
        world.check_empty();
    }
}

#[test]
fn discovery_as_linux_does_it() {
    realm(|_, guest| {
        assert_eq!(guest.call(&[psci::VERSION]), [psci::VERSION_1_1, 0, 0, 0]);
        assert_eq!(guest.call(&[smccc::VERSION]), [0x1_0002, 0, 0, 0]);
        assert_eq!(guest.call(&[smccc::VENDOR_UID]), NOT_SUPPORTED, "never both ABIs in one guest");
        assert_eq!(guest.call(&[abi::pkvm::FEATURES]), NOT_SUPPORTED);
        assert_eq!(guest.call(&[abi::pkvm::MEM_SHARE, guest.ipa(0)]), NOT_SUPPORTED);
        assert_eq!(guest.call(&[VERSION, 0x1_0000]), [SUCCESS, 0x1_0000, 0x1_0000, 0]);
        for version in [0, 1, 0x1_0001, 0x2_0000, u64::MAX] {
            assert_eq!(guest.call(&[VERSION, version]), [ERROR_INPUT, 0x1_0000, 0x1_0000, 0]);
        }
        for index in [0, 1, u64::MAX] {
            assert_eq!(guest.call(&[FEATURES, index]), [SUCCESS, 0, 0, 0]);
        }
    });
}

#[test]
fn hvc_is_undefined_in_a_realm() {
    realm(|_, guest| {
        for call in [[VERSION, 0x1_0000, 7, 7], [IPA_STATE_SET, guest.ipa(0), guest.ipa(1), RIPAS_EMPTY]] {
            let program = [Instruction::Set(call.to_vec()), Instruction::Call(Conduit::Hvc)];
            assert_eq!(guest.does(0, program), exit::WAIT);
            assert_eq!(guest.x(0), call, "no register changed");
            let exceptions = guest.vcpu(0, |vcpu| std::mem::take(&mut vcpu.exceptions));
            assert_eq!(exceptions, [Exception::Undefined]);
        }
    });
}

#[test]
fn museum_9_everything_unknown_is_not_supported() {
    realm(|_, guest| {
        let known = [VERSION, FEATURES, MEASUREMENT_READ, MEASUREMENT_EXTEND, REALM_CONFIG];
        let known = [&known[..], &[IPA_STATE_SET, IPA_STATE_GET, HOST_CALL]].concat();
        for function in (FIRST..=LAST).filter(|function| !known.contains(function)) {
            assert_eq!(guest.call(&[function, guest.ipa(0), 1, 2]), NOT_SUPPORTED, "{function:#x}");
        }
        for function in [0, 0x8400_0050, host::VERSION, VERSION | 1 << 32, u64::MAX] {
            assert_eq!(guest.call(&[function, 1, 1, 1]), NOT_SUPPORTED, "{function:#x}");
        }
    });
}

#[test]
fn e10_realm_config_is_written_where_the_guest_may_write_only() {
    realm(|world, guest| {
        let page = guest.donate(guest.ipa(1));
        let ipa = guest.ipa(1);
        (0..512).for_each(|n| assert!(guest.writes(ipa + n * 8, u64::MAX)));
        assert_eq!(guest.call(&[REALM_CONFIG, ipa]), [SUCCESS, 0, 0, 0]);
        assert_eq!(guest.reads(ipa), Some(40));
        assert_eq!(guest.reads(ipa + 8), Some(HASH_SHA384));
        assert!((2..512).all(|n| guest.reads(ipa + n * 8) == Some(0)), "all the rest is zero");
        for bad in [ipa + 8, 0, 1 << 39 | ipa, guest.config.ram_base + guest.config.ram_size, u64::MAX - 4095] {
            assert_eq!(guest.call(&[REALM_CONFIG, bad]), INPUT, "{bad:#x}");
        }
        guest.share(ipa, true);
        assert_eq!(guest.call(&[REALM_CONFIG, ipa]), INPUT, "shared");
        assert_eq!(world.host_reads(page), Some(0));
    });
}

#[test]
fn realm_config_of_a_page_that_is_not_there_asks_the_host() {
    realm(|_, guest| {
        let ipa = guest.ipa(5);
        assert_eq!(guest.does(0, guest.instructions(&[REALM_CONFIG, ipa])), exit::MEMORY_FAULT);
        assert_eq!(guest.fault(0), (ipa, 0));
        guest.donate(ipa);
        assert_eq!(guest.run(0), exit::WAIT);
        assert_eq!((guest.x(0), guest.reads(ipa)), ([SUCCESS, 0, 0, 0], Some(40)));
    });
}

#[test]
fn a6_c3_ipa_state_set_turns_pages_wiped_and_moves_them_to_the_other_half() {
    realm(|world, guest| {
        let (page, ipa, alias) = (guest.donate(guest.ipa(1)), guest.ipa(1), guest.alias());
        assert!(guest.writes(ipa, 0x5EC));
        assert_eq!(guest.reads(alias | ipa), None);
        guest.share(ipa, true);
        world.check();
        assert_eq!((guest.reads(ipa), guest.reads(alias | ipa)), (None, Some(0)));
        assert_eq!((world.frame(page), world.host_reads(page)), ((frame::SHARED, 0), Some(0)));
        assert!(world.host_writes(page, 0xBAD));
        assert_eq!(guest.reads(alias | ipa), Some(0xBAD));
        guest.share(ipa, false);
        assert_eq!((guest.reads(ipa), guest.reads(alias | ipa)), (Some(0), None));
        assert_eq!(world.host_reads(page), None, "museum 3");
    });
}

#[test]
fn e8_setting_ram_what_is_ram_keeps_content() {
    realm(|_, guest| {
        guest.donate(guest.ipa(1));
        assert!(guest.writes(guest.ipa(1), 0x600D));
        let (base, top) = (guest.ipa(0), guest.ipa(8192));
        let mut at = base;
        while at < top {
            let [status, next, response, _] = guest.call(&[IPA_STATE_SET, at, top, RIPAS_RAM]);
            assert_eq!((status, response), (SUCCESS, ACCEPT));
            assert!(next > at && next <= top, "E9: base < x1 <= top");
            at = next;
        }
        assert_eq!(guest.reads(guest.ipa(1)), Some(0x600D));
        assert_eq!(guest.reads(guest.ipa(0)), Some(0x1457), "the running kernel");
    });
}

#[test]
fn c5_c9_a_range_is_converted_in_bounded_steps() {
    realm(|world, guest| {
        let block = guest.donate_block(guest.ipa(512));
        (0..512).for_each(|n| assert!(guest.writes(guest.ipa(512 + n), n)));
        for (ripas, state) in [(RIPAS_EMPTY, frame::SHARED), (RIPAS_RAM, frame::PRIVATE)] {
            let (mut at, top) = (guest.ipa(512 + 7), guest.ipa(1024 + 9));
            while at < top {
                let [status, next, response, _] = guest.call(&[IPA_STATE_SET, at, top, ripas]);
                assert_eq!((status, response), (SUCCESS, ACCEPT));
                assert!(next > at && next <= top);
                assert!(next - at <= 128 * FRAME_SIZE, "so many pages are not wiped within the bound");
                at = next;
                world.check();
            }
            assert_eq!(world.frame(block + 7 * FRAME_SIZE).0, state);
            assert_eq!(world.frame(block + 511 * FRAME_SIZE).0, state);
            assert_eq!(world.frame(block + 6 * FRAME_SIZE).0, frame::PRIVATE);
        }
        assert_eq!(guest.reads(guest.ipa(518)), Some(6));
        assert_eq!(guest.reads(guest.ipa(519)), Some(0));
    });
}

#[test]
fn c6_a_whole_block_is_opened_and_closed_without_showing_anything() {
    realm(|world, guest| {
        let block = guest.donate_block(guest.ipa(512));
        (0..512).for_each(|n| assert!(guest.writes(guest.ipa(512 + n), 0x5EC)));
        let splits = world.counter(counter::SPLITS);
        for ripas in [RIPAS_EMPTY, RIPAS_RAM] {
            let (mut at, top) = (guest.ipa(512), guest.ipa(1024));
            while at < top {
                let [status, next, ..] = guest.call(&[IPA_STATE_SET, at, top, ripas]);
                assert_eq!(status, SUCCESS);
                at = next;
                for n in [0, 100, 511] {
                    let seen = world.host_reads(block + n * FRAME_SIZE);
                    assert!(seen.is_none_or(|value| value == 0), "museum 2: the host saw {seen:?}");
                }
                world.check();
            }
        }
        assert_eq!(world.counter(counter::SPLITS), splits, "huge pages stay huge");
    });
}

#[test]
fn malformed_ranges_are_refused() {
    realm(|_, guest| {
        let (base, top) = (guest.ipa(1), guest.ipa(2));
        let end = guest.config.ram_base + guest.config.ram_size;
        for [base, top, ripas] in [
            [base + 1, top, 0],
            [base, top + 8, 0],
            [base, base, 0],
            [top, base, 0],
            [base, top, 2],
            [base, top, 3],
            [base, top, u64::MAX],
            [base, end + FRAME_SIZE, 0],
            [guest.config.ram_base - FRAME_SIZE, top, 0],
            [0, FRAME_SIZE, 0],
            [1 << 39 | base, 1 << 39 | top, 0],
            [base, 0, 0],
            [0, u64::MAX - 4095, 0],
            [u64::MAX - 8191, u64::MAX - 4095, 1],
        ] {
            assert_eq!(guest.call(&[IPA_STATE_SET, base, top, ripas]), INPUT, "{base:#x} {top:#x} {ripas}");
        }
        for [start, end] in
            [[base + 1, top], [base, top + 1], [base, base], [top, base], [base, (1 << 39) + FRAME_SIZE], [0, u64::MAX]]
        {
            assert_eq!(guest.call(&[IPA_STATE_GET, start, end]), INPUT, "{start:#x} {end:#x}");
        }
    });
}

#[test]
fn e11_ipa_state_get_says_empty_for_devices_and_holes() {
    realm(|_, guest| {
        let (ram, end) = (guest.config.ram_base, guest.config.ram_base + guest.config.ram_size);
        assert_eq!(guest.call(&[IPA_STATE_GET, 0x0900_0000, 0x0900_1000]), [SUCCESS, 0x0900_1000, RIPAS_EMPTY, 0]);
        assert_eq!(guest.call(&[IPA_STATE_GET, 0, ram + FRAME_SIZE]), [SUCCESS, ram, RIPAS_EMPTY, 0]);
        assert_eq!(guest.call(&[IPA_STATE_GET, end, 1 << 39]), [SUCCESS, 1 << 39, RIPAS_EMPTY, 0]);
        assert_eq!(guest.call(&[IPA_STATE_GET, ram, 1 << 39]), [SUCCESS, end, RIPAS_RAM, 0]);
        guest.donate(guest.ipa(1));
        guest.share(guest.ipa(1), true);
        guest.share(guest.ipa(3), true);
        assert_eq!(guest.call(&[IPA_STATE_GET, ram, end]), [SUCCESS, guest.ipa(1), RIPAS_RAM, 0]);
        assert_eq!(guest.call(&[IPA_STATE_GET, guest.ipa(1), end]), [SUCCESS, guest.ipa(2), RIPAS_EMPTY, 0]);
        assert_eq!(guest.call(&[IPA_STATE_GET, guest.ipa(2), guest.ipa(3)]), [SUCCESS, guest.ipa(3), RIPAS_RAM, 0]);
        assert_eq!(guest.call(&[IPA_STATE_GET, guest.ipa(3), guest.ipa(4)]), [SUCCESS, guest.ipa(4), RIPAS_EMPTY, 0]);
    });
}

#[test]
fn what_was_shared_before_it_was_there_arrives_shared() {
    realm(|world, guest| {
        guest.share(guest.ipa(4), true);
        let page = guest.donate(guest.ipa(4));
        assert_eq!(world.frame(page), (frame::SHARED, 0));
        assert_eq!(guest.reads(guest.alias() | guest.ipa(4)), Some(0));
        assert_eq!(guest.reads(guest.ipa(4)), None);
    });
}

#[test]
fn c7_a_pinned_page_is_rejected_and_the_guest_is_told() {
    realm(|world, guest| {
        let pages = [guest.donate(guest.ipa(1)), guest.donate(guest.ipa(2))];
        guest.share(guest.ipa(1), true);
        guest.share(guest.ipa(2), true);
        world.ok(host::PIN, [pages[1]]);
        let (base, top) = (guest.ipa(1), guest.ipa(3));
        assert_eq!(guest.call(&[IPA_STATE_SET, base, top, RIPAS_RAM]), [SUCCESS, guest.ipa(2), ACCEPT, 0]);
        assert_eq!(guest.call(&[IPA_STATE_SET, guest.ipa(2), top, RIPAS_RAM]), [SUCCESS, guest.ipa(2), 1, 0]);
        world.ok(host::UNPIN, [pages[1]]);
        assert_eq!(guest.call(&[IPA_STATE_SET, guest.ipa(2), top, RIPAS_RAM]), [SUCCESS, top, ACCEPT, 0]);
    });
}

#[test]
fn need_meta_asks_for_frames_and_is_executed_again() {
    let world = World::new();
    let mut guest = Guest::with_meta(&world, World::config(dialect::REALM, 1), 5);
    guest.seal();
    assert_eq!(guest.info()[2], 0, "no metadata is left");
    let call = [IPA_STATE_SET, guest.ipa(0), guest.ipa(1), RIPAS_EMPTY];
    assert_eq!(guest.does(0, guest.instructions(&call)), exit::NEED_META);
    assert_eq!(guest.run(0), exit::NEED_META);
    assert_eq!(guest.x(0), call);
    world.check();
    for _ in 0..8 {
        world.ok(host::VM_DONATE_META, [guest.handle, world.page(), 1]);
    }
    assert_eq!(guest.run(0), exit::WAIT);
    assert_eq!(guest.x(0), [SUCCESS, guest.ipa(1), ACCEPT, 0]);
    guest.end();
    world.check_empty();
}

#[test]
fn host_call_goes_out_and_comes_back_through_the_run_page() {
    realm(|world, guest| {
        guest.donate(guest.ipa(1));
        let at = guest.ipa(1) + 0x300;
        guest.writes(at, 0xFFFF_FFFF_FFFF_1234);
        (0..31).for_each(|n| assert!(guest.writes(at + 8 + n * 8, 100 + n)));
        assert!(guest.writes(at + 256, 0x7A11) && guest.writes(at - 8, 0x7A11));
        assert_eq!(guest.does(0, guest.instructions(&[HOST_CALL, at])), exit::HOST_CALL);
        assert_eq!(guest.word(0, run::CALL_IMMEDIATE), 0x1234, "16 bits");
        (0..31).for_each(|n| assert_eq!(guest.word(0, run::CALL_REGISTERS + n), 100 + n as u64));
        assert_eq!(guest.word(0, run::CALL_REGISTERS + 31), 0, "nothing after them");
        (0..31).for_each(|n| guest.set_word(0, run::CALL_REGISTERS + n, 200 + n as u64));
        assert_eq!(guest.run(0), exit::WAIT);
        assert_eq!(guest.x(0), [SUCCESS, 0, 0, 0]);
        (0..31).for_each(|n| assert_eq!(guest.reads(at + 8 + n * 8), Some(200 + n)));
        assert_eq!(guest.reads(at), Some(0xFFFF_FFFF_FFFF_1234), "the immediate is the guest's");
        assert_eq!((guest.reads(at - 8), guest.reads(at + 256)), (Some(0x7A11), Some(0x7A11)));
        (0..31).for_each(|n| guest.set_word(0, run::CALL_REGISTERS + n, 666));
        assert_eq!(guest.run(0), exit::WAIT);
        assert_eq!(guest.reads(at + 8), Some(200), "answers are taken once");
        world.check();
    });
}

#[test]
fn host_call_with_a_bad_structure_is_refused() {
    realm(|_, guest| {
        guest.donate(guest.ipa(1));
        for bad in [guest.ipa(1) + 8, guest.ipa(1) + 128, 0, 1 << 39 | guest.ipa(1), u64::MAX - 255] {
            assert_eq!(guest.call(&[HOST_CALL, bad]), INPUT, "{bad:#x}");
        }
        guest.share(guest.ipa(1), true);
        assert_eq!(guest.call(&[HOST_CALL, guest.ipa(1)]), INPUT, "shared");
        assert_eq!(guest.does(0, guest.instructions(&[HOST_CALL, guest.ipa(2)])), exit::MEMORY_FAULT);
        guest.donate(guest.ipa(2));
        assert_eq!(guest.run(0), exit::HOST_CALL);
        assert_eq!(guest.run(0), exit::WAIT);
    });
}

#[test]
fn host_call_answers_that_have_lost_their_page_are_lost() {
    let world = World::new();
    let guest = Guest::sealed(&world, dialect::REALM, 2);
    let page = guest.donate(guest.ipa(1));
    let on = [psci::CPU_ON, 1, guest.ipa(0), 0];
    assert_eq!(guest.does(0, guest.instructions(&on)), exit::CPU_ON);
    assert_eq!(guest.does(0, guest.instructions(&[HOST_CALL, guest.ipa(1)])), exit::HOST_CALL);
    let share = [IPA_STATE_SET, guest.ipa(1), guest.ipa(2), RIPAS_EMPTY];
    assert_eq!(guest.call_of(1, &share)[0], SUCCESS);
    guest.set_word(0, run::CALL_REGISTERS, 0xBAD);
    assert_eq!(guest.run(0), exit::WAIT);
    assert_eq!(guest.x(0)[0], ERROR_INPUT);
    assert_eq!(world.content(page)[1].load(std::sync::atomic::Ordering::Relaxed), 0);
    guest.end();
    world.check_empty();
}

#[test]
fn measurements_are_read_and_extended() {
    realm(|_, guest| {
        let launch = guest.measurement();
        assert_eq!(guest.call(&[MEASUREMENT_READ, 0]), [SUCCESS, launch[0], launch[1], launch[2]]);
        let rest = guest.vcpu(0, |vcpu| [4, 5, 6, 7, 8].map(|n| vcpu.x(n)));
        assert_eq!(rest, [launch[3], launch[4], launch[5], 0, 0]);
        for index in 1..=4 {
            assert_eq!(guest.call(&[MEASUREMENT_READ, index]), [SUCCESS, 0, 0, 0]);
        }
        for index in [5, u64::MAX] {
            assert_eq!(guest.call(&[MEASUREMENT_READ, index]), INPUT);
        }
        let mut extend = vec![MEASUREMENT_EXTEND, 2, 20];
        extend.extend([1, 2, 0xFFFF_FFFF_0000_0003, 4]);
        assert_eq!(guest.call(&extend), [SUCCESS, 0, 0, 0]);
        let mut data = [0; 48 + 20];
        for (n, word) in [1_u64, 2].into_iter().enumerate() {
            data[48 + n * 8..][..8].copy_from_slice(&word.to_le_bytes());
        }
        data[64..].copy_from_slice(&3_u32.to_le_bytes());
        let digest = Sha384::digest(data);
        let word = |n: usize| u64::from_le_bytes(digest[n * 8..][..8].try_into().unwrap());
        assert_eq!(guest.call(&[MEASUREMENT_READ, 2]), [SUCCESS, word(0), word(1), word(2)]);
        assert_eq!(guest.call(&[MEASUREMENT_READ, 1]), [SUCCESS, 0, 0, 0], "its neighbour");
        for (index, size) in [(0, 8), (5, 8), (u64::MAX, 8), (1, 65), (1, u64::MAX)] {
            assert_eq!(guest.call(&[MEASUREMENT_EXTEND, index, size]), INPUT, "{index} {size}");
        }
        assert_eq!(guest.measurement(), launch, "the launch measurement is closed");
    });
}
