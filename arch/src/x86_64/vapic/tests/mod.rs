//! The model against what the manual says, register by register, and under other CPUs.

mod cpu;
mod timer;
mod ways;

use super::*;
use std::vec::Vec;

const PPR: u32 = 0x80a;
const EOI: u32 = 0x80b;
const ESR: u32 = 0x828;
const ICR: u32 = 0x830;
const LVT_TIMER: u32 = 0x832;
const LVT_ERROR: u32 = 0x837;
const INITIAL: u32 = 0x838;
const CURRENT: u32 = 0x839;
const DIVIDE: u32 = 0x83e;
const SELF: u32 = 0x83f;

/// Who does what can be done by either.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Software,
    /// A CPU that virtualises APICs, as the manual says that it does: see [`cpu`].
    Cpu,
}

const WAYS: [Way; 2] = [Way::Software, Way::Cpu];

struct Guest {
    way: Way,
    inboxes: Vec<Inbox>,
    apics: Vec<Apic>,
    pages: Vec<&'static Page>,
    /// What the VMCS has of each APIC that the CPU has.
    fields: Vec<Option<Status>>,
}

impl Guest {
    /// vCPUs in reset state.
    fn reset(way: Way, count: usize, ratio: u64) -> Self {
        let inboxes = (0..count).map(|_| Inbox::new()).collect();
        let pages: Vec<&'static Page> = (0..count).map(|_| &*Box::leak(Box::new(Page::new()))).collect();
        let apics = (0..count).map(|index| Apic::new(index, ratio, pages[index])).collect();
        Self { way, inboxes, apics, pages, fields: std::vec![None; count] }
    }

    /// vCPUs with their APICs on.
    fn booted(way: Way, count: usize) -> Self {
        let mut guest = Self::reset(way, count, 1);
        for index in 0..count {
            guest.write(index, SVR, 0x1ff).unwrap();
        }
        guest
    }

    fn write(&mut self, index: usize, msr: u32, value: u64) -> Result<VcpuMask, GeneralProtection> {
        self.write_at(index, msr, value, 0)
    }

    fn write_at(&mut self, index: usize, msr: u32, value: u64, now: u64) -> Result<VcpuMask, GeneralProtection> {
        if let Some(status) = &mut self.fields[index]
            && passes(msr).1
        {
            match cpu::write(self.pages[index], status, msr, value) {
                cpu::Written::Done => {}
                cpu::Written::Fault => return Err(GeneralProtection),
                cpu::Written::ApicWriteExit => self.apics[index].refuse_self_ipi(&self.inboxes),
            }
            return Ok(0);
        }
        let kicks = self.apics[index].write(&self.inboxes, msr, value, now)?;
        if self.way == Way::Cpu && self.apics[index].is_on() != self.fields[index].is_some() {
            match self.fields[index].take() {
                None => self.fields[index] = Some(self.apics[index].hand_over()),
                Some(status) => self.apics[index].resume(status),
            }
        }
        Ok(kicks)
    }

    fn read(&mut self, index: usize, msr: u32) -> Result<u64, GeneralProtection> {
        self.read_at(index, msr, 0)
    }

    fn read_at(&mut self, index: usize, msr: u32, now: u64) -> Result<u64, GeneralProtection> {
        if let Some(mut status) = self.fields[index]
            && passes(msr).0
        {
            // Each entry does the same: what is due is requested, what is requested gets into the page.
            self.apics[index].poll(&self.inboxes, now);
            self.apics[index].collect(&self.inboxes[index], &mut status);
            cpu::evaluate(self.pages[index], status);
            self.fields[index] = Some(status);
            return Ok(self.pages[index].wide(msr));
        }
        self.apics[index].read(&self.inboxes, msr, now)
    }

    fn set_tpr(&mut self, index: usize, tpr: u8) {
        self.write(index, TPR, tpr.into()).unwrap();
    }

    fn pending(&mut self, index: usize) -> Option<u8> {
        match &mut self.fields[index] {
            Some(status) => {
                self.apics[index].collect(&self.inboxes[index], status);
                cpu::evaluate(self.pages[index], *status)
            }
            None => self.apics[index].pending(&self.inboxes[index]),
        }
    }

