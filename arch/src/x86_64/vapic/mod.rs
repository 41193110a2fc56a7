//! The local APIC that a guest sees: an x2APIC, switched on for good, in software.
//!
//! The model is an integrated APIC in x2APIC mode with six local vector table entries, no EOI-broadcast suppression and
//! no level-triggered interrupts: a guest has no I/O APIC, all that comes from outside are edges. vCPU `n` has the
//! x2APIC ID `n`. INIT, SIPI and SMI are not delivered: a guest's CPUs all start with the VM. Register facts are from the
//! *Intel 64 and IA-32 Architectures Software Developer's Manual*, volume 3, chapter "Advanced Programmable Interrupt
//! Controller (APIC)", cited as SDM with the section's title.
//!
//! # How the world switch uses it
//!
//! ```text
//! entry:  poll(now) -> NMI: take_nmi, inject | pending() and RFLAGS.IF: inject, accept | pending(): interrupt window
//! exit:   RDMSR, WRMSR, MOV CR8 -> read, write, set_tpr -> kick(mask);   HLT -> Inbox::deliverable, else wait
//! ```
//!
//! # Who owns an interrupt
//!
//! There are no locks. [`Inbox`] is what other CPUs may touch: the requests (IRR), a flag for an NMI, and two bytes with
//! which they can tell whether the vCPU has something to take. Everything else is in [`Apic`], which only the CPU that
//! runs the vCPU has. All accesses to the inbox are sequentially consistent, because waking rests on a store-then-load
//! argument: the sender sets the request and then asks whether the vCPU waits, the vCPU says that it waits and then
//! looks for requests. At least one of the two sees the other.

mod icr;
mod inbox;
mod regs;
#[cfg(test)]
mod tests;
mod timer;

pub use inbox::Inbox;
pub use regs::{TSC_DEADLINE, is_register};

use crate::VcpuMask;
use timer::Timer;

/// The instruction gets a general-protection exception with error code 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GeneralProtection;

/// First vector that an interrupt can have (SDM "Valid Interrupt Vectors").
pub const FIRST_VECTOR: u8 = 16;

/// A set of vectors: bit `n % 64` of word `n / 64`.
type Vectors = [u64; 4];

/// Bits of the error status register (SDM "Error Handling").
mod error {
    pub const SEND_ILLEGAL_VECTOR: u32 = 1 << 5;
    pub const RECEIVE_ILLEGAL_VECTOR: u32 = 1 << 6;
}

/// The entries of the local vector table that anything comes from, by their place after register 0x832; the others are
/// thermal sensor, performance counters, LINT0 and LINT1 (SDM "Local Vector Table").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lvt {
    Timer = 0,
    Error = 5,
}

/// How many there are.
const LVT_COUNT: usize = Lvt::Error as usize + 1;
/// The mask of an entry.
const LVT_MASKED: u32 = 1 << 16;

/// SVR.8: the APIC is on as far as software says.
const SVR_ENABLE: u32 = 1 << 8;
/// Reset value of the spurious-interrupt vector register.
const SVR_RESET: u32 = 0xff;

/// One vCPU's APIC, without what others may touch.
#[derive(Clone, Debug)]
pub struct Apic {
    index: usize,
    tpr: u8,
    in_service: Vectors,
    svr: u32,
    icr: u64,
    /// Errors since the last write of the error status register.
    errors: u32,
    /// What a read of the error status register gives.
    esr: u32,
    lvt: [u32; LVT_COUNT],
    timer: Timer,
}

impl Apic {
    /// vCPU `index`'s, after reset. One tick of the timer, undivided, is `ratio` ticks of the guest's TSC.
    pub fn new(index: usize, ratio: u64) -> Self {
        Self {
            index,
            tpr: 0,
            in_service: [0; 4],
            svr: SVR_RESET,
            icr: 0,
            errors: 0,
            esr: 0,
            lvt: [LVT_MASKED; LVT_COUNT],
            timer: Timer::new(ratio),
        }
    }

    /// The task-priority register, also CR8 << 4.
    pub fn tpr(&self) -> u8 {
        self.tpr
    }

    /// Sets the task-priority register.
    pub fn set_tpr(&mut self, inboxes: &[Inbox], tpr: u8) {
        self.tpr = tpr;
        self.publish(inboxes);
    }

    /// Processor priority: the higher class of the task's and of what is in service (SDM "Task and Processor Priorities").
    fn ppr(&self) -> u8 {
        let serving = highest(&self.in_service).unwrap_or(0) & 0xf0;
        if self.tpr & 0xf0 >= serving { self.tpr } else { serving }
    }

