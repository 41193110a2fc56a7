//! What the host sees of the CPU: everything, but for what would let it reach past its second-level tables, see what a
//! guest does, or change what Postern relies on. Pure.
//!
//! * Hardware that writes to physical memory by itself, past EPT: processor trace, hardware feedback. That goes for the ways
//!   around their registers, too: XRSTORS loads processor trace's.
//! * Hardware that writes to linear addresses of whatever runs, which would be Postern's while Postern runs: the debug store,
//!   and event-based sampling in its newer form.
//! * Records of what runs, which could go on while a guest does: event-based sampling, last-branch records in their newer
//!   form.
//! * The modes of Postern's own CPU: VMX, the APIC's mode, MTRRs, the TSC, execute-disable, microcode, supply voltage, memory
//!   encryption; and switches that turn the CPU's own protection against side channels off.

/// Registers of CPUID.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Cpuid {
    pub eax: u32,
    pub ebx: u32,
    pub ecx: u32,
    pub edx: u32,
}

/// CR4.OSXSAVE.
const CR4_OSXSAVE: u64 = 1 << 18;
/// CR4.PKE.
const CR4_PKE: u64 = 1 << 22;
/// CR4 bits the host may set: bits 0 to 12 (VME to LA57), FSGSBASE, PCIDE, OSXSAVE, SMEP, SMAP, PKE, PKS, LASS, LAM_SUP.
/// VMXE and SMXE are Postern's; CET, user interrupts, key locker and FRED have state that Postern does not switch.
pub const CR4_ALLOWED: u64 = 0x1fff | 7 << 16 | 7 << 20 | 1 << 24 | 3 << 27;

/// First leaf of hypervisors.
pub const HYPERVISOR_LEAF: u32 = 0x4000_0000;
/// What Postern calls itself there, in EBX, ECX and EDX.
pub const SIGNATURE: &[u8; 12] = b"PosternPoste";
/// First leaf of a second interface: KVM's, without any feature (Linux `Documentation/virt/kvm/x86/cpuid.rst`). It is how an
/// operating system learns that x2APIC mode works without interrupt remapping; Linux would leave that mode otherwise.
const KVM_LEAF: u32 = HYPERVISOR_LEAF + 0x100;
const KVM_SIGNATURE: &[u8; 12] = b"KVMKVMKVM\0\0\0";

/// The state components of XSAVES that the host does not get: processor trace, CET (two), user interrupts, last-branch
/// records.
const HIDDEN_COMPONENTS: u32 = 1 << 8 | 0b11 << 11 | 0b11 << 14;

/// What CPUID tells the host, given what the hardware tells Postern and the host's CR4.
pub fn cpuid(leaf: u32, subleaf: u32, native: Cpuid, cr4: u64) -> Cpuid {
    let mut out = native;
    let copy = |register: &mut u32, bit: u32, set: bool| *register = *register & !(1 << bit) | u32::from(set) << bit;
    match (leaf, subleaf) {
        (1, _) => {
            // DTES64, DS-CPL, VMX, SMX; and there is a hypervisor.
            out.ecx = out.ecx & !(1 << 2 | 1 << 4 | 1 << 5 | 1 << 6) | 1 << 31;
            copy(&mut out.ecx, 27, cr4 & CR4_OSXSAVE != 0);
            // Debug store.
            out.edx &= !(1 << 21);
        }
        // Hardware feedback interface, thread director.
        (6, _) => out.eax &= !(1 << 19 | 1 << 23),
        (7, 0) => {
            // SGX, processor trace.
            out.ebx &= !(1 << 2 | 1 << 25);
            // Shadow stacks, memory encryption, key locker, SGX launch control.
            out.ecx &= !(1 << 7 | 1 << 13 | 1 << 23 | 1 << 30);
            copy(&mut out.ecx, 4, cr4 & CR4_PKE != 0);
            // User interrupts, PCONFIG, last-branch records, indirect-branch tracking.
            out.edx &= !(1 << 5 | 1 << 18 | 1 << 19 | 1 << 20);
            // IA32_ARCH_CAPABILITIES, which says that the APIC stays in x2APIC mode once it is there.
            out.edx |= 1 << 29;
        }
        // Architectural performance monitoring extended, FRED, HRESET.
        (7, 1) => out.eax &= !(1 << 8 | 1 << 17 | 1 << 22),
        (0xd, 1) => out.ecx &= !HIDDEN_COMPONENTS,
        (0xd, component @ 2..=31) if HIDDEN_COMPONENTS & 1 << component != 0 => out = Cpuid::default(),
        // SGX, processor trace, key locker, PCONFIG, last-branch records, HRESET, performance monitoring extended.
        (0x12 | 0x14 | 0x19 | 0x1b | 0x1c | 0x20 | 0x23, _) => out = Cpuid::default(),
        (HYPERVISOR_LEAF, _) => out = signature(HYPERVISOR_LEAF, SIGNATURE),
        (KVM_LEAF, _) => out = signature(KVM_LEAF + 1, KVM_SIGNATURE),
        (0x4000_0001..=0x4fff_ffff, _) => out = Cpuid::default(),
        _ => {}
    }
    out
}

