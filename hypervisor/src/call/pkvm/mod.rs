//! The pKVM dialect: decode, one call into the engine, encode ([`abi::pkvm`]).

mod mem_share;
mod mem_unshare;
pub mod mmio_guard;

use super::guest::{Answer, common};
use crate::Postern;
use crate::vcpu::VcpuPage;
use crate::vm::Vm;
use abi::pkvm::{self, INVALID_PARAMETER};
use abi::smccc;
use guestmem::{Gfn, Refusal};

/// Answers a pKVM guest.
#[inline]
pub fn dispatch(postern: &Postern, vm: &Vm, page: &VcpuPage, function: u64, arguments: [u64; 3]) -> Answer {
    match function {
        pkvm::FEATURES => Answer::Values([pkvm::FEATURE_BITS, 0, 0, 0]),
        pkvm::MEM_SHARE => mem_share::run(postern, vm, arguments),
        pkvm::MEM_UNSHARE => mem_unshare::run(postern, vm, arguments),
        pkvm::MMIO_GUARD => mmio_guard::run(vm, arguments),
        pkvm::MMIO_GUARD_ENROLL => mmio_guard::enroll(vm),
        pkvm::HYP_MEMINFO | pkvm::MMIO_GUARD_INFO => match arguments {
            [0, 0, 0] => Answer::Values([abi::FRAME_SIZE, 0, 0, 0]),
            _ => Answer::status(INVALID_PARAMETER),
        },
        smccc::VENDOR_UID => Answer::Values(pkvm::KVM_UID),
        _ => common(postern, vm, page, function, arguments),
    }
}

/// The calls worth answering at once, when they succeed.
#[inline(always)]
pub fn quick(postern: &Postern, vm: &Vm, function: u64, arguments: [u64; 3]) -> Option<[u64; 4]> {
    match function & !smccc::SVE_HINT {
        pkvm::FEATURES => Some([pkvm::FEATURE_BITS, 0, 0, 0]),
        pkvm::MEM_SHARE => postern.core.share(&vm.memory, granule(vm, arguments)?).ok().map(|()| [0; 4]),
        pkvm::MEM_UNSHARE => postern.core.unshare(&vm.memory, granule(vm, arguments)?).ok().map(|()| [0; 4]),
        _ => None,
    }
}

/// The granule that a call names: aligned, in RAM, and the reserved arguments zero.
fn granule(vm: &Vm, [address, reserved1, reserved2]: [u64; 3]) -> Option<Gfn> {
    let well_formed = address.is_multiple_of(abi::FRAME_SIZE) && reserved1 == 0 && reserved2 == 0;
    vm.ram(address).filter(|_| well_formed)
}

/// The ABI has one code for everything that is the guest's mistake; the log has the reason.
fn refuse(postern: &Postern, vm: &Vm, name: &str, refusal: Refusal) -> Answer {
    super::guest::refused(postern, vm, name, refusal);
    Answer::status(INVALID_PARAMETER)
}
