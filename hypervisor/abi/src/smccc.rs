//! SMC Calling Convention (Arm DEN0028): numbers of the general services.

/// "No live SVE state" hint in a function identifier; to be masked before decoding (DEN0028 section 2.5).
pub const SVE_HINT: u64 = 1 << 16;
/// `SMCCC_VERSION`.
pub const VERSION: u64 = 0x8000_0000;
/// `SMCCC_ARCH_FEATURES`.
pub const ARCH_FEATURES: u64 = 0x8000_0001;
/// Version 1.2.
pub const VERSION_1_2: u64 = 0x1_0002;
/// `NOT_SUPPORTED`.
pub const NOT_SUPPORTED: i64 = -1;
/// Vendor-specific hypervisor service: call UID.
pub const VENDOR_UID: u64 = 0x8600_FF01;
/// What Postern answers to [`VENDOR_UID`] from the host: a UUID of its own, 4f1f6f70-2a5e-4b0e-9d0c-706f7374726e, as four
/// little-endian words (DEN0028 section 6.2).
pub const POSTERN_UID: [u64; 4] = [0x706f_1f4f, 0x0e4b_5e2a, 0x6f70_0c9d, 0x6e72_7473];
