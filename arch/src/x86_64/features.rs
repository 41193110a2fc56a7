//! What this machine's CPUs have, read once on the boot CPU; a CPU that differs is refused.

use super::vmx_check::{self, Capabilities};
use core::arch::x86_64::{__cpuid, __cpuid_count};
use core::sync::atomic::{AtomicU64, Ordering};
use loader::BootError;
use raw_cpuid::CpuId;
use x86_64::registers::model_specific::Msr;

/// Optional features that change what Postern does.
#[derive(Clone, Copy, Debug)]
#[repr(u64)]
pub enum Feature {
    /// User-mode instruction prevention.
    Umip = 1 << 0,
    /// Supervisor-mode execution prevention.
    Smep = 1 << 1,
    /// Supervisor-mode access prevention.
    Smap = 1 << 2,
    /// Pages of 1 GiB.
    GigabytePages = 1 << 3,
    /// The time stamp counter keeps its rate.
    InvariantTsc = 1 << 4,
    /// The APIC has x2APIC mode.
    X2apic = 1 << 5,
    /// VMX answers for a guest's APIC and delivers its interrupts.
    Apicv = 1 << 6,
}

static FEATURES: AtomicU64 = AtomicU64::new(0);
/// Bits of physical address that second-level translation is built for.
static IPA_BITS: AtomicU64 = AtomicU64::new(39);
static XSAVE_SIZE: AtomicU64 = AtomicU64::new(0);

/// Whether the machine has the feature.
#[inline(always)]
pub fn has(feature: Feature) -> bool {
    FEATURES.load(Ordering::Relaxed) & feature as u64 != 0
}

/// Bits of the host's and every guest's physical addresses: 48, or less where the CPU has less.
pub fn ipa_bits() -> u64 {
    IPA_BITS.load(Ordering::Relaxed)
}

/// Whether a page can be 1 GiB.
pub fn gigabyte_pages() -> bool {
    has(Feature::GigabytePages)
}

/// Bytes of an XSAVE area with all that the CPU can save, in the standard format (SDM volume 1, "Managing State Using the
/// XSAVE Feature Set").
pub fn xsave_size() -> u64 {
    XSAVE_SIZE.load(Ordering::Relaxed)
}

fn read() -> u64 {
    let cpu = CpuId::new();
    let basic = cpu.get_feature_info();
    let extended = cpu.get_extended_feature_info();
    let amd = cpu.get_extended_processor_and_feature_identifiers();
    let power = cpu.get_advanced_power_mgmt_info();
    [
        (extended.as_ref().is_some_and(|it| it.has_umip()), Feature::Umip),
        (extended.as_ref().is_some_and(|it| it.has_smep()), Feature::Smep),
        (extended.as_ref().is_some_and(|it| it.has_smap()), Feature::Smap),
        (amd.as_ref().is_some_and(|it| it.has_1gib_pages()), Feature::GigabytePages),
        (power.as_ref().is_some_and(|it| it.has_invariant_tsc()), Feature::InvariantTsc),
        (basic.as_ref().is_some_and(|it| it.has_x2apic()), Feature::X2apic),
        // SAFETY: `required` has found VMX.
        (vmx_check::has_apicv(&unsafe { capabilities() }), Feature::Apicv),
    ]
    .iter()
    .filter(|(present, _)| *present)
    .fold(0, |bits, (_, feature)| bits | *feature as u64)
}

/// Reads the boot CPU's features.
///
/// # Errors
/// The CPU lacks what Postern cannot do without, or firmware has locked it away.
pub fn init() -> Result<(), BootError> {
    required()?;
    let cpu = CpuId::new();
    let bits = cpu.get_processor_capacity_feature_info().map_or(36, |it| u64::from(it.physical_address_bits()));
    IPA_BITS.store((bits - key_bits()).min(48), Ordering::Relaxed);
    let size = cpu.get_extended_state_info().map_or(576, |it| u64::from(it.xsave_area_size_supported_features()));
    XSAVE_SIZE.store(size, Ordering::Relaxed);
    FEATURES.store(read(), Ordering::Relaxed);
    Ok(())
}

/// Upper bits of physical addresses that select an encryption key, where firmware has turned that on: the same memory
/// again, and not what Postern calls an address (SDM volume 4, IA32_TME_ACTIVATE).
fn key_bits() -> u64 {
    const ACTIVATE: u32 = 0x982;
    const TME: u32 = 1 << 13;
    if __cpuid(0).eax < 7 || __cpuid_count(7, 0).ecx & TME == 0 {
        return 0;
    }
    // SAFETY: the feature bit says that the register is there.
    let value = unsafe { Msr::new(ACTIVATE).read() };
    if value & 2 != 0 { value >> 32 & 0xf } else { 0 }
}

/// Whether this CPU has the boot CPU's features, and as much of VMX.
pub fn same_here() -> bool {
    required().is_ok() && read() == FEATURES.load(Ordering::Relaxed)
}

fn required() -> Result<(), BootError> {
    let cpu = CpuId::new();
    let basic = cpu.get_feature_info().ok_or(BootError::Cpu("the CPU has no CPUID leaf 1"))?;
    if !basic.has_vmx() {
        return Err(BootError::Cpu("the CPU has no VMX: an Intel CPU with VT-x is needed, or turn it on in firmware"));
    }
    // SAFETY: with VMX these registers exist, each only if those before it in the reading order say so.
    vmx_check::check(&unsafe { capabilities() })
}

/// Reads VMX's capability registers (SDM volume 3, appendix "VMX Capability Reporting Facility").
///
/// # Safety
/// The CPU has VMX.
unsafe fn capabilities() -> Capabilities {
    // SAFETY: the caller's promise, and the conditions below.
    let read = |msr| unsafe { Msr::new(msr).read() };
    let basic = read(0x480);
    // Registers that tell the true settings are there when bit 55 is.
    let controls = |plain, exact| read(if basic & 1 << 55 != 0 { exact } else { plain }) >> 32;
    let primary = controls(0x482, 0x48e);
    let secondary = if primary & 1 << 31 != 0 { read(0x48b) >> 32 } else { 0 };
    // There when EPT or VPID is.
    let ept_vpid = if secondary & (1 << 1 | 1 << 5) != 0 { read(0x48c) } else { 0 };
    let extended = if __cpuid(0x8000_0000).eax > 0x8000_0000 { __cpuid(0x8000_0001).edx } else { 0 };
    Capabilities {
        features: __cpuid(1).ecx,
        extended,
        feature_control: read(0x3a),
        basic,
        pin: controls(0x481, 0x48d),
        primary,
        secondary,
        exit: controls(0x483, 0x48f),
        entry: controls(0x484, 0x490),
        ept_vpid,
    }
}
