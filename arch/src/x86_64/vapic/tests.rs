//! The model against what the manual says, register by register, and under other CPUs.

use super::*;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::vec::Vec;

const TPR: u32 = 0x808;
const PPR: u32 = 0x80a;
const EOI: u32 = 0x80b;
const SVR: u32 = 0x80f;
const ESR: u32 = 0x828;
const ICR: u32 = 0x830;
const LVT_TIMER: u32 = 0x832;
const LVT_ERROR: u32 = 0x837;
const INITIAL: u32 = 0x838;
const CURRENT: u32 = 0x839;
const DIVIDE: u32 = 0x83e;
const SELF: u32 = 0x83f;

struct Guest {
    inboxes: Vec<Inbox>,
    apics: Vec<Apic>,
}

impl Guest {
    /// vCPUs in reset state.
    fn reset(count: usize, ratio: u64) -> Self {
        let inboxes = (0..count).map(|_| Inbox::new()).collect();
        Self { inboxes, apics: (0..count).map(|index| Apic::new(index, ratio)).collect() }
    }

    /// vCPUs with their APICs on.
    fn booted(count: usize) -> Self {
        let mut guest = Self::reset(count, 1);
        for index in 0..count {
            guest.write(index, SVR, 0x1ff).unwrap();
        }
        guest
    }

    fn write(&mut self, index: usize, msr: u32, value: u64) -> Result<VcpuMask, GeneralProtection> {
        self.write_at(index, msr, value, 0)
    }

    fn write_at(&mut self, index: usize, msr: u32, value: u64, now: u64) -> Result<VcpuMask, GeneralProtection> {
        self.apics[index].write(&self.inboxes, msr, value, now)
    }

    fn read(&mut self, index: usize, msr: u32) -> Result<u64, GeneralProtection> {
        self.read_at(index, msr, 0)
    }

    fn read_at(&mut self, index: usize, msr: u32, now: u64) -> Result<u64, GeneralProtection> {
        self.apics[index].read(&self.inboxes, msr, now)
    }

    fn pending(&self, index: usize) -> Option<u8> {
        self.apics[index].pending(&self.inboxes)
    }

    /// Takes the next interrupt.
    fn take(&mut self, index: usize) -> Option<u8> {
        let vector = self.pending(index)?;
        self.apics[index].accept(&self.inboxes, vector);
        Some(vector)
    }
}

const GP: GeneralProtection = GeneralProtection;

#[test]
fn the_highest_vector_comes_first_and_blocks_its_class() {
    let mut guest = Guest::booted(1);
    for vector in [0x31, 0x45, 0x42, 0xff, 16] {
        guest.inboxes[0].post(vector);
    }
    assert_eq!(guest.take(0), Some(0xff));
    assert_eq!(guest.pending(0), None, "all others are lower");
    assert_eq!(guest.read(0, PPR), Ok(0xf0));
    guest.write(0, EOI, 0).unwrap();
    assert_eq!(guest.take(0), Some(0x45));
    assert_eq!(guest.pending(0), None, "the same class");
    guest.inboxes[0].post(0x50);
    assert_eq!(guest.take(0), Some(0x50), "a higher class nests");
    assert_eq!(guest.read(0, 0x812), Ok(1 << 5 | 1 << 16), "in service: 0x45, 0x50");
    guest.write(0, EOI, 0).unwrap();
    assert_eq!(guest.pending(0), None, "0x45 is still in service");
    guest.write(0, EOI, 0).unwrap();
    assert_eq!([guest.take(0), guest.pending(0)], [Some(0x42), None]);
    guest.write(0, EOI, 0).unwrap();
    assert_eq!(guest.take(0), Some(0x31));
    guest.write(0, EOI, 0).unwrap();
    assert_eq!(guest.take(0), Some(16));
    guest.write(0, EOI, 0).unwrap();
    guest.write(0, EOI, 0).expect("ending nothing is no error");
    assert_eq!(guest.pending(0), None);
}

