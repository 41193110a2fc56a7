//! The tdx dialect: memory that is shared, taken back and accepted (TDX Module ABI, TDG.MEM.PAGE.ACCEPT; GHCI, MapGPA).

use abi::host::{self, counter, dialect, frame};
use abi::run::exit;
use abi::tdx::{leaf, level, register::*, status::*, vmcall};
use abi::{BLOCK_SIZE, FRAME_SIZE};
use arch::machine::{Exception, Instruction};
use arch::{Abort, VeInfo};
use tests::td::rubbish;
use tests::{Guest, World};

const STATE_INCORRECT: u64 = EPT_ENTRY_STATE_INCORRECT | RCX as u64;
const INVALID_RCX: u64 = OPERAND_INVALID | RCX as u64;

/// The test, with calls the quick way where there is one, and the long way only.
fn td(test: impl Fn(&World, &Guest<'_>)) {
    for quick in [true, false] {
        let world = World::new();
        let guest = Guest::sealed(&world, dialect::TDX, 1);
        guest.vcpu(0, |vcpu| vcpu.quick = quick);
        test(&world, &guest);
        world.check();
        guest.end();
        world.check_empty();
    }
}

#[test]
fn a6_c3_a_page_goes_to_the_host_wiped_comes_back_wiped_and_waits_to_be_accepted() {
    td(|world, guest| {
        let (page, ipa, alias) = (guest.donate(guest.ipa(1)), guest.ipa(1), guest.alias());
        assert!(guest.writes(ipa, 0x5EC));
        assert_eq!(guest.map_gpa(ipa | alias, FRAME_SIZE).0, vmcall::SUCCESS);
        world.check();
        assert_eq!((guest.reads(ipa), guest.reads(alias | ipa)), (None, Some(0)));
        assert_eq!((world.frame(page), world.host_reads(page)), ((frame::SHARED, 0), Some(0)));
        assert!(world.host_writes(page, 0xBAD));

        assert_eq!(guest.map_gpa(ipa, FRAME_SIZE).0, vmcall::SUCCESS);
        world.check();
        assert_eq!((world.frame(page), world.host_reads(page)), ((frame::PRIVATE, 0), None), "lost at once");
        assert_eq!((guest.reads(ipa), guest.reads(alias | ipa)), (None, None), "nobody's before the guest's word");

        assert_eq!(guest.accept(ipa, level::PAGE), SUCCESS);
        assert_eq!(guest.reads(ipa), Some(0));
        assert!(guest.writes(ipa, 0x600D));
        assert_eq!(guest.accept(ipa, level::PAGE), PAGE_ALREADY_ACCEPTED | level::PAGE);
        assert_eq!(guest.map_gpa(ipa, FRAME_SIZE).0, vmcall::SUCCESS, "private already, as in kexec");
        assert_eq!(guest.reads(ipa), Some(0x600D), "and untouched");
    });
}

#[test]
fn acceptance_is_refused_for_what_is_no_private_page() {
    td(|world, guest| {
        let (ram, end) = (guest.config.ram_base, guest.config.ram_base + guest.config.ram_size);
        let ipa = guest.ipa(1);
        for bad in [
            ipa | 2,
            ipa | 3,
            ipa | 7,
            ipa | 8,
            ipa | 0x800,
            ipa | 1,
            0,
            end,
            ram - FRAME_SIZE,
            ipa | guest.alias(),
            ipa | 1 << 40,
            ipa | 1 << 52,
            ipa | 1 << 63,
            u64::MAX - 4095,
        ] {
            let status = guest.accept(bad, 0);
            assert_eq!(status, INVALID_RCX, "{bad:#x}");
        }
        let page = guest.donate(ipa);
        assert_eq!(guest.map_gpa(ipa | guest.alias(), FRAME_SIZE).0, vmcall::SUCCESS);
        assert_eq!(guest.accept(ipa, level::PAGE), STATE_INCORRECT, "shared");
        world.ok(host::PIN, [page]);
        assert_eq!(guest.accept(ipa, level::PAGE), STATE_INCORRECT, "pinned");
        assert_eq!((world.frame(page), world.host_reads(page)), ((frame::SHARED, 1), Some(0)), "nothing converted");
        world.ok(host::UNPIN, [page]);
    });
}

#[test]
fn memory_that_was_never_given_is_accepted_and_arrives_zeroed() {
    td(|_, guest| {
        assert_eq!(guest.accept(guest.ipa(5), level::PAGE), SUCCESS);
        assert_eq!(guest.accept(guest.ipa(512), level::BLOCK), SUCCESS);
        guest.donate(guest.ipa(5));
        assert_eq!(guest.reads(guest.ipa(5)), Some(0));
        assert_eq!(guest.accept(guest.ipa(5), level::PAGE), PAGE_ALREADY_ACCEPTED);
        assert_eq!(guest.accept(guest.ipa(0), level::PAGE), PAGE_ALREADY_ACCEPTED, "the launch image");
        assert_eq!(guest.reads(guest.ipa(0)), Some(0x1457));
        assert_eq!(guest.accept(guest.ipa(0), level::BLOCK), PAGE_SIZE_MISMATCH | level::PAGE);
    });
}

#[test]
fn what_was_shared_before_it_was_there_is_given_first_and_then_taken_back() {
    td(|world, guest| {
        let (ipa, alias) = (guest.ipa(4), guest.alias());
        assert_eq!(guest.map_gpa(ipa | alias, 2 * FRAME_SIZE).0, vmcall::SUCCESS);
        assert_eq!(guest.accept(ipa, level::PAGE), STATE_INCORRECT);
        let back = Guest::td_vm(vmcall::MAP_GPA, &[(R12, ipa), (R13, 2 * FRAME_SIZE)]);
        assert_eq!(guest.does(0, back), exit::MEMORY_FAULT);
        assert_eq!(guest.fault(0), (ipa, 1));
        let page = guest.donate(ipa);
        assert_eq!(world.frame(page), (frame::SHARED, 0));
        assert_eq!(guest.run(0), exit::WAIT);
        let after = guest.gprs(0);
        assert_eq!((after[RAX], after[R10], after[R11]), (SUCCESS, vmcall::RETRY, ipa + FRAME_SIZE));
        assert_eq!(world.frame(page), (frame::PRIVATE, 0));
        let rest = Guest::td_vm(vmcall::MAP_GPA, &[(R12, ipa + FRAME_SIZE), (R13, FRAME_SIZE)]);
        assert_eq!(guest.does(0, rest), exit::MEMORY_FAULT);
        assert_eq!(guest.fault(0), (ipa + FRAME_SIZE, 1));
        guest.donate(ipa + FRAME_SIZE);
        assert_eq!(guest.run(0), exit::WAIT);
        assert_eq!(guest.gprs(0)[R10], vmcall::SUCCESS);
        for page in [4, 5] {
            assert_eq!(guest.accept(guest.ipa(page), level::PAGE), SUCCESS);
        }
    });
}

#[test]
fn malformed_ranges_change_nothing_and_name_their_start() {
    td(|world, guest| {
        let page = guest.donate(guest.ipa(1));
        let (ipa, alias) = (guest.ipa(1), guest.alias());
        let (ram, end) = (guest.config.ram_base, guest.config.ram_base + guest.config.ram_size);
        for (start, size) in [
            (ipa, 0),
            (ipa, u64::MAX),
            (ipa, u64::MAX - 4095),
            (ipa, alias),
            (ipa, alias + FRAME_SIZE),
            (ipa | alias, alias),
            (ram - FRAME_SIZE, 2 * FRAME_SIZE),
            (end - FRAME_SIZE, 2 * FRAME_SIZE),
            (end, FRAME_SIZE),
            (0, FRAME_SIZE),
            (0x0900_0000 | alias, FRAME_SIZE),
            (alias - FRAME_SIZE, 2 * FRAME_SIZE),
            ((2 * alias) | ipa, FRAME_SIZE),
            ((3 * alias) | ipa, FRAME_SIZE),
            (ipa | 1 << 63, FRAME_SIZE),
            (u64::MAX - 4095, FRAME_SIZE),
            (u64::MAX - 4095, 2 * FRAME_SIZE),
        ] {
            assert_eq!(guest.map_gpa(start, size), (vmcall::INVALID_OPERAND, start), "{start:#x} {size:#x}");
        }
        for (start, size) in [
            (ipa + 1, FRAME_SIZE),
            (ipa | alias | 8, FRAME_SIZE),
            (ipa, 1),
            (ipa | alias, 4095),
            (ipa, FRAME_SIZE + 8),
            (ipa + 2048, 2048),
        ] {
            assert_eq!(guest.map_gpa(start, size), (vmcall::ALIGN_ERROR, start), "{start:#x} {size:#x}");
        }
        assert_eq!(world.frame(page), (frame::PRIVATE, 0));
        assert_eq!(guest.map_gpa(ram, end - ram).0, vmcall::SUCCESS, "all of RAM is private already");
    });
}

#[test]
fn one_page_that_is_ready_is_converted_by_the_same_rules_as_any() {
    td(|world, guest| {
        let (page, ipa, alias) = (guest.donate(guest.ipa(1)), guest.ipa(1), guest.alias());
        guest.td_share(ipa, true);
        guest.td_share(ipa, false);
        let call = |mask: u64, r10: u64, r12: u64| {
            let fixed = [(RAX, leaf::VP_VMCALL), (R11, vmcall::MAP_GPA), (R13, FRAME_SIZE)];
            guest.tdcall(&[&fixed[..], &[(RCX, mask), (R10, r10), (R12, r12)]].concat())
        };
        let all = 1 << R10 | 1 << R11 | 1 << R12 | 1 << R13;
        let shared = ipa | alias;
        for bit in [RAX, RCX, RSP, 32, 63] {
            assert_eq!(call(all | 1 << bit, 0, shared)[RAX], INVALID_RCX, "a mask that names {bit}");
        }
        let unknown = (SUCCESS, vmcall::SUBFUNC_UNSUPPORTED, vmcall::MAP_GPA);
        for (mask, r10, expected) in [
            (all, 1, unknown),
            (all, 1 << 63, unknown),
            (all & !(1 << R11), 0, unknown),
            (all & !(1 << R12), 0, (SUCCESS, vmcall::INVALID_OPERAND, 0)),
            (all & !(1 << R13), 0, (SUCCESS, vmcall::INVALID_OPERAND, shared)),
        ] {
            let after = call(mask, r10, shared);
            assert_eq!((after[RAX], after[R10], after[R11]), expected, "mask {mask:#x}, R10 {r10:#x}");
        }
        for start in [shared | 1, shared | 8, shared | 0x800] {
            let after = call(all, 0, start);
            assert_eq!((after[RAX], after[R10], after[R11]), (SUCCESS, vmcall::ALIGN_ERROR, start));
        }
        let other = guest.tdvmcall(vmcall::MAP_GPA + 0x100, &[(R12, shared), (R13, FRAME_SIZE)]);
        assert_eq!(other[R10], vmcall::SUBFUNC_UNSUPPORTED);
        assert_eq!(world.frame(page), (frame::PRIVATE, 0), "nothing converted");

        assert_eq!(
            call(all & !(1 << R10), 7, shared)[R10],
            7,
            "its status is not shown, and what it holds is not seen"
        );
        assert_eq!(world.frame(page), (frame::SHARED, 0));
        let after = call(all, 0, ipa);
        let registers = [RAX, RCX, R10, R11, R12, R13].map(|n| after[n]);
        assert_eq!(registers, [SUCCESS, all, vmcall::SUCCESS, vmcall::MAP_GPA, ipa, FRAME_SIZE]);
        assert!((2..16).filter(|n| !(10..14).contains(n)).all(|n| after[n] == rubbish(n)));

        for bits in [1, 7, 8, 0x800, 1 << 52, 1 << 63, alias] {
            assert_eq!(guest.accept(ipa | bits, 0) & !0xFF, OPERAND_INVALID, "{bits:#x}");
        }
        assert_eq!(guest.reads(ipa), None, "not accepted yet");
        assert_eq!(guest.accept(ipa, level::PAGE), SUCCESS);
    });
}

#[test]
fn c5_c9_a_range_is_converted_in_bounded_steps() {
    td(|world, guest| {
        let block = guest.donate_block(guest.ipa(512));
        (0..512).for_each(|n| assert!(guest.writes(guest.ipa(512 + n), n)));
        for (half, state) in [(guest.alias(), frame::SHARED), (0, frame::PRIVATE)] {
            let (mut at, top) = (guest.ipa(512 + 7) | half, guest.ipa(1024) | half);
            loop {
                let (status, next) = guest.map_gpa(at, top - at);
                world.check();
                if status == vmcall::SUCCESS {
                    break;
                }
                assert_eq!((status, next & guest.alias()), (vmcall::RETRY, half));
                assert!(next > at && next < top && next - at <= 128 * FRAME_SIZE);
                at = next;
            }
            assert_eq!(world.frame(block + 7 * FRAME_SIZE).0, state);
            assert_eq!(world.frame(block + 511 * FRAME_SIZE).0, state);
            assert_eq!(world.frame(block + 6 * FRAME_SIZE).0, frame::PRIVATE);
        }
        assert_eq!((guest.reads(guest.ipa(518)), guest.reads(guest.ipa(519))), (Some(6), None));
        assert_eq!(guest.accept(guest.ipa(512), level::BLOCK), PAGE_SIZE_MISMATCH | level::PAGE);
        assert_eq!(guest.accept(guest.ipa(519), level::PAGE), SUCCESS);
        assert_eq!(guest.reads(guest.ipa(519)), Some(0));
    });
}

#[test]
fn c6_a_whole_block_is_shared_taken_back_and_accepted_without_being_split() {
    td(|world, guest| {
        let block = guest.donate_block(guest.ipa(512));
        (0..512).for_each(|n| assert!(guest.writes(guest.ipa(512 + n), 0x5EC)));
        assert_eq!(guest.accept(guest.ipa(512), level::BLOCK), PAGE_ALREADY_ACCEPTED | level::BLOCK);
        assert_eq!(guest.accept(guest.ipa(600), level::PAGE), PAGE_ALREADY_ACCEPTED | level::BLOCK);
        let splits = world.counter(counter::SPLITS);
        let (ipa, alias) = (guest.ipa(512), guest.alias());
        let (status, calls) = guest.map_all(ipa | alias, BLOCK_SIZE);
        assert_eq!(status, vmcall::SUCCESS);
        assert!(calls > 10, "bounded: {calls}");
        assert_eq!(guest.accept(ipa, level::BLOCK), STATE_INCORRECT);
        assert!((0..512).all(|n| world.host_reads(block + n * FRAME_SIZE) == Some(0)), "museum 2");
        assert_eq!(guest.map_all(ipa, BLOCK_SIZE).0, vmcall::SUCCESS);
        assert_eq!((guest.reads(ipa), world.host_reads(block)), (None, None));
        assert_eq!(guest.accept(ipa, level::BLOCK), SUCCESS);
        assert_eq!(guest.accept(ipa, level::BLOCK), PAGE_ALREADY_ACCEPTED | level::BLOCK);
        assert!((0..512).all(|n| guest.reads(guest.ipa(512 + n)) == Some(0)));
        assert_eq!(world.counter(counter::SPLITS), splits, "huge pages stay huge");
    });
}

#[test]
fn a_block_that_is_half_taken_back_is_completed_by_whoever_needs_it() {
    td(|world, guest| {
        guest.donate_block(guest.ipa(512));
        let (ipa, alias) = (guest.ipa(512), guest.alias());
        assert_eq!(guest.map_all(ipa | alias, BLOCK_SIZE).0, vmcall::SUCCESS);
        assert_eq!(guest.map_gpa(ipa, BLOCK_SIZE).0, vmcall::RETRY);
        world.check();
        assert_eq!(guest.accept(ipa, level::BLOCK), SUCCESS, "the rest is wiped on the way");
        assert!((0..512).all(|n| guest.reads(guest.ipa(512 + n)) == Some(0)));
    });
}

#[test]
fn c7_a_pinned_page_is_in_use_and_the_guest_is_told_which() {
    td(|world, guest| {
        let pages = [guest.donate(guest.ipa(1)), guest.donate(guest.ipa(2))];
        let (ipa, alias) = (guest.ipa(1), guest.alias());
        assert_eq!(guest.map_gpa(ipa | alias, 2 * FRAME_SIZE).0, vmcall::SUCCESS);
        world.ok(host::PIN, [pages[1]]);
        assert_eq!(guest.map_gpa(ipa, 2 * FRAME_SIZE), (vmcall::RETRY, ipa + FRAME_SIZE));
        let refusals = world.counter(counter::GUEST_REFUSALS);
        assert_eq!(guest.map_gpa(ipa + FRAME_SIZE, FRAME_SIZE), (vmcall::GPA_INUSE, ipa + FRAME_SIZE));
        assert_eq!(world.counter(counter::GUEST_REFUSALS), refusals + 1);
        assert_eq!(world.frame(pages[1]), (frame::SHARED, 1));
        world.ok(host::UNPIN, [pages[1]]);
        assert_eq!(guest.map_gpa(ipa + FRAME_SIZE, FRAME_SIZE).0, vmcall::SUCCESS);
    });
}

/// Touches an address as a TD whose handler of virtualization exceptions does nothing.
fn fault(guest: &Guest<'_>, address: u64, fetch: bool, write: bool) -> Exception {
    let abort = Abort { write, fetch, ..Guest::touch(address) };
    assert_eq!(guest.does(0, [Instruction::Access(abort)]), exit::WAIT);
    guest.vcpu(0, |vcpu| {
        vcpu.take_ve();
        *vcpu.exceptions.last().expect("an exception")
    })
}

#[test]
fn an_access_through_the_wrong_half_or_before_acceptance_is_an_exception_and_converts_nothing() {
    td(|world, guest| {
        let (page, ipa, alias) = (guest.donate(guest.ipa(1)), guest.ipa(1) + 0x123, guest.alias());
        let faults = world.counter(counter::GUEST_FAULTS);
        let ve = |gpa, qualification| {
            Exception::Virtualization(VeInfo { reason: 48, qualification, gpa, ..VeInfo::default() })
        };
        assert_eq!(fault(guest, ipa | alias, false, false), ve(ipa | alias, 1), "with the shared bit in the address");
        assert_eq!(world.frame(page), (frame::PRIVATE, 0));
        assert_eq!(guest.map_gpa(guest.ipa(1) | alias, FRAME_SIZE).0, vmcall::SUCCESS);
        assert_eq!(fault(guest, ipa, false, true), ve(ipa, 2));
        assert_eq!(world.frame(page), (frame::SHARED, 0));
        assert_eq!(guest.map_gpa(guest.ipa(1), FRAME_SIZE).0, vmcall::SUCCESS);
        assert_eq!(fault(guest, ipa, true, false), ve(ipa, 4), "not accepted");
        assert_eq!(fault(guest, ipa | alias, true, false), ve(ipa | alias, 4));
        // Devices are asked for by TDVMCALL; nothing decodes the instruction.
        assert_eq!(fault(guest, 0x0900_0000 | alias, false, false), ve(0x0900_0000 | alias, 1));
        assert_eq!(fault(guest, 0x0900_0000, false, false), ve(0x0900_0000, 1));
        assert_eq!(world.counter(counter::GUEST_FAULTS), faults + 6, "counted");
        assert_eq!(guest.accept(guest.ipa(1), level::PAGE), SUCCESS);
        let twice = [guest.ipa(1) | alias; 2].map(|address| Instruction::Access(Guest::touch(address)));
        assert_eq!(guest.does(0, twice), exit::WAIT);
        let last = guest.vcpu(0, |vcpu| *vcpu.exceptions.last().unwrap());
        assert_eq!(last, Exception::DoubleFault, "nobody has asked about the first");
    });
}

#[test]
fn need_meta_asks_for_frames_and_the_call_is_executed_again() {
    let world = World::new();
    let mut guest = Guest::with_meta(&world, World::config(dialect::TDX, 1), 5);
    guest.seal();
    assert_eq!(guest.info()[2], 0, "no metadata is left");
    let share = Guest::td_vm(vmcall::MAP_GPA, &[(R12, guest.ipa(0) | guest.alias()), (R13, FRAME_SIZE)]);
    assert_eq!(guest.does(0, share), exit::NEED_META);
    assert_eq!(guest.run(0), exit::NEED_META);
    assert_eq!(guest.gprs(0)[R11], vmcall::MAP_GPA, "no register has changed");
    world.check();
    for _ in 0..8 {
        world.ok(host::VM_DONATE_META, [guest.handle, world.page(), 1]);
    }
    assert_eq!(guest.run(0), exit::WAIT);
    assert_eq!(guest.gprs(0)[R10], vmcall::SUCCESS);
    guest.end();
    world.check_empty();
}

#[test]
fn what_was_not_accepted_goes_back_wiped_like_everything_else() {
    td(|world, guest| {
        let page = guest.donate(guest.ipa(1));
        assert_eq!(guest.map_gpa(guest.ipa(1) | guest.alias(), FRAME_SIZE).0, vmcall::SUCCESS);
        assert!(world.host_writes(page, 0xBAD));
        assert_eq!(guest.map_gpa(guest.ipa(1), FRAME_SIZE).0, vmcall::SUCCESS);
        assert_eq!(world.call(host::PIN, [page]).0, host::OWNER);
        assert_eq!(world.call(host::VM_DONATE, [guest.handle, page, guest.ipa(9), 1]).0, host::OWNER);
    });
}
