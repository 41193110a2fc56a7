//! `SetupEventNotifyInterrupt`: the vector by which the caller wants to hear of finished requests.

use super::Shown;
use crate::call::tdx::{Answer, Call};
use abi::tdx::{register::*, vmcall};
use core::sync::atomic::Ordering;

#[inline(never)]
pub fn run(call: &Call<'_>, shown: &mut Shown<'_>) -> Answer {
    let vector = shown.get(R12);
    if !(vmcall::FIRST_VECTOR..=255).contains(&vector) {
        return shown.refuse(call, vmcall::INVALID_OPERAND);
    }
    call.vm.notify.store((call.page.index as u64) << 8 | vector, Ordering::Relaxed);
    shown.success()
}