#[test]
fn the_task_priority_holds_its_class_back() {
    let mut guest = Guest::booted(1);
    guest.inboxes[0].post(0x4f);
    guest.write(0, TPR, 0x40).unwrap();
    assert_eq!(guest.read(0, PPR), Ok(0x40));
    assert_eq!((guest.pending(0), guest.inboxes[0].deliverable()), (None, false));
    guest.write(0, TPR, 0x3f).unwrap();
    assert_eq!(guest.read(0, PPR), Ok(0x3f));
    assert_eq!((guest.pending(0), guest.inboxes[0].deliverable()), (Some(0x4f), true));
    guest.apics[0].set_tpr(&guest.inboxes, 0xf0);
    assert_eq!(guest.pending(0), None);
    assert_eq!(guest.read(0, TPR), Ok(0xf0));
    // Priority is the higher of the two; the lower half of the task's shows only where it is.
    guest.write(0, TPR, 0x21).unwrap();
    assert_eq!(guest.take(0), Some(0x4f));
    assert_eq!(guest.read(0, PPR), Ok(0x40));
    guest.write(0, TPR, 0x45).unwrap();
    assert_eq!(guest.read(0, PPR), Ok(0x45), "of the same class, the task's");
}

#[test]
fn others_see_what_can_be_taken() {
    let mut guest = Guest::booted(1);
    assert!(!guest.inboxes[0].deliverable());
    guest.inboxes[0].post(0x60);
    assert!(guest.inboxes[0].deliverable());
    assert_eq!(guest.take(0), Some(0x60));
    guest.inboxes[0].post(0x60);
    assert!(!guest.inboxes[0].deliverable(), "behind itself");
    guest.inboxes[0].post_nmi();
    assert!(guest.inboxes[0].deliverable(), "an NMI has no priority");
    assert!(guest.inboxes[0].take_nmi() && !guest.inboxes[0].take_nmi());
    guest.write(0, EOI, 0).unwrap();
    assert!(guest.inboxes[0].deliverable());
}

#[test]
fn an_interrupt_that_did_not_arrive_is_requested_again() {
    let mut guest = Guest::booted(1);
    guest.inboxes[0].post(0x60);
    assert_eq!(guest.take(0), Some(0x60));
    guest.write(0, SVR, 0xff).unwrap();
    guest.apics[0].take_back(&guest.inboxes, 0x60);
    assert_eq!(guest.read(0, 0x813), Ok(0));
    assert_eq!(guest.take(0), Some(0x60));
}

#[test]
fn request_and_service_registers_show_their_vectors() {
    let mut guest = Guest::booted(1);
    for (bit, msr) in [(16_u8, 0x820), (0x3f, 0x821), (0x40, 0x822), (0xff, 0x827)] {
        guest.inboxes[0].post(bit);
        assert_eq!(guest.read(0, msr), Ok(1 << (bit % 32)), "{bit:#x}");
    }
    guest.take(0).unwrap();
    assert_eq!(guest.read(0, 0x827), Ok(0));
    assert_eq!(guest.read(0, 0x817), Ok(1 << 31));
    (0x818..0x820).for_each(|msr| assert_eq!(guest.read(0, msr), Ok(0)));
}

#[test]
fn reset_values() {
    let mut guest = Guest::reset(18, 1);
    assert_eq!(guest.read(17, 0x802), Ok(17));
    assert_eq!(guest.read(17, 0x803), Ok(0x5_0015));
    assert_eq!(guest.read(17, 0x80d), Ok(0x1_0002));
    assert_eq!(guest.read(0, 0x80d), Ok(1));
    assert_eq!(guest.read(0, SVR), Ok(0xff));
    (LVT_TIMER..=LVT_ERROR).for_each(|msr| assert_eq!(guest.read(0, msr), Ok(0x1_0000)));
    for msr in [TPR, PPR, ESR, ICR, INITIAL, CURRENT, DIVIDE, TSC_DEADLINE] {
        assert_eq!(guest.read(0, msr), Ok(0), "{msr:#x}");
    }
}

#[test]
fn what_may_be_read_and_written() {
    let readable = |msr| matches!(msr, 0x802 | 0x803 | 0x808 | 0x80a | 0x80d | 0x80f..=0x828 | 0x830 | 0x832..=0x839 | 0x83e | TSC_DEADLINE);
    let writable =
        |msr| matches!(msr, 0x808 | 0x80b | 0x80f | 0x828 | 0x830 | 0x832..=0x838 | 0x83e | 0x83f | TSC_DEADLINE);
    for msr in (0x800..=0x8ff).chain([TSC_DEADLINE]) {
        let mut guest = Guest::booted(1);
        assert!(is_register(msr));
        assert_eq!(guest.read(0, msr).is_ok(), readable(msr), "read {msr:#x}");
        assert_eq!(guest.write(0, msr, 0).is_ok(), writable(msr), "write {msr:#x}");
    }
    assert!(!is_register(0x7ff) && !is_register(0x900) && !is_register(0x6e1));
}

