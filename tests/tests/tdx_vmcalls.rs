//! The tdx dialect: exact register results of every sub-function of TDG.VP.VMCALL (GHCI 1.5).

use abi::FRAME_SIZE;
use abi::host::{self, counter, dialect, frame};
use abi::run::{self, exit, failure};
use abi::tdx::{leaf, quote, register::*, status, vmcall::*};
use tests::td::{LINUX_MASK, REGISTERS, rubbish};
use tests::{Guest, World};

fn td_of(vcpus: u64, test: impl Fn(&World, &Guest<'_>)) {
    let world = World::new();
    let guest = Guest::sealed(&world, dialect::TDX, vcpus);
    test(&world, &guest);
    world.check();
    guest.end();
    world.check_empty();
}

fn td(test: impl Fn(&World, &Guest<'_>)) {
    td_of(1, test);
}

/// R10 of a call, which has changed nothing else that it does not say.
#[track_caller]
fn changes(guest: &Guest<'_>, function: u64, inputs: &[(usize, u64)], outputs: &[(usize, u64)]) -> u64 {
    let after = guest.tdvmcall(function, inputs);
    let fixed = [(RAX, status::SUCCESS), (RCX, LINUX_MASK), (R11, function)];
    let find = |list: &[(usize, u64)], n: usize| list.iter().find(|(it, _)| *it == n).map(|(_, value)| *value);
    for n in (0..REGISTERS).filter(|n| *n != R10) {
        let expected = find(outputs, n).or(find(inputs, n)).or(find(&fixed, n)).unwrap_or(rubbish(n));
        assert_eq!(after[n], expected, "register {n} of {function:#x} {inputs:#x?}");
    }
    after[R10]
}

#[test]
fn the_mask_must_not_name_rax_rcx_rsp_or_what_is_no_register() {
    td(|_, guest| {
        let call = |mask| guest.tdcall(&[(RAX, leaf::VP_VMCALL), (RCX, mask), (R10, 0), (R11, GET_INFO), (R12, 0)]);
        for bit in 0..64 {
            let after = call(LINUX_MASK | 1 << bit);
            if matches!(bit, 0 | 1 | 4 | 32..) {
                assert_eq!(after[RAX], status::OPERAND_INVALID | RCX as u64, "bit {bit}");
                assert_eq!((after[R10], after[R13]), (0, rubbish(R13)), "no call was made");
            } else {
                assert_eq!((after[RAX], after[R10], after[R13]), (status::SUCCESS, SUCCESS, 0), "bit {bit}");
            }
        }
    });
}

#[test]
fn registers_that_are_not_shown_read_as_zero_and_stay_as_they_are() {
    td(|_, guest| {
        let call = |mask: u64, r12| {
            guest.tdcall(&[(RAX, leaf::VP_VMCALL), (RCX, mask), (R10, 0), (R11, GET_INFO), (R12, r12), (R14, 14)])
        };
        let all = 1 << R10 | 1 << R11 | 1 << R12 | 1 << R13 | 1 << R14;
        let after = call(all & !(1 << R12 | 1 << R14), 99);
        assert_eq!((after[RAX], after[R10]), (0, SUCCESS), "99 is not seen, and 0 is a good argument");
        assert_eq!((after[R12], after[R13], after[R14]), (99, 0, 14));
        let after = call(all & !(1 << R11), 0);
        assert_eq!((after[R10], after[R11]), (SUBFUNC_UNSUPPORTED, GET_INFO), "no sub-function is shown");
        let after = call(0, 99);
        assert_eq!((after[RAX], after[R10]), (0, 0), "no place for a status");
        // A read whose result the guest does not want.
        let io = [(RAX, 0), (RCX, LINUX_MASK & !(1 << R11)), (R10, 0), (R11, IO), (R12, 1), (R13, 0), (R14, 1)];
        assert_eq!(guest.does(0, Guest::td(&io)), exit::WAIT, "sub-function 0 is none");
        assert_eq!(guest.gprs(0)[R10], SUBFUNC_UNSUPPORTED);
    });
}

#[test]
fn everything_else_is_unsupported() {
    td(|world, guest| {
        let known = [CPUID, HLT, IO, RDMSR, WRMSR, MMIO, GET_INFO, MAP_GPA, GET_QUOTE];
        let known = [&known[..], &[REPORT_FATAL_ERROR, SETUP_EVENT_NOTIFY]].concat();
        let refusals = world.counter(counter::GUEST_REFUSALS);
        let unknown: Vec<u64> =
            (0..100).chain(0xfff0..0x1_0020).chain([1 << 32 | HLT, u64::MAX]).filter(|n| !known.contains(n)).collect();
        for function in &unknown {
            assert_eq!(changes(guest, *function, &[], &[]), SUBFUNC_UNSUPPORTED, "{function:#x}");
        }
        assert_eq!(world.counter(counter::GUEST_REFUSALS), refusals + unknown.len() as u64, "counted");
        for namespace in [1, 1 << 63, u64::MAX] {
            let after = guest.tdcall(&[(RAX, 0), (RCX, LINUX_MASK), (R10, namespace), (R11, HLT)]);
            assert_eq!((after[RAX], after[R10]), (0, SUBFUNC_UNSUPPORTED), "nobody's own calls");
        }
    });
}

#[test]
fn info_says_what_there_is() {
    td(|_, guest| {
        let zeroes = [(R12, 0), (R13, 0), (R14, 0)];
        let with = |r11| [&[(R11, r11)], &zeroes[..]].concat();
        assert_eq!(changes(guest, GET_INFO, &[(R12, 0)], &with(0)), SUCCESS);
        assert_eq!(changes(guest, GET_INFO, &[(R12, 1)], &with(3)), SUCCESS);
        for r12 in [2, 1 << 32, u64::MAX] {
            assert_eq!(changes(guest, GET_INFO, &[(R12, r12)], &[]), INVALID_OPERAND);
        }
    });
}

#[test]
fn ports_are_the_hosts() {
    td(|_, guest| {
        for (size, answer) in [(1, 0x88), (2, 0x7788), (4, 0x5566_7788)] {
            let io = |direction| [(R12, size), (R13, direction), (R14, 0x3F8), (R15, 0x1122_3344_5566_7788)];
            assert_eq!(guest.does(0, Guest::td_vm(IO, &io(1))), exit::IO_WRITE);
            assert_eq!([run::ADDRESS, run::SIZE, run::VALUE].map(|n| guest.word(0, n)), [0x3F8, size, answer]);
            guest.set_word(0, run::MMIO_VALUE, u64::MAX);
            assert_eq!(guest.run(0), exit::WAIT);
            let after = guest.gprs(0);
            assert_eq!((after[RAX], after[R10], after[R11]), (0, SUCCESS, IO), "a write has no result");
            assert_eq!(guest.does(0, Guest::td_vm(IO, &io(0))), exit::IO_READ);
            assert_eq!([run::ADDRESS, run::SIZE].map(|n| guest.word(0, n)), [0x3F8, size]);
            guest.set_word(0, run::MMIO_VALUE, 0x1122_3344_5566_7788);
            assert_eq!(guest.run(0), exit::WAIT);
            let after = guest.gprs(0);
            assert_eq!((after[RAX], after[R10], after[R11]), (0, SUCCESS, answer), "as many bytes as were read");
            assert_eq!(after[R15], 0x1122_3344_5566_7788);
        }
        for [size, direction, port] in
            [[0, 0, 0], [3, 0, 0], [8, 0, 0], [1 << 32 | 1, 0, 0], [1, 2, 0], [1, u64::MAX, 0], [1, 0, 0x1_0000]]
        {
            let inputs = [(R12, size), (R13, direction), (R14, port), (R15, 0)];
            assert_eq!(changes(guest, IO, &inputs, &[]), INVALID_OPERAND, "{inputs:#x?}");
        }
    });
}

#[test]
fn devices_are_the_hosts_in_the_shared_half_outside_ram() {
    td(|_, guest| {
        let device = 0x0900_0008 | guest.alias();
        for (size, answer) in [(1, 0x88), (2, 0x7788), (4, 0x5566_7788), (8, 0x1122_3344_5566_7788)] {
            let access = |direction| [(R12, size), (R13, direction), (R14, device), (R15, 0x1122_3344_5566_7788)];
            assert_eq!(guest.does(0, Guest::td_vm(MMIO, &access(1))), exit::MMIO_WRITE);
            assert_eq!([run::ADDRESS, run::SIZE, run::VALUE].map(|n| guest.word(0, n)), [0x0900_0008, size, answer]);
            assert_eq!(guest.run(0), exit::WAIT);
            assert_eq!((guest.gprs(0)[R10], guest.gprs(0)[R11]), (SUCCESS, MMIO));
            assert_eq!(guest.does(0, Guest::td_vm(MMIO, &access(0))), exit::MMIO_READ);
            assert_eq!([run::ADDRESS, run::SIZE].map(|n| guest.word(0, n)), [0x0900_0008, size]);
            guest.set_word(0, run::MMIO_VALUE, 0x1122_3344_5566_7788);
            assert_eq!(guest.run(0), exit::WAIT);
            let after = guest.gprs(0);
            assert_eq!((after[RAX], after[R10], after[R11]), (0, SUCCESS, answer));
        }
        let end = guest.config.ram_base + guest.config.ram_size;
        for [size, direction, address] in [
            [0, 0, device],
            [3, 0, device],
            [16, 0, device],
            [1 << 32 | 1, 0, device],
            [1, 2, device],
            [4, 0, device & !guest.alias()],
            [4, 0, guest.ipa(1) | guest.alias()],
            [4, 0, (end - 4) | guest.alias()],
            [4, 0, device | 0xFFD],
            [8, 1, device | 0xFF9],
            [4, 0, device | 1 << 40],
            [4, 0, device | 1 << 63],
            [4, 0, u64::MAX],
        ] {
            let inputs = [(R12, size), (R13, direction), (R14, address), (R15, 0)];
            assert_eq!(changes(guest, MMIO, &inputs, &[]), INVALID_OPERAND, "{inputs:#x?}");
        }
    });
}

#[test]
fn a_read_without_a_register_for_it_is_discarded() {
    td(|_, guest| {
        // The mask shows R10 to R15 but the call's number is still needed, so R11 is shown and the value goes there; what
        // is not shown is only ever a result.
        let mask = 1 << R10 | 1 << R11 | 1 << R12 | 1 << R13 | 1 << R14;
        let io = [(RAX, 0), (RCX, mask), (R10, 0), (R11, IO), (R12, 4), (R13, 1), (R14, 2), (R15, 0x5EC)];
        assert_eq!(guest.does(0, Guest::td(&io)), exit::IO_WRITE);
        assert_eq!(guest.word(0, run::VALUE), 0, "R15 is not shown, so the host does not see it");
        assert_eq!(guest.run(0), exit::WAIT);
    });
}

#[test]
fn hlt_waits_unless_an_interrupt_waits_already() {
    td_of(2, |world, guest| {
        for blocked in [0, 1] {
            let hlt = Guest::td_vm(HLT, &[(R12, blocked)]);
            assert_eq!(guest.does(0, hlt.clone()), exit::WAIT);
            let after = guest.gprs(0);
            assert_eq!((after[RAX], after[R10]), (0, SUCCESS), "the call is over before the wait");
            assert_eq!(guest.vcpu(0, |vcpu| vcpu.next()), guest.vcpu(0, |vcpu| vcpu.program.len()), "RIP is past it");
            // Posted between the guest's last look and its call.
            world.ok(host::VM_IRQ, [guest.handle, 99, 1]);
            let then = [&hlt[..], &Guest::td_vm(GET_INFO, &[(R12, 9)])].concat();
            assert_eq!(guest.does(0, then), exit::WAIT);
            assert_eq!(guest.gprs(0)[R10], INVALID_OPERAND, "it ran on");
            world.ok(host::VM_IRQ, [guest.handle, 1 << 8 | 99, 1]);
            let then = [&hlt[..], &Guest::td_vm(GET_INFO, &[(R12, 9)])].concat();
            assert_eq!(guest.does(0, then), exit::WAIT);
            assert_eq!(guest.gprs(0)[R10], SUCCESS, "another vCPU's interrupt is none");
            assert_eq!(guest.run(0), exit::WAIT);
        }
    });
}

#[test]
fn cpuid_answers_for_the_vmm_and_msrs_are_the_machines() {
    td(|_, guest| {
        let zeroes = [(R12, 0), (R13, 0), (R14, 0), (R15, 0)];
        for leaf in [0x4000_0000, 0x4000_0001, 0x4FFF_FFFF] {
            assert_eq!(changes(guest, CPUID, &[(R12, leaf), (R13, 5)], &zeroes), SUCCESS);
        }
        for leaf in [0, 1, 0x21, 0x3FFF_FFFF, 0x5000_0000, 0x8000_0000, 1 << 32 | 0x4000_0000, u64::MAX] {
            assert_eq!(changes(guest, CPUID, &[(R12, leaf), (R13, 0)], &[]), INVALID_OPERAND, "{leaf:#x}");
        }
        for msr in [0, 0x10, 0x1B, 0x1A0, 0x830, 0xC000_0080, u64::MAX] {
            assert_eq!(changes(guest, RDMSR, &[(R12, msr)], &[]), INVALID_OPERAND, "{msr:#x}");
            assert_eq!(changes(guest, WRMSR, &[(R12, msr), (R13, 0)], &[]), INVALID_OPERAND, "{msr:#x}");
        }
    });
}

#[test]
fn vectors_are_32_to_255() {
    td(|_, guest| {
        for vector in [32, 33, 200, 255] {
            assert_eq!(changes(guest, SETUP_EVENT_NOTIFY, &[(R12, vector)], &[]), SUCCESS);
        }
        for vector in [0, 1, 31, 256, 1 << 32 | 99, u64::MAX] {
            assert_eq!(changes(guest, SETUP_EVENT_NOTIFY, &[(R12, vector)], &[]), INVALID_OPERAND, "{vector:#x}");
        }
    });
}

#[test]
fn there_is_no_quoting_service_which_the_buffer_says() {
    td_of(2, |world, guest| {
        let (page, ipa, alias) = (guest.donate(guest.ipa(1)), guest.ipa(1), guest.alias());
        guest.share(ipa, true);
        assert!(guest.writes(ipa | alias, 1) && guest.writes(ipa | alias | 16, 0xFFFF_FFFF_0000_0400));
        let ask = |start, size| changes(guest, GET_QUOTE, &[(R12, start), (R13, size)], &[]);
        assert_eq!(ask(ipa | alias, 32 * FRAME_SIZE), SUCCESS);
        let words = [0, 1, 2].map(|n| world.host_reads(page + 8 * n));
        assert_eq!(words, [Some(1), Some(quote::SERVICE_UNAVAILABLE), Some(0x400)]);

        let end = guest.config.ram_base + guest.config.ram_size;
        for (start, size) in [
            (ipa, FRAME_SIZE),
            (ipa | alias, 0),
            (ipa | alias, u64::MAX),
            (ipa | alias, alias),
            (end | alias, FRAME_SIZE),
            ((end - FRAME_SIZE) | alias, 2 * FRAME_SIZE),
            (alias, FRAME_SIZE),
            (ipa | (3 * alias), FRAME_SIZE),
            (u64::MAX - 4095, FRAME_SIZE),
        ] {
            assert_eq!(ask(start, size), INVALID_OPERAND, "{start:#x} {size:#x}");
        }
        for (start, size) in [(ipa | alias | 8, FRAME_SIZE), (ipa | alias, 1024), (ipa | alias, FRAME_SIZE + 1)] {
            assert_eq!(ask(start, size), ALIGN_ERROR, "{start:#x} {size:#x}");
        }
        guest.donate(guest.ipa(2));
        assert_eq!(ask(guest.ipa(2) | alias, FRAME_SIZE), INVALID_OPERAND, "private");
        assert_eq!(ask(guest.ipa(2), alias + FRAME_SIZE), INVALID_OPERAND, "from one half into the other");
        let absent = Guest::td_vm(GET_QUOTE, &[(R12, guest.ipa(3) | alias), (R13, FRAME_SIZE)]);
        guest.share(guest.ipa(3), true);
        assert_eq!(guest.does(0, absent), exit::MEMORY_FAULT);
        assert_eq!(guest.fault(0), (guest.ipa(3), 1));
        guest.donate(guest.ipa(3));
        assert_eq!(guest.run(0), exit::WAIT);
        assert_eq!(guest.gprs(0)[R10], SUCCESS);
    });
}

#[test]
fn whoever_asked_is_told_that_a_quote_is_finished() {
    td_of(2, |_, guest| {
        guest.donate(guest.ipa(1));
        guest.share(guest.ipa(1), true);
        let ask = Guest::td_vm(GET_QUOTE, &[(R12, guest.ipa(1) | guest.alias()), (R13, FRAME_SIZE)]);
        let told = |index: u64| {
            let hlt = [&Guest::td_vm(HLT, &[(R12, 0)])[..], &Guest::td_vm(GET_INFO, &[(R12, 9)])].concat();
            assert_eq!(guest.does(index, hlt), exit::WAIT);
            let told = guest.gprs(index)[R10] == INVALID_OPERAND;
            guest.run(index);
            told
        };
        assert!(!told(0));
        changes(guest, SETUP_EVENT_NOTIFY, &[(R12, 77)], &[]);
        assert_eq!(guest.does(0, ask.clone()), exit::INTERRUPT, "the interrupt is delivered when it is entered anew");
        assert!(told(0) && !told(1));
        let setup = Guest::td_vm(SETUP_EVENT_NOTIFY, &[(R12, 77)]);
        assert_eq!(guest.does(1, setup), exit::WAIT);
        assert_eq!(guest.does(0, ask), exit::WAKE);
        assert_eq!(guest.word(0, run::VCPU_MASK), 2);
        assert_eq!(guest.run(0), exit::WAIT);
        assert_eq!(guest.gprs(0)[R10], SUCCESS);
        assert!(told(1) && !told(0));
    });
}

#[test]
fn a_fatal_error_ends_the_guest() {
    td_of(2, |world, guest| {
        let page = guest.donate(guest.ipa(1));
        let text = *b"no \x1b[2Jdevices\0never seen........................................";
        let words: Vec<u64> = text.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())).collect();
        let message = [R14, R15, RBX, RDI, RSI, R8, R9, RDX].into_iter().zip(words);
        let inputs: Vec<(usize, u64)> = message.chain([(R12, 7)]).collect();
        assert_eq!(guest.does(0, Guest::td_vm(REPORT_FATAL_ERROR, &inputs)), exit::FAILED);
        assert_eq!(guest.word(0, run::FAILURE), failure::FATAL);
        for index in [0, 1] {
            assert_eq!(guest.run(index), exit::FAILED, "it never runs again");
            assert_eq!(guest.word(index, run::FAILURE), failure::FATAL);
        }
        assert_eq!(world.frame(page), (frame::PRIVATE, 0));
        assert_eq!(world.host_reads(page), None, "dead, and still nobody's business");
    });
}
