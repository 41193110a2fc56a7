//! Objects that live in frames the host has paid for.
#![allow(unsafe_code)] // A frame of metadata becomes a vCPU.

use crate::vcpu::VcpuPage;
use guestmem::{Machine, Pfn};

const _: () = assert!(size_of::<VcpuPage>() <= abi::FRAME_SIZE as usize && align_of::<VcpuPage>() <= 4096);

/// Puts `page` into `frame`.
///
/// # Safety
/// * `frame` was just taken out of a VM's metadata and is used for nothing else until the reference is gone.
/// * It is not given back before all uses of the reference have ended.
pub unsafe fn vcpu(machine: &arch::machine::Machine, frame: Pfn, page: VcpuPage) -> &'static VcpuPage {
    let place = machine.words(frame).as_ptr().cast_mut().cast::<VcpuPage>();
    // SAFETY: 4096 aligned bytes that the caller owns; atomics allow mutation behind the shared reference they came
    // from.
    unsafe {
        place.write(page);
        &*place
    }
}