#[test]
fn reserved_bits_are_refused_one_by_one() {
    let allowed = [
        (TPR, 0xff),
        (EOI, 0),
        (SVR, 0x3ff),
        (ESR, 0),
        (ICR, !(1 << 13 | 0b11 << 16 | 0xfff << 20)),
        (LVT_TIMER, 0xff | 1 << 12 | 1 << 14 | 0b111 << 16),
        (0x833, 0x7ff | 1 << 12 | 1 << 14 | 1 << 16),
        (0x834, 0x7ff | 1 << 12 | 1 << 14 | 1 << 16),
        (0x835, 0x1_f7ff),
        (0x836, 0x1_f7ff),
        (LVT_ERROR, 0xff | 1 << 12 | 1 << 14 | 1 << 16),
        (INITIAL, 0xffff_ffff),
        (DIVIDE, 0b1011),
        (SELF, 0xff),
        (TSC_DEADLINE, u64::MAX),
    ];
    for (msr, bits) in allowed {
        for bit in 0..64 {
            let mut guest = Guest::booted(1);
            let before = guest.read(0, msr);
            let legal = bits >> bit & 1 != 0;
            assert_eq!(guest.write(0, msr, 1 << bit).is_ok(), legal, "{msr:#x} bit {bit}");
            if !legal {
                assert_eq!(guest.read(0, msr), before, "{msr:#x} bit {bit}: nothing has changed");
            }
        }
    }
    let mut guest = Guest::booted(1);
    assert_eq!(guest.write(0, LVT_TIMER, 3 << 17), Err(GP), "no such mode");
    guest.write(0, LVT_TIMER, 1 << 12 | 0x55).unwrap();
    assert_eq!(guest.read(0, LVT_TIMER), Ok(0x55), "status bits stay");
}

#[test]
fn while_it_is_off_nothing_comes_in_and_everything_is_masked() {
    let mut guest = Guest::reset(2, 1);
    guest.inboxes[0].post(0x40);
    guest.write(1, ICR, 0x40).unwrap();
    assert_eq!(guest.pending(0), None);
    guest.write(0, LVT_TIMER, 0x41).unwrap();
    assert_eq!(guest.read(0, LVT_TIMER), Ok(0x1_0041));
    guest.write(0, SVR, 0x1ff).unwrap();
    guest.write(0, LVT_TIMER, 0x41).unwrap();
    assert_eq!(guest.read(0, LVT_TIMER), Ok(0x41));
    guest.inboxes[0].post(0x40);
    guest.write(0, SVR, 0xff).unwrap();
    assert_eq!(guest.read(0, LVT_TIMER), Ok(0x1_0041));
    assert_eq!(guest.pending(0), Some(0x40), "what was in before stays");
    guest.inboxes[0].post_nmi();
    assert!(guest.inboxes[0].nmi(), "NMIs come in all the same");
}