fn signature(last_leaf: u32, name: &[u8; 12]) -> Cpuid {
    let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|n| name[at + n]));
    Cpuid { eax: last_leaf, ebx: word(0), ecx: word(4), edx: word(8) }
}

/// What becomes of a read of a model-specific register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MsrRead {
    /// The hardware answers, without an exit.
    Native,
    /// This value.
    Value(u64),
    /// IA32_ARCH_CAPABILITIES: the hardware's, and [`XAPIC_DISABLE`].
    Capabilities,
    /// IA32_APIC_BASE: see `xapic`.
    ApicBase,
    /// IA32_XAPIC_DISABLE_STATUS: see `xapic`.
    ApicLock,
    /// A general-protection fault.
    Refused,
}

/// What becomes of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MsrWrite {
    /// The hardware takes it, without an exit.
    Native,
    /// Nothing happens.
    Ignored,
    /// IA32_APIC_BASE: see `xapic`.
    ApicBase,
    /// The local APIC's command register: see `icr`.
    Command,
    /// IA32_XSS: the hardware takes what [`xss_is_valid`] says.
    States,
    /// A general-protection fault.
    Refused,
}

/// IA32_ARCH_CAPABILITIES: IA32_XAPIC_DISABLE_STATUS exists, which tells an operating system that it cannot leave x2APIC mode.
pub const XAPIC_DISABLE: u64 = 1 << 21;

/// IA32_APIC_BASE.
const APIC_BASE: u32 = 0x1b;
/// IA32_FEATURE_CONTROL, and what the host reads there: locked, VMX off.
const FEATURE_CONTROL: u32 = 0x3a;
/// IA32_XAPIC_DISABLE_STATUS.
const XAPIC_DISABLE_STATUS: u32 = 0xbd;
/// IA32_ARCH_CAPABILITIES.
const ARCH_CAPABILITIES: u32 = 0x10a;
/// IA32_PEBS_ENABLE.
const PEBS_ENABLE: u32 = 0x3f1;
/// IA32_XSS.
const XSS: u32 = 0xda0;

/// Registers of what [`cpuid`] hides: FRED, sampling to IA32_PEBS_BASE, VMX, processor trace, the debug store's area, user
/// interrupts, last-branch records, hardware feedback, performance monitoring extended.
fn is_hidden(msr: u32) -> bool {
    let hidden = [
        0x1cc..=0x1d4,
        0x3f4..=0x3f5,
        0x480..=0x49f,
        0x560..=0x58f,
        0x600..=0x600,
        0x985..=0x98a,
        0x14ce..=0x14cf,
        0x17d0..=0x17df,
        0x1900..=0x19ff,
    ];
    hidden.iter().any(|range| range.contains(&msr))
}

