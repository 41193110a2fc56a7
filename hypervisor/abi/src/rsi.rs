//! Realm Services Interface (Arm DEN0137): SMC64 function identifiers, statuses and layouts that Linux uses.

/// `RSI_VERSION`.
pub const VERSION: u64 = 0xC400_0190;
/// `RSI_FEATURES`.
pub const FEATURES: u64 = 0xC400_0191;
/// `RSI_MEASUREMENT_READ`.
pub const MEASUREMENT_READ: u64 = 0xC400_0192;
/// `RSI_MEASUREMENT_EXTEND`.
pub const MEASUREMENT_EXTEND: u64 = 0xC400_0193;
/// `RSI_ATTESTATION_TOKEN_INIT`.
pub const ATTESTATION_TOKEN_INIT: u64 = 0xC400_0194;
/// `RSI_ATTESTATION_TOKEN_CONTINUE`.
pub const ATTESTATION_TOKEN_CONTINUE: u64 = 0xC400_0195;
/// `RSI_REALM_CONFIG`.
pub const REALM_CONFIG: u64 = 0xC400_0196;
/// `RSI_IPA_STATE_SET`.
pub const IPA_STATE_SET: u64 = 0xC400_0197;
/// `RSI_IPA_STATE_GET`.
pub const IPA_STATE_GET: u64 = 0xC400_0198;
/// `RSI_HOST_CALL`.
pub const HOST_CALL: u64 = 0xC400_0199;
/// First identifier of the range that RSI reserves.
pub const FIRST: u64 = 0xC400_0190;
/// Last identifier of the range that RSI reserves.
pub const LAST: u64 = 0xC400_01AF;

/// `RSI_SUCCESS`.
pub const SUCCESS: u64 = 0;
/// `RSI_ERROR_INPUT`.
pub const ERROR_INPUT: u64 = 1;
/// `RSI_ERROR_STATE`.
pub const ERROR_STATE: u64 = 2;

/// RSI 1.0.
pub const VERSION_1_0: u64 = 0x1_0000;
/// RIPAS: nothing private there.
pub const RIPAS_EMPTY: u64 = 0;
/// RIPAS: private memory.
pub const RIPAS_RAM: u64 = 1;
/// `RSI_ACCEPT` in x2 of `RSI_IPA_STATE_SET`.
pub const ACCEPT: u64 = 0;
/// Hash algorithm code of the realm configuration page: SHA-384.
pub const HASH_SHA384: u64 = 2;
/// Bits of a realm's address space under Postern; the top one selects the shared half.
pub const IPA_BITS: u32 = 40;
/// Byte size and alignment of the RSI_HOST_CALL structure.
pub const HOST_CALL_SIZE: u64 = 256;