#[test]
fn commands_reach_their_targets() {
    let cases: &[(u64, VcpuMask)] = &[
        (0x40, 0b00001),
        (3 << 32 | 0x40, 0b01000),
        (5 << 32 | 0x40, 0),
        (40 << 32 | 0x40, 0),
        (u64::from(u32::MAX) << 32 | 0x40, 0b11111),
        // Logical: cluster 0, and one that is not there.
        (0b10101 << 32 | 1 << 11 | 0x40, 0b10101),
        (1 << 48 | 0b10101 << 32 | 1 << 11 | 0x40, 0),
        (u64::from(u32::MAX) << 32 | 1 << 11 | 0x40, 0b11111),
        // Shorthands, whatever the destination says.
        (4 << 32 | 1 << 18 | 0x40, 0b00100),
        (4 << 32 | 2 << 18 | 0x40, 0b11111),
        (4 << 32 | 3 << 18 | 0x40, 0b11011),
        // Lowest priority goes to one.
        (0b11000 << 32 | 1 << 11 | 1 << 8 | 0x40, 0b01000),
        // SMI, INIT, SIPI and the reserved ones go nowhere.
        (3 << 18 | 2 << 8, 0),
        (3 << 18 | 3 << 8 | 0x40, 0),
        (3 << 18 | 5 << 8 | 1 << 14, 0),
        (3 << 18 | 6 << 8 | 0x40, 0),
        (3 << 18 | 7 << 8 | 0x40, 0),
    ];
    for &(value, targets) in cases {
        let mut guest = Guest::booted(5);
        assert_eq!(guest.write(2, ICR, value), Ok(targets), "{value:#x}");
        for index in 0..5 {
            let expected = (targets >> index & 1 != 0).then_some(0x40);
            assert_eq!(guest.pending(index), expected, "{value:#x} at {index}");
            assert!(!guest.inboxes[index].nmi());
        }
        assert_eq!(guest.read(2, ICR), Ok(value));
    }
}

#[test]
fn non_maskable_interrupts_need_no_vector() {
    let mut guest = Guest::booted(3);
    assert_eq!(guest.write(0, ICR, 3 << 18 | 4 << 8), Ok(0b110));
    assert_eq!([0, 1, 2].map(|index| guest.inboxes[index].take_nmi()), [false, true, true]);
    assert_eq!(guest.pending(1), None);
}

#[test]
fn logical_destinations_beyond_the_first_cluster() {
    let mut guest = Guest::booted(20);
    assert_eq!(guest.write(0, ICR, 1 << 48 | 0b1001 << 32 | 1 << 11 | 0x40), Ok(0b1001 << 16));
    for index in 0..20_usize {
        assert_eq!(icr::logical_id(index) & 0xffff, 1 << (index % 16));
    }
}

#[test]
fn self_ipi() {
    let mut guest = Guest::booted(2);
    assert_eq!(guest.write(1, SELF, 0x40), Ok(0b10));
    assert_eq!([guest.pending(0), guest.pending(1)], [None, Some(0x40)]);
}

#[test]
fn an_illegal_vector_is_an_error_and_not_sent() {
    let mut guest = Guest::booted(2);
    guest.write(0, LVT_ERROR, 0xfe).unwrap();
    assert_eq!(guest.write(0, ICR, 1 << 32 | 15), Ok(0));
    assert_eq!(guest.pending(1), None);
    assert_eq!(guest.take(0), Some(0xfe));
    assert_eq!(guest.read(0, ESR), Ok(0), "a write makes it readable");
    guest.write(0, ESR, 0).unwrap();
    assert_eq!(guest.read(0, ESR), Ok(1 << 5));
    guest.write(0, ESR, 0).unwrap();
    assert_eq!(guest.read(0, ESR), Ok(0));
}

#[test]
fn a_timer_with_an_illegal_vector_is_an_error() {
    let mut guest = Guest::booted(1);
    guest.write(0, LVT_ERROR, 3).unwrap();
    guest.write(0, LVT_TIMER, 0x0f).unwrap();
    guest.write(0, DIVIDE, 0b1011).unwrap();
    guest.write(0, INITIAL, 10).unwrap();
    guest.apics[0].poll(&guest.inboxes, 10);
    assert_eq!(guest.pending(0), None);
    guest.write(0, ESR, 0).unwrap();
    assert_eq!(guest.read(0, ESR), Ok(1 << 6));
}

