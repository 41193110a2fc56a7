//! HVC and SMC with the SMC Calling Convention's registers (Arm DEN0028).

use core::arch::asm;

/// x0..x3 after a call.
pub type Answer = [u64; 4];

macro_rules! conduit {
    ($(#[$doc:meta])* $name:ident, $instruction:literal) => {
        $(#[$doc])*
        pub fn $name(x: [u64; 7]) -> Answer {
            let mut out = [0; 4];
            // SAFETY: the convention preserves everything but x0..x17, and no call made here changes this program's
            // memory unless an argument names it.
            unsafe {
                asm!(
                    $instruction,
                    inout("x0") x[0] => out[0], inout("x1") x[1] => out[1],
                    inout("x2") x[2] => out[2], inout("x3") x[3] => out[3],
                    inout("x4") x[4] => _, inout("x5") x[5] => _, inout("x6") x[6] => _,
                    out("x7") _, out("x8") _, out("x9") _, out("x10") _, out("x11") _, out("x12") _,
                    out("x13") _, out("x14") _, out("x15") _, out("x16") _, out("x17") _,
                    options(nostack)
                )
            };
            out
        }
    };
}

conduit!(
    /// `HVC #0`.
    hvc, "hvc #0"
);
conduit!(
    /// `SMC #0`.
    smc, "smc #0"
);
conduit!(
    /// `SMC #1`: the convention reserves every immediate but zero.
    smc_immediate, "smc #1"
);

/// Arguments of a call: the function and up to three values.
pub const fn call(function: u64, a: u64, b: u64, c: u64) -> [u64; 7] {
    [function, a, b, c, 0, 0, 0]
}

/// `HVC #0` where there may be no hypervisor.
///
/// # Errors
/// The undefined-instruction exception.
pub fn try_hvc(x: [u64; 4]) -> Result<Answer, crate::exception::Abort> {
    let mut out = [0; 4];
    crate::attempt!(
        "hvc #0";
        inout("x0") x[0] => out[0], inout("x1") x[1] => out[1],
        inout("x2") x[2] => out[2], inout("x3") x[3] => out[3],
        out("x4") _, out("x5") _, out("x6") _, out("x7") _, out("x8") _, out("x9") _, out("x10") _, out("x11") _,
        out("x12") _, out("x13") _, out("x14") _, out("x15") _, out("x16") _, out("x17") _,
    )?;
    Ok(out)
}
