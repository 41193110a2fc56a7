//! How the host calls Postern.

use crate::exception::Abort;
use core::arch::asm;

/// A host call: status and results.
pub fn call(number: u64, arguments: [u64; 6]) -> (u64, [u64; 3]) {
    let [a, b, c, d, e, f] = arguments;
    let (status, results): (u64, [u64; 3]);
    let (rdi, rsi, rdx): (u64, u64, u64);
    // SAFETY: Postern changes the registers of the result only, and this program's memory only where an argument names it.
    unsafe {
        asm!(
            "vmcall",
            inout("rax") number => status, inout("rdi") a => rdi, inout("rsi") b => rsi, inout("rdx") c => rdx,
            inout("rcx") d => _, inout("r8") e => _, inout("r9") f => _, out("r10") _, out("r11") _,
            options(nostack)
        )
    };
    results = [rdi, rsi, rdx];
    (status, results)
}

/// A host call without arguments where there may be no hypervisor: status and first result.
///
/// # Errors
/// The undefined-instruction exception.
pub fn try_call(number: u64) -> Result<(u64, u64), Abort> {
    let (mut status, mut value) = (number, 0);
    crate::attempt!(
        "vmcall";
        inout("rax") status, inout("rdi") value, inout("rsi") 0u64 => _, inout("rdx") 0u64 => _,
        inout("rcx") 0u64 => _, inout("r8") 0u64 => _, inout("r9") 0u64 => _,
    )?;
    Ok((status, value))
}
