//! The calls that guests are made to make.

use crate::Noise;
use abi::{pkvm, psci, rsi, smccc};

/// Guest calls that have a handler, by name.
pub const NAMES: [(&str, u64); 20] = [
    ("MEM_SHARE", pkvm::MEM_SHARE),
    ("MEM_UNSHARE", pkvm::MEM_UNSHARE),
    ("MMIO_GUARD", pkvm::MMIO_GUARD),
    ("HYP_MEMINFO", pkvm::HYP_MEMINFO),
    ("FEATURES", pkvm::FEATURES),
    ("VENDOR_UID", smccc::VENDOR_UID),
    ("RSI_VERSION", rsi::VERSION),
    ("RSI_FEATURES", rsi::FEATURES),
    ("RSI_MEASUREMENT_READ", rsi::MEASUREMENT_READ),
    ("RSI_MEASUREMENT_EXTEND", rsi::MEASUREMENT_EXTEND),
    ("RSI_REALM_CONFIG", rsi::REALM_CONFIG),
    ("RSI_IPA_STATE_SET", rsi::IPA_STATE_SET),
    ("RSI_IPA_STATE_GET", rsi::IPA_STATE_GET),
    ("RSI_HOST_CALL", rsi::HOST_CALL),
    ("PSCI_CPU_ON", psci::CPU_ON),
    ("PSCI_CPU_OFF", psci::CPU_OFF),
    ("PSCI_AFFINITY_INFO", psci::AFFINITY_INFO),
    ("PSCI_FEATURES", psci::FEATURES),
    ("SMCCC_ARCH_FEATURES", smccc::ARCH_FEATURES),
    ("PSCI_SYSTEM_OFF", psci::SYSTEM_OFF),
];

/// Any of them, or a number near one, or just a number.
pub fn any(noise: &mut Noise<'_>) -> u64 {
    let (_, function) = noise.pick(&NAMES);
    match noise.below(16) {
        0 => function ^ 1 << noise.below(64),
        1 => noise.any(),
        // Otherwise the scene would end all too soon.
        _ if function == psci::SYSTEM_OFF => rsi::IPA_STATE_SET,
        _ => function,
    }
}
