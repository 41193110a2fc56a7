//! A guest's APIC in the CPU's hands (SDM volume 3, chapter "APIC Virtualization and Virtual Interrupts"), where the CPU has
//! x2APIC virtualisation, APIC-register virtualisation and virtual-interrupt delivery: reading a register, the task
//! priority, the end of an interrupt and an interrupt to oneself are then no exits, and an interrupt that the guest does
//! not let in yet needs no window.
//!
//! The CPU knows no APIC that software has switched off, so one is in its hands only while it is on. Until then, and on
//! other CPUs, everything is done in software, on the same registers in the same page.
//!
//! Only Postern writes the page, between an exit and the next entry, and the CPU that runs the guest. Posted interrupts,
//! which would let others' requests in without an exit, are not used: they need "acknowledge interrupt on exit", with
//! which Postern would have to hold the host's interrupts for it, and a vector that it would have to take from the host. So
//! an interrupt from elsewhere is posted to the inbox and makes the guest leave, as without all this.

use super::features::{self, Feature};
use super::vapic::{Inbox, Page, Status};
use super::vcpu::{Vcpu, Vm};
use super::vmx::{self, field};
use super::controls;
use guestmem::Pfn;

/// The registers in a vCPU's frame.
pub fn page(frame: Pfn) -> &'static Page {
    // SAFETY: a frame of the vCPU's own, mapped at its physical address; atomics only, so any content will do. The frame
    // outlives the vCPU: `VM_RECLAIM` forgets that first.
    unsafe { &*(frame.addr() as *const Page) }
}

impl Vcpu {
    /// Gives the APIC to the CPU when the guest has switched it on, and takes it back when it has switched it off.
    pub(super) fn assign_apic(&mut self) {
        let wanted = features::has(Feature::Apicv) && self.apic.is_on();
        if wanted == self.has_apicv {
            return;
        }
        if wanted {
            vmx::write(field::GUEST_INTERRUPT_STATUS, self.apic.hand_over().field());
        } else {
            self.apic.resume(self.status());
        }
        self.has_apicv = wanted;
        self.primary = controls::give_apic(wanted.then(|| self.frames[2].addr()));
    }

    /// What is requested and in service.
    fn status(&self) -> Status {
        if self.has_apicv {
            Status::from_field(vmx::read(field::GUEST_INTERRUPT_STATUS))
        } else {
            self.apic.status()
        }
    }

    fn set_status(&mut self, status: Status) {
        if self.has_apicv {
            vmx::write(field::GUEST_INTERRUPT_STATUS, status.field());
        } else {
            self.apic.resume(status);
        }
    }

    /// Whether there is something for the guest to take, were it to take anything.
    pub(super) fn deliverable(&self, vm: &Vm) -> bool {
        let inbox = vm.inboxes().get(self.index);
        inbox.is_some_and(|inbox| inbox.nmi() || self.apic.deliverable(inbox, self.status()))
    }

    /// The interrupt to inject when the guest lets it in: never one of those that the CPU delivers, which get to know of
    /// what has been requested.
    pub(super) fn pending(&mut self, inbox: &Inbox) -> Option<u8> {
        if !self.has_apicv {
            return self.apic.pending(inbox);
        }
        let before = self.status();
        let mut status = before;
        self.apic.collect(inbox, &mut status);
        if status != before {
            self.set_status(status);
        }
        None
    }

    /// An interrupt that was accepted did not reach the guest.
    pub(super) fn take_back(&mut self, vector: u8) {
        let mut status = self.status();
        self.apic.take_back(vector, &mut status);
        self.set_status(status);
    }
}
