//! `GetQuote`: there is nobody who could sign a quote, which the answer in the buffer says.

use super::Shown;
use crate::call::tdx::{Answer, Call, with_page};
use crate::vcpu::Reason;
use abi::tdx::{quote, register::*, vmcall};
use core::sync::atomic::Ordering::Relaxed;

#[inline(never)]
pub fn run(call: &Call<'_>, shown: &mut Shown<'_>) -> Answer {
    let (start, size) = (shown.get(R12), shown.get(R13));
    let alias = call.vm.alias;
    if start & alias == 0 || !call.vm.is_ram(start ^ alias, size) {
        return shown.refuse(call, vmcall::INVALID_OPERAND);
    }
    if !(start | size).is_multiple_of(abi::FRAME_SIZE) {
        return shown.refuse(call, vmcall::ALIGN_ERROR);
    }
    let answered = with_page(call, start, R12, |words| {
        let lengths = words[quote::LENGTHS].load(Relaxed);
        words[quote::LENGTHS].store(lengths & 0xffff_ffff, Relaxed);
        words[quote::STATUS].store(quote::SERVICE_UNAVAILABLE, Relaxed);
    });
    match answered {
        Ok(()) => notify(call, shown),
        Err(Answer::Again) => Answer::Again,
        Err(_) => shown.refuse(call, vmcall::INVALID_OPERAND),
    }
}

/// Tells the vCPU that asked to be told.
fn notify(call: &Call<'_>, shown: &mut Shown<'_>) -> Answer {
    let intid = call.vm.notify.load(Relaxed);
    let told = if intid == 0 { None } else { call.vm.arch.0.set_spi(intid, true) };
    match told {
        // It looks for interrupts when it is entered anew.
        Some(index) if index == call.page.index => shown.success_then(call, Reason::Interrupt),
        Some(index) => shown.success_then(call, Reason::Wake(1 << index)),
        None => shown.success(),
    }
}