/// Registers that exist as far as the bitmap of a VMCS reaches; there are none outside that an Intel CPU needs.
fn is_covered(msr: u32) -> bool {
    matches!(msr, 0..=0x1fff | 0xc000_0000..=0xc000_1fff)
}

/// Decides about a read.
pub fn read(msr: u32) -> MsrRead {
    match msr {
        _ if is_hidden(msr) || !is_covered(msr) => MsrRead::Refused,
        APIC_BASE => MsrRead::ApicBase,
        XAPIC_DISABLE_STATUS => MsrRead::ApicLock,
        ARCH_CAPABILITIES => MsrRead::Capabilities,
        FEATURE_CONTROL => MsrRead::Value(1),
        PEBS_ENABLE => MsrRead::Value(0),
        _ => MsrRead::Native,
    }
}

/// Decides about a write of `value`.
pub fn write(msr: u32, value: u64) -> MsrWrite {
    match msr {
        _ if is_hidden(msr) || !is_covered(msr) => MsrWrite::Refused,
        FEATURE_CONTROL | XAPIC_DISABLE_STATUS | ARCH_CAPABILITIES => MsrWrite::Refused,
        APIC_BASE => MsrWrite::ApicBase,
        0x830 => MsrWrite::Command,
        XSS => MsrWrite::States,
        PEBS_ENABLE if value == 0 => MsrWrite::Ignored,
        // Voltage and clock by mailbox; SMM monitor control; SMRRs; the debug interface.
        PEBS_ENABLE | 0x150 | 0x9b | 0x1f2 | 0x1f3 | 0xc80 => MsrWrite::Refused,
        // SGX's memory; caches as memory; total memory encryption: firmware's, whether or not it has locked them.
        0x1f4 | 0x1f5 | 0x2a0..=0x2a7 | 0x2e0 | 0x982..=0x984 => MsrWrite::Refused,
        // IA32_MCU_OPT_CTRL, which turns off that VERW, RDRAND and gathers leave nothing behind (SRBDS, MMIO stale data,
        // GDS); MISC_FEATURES_ENABLES, which would make a guest's CPUID fault. Both are zero.
        0x123 | 0x140 => MsrWrite::Ignored,
        // TSC and its adjustment, microcode, IA32_MISC_ENABLE (execute-disable, a limit to CPUID): operating systems write
        // them and go on whatever comes of it.
        0x10 | 0x3b | 0x79 | 0x1a0 => MsrWrite::Ignored,
        // MTRRs: what the firmware said holds for Postern; for the host EPT says it.
        0x200..=0x26f | 0x2ff => MsrWrite::Ignored,
        _ => MsrWrite::Native,
    }
}

/// The MSR bitmap (SDM volume 3, "MSR-Bitmap Address"): reads of low and high registers, then writes of the same.
pub fn bitmap() -> impl Iterator<Item = u64> {
    let bit = |half: usize, index: u32| {
        let msr = if half & 1 == 0 { index } else { 0xc000_0000 | index };
        // A write is passed only when every value is.
        if half < 2 { read(msr) != MsrRead::Native } else { write(msr, 0) != MsrWrite::Native }
    };
    (0..4).flat_map(move |half| {
        (0..128).map(move |word| (0..64).fold(0, |bits, n| bits | u64::from(bit(half, word * 64 + n)) << n))
    })
}

/// Whether the host may have this in IA32_XSS on a CPU that has the components `supported` (SDM volume 1, "Enabling the XSAVE
/// Feature Set and XSAVE-Enabled Features"). XRSTORS loads the registers of a component past the MSR bitmap.
pub fn xss_is_valid(value: u64, supported: u64) -> bool {
    value & !(supported & !u64::from(HIDDEN_COMPONENTS)) == 0
}