    fn deliverable(&self, index: usize) -> bool {
        let status = self.fields[index].unwrap_or(self.apics[index].status());
        self.inboxes[index].nmi() || self.apics[index].deliverable(&self.inboxes[index], status)
    }

    /// Takes the next interrupt.
    fn take(&mut self, index: usize) -> Option<u8> {
        let vector = self.pending(index)?;
        match &mut self.fields[index] {
            Some(status) => cpu::deliver(self.pages[index], status),
            None => self.apics[index].accept(vector),
        }
        Some(vector)
    }

    fn take_back(&mut self, index: usize, vector: u8) {
        let mut status = self.fields[index].unwrap_or(self.apics[index].status());
        self.apics[index].take_back(vector, &mut status);
        match &mut self.fields[index] {
            Some(field) => *field = status,
            None => self.apics[index].resume(status),
        }
    }
}

const GP: GeneralProtection = GeneralProtection;

#[test]
fn the_highest_vector_comes_first_and_blocks_its_class() {
    for way in WAYS {
        let mut guest = Guest::booted(way, 1);
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
}

#[test]
fn the_task_priority_holds_its_class_back() {
    for way in WAYS {
        let mut guest = Guest::booted(way, 1);
        guest.inboxes[0].post(0x4f);
        guest.write(0, TPR, 0x40).unwrap();
        assert_eq!(guest.read(0, PPR), Ok(0x40));
        assert_eq!((guest.pending(0), guest.deliverable(0)), (None, false));
        guest.write(0, TPR, 0x3f).unwrap();
        assert_eq!(guest.read(0, PPR), Ok(0x3f));
        assert_eq!((guest.pending(0), guest.deliverable(0)), (Some(0x4f), true));
        guest.set_tpr(0, 0xf0);
        assert_eq!(guest.pending(0), None);
        assert_eq!(guest.read(0, TPR), Ok(0xf0));
        // Priority is the higher of the two; the lower half of the task's shows only where it is.
        guest.write(0, TPR, 0x21).unwrap();
        assert_eq!(guest.take(0), Some(0x4f));
        assert_eq!(guest.read(0, PPR), Ok(0x40));
        guest.write(0, TPR, 0x45).unwrap();
        assert_eq!(guest.read(0, PPR), Ok(0x45), "of the same class, the task's");
    }
}

#[test]
fn others_see_what_can_be_taken() {
    for way in WAYS {
        let mut guest = Guest::booted(way, 1);
        assert!(!guest.deliverable(0));
        guest.inboxes[0].post(0x60);
        assert!(guest.deliverable(0));
        assert_eq!(guest.take(0), Some(0x60));
        guest.inboxes[0].post(0x60);
        assert!(!guest.deliverable(0), "behind itself");
        guest.inboxes[0].post_nmi();
        assert!(guest.deliverable(0), "an NMI has no priority");
        assert!(guest.inboxes[0].take_nmi() && !guest.inboxes[0].take_nmi());
        guest.write(0, EOI, 0).unwrap();
        assert!(guest.deliverable(0));
    }
}

#[test]
fn an_interrupt_that_did_not_arrive_is_requested_again() {
    for way in WAYS {
        let mut guest = Guest::booted(way, 1);
        guest.inboxes[0].post(0x60);
        assert_eq!(guest.take(0), Some(0x60));
        guest.write(0, SVR, 0xff).unwrap();
        guest.take_back(0, 0x60);
        assert_eq!(guest.read(0, 0x813), Ok(0));
        assert_eq!(guest.take(0), Some(0x60));
    }
}

#[test]
fn request_and_service_registers_show_their_vectors() {
    for way in WAYS {
        let mut guest = Guest::booted(way, 1);
        for (bit, msr) in [(16_u8, 0x820), (0x3f, 0x821), (0x40, 0x822), (0xff, 0x827)] {
            guest.inboxes[0].post(bit);
            assert_eq!(guest.read(0, msr), Ok(1 << (bit % 32)), "{bit:#x}");
        }
        guest.take(0).unwrap();
        assert_eq!(guest.read(0, 0x827), Ok(0));
        assert_eq!(guest.read(0, 0x817), Ok(1 << 31));
        (0x818..0x820).for_each(|msr| assert_eq!(guest.read(0, msr), Ok(0)));
    }
}

#[test]
fn reset_values() {
    for way in WAYS {
        let mut guest = Guest::reset(way, 18, 1);
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
}

#[test]
fn what_may_be_read_and_written() {
    for way in WAYS {
        let readable = |msr| matches!(msr, 0x802 | 0x803 | 0x808 | 0x80a | 0x80d | 0x80f..=0x828 | 0x830 | 0x832..=0x839 | 0x83e | TSC_DEADLINE);
        let writable =
            |msr| matches!(msr, 0x808 | 0x80b | 0x80f | 0x828 | 0x830 | 0x832..=0x838 | 0x83e | 0x83f | TSC_DEADLINE);
        for msr in (0x800..=0x8ff).chain([TSC_DEADLINE]) {
            let mut guest = Guest::booted(way, 1);
            assert!(is_register(msr));
            assert_eq!(guest.read(0, msr).is_ok(), readable(msr), "read {msr:#x}");
            assert_eq!(guest.write(0, msr, 0).is_ok(), writable(msr), "write {msr:#x}");
        }
        assert!(!is_register(0x7ff) && !is_register(0x900) && !is_register(0x6e1));
    }
}

#[test]
fn reserved_bits_are_refused_one_by_one() {
    for way in WAYS {
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
                let mut guest = Guest::booted(way, 1);
                let before = guest.read(0, msr);
                let legal = bits >> bit & 1 != 0;
                assert_eq!(guest.write(0, msr, 1 << bit).is_ok(), legal, "{msr:#x} bit {bit}");
                if !legal {
                    assert_eq!(guest.read(0, msr), before, "{msr:#x} bit {bit}: nothing has changed");
                }
            }
        }
        let mut guest = Guest::booted(way, 1);
        assert_eq!(guest.write(0, LVT_TIMER, 3 << 17), Err(GP), "no such mode");
        guest.write(0, LVT_TIMER, 1 << 12 | 0x55).unwrap();
        assert_eq!(guest.read(0, LVT_TIMER), Ok(0x55), "status bits stay");
    }
}

