//! pKVM guest hypercalls.

use super::smccc::{self, Answer, call};
use abi::pkvm;

/// A call with three arguments.
pub fn raw(function: u64, a: u64, b: u64, c: u64) -> Answer {
    smccc::hvc(call(function, a, b, c))
}

/// `HYP_MEMINFO`: bytes in a granule, or a negative code.
pub fn granule() -> i64 {
    raw(pkvm::HYP_MEMINFO, 0, 0, 0)[0] as i64
}

/// `MEM_SHARE` of one granule: the code.
pub fn share(address: u64) -> i64 {
    raw(pkvm::MEM_SHARE, address, 0, 0)[0] as i64
}

/// `MEM_UNSHARE` of one granule: the code.
pub fn unshare(address: u64) -> i64 {
    raw(pkvm::MEM_UNSHARE, address, 0, 0)[0] as i64
}

/// `MMIO_GUARD` of one granule: the code.
pub fn mmio_guard(address: u64) -> i64 {
    raw(pkvm::MMIO_GUARD, address, 0, 0)[0] as i64
}
