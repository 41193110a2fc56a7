//! What this machine's CPUs have, read once on the boot CPU; a secondary CPU that differs is refused.

use super::sysreg::{field, mrs};
use core::sync::atomic::{AtomicU64, Ordering};
use loader::BootError;

/// Optional features that change what Postern does.
#[derive(Clone, Copy, Debug)]
#[repr(u64)]
pub enum Feature {
    /// FEAT_S2FWB: stage 2 can force write-back, so wipes need no cache maintenance.
    ForcedWriteBack = 1 << 0,
    /// FEAT_SVE.
    Sve = 1 << 1,
    /// FEAT_PAuth.
    PointerAuth = 1 << 2,
    /// FEAT_PMUv3.
    Pmu = 1 << 3,
    /// FEAT_FGT.
    FineGrainedTraps = 1 << 4,
    /// FEAT_MTE or better.
    Mte = 1 << 5,
    /// FEAT_HCX: HCRX_EL2 exists.
    ExtendedHcr = 1 << 6,
    /// FEAT_SPE.
    Profiling = 1 << 7,
    /// FEAT_TRBE or a trace unit reachable by system registers.
    Trace = 1 << 8,
    /// FEAT_MPAM.
    Mpam = 1 << 9,
    /// FEAT_SSBS.
    Ssbs = 1 << 10,
    /// FEAT_EVT: HCR_EL2.TID4 and friends are not used, but the bit tells that TTLBIS exist.
    Evt = 1 << 11,
    /// FEAT_TRF: TRFCR_EL2 exists.
    TraceFilter = 1 << 12,
    /// FEAT_FGT2: the second set of fine-grained trap registers exists.
    FineGrainedTraps2 = 1 << 13,
}

static FEATURES: AtomicU64 = AtomicU64::new(0);
/// Bits of physical address that stage 2 is built for.
static IPA_BITS: AtomicU64 = AtomicU64::new(40);

/// Whether the machine has the feature.
#[inline(always)]
pub fn has(feature: Feature) -> bool {
    FEATURES.load(Ordering::Relaxed) & feature as u64 != 0
}

/// Bits of the host's and every guest's intermediate physical addresses: 40, or less where the CPU has less.
pub fn ipa_bits() -> u64 {
    IPA_BITS.load(Ordering::Relaxed)
}

fn read() -> u64 {
    let (pfr0, pfr1) = (mrs!("id_aa64pfr0_el1"), mrs!("id_aa64pfr1_el1"));
    let (mmfr0, mmfr1, mmfr2) = (mrs!("id_aa64mmfr0_el1"), mrs!("id_aa64mmfr1_el1"), mrs!("id_aa64mmfr2_el1"));
    let (isar1, isar2) = (mrs!("id_aa64isar1_el1"), mrs!("s3_0_c0_c6_2"));
    let dfr0 = mrs!("id_aa64dfr0_el1");
    let pmu = field(dfr0, 8, 4);
    let pauth = field(isar1, 4, 4) | field(isar1, 8, 4) | field(isar2, 12, 4);
    [
        (field(mmfr2, 40, 4) != 0, Feature::ForcedWriteBack),
        (field(pfr0, 32, 4) != 0, Feature::Sve),
        (pauth != 0, Feature::PointerAuth),
        (pmu != 0 && pmu != 15, Feature::Pmu),
        (field(mmfr0, 56, 4) != 0, Feature::FineGrainedTraps),
        (field(pfr1, 8, 4) >= 2, Feature::Mte),
        (field(mmfr1, 40, 4) != 0, Feature::ExtendedHcr),
        (field(dfr0, 32, 4) != 0, Feature::Profiling),
        (field(dfr0, 40, 4) != 0 || field(dfr0, 4, 4) != 0, Feature::Trace),
        (field(pfr0, 40, 4) != 0 || field(pfr1, 16, 4) != 0, Feature::Mpam),
        (field(pfr1, 4, 4) != 0, Feature::Ssbs),
        (field(mmfr2, 56, 4) != 0, Feature::Evt),
        (field(dfr0, 40, 4) != 0, Feature::TraceFilter),
        (field(mmfr0, 56, 4) >= 2, Feature::FineGrainedTraps2),
    ]
    .iter()
    .filter(|(present, _)| *present)
    .fold(0, |bits, (_, feature)| bits | *feature as u64)
}

/// Reads the boot CPU's features.
///
/// # Errors
/// The CPU lacks what Postern cannot do without.
pub fn init() -> Result<(), BootError> {
    let mmfr0 = mrs!("id_aa64mmfr0_el1");
    // PARange (Arm ARM, ID_AA64MMFR0_EL1): 0 is 32 bits, 1 is 36, 2 is 40 and all others more.
    let bits = [32, 36].get(field(mmfr0, 0, 4) as usize).copied().unwrap_or(40);
    // TGran4: 0 or 1 means that 4 KiB pages are there.
    if field(mmfr0, 28, 4) > 1 {
        return Err(BootError::Cpu("the CPU has no 4 KiB pages, which Postern needs"));
    }
    if field(mrs!("id_aa64pfr0_el1"), 24, 4) == 0 {
        return Err(BootError::Cpu("the CPU has no system registers for the GIC, which Postern needs"));
    }
    IPA_BITS.store(bits, Ordering::Relaxed);
    FEATURES.store(read(), Ordering::Relaxed);
    Ok(())
}

/// Whether this CPU has the boot CPU's features.
pub fn same_here() -> bool {
    read() == FEATURES.load(Ordering::Relaxed)
}
