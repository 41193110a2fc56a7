//! Power State Coordination Interface (Arm DEN0022): function identifiers and return codes.

/// `PSCI_VERSION`.
pub const VERSION: u64 = 0x8400_0000;
/// `CPU_SUSPEND`, SMC32.
pub const CPU_SUSPEND_32: u64 = 0x8400_0001;
/// `CPU_SUSPEND`, SMC64.
pub const CPU_SUSPEND: u64 = 0xC400_0001;
/// `CPU_OFF`.
pub const CPU_OFF: u64 = 0x8400_0002;
/// `CPU_ON`, SMC32.
pub const CPU_ON_32: u64 = 0x8400_0003;
/// `CPU_ON`, SMC64.
pub const CPU_ON: u64 = 0xC400_0003;
/// `AFFINITY_INFO`, SMC32.
pub const AFFINITY_INFO_32: u64 = 0x8400_0004;
/// `AFFINITY_INFO`, SMC64.
pub const AFFINITY_INFO: u64 = 0xC400_0004;
/// `MIGRATE_INFO_TYPE`.
pub const MIGRATE_INFO_TYPE: u64 = 0x8400_0006;
/// `SYSTEM_OFF`.
pub const SYSTEM_OFF: u64 = 0x8400_0008;
/// `SYSTEM_RESET`.
pub const SYSTEM_RESET: u64 = 0x8400_0009;
/// `PSCI_FEATURES`.
pub const FEATURES: u64 = 0x8400_000A;
/// `SYSTEM_SUSPEND`, SMC64.
pub const SYSTEM_SUSPEND: u64 = 0xC400_000E;
/// `SYSTEM_RESET2`, SMC64.
pub const SYSTEM_RESET2: u64 = 0xC400_0012;

/// Version 1.1.
pub const VERSION_1_1: u64 = 0x1_0001;
/// `SUCCESS`.
pub const SUCCESS: i64 = 0;
/// `NOT_SUPPORTED`.
pub const NOT_SUPPORTED: i64 = -1;
/// `INVALID_PARAMETERS`.
pub const INVALID_PARAMETERS: i64 = -2;
/// `DENIED`.
pub const DENIED: i64 = -3;
/// `ALREADY_ON`.
pub const ALREADY_ON: i64 = -4;
/// `ON_PENDING`.
pub const ON_PENDING: i64 = -5;
/// `INTERNAL_FAILURE`.
pub const INTERNAL_FAILURE: i64 = -6;
/// `INVALID_ADDRESS`.
pub const INVALID_ADDRESS: i64 = -9;
/// `AFFINITY_INFO`: on.
pub const AFFINITY_ON: i64 = 0;
/// `AFFINITY_INFO`: off.
pub const AFFINITY_OFF: i64 = 1;
/// `AFFINITY_INFO`: on pending.
pub const AFFINITY_ON_PENDING: i64 = 2;
/// `MIGRATE_INFO_TYPE`: no Trusted OS that would need migration.
pub const NO_TRUSTED_OS: i64 = 2;
