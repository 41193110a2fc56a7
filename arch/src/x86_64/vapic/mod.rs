//! The local APIC that a guest sees: an x2APIC, switched on for good, in software.
//!
//! The model is an integrated APIC in x2APIC mode with six local vector table entries, no EOI-broadcast suppression and
//! no level-triggered interrupts: a guest has no I/O APIC, all that comes from outside are edges. vCPU `n` has the
//! x2APIC ID `n`. INIT, SIPI and SMI are not delivered: a guest's CPUs all start with the VM. Register facts are from the
//! *Intel 64 and IA-32 Architectures Software Developer's Manual*, volume 3, chapter "Advanced Programmable Interrupt
//! Controller (APIC)", cited as SDM with the section's title.
//!
//! # Two ways
//!
//! Either Postern does everything (`vcpu`, `emulate`):
//!
//! ```text
//! entry:  poll(now) -> NMI: take_nmi, inject | pending() and RFLAGS.IF: inject, accept | pending(): interrupt window
//! exit:   RDMSR, WRMSR, MOV CR8 -> read, write, set_tpr -> kick(mask);   HLT -> deliverable, else wait
//! ```
//!
//! Or the CPU does most of it (`apicv`), with the same registers in the same page: it reads registers, takes priorities,
//! ends of interrupts and interrupts to oneself, and delivers; Postern moves what others have requested into the page
//! before an entry, and does the rest.
//!
//! # Who owns an interrupt
//!
//! There are no locks. [`Inbox`] is what other CPUs may touch: the requests, a flag for an NMI, and whether the APIC is on.
//! Everything else is in [`Apic`] and its [`Page`], which only the CPU that runs the vCPU has. All accesses to the inbox
//! are sequentially consistent, because waking rests on a store-then-load argument: the sender sets the request and then
//! asks whether the vCPU waits, the vCPU says that it waits and then looks for requests. At least one of the two sees the
//! other.

mod icr;
mod inbox;
mod page;
mod regs;
#[cfg(test)]
mod tests;
mod timer;

pub use inbox::Inbox;
pub use page::Page;
pub use regs::{SVR, TSC_DEADLINE, is_register, passes};

use crate::VcpuMask;
use page::Set;
use regs::{LVT, SVR_ENABLE, TPR};
use timer::Timer;

/// The instruction gets a general-protection exception with error code 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GeneralProtection;

/// First vector that an interrupt can have (SDM "Valid Interrupt Vectors").
pub const FIRST_VECTOR: u8 = 16;

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

/// What a CPU that delivers interrupts to a guest keeps in its VMCS (SDM "Guest Interrupt Status"): the highest vector that
/// is requested and the highest in service; 0 for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    requested: u8,
    serving: u8,
}

impl Status {
    /// From the field of the VMCS.
    pub fn from_field(field: u64) -> Self {
        Self { requested: field as u8, serving: (field >> 8) as u8 }
    }

    /// As the field of the VMCS has it.
    pub fn field(self) -> u64 {
        u64::from(self.serving) << 8 | u64::from(self.requested)
    }
}

/// One vCPU's APIC, without what others may touch.
#[derive(Debug)]
pub struct Apic {
    index: usize,
    page: &'static Page,
    /// Nothing while the CPU has the APIC.
    status: Status,
    /// Errors since the last write of the error status register.
    errors: u32,
    timer: Timer,
}

impl Apic {
    /// vCPU `index`'s, after reset, with its registers in `page`. One tick of the timer, undivided, is `ratio` ticks of the
    /// guest's TSC.
    pub fn new(index: usize, ratio: u64, page: &'static Page) -> Self {
        let apic = Self { index, page, status: Status::default(), errors: 0, timer: Timer::new(ratio) };
        apic.reset_registers();
        apic
    }

    /// The task-priority register, also CR8 << 4.
    pub fn tpr(&self) -> u8 {
        self.page.get(TPR) as u8
    }

    /// Sets the task-priority register.
    pub fn set_tpr(&mut self, tpr: u8) {
        self.page.set(TPR, tpr.into());
    }

