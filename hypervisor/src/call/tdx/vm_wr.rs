//! `TDG.VM.WR`: writes the bits of a field that a mask selects.

use super::fields::{Element, WRITABLE_CONTROLS};
use super::{Answer, Call};
use abi::tdx::{field, register::*, status, td_ctls};
use arch::machine::Vcpu;
use core::sync::atomic::Ordering;

#[inline(never)]
pub fn run(call: &Call<'_>, registers: &mut Vcpu) -> Answer {
    let (vm, id, value, mask) = (registers.x(RCX), registers.x(RDX), registers.x(R8), registers.x(R9));
    registers.set_x(R8, 0);
    if vm != 0 {
        return Answer::invalid(RCX);
    }
    let Some(element) = Element::find(id).filter(|_| id != field::NONE) else {
        return Answer::Status(status::METADATA_FIELD_ID_INCORRECT);
    };
    if element.writable() & mask == 0 {
        return Answer::Status(status::METADATA_FIELD_NOT_WRITABLE);
    }
    let written = match element.field {
        field::TD_CTLS => write_controls(call, value, mask),
        // Zero is what it holds, and all that it can hold.
        _ => (value & mask == 0).then_some(0),
    };
    match written {
        Some(old) => {
            registers.set_x(R8, old);
            Answer::SUCCESS
        }
        None => Answer::Status(status::METADATA_FIELD_VALUE_NOT_VALID),
    }
}

/// The old value; none when the new one is not possible.
fn write_controls(call: &Call<'_>, value: u64, mask: u64) -> Option<u64> {
    call.vm
        .controls
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |old| {
            let mut new = old & !mask | value & mask;
            if (new ^ old) & !WRITABLE_CONTROLS != 0 {
                return None;
            }
            if new & td_ctls::REDUCE_VE != 0 {
                new |= td_ctls::ENUM_TOPOLOGY | td_ctls::VIRT_CPUID2;
            }
            (old & td_ctls::LOCK == 0 || new == old).then_some(new)
        })
        .ok()
}
