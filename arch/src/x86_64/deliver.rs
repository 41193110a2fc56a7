//! What a vCPU's next entry delivers: which of its interrupts, NMIs and exceptions, and when the rest comes. `inject` has the
//! rules.

use super::inject::{self, Collision, Deliver, Event, Kind, Waiting, blocking, vector};
use super::vapic::Inbox;
use super::vcpu::{RESUME, Vcpu, Vm};
use super::vmx::{self, field, primary};
use crate::VeInfo;

/// CR0.PE.
const PROTECTED: u64 = 1;

impl Vcpu {
    /// Decides what the entry delivers, and asks for an exit when the guest opens to the rest. True when there is nothing, now
    /// or later, that has been sent already.
    pub(super) fn deliver(&mut self, vm: &Vm, now: u64) -> bool {
        let inboxes = vm.inboxes();
        let Some(inbox) = inboxes.get(self.index) else { return false };
        match self.displaced.take() {
            Some(Event { kind: Kind::External, vector, .. }) => self.take_back(vector),
            Some(_) => inbox.post_nmi(),
            None => {}
        }
        self.apic.poll(inboxes, now);
        if inbox.is_empty() && !self.apic.requests() && self.queued.is_none() && !self.armed {
            self.set_windows(0);
            return true;
        }
        // No NMI before the guest has asked about a virtualization exception: its handler could cause another.
        let nmi = inbox.nmi() && self.ve.is_none();
        let interrupt = self.pending(inbox);
        if nmi || interrupt.is_some() {
            self.choose(inbox, nmi, interrupt);
        } else {
            self.set_windows(0);
        }
        match &self.queued {
            Some(event) => {
                // An event ends what STI and MOV SS have begun. Left there, a debug exception with RFLAGS.TF set, which every
                // user program can cause behind a MOV SS, would make the entry fail (SDM volume 3, "Checks on Guest
                // Non-Register State": a single step has to be pending then).
                let blocked = vmx::read(field::GUEST_INTERRUPTIBILITY);
                if blocked & (blocking::STI | blocking::MOV_SS) != 0 {
                    vmx::write(field::GUEST_INTERRUPTIBILITY, blocked & !(blocking::STI | blocking::MOV_SS));
                }
                vmx::deliver(event);
                self.armed = true;
            }
            None if self.armed => {
                vmx::write(field::ENTRY_INTERRUPTION, 0);
                self.armed = false;
            }
            None => {}
        }
        false
    }

    fn choose(&mut self, inbox: &Inbox, nmi: bool, interrupt: Option<u8>) {
        let waiting = Waiting {
            queued: self.queued.is_some(),
            nmi,
            interrupt: interrupt.is_some(),
            blocking: vmx::read(field::GUEST_INTERRUPTIBILITY),
            rflags: vmx::read(field::GUEST_RFLAGS),
        };
        match (inject::choose(&waiting), interrupt) {
            (Deliver::Nmi, _) if inbox.take_nmi() => self.queued = Some(Event::NMI),
            (Deliver::Interrupt, Some(vector)) => {
                self.apic.accept(vector);
                self.queued = Some(Event::external(vector));
            }
            _ => {}
        }
        let for_nmi = if self.ve.is_none() && inbox.nmi() { primary::NMI_WINDOW } else { 0 };
        let for_interrupt = if self.pending(inbox).is_some() { primary::INTERRUPT_WINDOW } else { 0 };
        self.set_windows(for_nmi | for_interrupt);
    }

    /// Makes the guest exit as soon as it lets in what these controls stand for.
    fn set_windows(&mut self, windows: u32) {
        let primary = self.primary & !(primary::NMI_WINDOW | primary::INTERRUPT_WINDOW) | windows;
        if primary != self.primary {
            self.primary = primary;
            vmx::write(field::PRIMARY_CONTROLS, primary.into());
        }
    }

    /// Gives the guest an exception without error code, or with the error code 0.
    pub(super) fn exception(&mut self, number: u8) {
        let protected = vmx::read(field::GUEST_CR0) & PROTECTED != 0;
        self.raise(Event::exception(number, protected));
        // It is a fault: the instruction will be executed again, past its own breakpoint.
        vmx::modify(field::GUEST_RFLAGS, 0, RESUME);
    }

    /// Gives the guest an event that comes before what is queued.
    pub(super) fn raise(&mut self, event: Event) {
        let Some(first) = self.queued.replace(event) else { return };
        match inject::collide(&first, &event) {
            Collision::Second => {}
            Collision::Keep => self.displaced = Some(first),
            Collision::DoubleFault => {
                let protected = vmx::read(field::GUEST_CR0) & PROTECTED != 0;
                self.queued = Some(Event::exception(vector::DOUBLE_FAULT, protected));
            }
            Collision::Shutdown => self.dead = true,
        }
    }

    /// Gives the guest a virtualization exception, or a double fault when it has not asked about the last one (TDX module
    /// base specification, "Virtualization Exception").
    pub(super) fn virtualization_exception(&mut self, info: VeInfo) {
        if self.ve.is_some() {
            self.exception(vector::DOUBLE_FAULT);
        } else {
            self.ve = Some(info);
            self.exception(vector::VIRTUALIZATION);
        }
    }
}