#[test]
fn tsc_deadline() {
    let mut guest = Guest::booted(1);
    guest.write(0, TSC_DEADLINE, 1000).unwrap();
    assert_eq!(guest.read(0, TSC_DEADLINE), Ok(0), "ignored in another mode");
    guest.write(0, LVT_TIMER, 2 << 17 | 0xec).unwrap();
    guest.write_at(0, INITIAL, 5, 0).unwrap();
    assert_eq!(guest.apics[0].deadline(), None, "the count is ignored in this mode");
    guest.write(0, TSC_DEADLINE, 1000).unwrap();
    assert_eq!(guest.apics[0].deadline(), Some(1000));
    assert_eq!(guest.read(0, TSC_DEADLINE), Ok(1000));
    guest.apics[0].poll(&guest.inboxes, 999);
    assert_eq!(guest.pending(0), None);
    guest.apics[0].poll(&guest.inboxes, 1000);
    assert_eq!(guest.take(0), Some(0xec));
    assert_eq!(guest.read_at(0, TSC_DEADLINE, 1001), Ok(0), "it is over");
    assert_eq!(guest.apics[0].deadline(), None);
    guest.apics[0].poll(&guest.inboxes, 5000);
    assert_eq!(guest.read(0, 0x827), Ok(0), "once");
    guest.write_at(0, EOI, 0, 2000).unwrap();
    guest.write_at(0, TSC_DEADLINE, 1500, 2000).unwrap();
    assert_eq!(guest.pending(0), Some(0xec), "a time that is past is now");
    guest.write_at(0, TSC_DEADLINE, 3000, 2000).unwrap();
    guest.write_at(0, TSC_DEADLINE, 0, 2000).unwrap();
    assert_eq!(guest.apics[0].deadline(), None, "disarmed");
    guest.write_at(0, TSC_DEADLINE, 3000, 2000).unwrap();
    guest.write_at(0, LVT_TIMER, 0xec, 2000).unwrap();
    assert_eq!(guest.apics[0].deadline(), None, "disarmed by the change of mode");
}

#[test]
fn a_masked_timer_expires_without_a_sound() {
    let mut guest = Guest::booted(1);
    guest.write(0, LVT_TIMER, 2 << 17 | 1 << 16 | 0xec).unwrap();
    guest.write(0, TSC_DEADLINE, 100).unwrap();
    assert_eq!(guest.apics[0].deadline(), None);
    guest.write_at(0, LVT_TIMER, 2 << 17 | 0xec, 200).unwrap();
    assert_eq!(guest.pending(0), None, "it was masked when it expired");
    assert_eq!(guest.read_at(0, TSC_DEADLINE, 200), Ok(0));
}

#[test]
fn counting_down_with_every_divisor() {
    for (register, divisor) in [(0, 2), (1, 4), (2, 8), (3, 16), (8, 32), (9, 64), (10, 128), (11, 1)] {
        let mut guest = Guest::reset(1, 3);
        guest.write(0, SVR, 0x1ff).unwrap();
        guest.write(0, LVT_TIMER, 0x40).unwrap();
        guest.write(0, DIVIDE, register).unwrap();
        guest.write_at(0, INITIAL, 100, 1000).unwrap();
        let tick = 3 * divisor;
        assert_eq!(guest.apics[0].deadline(), Some(1000 + 100 * tick), "divisor {divisor}");
        assert_eq!(guest.read_at(0, CURRENT, 1000 + 40 * tick), Ok(60));
        assert_eq!(guest.read_at(0, CURRENT, 1000 + 40 * tick + 1), Ok(60));
        assert_eq!(guest.read_at(0, CURRENT, 1000 + 100 * tick), Ok(0));
        assert_eq!(guest.pending(0), Some(0x40));
        assert_eq!(guest.read_at(0, INITIAL, 1 << 40), Ok(100));
        assert_eq!(guest.apics[0].deadline(), None, "one shot");
    }
}

#[test]
fn a_new_divisor_keeps_what_is_left() {
    let mut guest = Guest::booted(1);
    guest.write(0, LVT_TIMER, 0x40).unwrap();
    guest.write(0, DIVIDE, 0b1011).unwrap();
    guest.write(0, INITIAL, 100).unwrap();
    guest.write_at(0, DIVIDE, 0, 60).unwrap();
    assert_eq!(guest.read_at(0, CURRENT, 60), Ok(40));
    assert_eq!(guest.apics[0].deadline(), Some(60 + 80));
}