/// Whether XCR0 may have this value on a CPU that has the components `supported` (SDM volume 1, "Enabling the XSAVE Feature
/// Set and XSAVE-Enabled Features"; volume 2, "XSETBV").
pub fn xcr0_is_valid(value: u64, supported: u64) -> bool {
    let all_or_none = |bits: u64| value & bits == 0 || value & bits == bits;
    let (sse, avx, avx512, bounds, tiles) = (1 << 1, 1 << 2, 7 << 5, 3 << 3, 3 << 17);
    value & 1 != 0
        && value & !supported == 0
        && (value & avx == 0 || value & sse != 0)
        && (value & avx512 == 0 || value & avx != 0)
        && [avx512, bounds, tiles].into_iter().all(all_or_none)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    const FULL: Cpuid = Cpuid { eax: !0, ebx: !0, ecx: !0, edx: !0 };

    #[test]
    fn the_host_sees_no_vmx() {
        assert_eq!(cpuid(1, 0, FULL, 0).ecx & (1 << 5 | 1 << 6), 0);
        assert_eq!(read(0x3a), MsrRead::Value(1), "locked, off");
        assert_eq!(write(0x3a, 5), MsrWrite::Refused);
        for msr in 0x480..=0x493 {
            assert_eq!((read(msr), write(msr, 0)), (MsrRead::Refused, MsrWrite::Refused));
        }
        assert_eq!(CR4_ALLOWED & (1 << 13 | 1 << 14), 0);
    }

    #[test]
    fn nothing_writes_to_physical_memory_past_ept() {
        assert_eq!(cpuid(7, 0, FULL, 0).ebx & 1 << 25, 0, "processor trace");
        assert_eq!(cpuid(0x14, 0, FULL, 0), Cpuid::default());
        assert_eq!(write(0x560, 0x1000), MsrWrite::Refused, "RTIT_OUTPUT_BASE");
        assert_eq!(write(0x570, 1), MsrWrite::Refused, "RTIT_CTL");
        assert_eq!(cpuid(6, 0, FULL, 0).eax & 1 << 19, 0, "hardware feedback");
        assert_eq!(write(0x17d0, 0x1000), MsrWrite::Refused, "HW_FEEDBACK_PTR");
    }

    #[test]
    fn xrstors_is_no_way_around_the_bitmap() {
        assert_eq!(write(0xda0, 0), MsrWrite::States, "no value is passed unseen");
        let supported = 0x1_ff00;
        assert!(xss_is_valid(0, 0) && xss_is_valid(1 << 10 | 1 << 13 | 1 << 16, supported));
        for (component, name) in [(8, "processor trace"), (11, "CET"), (12, "CET"), (14, "UINTR"), (15, "LBR")] {
            assert!(!xss_is_valid(1 << component, supported), "{name}");
            assert_eq!(cpuid(0xd, 1, FULL, 0).ecx & 1 << component, 0, "{name}");
        }
        assert!(!xss_is_valid(1 << 10, 0) && !xss_is_valid(1 << 63, supported), "not the CPU's");
    }

    #[test]
    fn nothing_writes_to_linear_addresses_while_postern_runs() {
        assert_eq!(write(0x600, 0x1000), MsrWrite::Refused, "DS_AREA");
        assert_eq!((write(0x3f1, 1), write(0x3f1, 0)), (MsrWrite::Refused, MsrWrite::Ignored), "PEBS_ENABLE");
        for msr in [0x3f4, 0x3f5, 0x1903, 0x1983] {
            assert_eq!((read(msr), write(msr, 0)), (MsrRead::Refused, MsrWrite::Refused), "PEBS_BASE {msr:#x}");
        }
        assert_eq!((cpuid(0x23, 0, FULL, 0), cpuid(7, 1, FULL, 0).eax & 1 << 8), (Cpuid::default(), 0));
        assert_eq!(write(0x4c1, 5), MsrWrite::Native, "counters are the host's");
    }

    #[test]
    fn the_host_does_not_take_the_cpus_own_protection_away() {
        for msr in [0x123, 0x140] {
            assert_eq!(write(msr, 1), MsrWrite::Ignored);
        }
        for msr in [0x1f2, 0x1f4, 0x2a0, 0x2e0, 0x982] {
            assert_eq!(write(msr, 1), MsrWrite::Refused);
        }
    }

    #[test]
    fn what_the_host_enabled_is_what_it_sees() {
        let none = Cpuid::default();
        assert_eq!(cpuid(1, 0, none, 0).ecx & 1 << 27, 0);
        assert_ne!(cpuid(1, 0, none, CR4_OSXSAVE).ecx & 1 << 27, 0);
        assert_eq!(cpuid(1, 0, FULL, 0).ecx & 1 << 27, 0);
        assert_ne!(cpuid(7, 0, none, CR4_PKE).ecx & 1 << 4, 0);
        assert_eq!(cpuid(0x8000_0001, 0, FULL, 0), FULL);
        assert_eq!(cpuid(0xd, 9, FULL, 0), FULL);
        assert_eq!(cpuid(0xd, 8, FULL, 0), none);
    }

    #[test]
    fn the_hypervisor_says_who_it_is() {
        let leaf = cpuid(HYPERVISOR_LEAF, 0, FULL, 0);
        let name: Vec<u8> = [leaf.ebx, leaf.ecx, leaf.edx].iter().flat_map(|word| word.to_le_bytes()).collect();
        assert_eq!((leaf.eax, name.as_slice()), (HYPERVISOR_LEAF, SIGNATURE.as_slice()));
        assert_ne!(cpuid(1, 0, Cpuid::default(), 0).ecx & 1 << 31, 0);
        assert_eq!(cpuid(KVM_LEAF, 0, FULL, 0).ebx, u32::from_le_bytes(*b"KVMK"));
        assert_eq!(cpuid(KVM_LEAF + 1, 0, FULL, 0), Cpuid::default(), "no feature");
    }

    #[test]
    fn the_bitmap_is_the_decisions() {
        let words: Vec<u64> = bitmap().collect();
        assert_eq!(words.len() * 8, 4096);
        let bit = |at: usize| words[at / 64] >> (at % 64) & 1 != 0;
        assert!(
            bit(0x3a) && bit(0x48b) && bit(0x1b) && bit(0xbd) && bit(0x10a) && !bit(0x10) && !bit(0x277) && !bit(0x830)
        );
        let write = |msr: usize| bit(0x4000 + msr);
        assert!(
            write(0x830) && write(0x1b) && write(0x10) && write(0x2ff) && write(0x3f1) && write(0xda0) && !write(0x80b)
        );
        // EFER is in the VMCS; STAR, GS_BASE and the rest are the host's.
        assert!((0x2000..0x4000).chain(0x6000..0x8000).all(|at| !bit(at)));
    }

    #[test]
    fn registers_out_of_reach_of_the_bitmap_are_refused() {
        for msr in [0x2000, 0x4000_0000, 0x4b56_4d00, 0xbfff_ffff, 0xc000_2000, 0xc001_0015, u32::MAX] {
            assert_eq!((read(msr), write(msr, 0)), (MsrRead::Refused, MsrWrite::Refused));
        }
    }

    #[test]
    fn extended_control_register() {
        let all = 0b111 | 7 << 5 | 3 << 3 | 3 << 17 | 1 << 9;
        for valid in [1, 3, 7, 7 | 7 << 5, 7 | 3 << 3, 7 | 3 << 17, 7 | 1 << 9, all] {
            assert!(xcr0_is_valid(valid, all), "{valid:#x}");
        }
        for invalid in [0, 2, 5, 6, 7 | 1 << 5, 3 | 7 << 5, 1 | 1 << 3, 7 | 1 << 17, 7 | 1 << 10, 1 << 63 | 1] {
            assert!(!xcr0_is_valid(invalid, all), "{invalid:#x}");
        }
        assert!(!xcr0_is_valid(7, 3));
    }
}