    /// Whether software has switched the APIC on.
    pub fn is_on(&self) -> bool {
        self.page.get(SVR) & SVR_ENABLE != 0
    }

    /// Processor priority: the higher class of the task's and of what is in service (SDM "Task and Processor Priorities").
    fn ppr(&self, status: Status) -> u8 {
        let (tpr, serving) = (self.tpr(), status.serving & 0xf0);
        if tpr & 0xf0 >= serving { tpr } else { serving }
    }

    /// Gives the APIC to the CPU: what it has to know beside the page. Until [`Self::resume`] only that counts, which those of
    /// the functions below that take a status are to be given.
    pub fn hand_over(&mut self) -> Status {
        core::mem::take(&mut self.status)
    }

    /// Takes the APIC back from the CPU, which has left this.
    pub fn resume(&mut self, status: Status) {
        self.status = status;
    }

    /// What is requested and in service, as far as the CPU has not the APIC.
    pub fn status(&self) -> Status {
        self.status
    }

    /// Whether anything is requested that has got into the request register; not while the CPU has the APIC.
    #[inline]
    pub fn requests(&self) -> bool {
        self.status.requested != 0
    }

    /// Moves what others have requested to the request register; `status` is the one that counts, and is brought up to date.
    pub fn collect(&self, inbox: &Inbox, status: &mut Status) {
        inbox.take(|vector| {
            self.page.insert(Set::Requested, vector);
            status.requested = status.requested.max(vector);
        });
    }

    /// Whether there is an interrupt that the priority lets through, requests of others included.
    pub fn deliverable(&self, inbox: &Inbox, status: Status) -> bool {
        status.requested.max(inbox.highest()) & 0xf0 > self.ppr(status) & 0xf0
    }

    /// The interrupt that comes next, if its priority lets it, requests of others included.
    pub fn pending(&mut self, inbox: &Inbox) -> Option<u8> {
        let mut status = self.status;
        self.collect(inbox, &mut status);
        self.status = status;
        (status.requested & 0xf0 > self.ppr(status) & 0xf0).then_some(status.requested)
    }

    /// The interrupt that [`Self::pending`] has named is delivered: it is in service until the guest ends it.
    pub fn accept(&mut self, vector: u8) {
        self.page.remove(Set::Requested, vector);
        self.page.insert(Set::InService, vector);
        self.status = Status { requested: self.page.highest(Set::Requested), serving: vector };
    }

    /// An interrupt that was accepted did not reach the guest: it is requested again, even by an APIC that has been switched
    /// off meanwhile. `status` as for [`Self::collect`].
    pub fn take_back(&self, vector: u8, status: &mut Status) {
        self.page.remove(Set::InService, vector);
        self.page.insert(Set::Requested, vector);
        let serving = self.page.highest(Set::InService);
        *status = Status { requested: status.requested.max(vector), serving };
    }

    /// The interrupt in service with the highest priority has ended.
    fn end(&mut self) {
        self.page.remove(Set::InService, self.status.serving);
        self.status.serving = self.page.highest(Set::InService);
    }

    /// An interrupt of an entry of the local vector table.
    fn raise(&mut self, inboxes: &[Inbox], entry: Lvt) {
        let register = self.page.get(LVT + entry as u32);
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

    /// The CPU has refused to send the guest an interrupt of its own: the only register that it leaves half done.
    pub fn refuse_self_ipi(&mut self, inboxes: &[Inbox]) {
        self.fail(inboxes, error::SEND_ILLEGAL_VECTOR);
    }

    /// Raises the timer's interrupt when it is due at `now` of the guest's TSC.
    pub fn poll(&mut self, inboxes: &[Inbox], now: u64) {
        if self.timer.poll(now) {
            self.raise(inboxes, Lvt::Timer);
        }
    }

    /// The guest's TSC at which [`Self::poll`] will raise the timer's interrupt; `None` for never.
    pub fn deadline(&self) -> Option<u64> {
        self.timer.deadline().filter(|_| self.page.get(LVT) & LVT_MASKED == 0)
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