    /// Lets others know what this APIC lets through.
    fn publish(&self, inboxes: &[Inbox]) {
        if let Some(inbox) = inboxes.get(self.index) {
            inbox.publish(self.svr & SVR_ENABLE != 0, self.ppr());
        }
    }

    /// The interrupt that comes next, if its priority lets it.
    pub fn pending(&self, inboxes: &[Inbox]) -> Option<u8> {
        let vector = inboxes.get(self.index)?.highest()?;
        (vector & 0xf0 > self.ppr() & 0xf0).then_some(vector)
    }

    /// The interrupt is delivered: it is in service until the guest ends it.
    pub fn accept(&mut self, inboxes: &[Inbox], vector: u8) {
        if let Some(inbox) = inboxes.get(self.index) {
            inbox.clear(vector);
        }
        set(&mut self.in_service, vector);
        self.publish(inboxes);
    }

    /// An interrupt that was accepted did not reach the guest: it is requested again.
    pub fn take_back(&mut self, inboxes: &[Inbox], vector: u8) {
        clear(&mut self.in_service, vector);
        // Not `post`: the guest may have switched the APIC off, but this one was accepted before.
        if let Some(inbox) = inboxes.get(self.index) {
            inbox.request(vector);
        }
        self.publish(inboxes);
    }

    /// The interrupt in service with the highest priority has ended.
    fn end(&mut self, inboxes: &[Inbox]) {
        if let Some(vector) = highest(&self.in_service) {
            clear(&mut self.in_service, vector);
            self.publish(inboxes);
        }
    }

    /// An interrupt of an entry of the local vector table.
    fn raise(&mut self, inboxes: &[Inbox], entry: Lvt) {
        let register = self.lvt[entry as usize];
        if register & LVT_MASKED != 0 {
            return;
        }
        let vector = register as u8;
        if vector >= FIRST_VECTOR {
            if let Some(inbox) = inboxes.get(self.index) {
                inbox.post(vector);
            }
        } else if entry != Lvt::Error {
            self.fail(inboxes, error::RECEIVE_ILLEGAL_VECTOR);
        } else {
            self.errors |= error::RECEIVE_ILLEGAL_VECTOR;
        }
    }

    /// Records an error, and raises its interrupt.
    fn fail(&mut self, inboxes: &[Inbox], bit: u32) {
        self.errors |= bit;
        self.raise(inboxes, Lvt::Error);
    }

    /// Raises the timer's interrupt when it is due at `now` of the guest's TSC.
    pub fn poll(&mut self, inboxes: &[Inbox], now: u64) {
        if self.timer.poll(now) {
            self.raise(inboxes, Lvt::Timer);
        }
    }

    /// The guest's TSC at which [`Self::poll`] will raise the timer's interrupt; `None` for never.
    pub fn deadline(&self) -> Option<u64> {
        self.timer.deadline().filter(|_| self.lvt[Lvt::Timer as usize] & LVT_MASKED == 0)
    }

    /// A write of the interrupt command register; returns the vCPUs that have to look at their interrupts.
    fn send(&mut self, inboxes: &[Inbox], value: u64) -> VcpuMask {
        let command = icr::decode(value, self.index, inboxes.len());
        let vector = match command.message {
            icr::Message::Fixed(vector) if vector < FIRST_VECTOR => {
                self.fail(inboxes, error::SEND_ILLEGAL_VECTOR);
                return 0;
            }
            icr::Message::Fixed(vector) => Some(vector),
            icr::Message::Nmi => None,
            icr::Message::Nothing => return 0,
        };
        for (_, inbox) in inboxes.iter().enumerate().filter(|(index, _)| command.targets >> index & 1 != 0) {
            match vector {
                Some(vector) => inbox.post(vector),
                None => inbox.post_nmi(),
            }
        }
        command.targets
    }
}

/// The highest vector of a set.
fn highest(vectors: &Vectors) -> Option<u8> {
    let word = vectors.iter().rposition(|word| *word != 0)?;
    Some((word * 64) as u8 + vectors[word].ilog2() as u8)
}

fn set(vectors: &mut Vectors, vector: u8) {
    vectors[usize::from(vector / 64)] |= 1 << (vector % 64);
}

fn clear(vectors: &mut Vectors, vector: u8) {
    vectors[usize::from(vector / 64)] &= !(1 << (vector % 64));
}
