//! How the host calls Postern.

use super::smccc;
use crate::exception::Abort;

/// A host call: status and results.
pub fn call(number: u64, arguments: [u64; 6]) -> (u64, [u64; 3]) {
    let [a, b, c, d, e, f] = arguments;
    let [status, x1, x2, x3] = smccc::hvc([number, a, b, c, d, e, f]);
    (status, [x1, x2, x3])
}

/// A host call without arguments where there may be no hypervisor: status and first result.
///
/// # Errors
/// The undefined-instruction exception.
pub fn try_call(number: u64) -> Result<(u64, u64), Abort> {
    let [status, value, ..] = smccc::try_hvc([number, 0, 0, 0])?;
    Ok((status, value))
}
