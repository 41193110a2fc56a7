//! Postern's own exceptions: always a bug, or broken hardware. Ends in a legible crash record.

use super::descriptors::Frame;
use super::msr::number;
use super::{percpu, vmx};

/// Comes from the gates, on a stack that only such exceptions use.
pub extern "C" fn own_fault(frame: &Frame, cr2: u64) -> ! {
    let image = super::entry::image()[0];
    // Known to exist where Postern sets it.
    let exists = percpu::installed() && percpu::this().root.value.get() != 0;
    let control = if exists { vmx::rdmsr(number::SPEC_CTRL) } else { 0 };
    panic!(
        "exception in Postern: vector {} ({}), error code {:#x}, RIP {:#x} (image + {:#x}), CR2 {cr2:#x}, RSP {:#x}, \
         RFLAGS {:#x}, SPEC_CTRL {control:#x}",
        frame.vector,
        name(frame.vector),
        frame.error,
        frame.rip,
        frame.rip.wrapping_sub(image),
        frame.rsp,
        frame.rflags,
    )
}

/// Mnemonic of an exception (SDM volume 3, "Exceptions and Interrupts").
fn name(vector: u64) -> &'static str {
    const NAMES: [&str; 22] = [
        "#DE", "#DB", "NMI", "#BP", "#OF", "#BR", "#UD", "#NM", "#DF", "9", "#TS", "#NP", "#SS", "#GP", "#PF", "15",
        "#MF", "#AC", "#MC", "#XM", "#VE", "#CP",
    ];
    NAMES.get(vector as usize).copied().unwrap_or("reserved")
}