#[test]
fn while_it_is_off_nothing_comes_in_and_everything_is_masked() {
    for way in WAYS {
        let mut guest = Guest::reset(way, 2, 1);
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
}

#[test]
fn commands_reach_their_targets() {
    for way in WAYS {
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
            let mut guest = Guest::booted(way, 5);
            assert_eq!(guest.write(2, ICR, value), Ok(targets), "{value:#x}");
            for index in 0..5 {
                let expected = (targets >> index & 1 != 0).then_some(0x40);
                assert_eq!(guest.pending(index), expected, "{value:#x} at {index}");
                assert!(!guest.inboxes[index].nmi());
            }
            assert_eq!(guest.read(2, ICR), Ok(value));
        }
    }
}

#[test]
fn non_maskable_interrupts_need_no_vector() {
    for way in WAYS {
        let mut guest = Guest::booted(way, 3);
        assert_eq!(guest.write(0, ICR, 3 << 18 | 4 << 8), Ok(0b110));
        assert_eq!([0, 1, 2].map(|index| guest.inboxes[index].take_nmi()), [false, true, true]);
        assert_eq!(guest.pending(1), None);
    }
}

#[test]
fn logical_destinations_beyond_the_first_cluster() {
    for way in WAYS {
        let mut guest = Guest::booted(way, 20);
        assert_eq!(guest.write(0, ICR, 1 << 48 | 0b1001 << 32 | 1 << 11 | 0x40), Ok(0b1001 << 16));
        for index in 0..20_usize {
            assert_eq!(icr::logical_id(index) & 0xffff, 1 << (index % 16));
        }
    }
}

#[test]
fn self_ipi() {
    for way in WAYS {
        let mut guest = Guest::booted(way, 2);
        // The CPU tells nobody.
        let kicks = if way == Way::Software { 0b10 } else { 0 };
        assert_eq!(guest.write(1, SELF, 0x40), Ok(kicks));
        assert_eq!([guest.pending(0), guest.pending(1)], [None, Some(0x40)]);
    }
}

#[test]
fn an_illegal_vector_is_an_error_and_not_sent() {
    for way in WAYS {
        let mut guest = Guest::booted(way, 2);
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
}
