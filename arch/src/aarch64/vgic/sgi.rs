//! Decoding of software generated interrupts.

use super::{VcpuMask, all_vcpus, vcpu_bit};

/// A software generated interrupt that a guest asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SgiRequest {
    /// 0 to 15.
    pub intid: u32,
    /// The vCPUs that get it; only ones that exist.
    pub mask: VcpuMask,
}

/// Decodes a value that vCPU `from` has written to ICC_SGI1R_EL1 (IHI0069 §12.2; ICC_SGI0R_EL1 and ICC_ASGI1R_EL1 have
/// the same layout). Targets that do not exist are left out, as the hardware ignores them.
///
/// The group is not compared: an SGI that the target has in the other group, which hardware drops, is delivered in the
/// group the target has it in.
#[must_use]
pub fn sgi_targets(sgi1r: u64, from: usize, vcpu_count: usize) -> SgiRequest {
    let intid = (sgi1r >> 24 & 0xf) as u32;
    let everyone_else = sgi1r >> 40 & 1 != 0;
    let affinity_123 = [sgi1r >> 16 & 0xff, sgi1r >> 32 & 0xff, sgi1r >> 48 & 0xff];
    // The range selector: bit n of the list stands for Aff0 = 16 * range + n.
    let range = (sgi1r >> 44 & 0xf) as u32;
    let list = (sgi1r & 0xffff) as VcpuMask;

    let named = if everyone_else {
        !vcpu_bit(from)
    } else if affinity_123 == [0; 3] {
        list.checked_shl(16 * range).unwrap_or(0)
    } else {
        0
    };
    SgiRequest { intid, mask: named & all_vcpus(vcpu_count) }
}