#[test]
fn periods_are_kept_when_the_vcpu_is_late() {
    let mut guest = Guest::booted(1);
    guest.write(0, LVT_TIMER, 1 << 17 | 0x40).unwrap();
    guest.write(0, DIVIDE, 0b1011).unwrap();
    guest.write_at(0, INITIAL, 100, 7).unwrap();
    guest.apics[0].poll(&guest.inboxes, 107);
    assert_eq!((guest.take(0), guest.apics[0].deadline()), (Some(0x40), Some(207)));
    guest.write_at(0, EOI, 0, 150).unwrap();
    guest.apics[0].poll(&guest.inboxes, 1_000_050);
    assert_eq!((guest.take(0), guest.apics[0].deadline()), (Some(0x40), Some(1_000_107)));
    assert_eq!(guest.read_at(0, CURRENT, 1_000_050), Ok(57));
    guest.write_at(0, INITIAL, 0, 1_000_060).unwrap();
    assert_eq!(guest.apics[0].deadline(), None, "zero stops it");
    // The longest there is, at the end of time.
    guest.write(0, DIVIDE, 10).unwrap();
    guest.write_at(0, INITIAL, 0xffff_ffff, u64::MAX - 1).unwrap();
    guest.apics[0].poll(&guest.inboxes, u64::MAX);
}

#[test]
fn a_reset_inbox_is_a_new_one() {
    let guest = Guest::booted(1);
    guest.inboxes[0].post(0x40);
    guest.inboxes[0].post_nmi();
    guest.inboxes[0].reset();
    assert!(!guest.inboxes[0].deliverable());
    guest.inboxes[0].post(0x40);
    assert_eq!(guest.pending(0), None, "off");
    // One that is not there takes nothing and sends nothing.
    let mut stray = Apic::new(7, 1);
    stray.write(&guest.inboxes, SVR, 0x1ff, 0).unwrap();
    assert_eq!(stray.write(&guest.inboxes, ICR, 1 << 18 | 0x40, 0), Ok(0));
    stray.accept(&guest.inboxes, 0x40);
    assert_eq!(stray.pending(&guest.inboxes), None);
}

/// Anything that a guest may write, in any order, against rules that always hold.
#[test]
fn no_sequence_of_writes_breaks_it() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut guest = Guest::booted(3);
    let mut now = 0;
    for _ in 0..50_000 {
        let (what, index, value) = (random() % 8, (random() % 3) as usize, random() >> (random() % 64));
        now += random() % 1000;
        match what {
            0 => drop(guest.read_at(index, 0x800 + (value % 256) as u32, now)),
            1..4 => drop(guest.write_at(index, 0x800 + (value % 64) as u32, random() >> (random() % 64), now)),
            4 => drop(guest.write_at(index, TSC_DEADLINE, value, now)),
            5 => guest.inboxes[index].post(value as u8),
            6 => guest.apics[index].poll(&guest.inboxes, now),
            _ => drop(guest.take(index)),
        }
        for (apic, inbox) in guest.apics.iter().zip(&guest.inboxes) {
            let next = apic.pending(&guest.inboxes);
            assert_eq!(next.is_some() || inbox.nmi(), inbox.deliverable());
            assert!(next.is_none_or(|vector| vector >> 4 > apic.ppr() >> 4));
        }
    }
}

/// The sender posts and then asks whether the vCPU sleeps; the vCPU says that it sleeps and then looks.
#[test]
fn a_post_and_a_wait_do_not_miss_each_other() {
    for round in 0..2_000 {
        let guest = Guest::booted(1);
        let inbox = &guest.inboxes[0];
        let (asleep, barrier) = (AtomicBool::new(false), Barrier::new(2));
        let (woken, found) = std::thread::scope(|scope| {
            let sender = scope.spawn(|| {
                barrier.wait();
                inbox.post(0x40);
                asleep.load(SeqCst)
            });
            barrier.wait();
            asleep.store(true, SeqCst);
            let found = inbox.deliverable();
            (sender.join().unwrap(), found)
        });
        assert!(woken || found, "round {round}: it would sleep for ever");
    }
}

#[test]
fn posts_from_many_cpus_all_arrive() {
    let mut guest = Guest::booted(1);
    let Guest { inboxes, apics } = &mut guest;
    let inboxes = &*inboxes;
    std::thread::scope(|scope| {
        for first in 0..4_u8 {
            scope.spawn(move || (0..60).for_each(|n| inboxes[0].post(16 + first * 60 + n)));
        }
        let mut seen = [false; 256];
        while seen[16..].iter().any(|seen| !seen) {
            if let Some(vector) = apics[0].pending(inboxes) {
                apics[0].accept(inboxes, vector);
                assert!(!core::mem::replace(&mut seen[usize::from(vector)], true), "once");
                apics[0].write(inboxes, 0x80b, 0, 0).unwrap();
            }
        }
    });
}
