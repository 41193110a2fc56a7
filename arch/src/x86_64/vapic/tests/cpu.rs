//! What a CPU does with a guest's APIC: SDM volume 3, chapter "APIC Virtualization and Virtual Interrupts", step by step.

use super::*;

pub enum Written {
    Done,
    Fault,
    ApicWriteExit,
}

/// "Virtualizing MSR-Based APIC Accesses".
pub fn write(page: &Page, status: &mut Status, msr: u32, value: u64) -> Written {
    let allowed = if msr == EOI { 0 } else { 0xff };
    if value & !allowed != 0 {
        return Written::Fault;
    }
    page.set_wide(msr, value);
    match msr {
        TPR => {}
        // "EOI Virtualization", with an EOI-exit bitmap of zeroes.
        EOI => {
            page.remove(Set::InService, status.serving);
            status.serving = page.highest(Set::InService);
        }
        // "Self-IPI Virtualization".
        SELF if value >> 4 != 0 => {
            page.insert(Set::Requested, value as u8);
            status.requested = status.requested.max(value as u8);
        }
        _ => return Written::ApicWriteExit,
    }
    evaluate(page, *status);
    Written::Done
}

/// "PPR Virtualization" and "Evaluation of Pending Virtual Interrupts".
pub fn evaluate(page: &Page, status: Status) -> Option<u8> {
    let (tpr, serving) = (page.get(TPR), u32::from(status.serving) & 0xf0);
    page.set(PPR, if tpr & 0xf0 >= serving { tpr & 0xff } else { serving });
    (u32::from(status.requested) >> 4 > page.get(PPR) >> 4).then_some(status.requested)
}

/// "Virtual-Interrupt Delivery".
pub fn deliver(page: &Page, status: &mut Status) {
    let vector = status.requested;
    page.insert(Set::InService, vector);
    status.serving = vector;
    page.set(PPR, u32::from(vector) & 0xf0);
    page.remove(Set::Requested, vector);
    status.requested = page.highest(Set::Requested);
}
