//! pKVM's guest hypercalls (Linux `include/linux/arm-smccc.h`, `Documentation/virt/kvm/arm/hypercalls.rst`).

/// The KVM UID 28b46fb6-2ec5-11e9-a9ca-4b564d003a74 as four little-endian words.
pub const KVM_UID: [u64; 4] = [0xb66f_b428, 0xe911_c52e, 0x564b_caa9, 0x743a_004d];
/// Feature bitmap.
pub const FEATURES: u64 = 0x8600_0000;
/// Granule of the calls below.
pub const HYP_MEMINFO: u64 = 0xC600_0002;
/// Shares one granule with the host.
pub const MEM_SHARE: u64 = 0xC600_0003;
/// Takes one granule back.
pub const MEM_UNSHARE: u64 = 0xC600_0004;
/// Granule of [`MMIO_GUARD`]. This one and the next are the Android kernel's.
pub const MMIO_GUARD_INFO: u64 = 0xC600_0005;
/// From now on only what [`MMIO_GUARD`] names is a device; there is no way back.
pub const MMIO_GUARD_ENROLL: u64 = 0xC600_0006;
/// Declares one granule a device window.
pub const MMIO_GUARD: u64 = 0xC600_0007;
/// Most granules that a guest can declare.
pub const MMIO_GUARD_MAX: usize = 32;
/// What Postern offers: FEATURES, HYP_MEMINFO, MEM_SHARE, MEM_UNSHARE, MMIO_GUARD and its INFO and ENROLL.
pub const FEATURE_BITS: u64 = 0xFD;
/// `SMCCC_RET_INVALID_PARAMETER`.
pub const INVALID_PARAMETER: i64 = -3;
