//! `ReportFatalError`: the guest gives up. What it has to say goes to the log.

use super::Shown;
use crate::call::tdx::{Answer, Call};
use crate::vcpu::Reason;
use crate::vm::ending;
use abi::run::failure;
use abi::tdx::register::*;
use arrayvec::ArrayString;

/// The registers of the message, in its order.
const MESSAGE: [usize; 8] = [R14, R15, RBX, RDI, RSI, R8, R9, RDX];

#[inline(never)]
pub fn run(call: &Call<'_>, shown: &mut Shown<'_>) -> Answer {
    let mut text = ArrayString::<64>::new();
    let bytes = MESSAGE.into_iter().flat_map(|register| shown.get(register).to_le_bytes());
    for byte in bytes.take_while(|byte| *byte != 0) {
        // Nothing that moves a cursor: the text is a guest's.
        text.push(if matches!(byte, b' '..=b'~') { byte.into() } else { '?' });
    }
    let code = shown.get(R12) as u32;
    log::warn!("VM {} reports a fatal error, code {code:#x}: {text}", call.vm.memory.id().get());
    shown.success_then(call, Reason::Ended(call.vm.end(ending::failed(failure::FATAL))))
}
