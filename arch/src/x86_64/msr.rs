//! Model-specific registers as a guest sees them (SDM volume 4; the TDX module's base specification, "MSR
//! Virtualization"): which it has for itself, which have a value of Postern's, and that all others do not exist.

use super::vapic::{self, GeneralProtection};
use abi::FRAME_SIZE;

/// Numbers, as SDM volume 4 names them without `IA32_`.
#[expect(missing_docs, reason = "the names are the manual's")]
pub mod number {
    pub const TIME_STAMP_COUNTER: u32 = 0x10;
    pub const PLATFORM_ID: u32 = 0x17;
    pub const APIC_BASE: u32 = 0x1b;
    pub const FEATURE_CONTROL: u32 = 0x3a;
    pub const SPEC_CTRL: u32 = 0x48;
    pub const PRED_CMD: u32 = 0x49;
    pub const BIOS_SIGN_ID: u32 = 0x8b;
    pub const XAPIC_DISABLE_STATUS: u32 = 0xbd;
    pub const PLATFORM_INFO: u32 = 0xce;
    pub const ARCH_CAPABILITIES: u32 = 0x10a;
    pub const FLUSH_CMD: u32 = 0x10b;
    pub const MISC_FEATURES_ENABLES: u32 = 0x140;
    pub const SYSENTER_CS: u32 = 0x174;
    pub const SYSENTER_ESP: u32 = 0x175;
    pub const SYSENTER_EIP: u32 = 0x176;
    pub const MISC_ENABLE: u32 = 0x1a0;
    pub const DEBUGCTL: u32 = 0x1d9;
    pub const PAT: u32 = 0x277;
    pub const XSS: u32 = 0xda0;
    pub const EFER: u32 = 0xc000_0080;
    pub const STAR: u32 = 0xc000_0081;
    pub const LSTAR: u32 = 0xc000_0082;
    pub const CSTAR: u32 = 0xc000_0083;
    pub const FMASK: u32 = 0xc000_0084;
    pub const FS_BASE: u32 = 0xc000_0100;
    pub const GS_BASE: u32 = 0xc000_0101;
    pub const KERNEL_GS_BASE: u32 = 0xc000_0102;
    pub const TSC_AUX: u32 = 0xc000_0103;
}

/// What the CPU has of the registers that a guest may have for itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Present {
    /// IA32_SPEC_CTRL.
    pub spec_ctrl: bool,
    /// IA32_PRED_CMD.
    pub pred_cmd: bool,
    /// IA32_TSC_AUX.
    pub tsc_aux: bool,
    /// IA32_ARCH_CAPABILITIES; 0 on a CPU that has it not.
    pub arch_capabilities: u64,
}

/// Bits of IA32_ARCH_CAPABILITIES that a guest is told: what the CPU is immune to, and what VERW and IBRS do. Not the
/// ones that announce registers.
const IMMUNITIES: u64 = 0b111_1111 | 1 << 8 | 0b111 << 13 | 1 << 17 | 0b11 << 19 | 1 << 24 | 0b111 << 26;
/// The x2APIC cannot be left, as IA32_XAPIC_DISABLE_STATUS says.
const XAPIC_DISABLE: u64 = 1 << 21;
/// IA32_APIC_BASE: where it always is, enabled, in x2APIC mode. Bit 8 is the bootstrap processor's.
const APIC_BASE_VALUE: u64 = 0xfee0_0000 | 0b11 << 10;
const BOOTSTRAP: u64 = 1 << 8;
/// IA32_MISC_ENABLE: fast strings; no branch trace store, no precise event sampling.
const MISC_ENABLE_VALUE: u64 = 1 | 0b11 << 11;
/// IA32_FEATURE_CONTROL: locked, with nothing on.
const LOCKED: u64 = 1;
/// IA32_DEBUGCTL: single-step on branches. Last-branch records can be asked for and are not there.
const BRANCH_STEP: u64 = 1 << 1;
const LAST_BRANCH: u64 = 1;
/// Reset value of IA32_PAT (SDM volume 3, "Programming the PAT").
pub const PAT_RESET: u64 = 0x0007_0406_0007_0406;

/// Whether the guest reads and writes the register itself: (read, write).
pub fn passes(msr: u32, present: &Present) -> (bool, bool) {
    use number::*;
    match msr {
        // With the VM's offset.
        TIME_STAMP_COUNTER => (true, false),
        // In the VMCS, or switched in software with the vCPU; the CPU checks what is written.
        SYSENTER_CS | SYSENTER_ESP | SYSENTER_EIP | PAT | EFER | FS_BASE | GS_BASE => (true, true),
        STAR | LSTAR | CSTAR | FMASK | KERNEL_GS_BASE => (true, true),
        TSC_AUX => (present.tsc_aux, present.tsc_aux),
        SPEC_CTRL => (present.spec_ctrl, present.spec_ctrl),
        PRED_CMD => (false, present.pred_cmd),
        _ => (false, false),
    }
}

/// All for which [`passes`] can say yes: a table, because looking at every register would take long with interrupts off.
const PASSED: [u32; 16] = {
    use number::*;
    [
        TIME_STAMP_COUNTER,
        SPEC_CTRL,
        PRED_CMD,
        SYSENTER_CS,
        SYSENTER_ESP,
        SYSENTER_EIP,
        PAT,
        EFER,
        STAR,
        LSTAR,
        CSTAR,
        FMASK,
        FS_BASE,
        GS_BASE,
        KERNEL_GS_BASE,
        TSC_AUX,
    ]
};

/// The registers of an APIC.
const X2APIC: core::ops::Range<u32> = 0x800..0x900;
/// Bits in a quarter of an MSR bitmap.
const QUARTER: usize = FRAME_SIZE as usize / 4 * 8;

/// The bits of the MSR bitmap that are zero; the others make the access exit. Quarters: reads of 0 to 0x1fff, reads of
/// 0xc0000000 to 0xc0001fff, then writes of both (SDM volume 3, "MSR-Bitmap Address"). Registers beyond exit in any case.
/// `apic`: the guest's APIC is the CPU's to answer for.
pub fn open_bits(present: &Present, apic: bool) -> impl Iterator<Item = usize> {
    let own = PASSED.into_iter().map(|msr| (msr, passes(msr, present)));
    let apics = if apic { X2APIC } else { 0..0 };
    own.chain(apics.map(|msr| (msr, vapic::passes(msr)))).flat_map(|(msr, (read, write))| {
        let bit = (msr & 0x1fff) as usize + if msr < 0xc000_0000 { 0 } else { QUARTER };
        [read.then_some(bit), write.then_some(bit + 2 * QUARTER)].into_iter().flatten()
    })
}

/// RDMSR of a register that the guest has not for itself and that is not its APIC's. `debugctl` is the guest's.
///
/// # Errors
/// There is no such register.
pub fn read(msr: u32, bootstrap: bool, debugctl: u64, present: &Present) -> Result<u64, GeneralProtection> {
    use number::*;
    match msr {
        APIC_BASE => Ok(APIC_BASE_VALUE | if bootstrap { BOOTSTRAP } else { 0 }),
        FEATURE_CONTROL => Ok(LOCKED),
        // Newer than any that a guest's kernel could ask for.
        BIOS_SIGN_ID => Ok(0xffff_ffff << 32),
        XAPIC_DISABLE_STATUS => Ok(1),
        ARCH_CAPABILITIES => Ok(present.arch_capabilities & IMMUNITIES | XAPIC_DISABLE),
        MISC_ENABLE => Ok(MISC_ENABLE_VALUE),
        DEBUGCTL => Ok(debugctl),
        PLATFORM_ID | PLATFORM_INFO | MISC_FEATURES_ENABLES | XSS => Ok(0),
        _ => Err(GeneralProtection),
    }
}

/// What a WRMSR does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// Nothing.
    Ignored,
    /// IA32_DEBUGCTL gets this value.
    DebugCtl(u64),
}

/// WRMSR of a register that the guest has not for itself and that is not its APIC's.
///
/// # Errors
/// There is no such register, or the value is not possible.
pub fn write(msr: u32, value: u64, bootstrap: bool) -> Result<Written, GeneralProtection> {
    use number::*;
    let only = |allowed: u64| if value == allowed { Ok(Written::Ignored) } else { Err(GeneralProtection) };
    match msr {
        APIC_BASE => only(APIC_BASE_VALUE | if bootstrap { BOOTSTRAP } else { 0 }),
        // Software clears it before it asks for the microcode's revision.
        BIOS_SIGN_ID | MISC_ENABLE => Ok(Written::Ignored),
        MISC_FEATURES_ENABLES | XSS => only(0),
        DEBUGCTL if value & !(BRANCH_STEP | LAST_BRANCH) == 0 => Ok(Written::DebugCtl(value & BRANCH_STEP)),
        _ => Err(GeneralProtection),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;
    use std::vec::Vec;

    const ALL: Present = Present { spec_ctrl: true, pred_cmd: true, tsc_aux: true, arch_capabilities: u64::MAX };
    const NONE: Present = Present { spec_ctrl: false, pred_cmd: false, tsc_aux: false, arch_capabilities: 0 };

    fn bitmap(present: &Present, apic: bool) -> Vec<u8> {
        let mut bytes = vec![0xff; FRAME_SIZE as usize];
        open_bits(present, apic).for_each(|bit| bytes[bit / 8] &= !(1 << (bit % 8)));
        bytes
    }

    /// Whether the access exits, as the CPU looks it up.
    fn exits(bitmap: &[u8], msr: u32, write: bool) -> bool {
        let half = match msr {
            0..=0x1fff => 0,
            0xc000_0000..=0xc000_1fff => 1024,
            _ => return true,
        };
        let low = msr as usize & 0x1fff;
        bitmap[half + if write { 2048 } else { 0 } + low / 8] >> (low % 8) & 1 != 0
    }

    #[test]
    fn the_bitmap_is_the_policy() {
        for (present, apic) in [(ALL, false), (NONE, false), (ALL, true), (NONE, true)] {
            let bitmap = bitmap(&present, apic);
            for msr in (0..0x2000).chain(0xc000_0000..0xc000_2000) {
                let (read, write) = match msr {
                    0x800..=0x8ff if apic => vapic::passes(msr),
                    _ => passes(msr, &present),
                };
                assert_eq!((exits(&bitmap, msr, false), exits(&bitmap, msr, true)), (!read, !write), "{msr:#x}");
            }
        }
        let open = open_bits(&ALL, false).count();
        assert_eq!(open, 1 + 2 * 7 + 2 * 5 + 2 + 2 + 1, "and nothing besides");
        // ID, version, TPR, PPR, LDR, SVR, 24 vectors, ESR, ICR, six local vectors, initial count, divisor; TPR, EOI, self.
        assert_eq!(open_bits(&ALL, true).count(), open + 6 + 24 + 2 + 6 + 2 + 3);
    }

    #[test]
    fn registers_of_the_host_are_out_of_reach() {
        let bitmap = bitmap(&ALL, false);
        // Time, microcode, performance counters, MTRRs, machine checks, debug store, VMX, x2APIC, XSS, CET.
        for msr in
            [0x3b, 0x79, 0xc1, 0x186, 0x200, 0x2ff, 0x400, 0x600, 0x480, 0x802, 0x830, 0xda0, 0x6a0, 0x6a4, 0x1d9]
        {
            assert!(exits(&bitmap, msr, false) && exits(&bitmap, msr, true), "{msr:#x}");
        }
        assert!(exits(&bitmap, 0x10, true) && exits(&bitmap, 0x10b, true) && exits(&bitmap, 0x49, false));
        assert!(exits(&bitmap, 0x4000_0000, true));
    }

    #[test]
    fn what_is_read() {
        let cases = [
            (0x1b, 0xfee0_0c00),
            (0x3a, 1),
            (0x8b, 0xffff_ffff_0000_0000),
            (0xbd, 1),
            (0xce, 0),
            (0x10a, 1 << 21),
            (0x140, 0),
            (0x1a0, 0x1801),
            (0x1d9, 2),
            (0xda0, 0),
        ];
        for (msr, value) in cases {
            assert_eq!(read(msr, false, 2, &NONE), Ok(value), "{msr:#x}");
        }
        assert_eq!(read(0x1b, true, 0, &NONE), Ok(0xfee0_0d00));
        let told = read(0x10a, false, 0, &ALL).unwrap();
        // TSX_CTRL, MISC_PACKAGE_CTLS, ENERGY_FILTERING, DOITM, MCU_CONTROL, FB_CLEAR_CTRL, OVERCLOCKING, GDS_CTRL.
        for bit in [7, 9, 10, 11, 12, 18, 23, 25, 63] {
            assert_eq!(told >> bit & 1, 0, "bit {bit}");
        }
        for msr in
            [0x3b, 0x33, 0x34, 0xfe, 0x179, 0x122, 0x123, 0x345, 0x480, 0x48f, 0x600, 0x606, 0xc001_0015, 0x4b56_4d00]
        {
            assert_eq!(read(msr, true, 0, &ALL), Err(GeneralProtection), "{msr:#x}");
        }
    }

    #[test]
    fn what_is_written() {
        assert_eq!(write(0x1b, 0xfee0_0c00, false), Ok(Written::Ignored));
        assert_eq!(write(0x1b, 0xfee0_0d00, false), Err(GeneralProtection));
        assert_eq!(write(0x1b, 0xfee0_0d00, true), Ok(Written::Ignored));
        assert_eq!(write(0x1b, 0xfee0_0800, false), Err(GeneralProtection), "x2APIC stays on");
        assert_eq!(write(0x3a, 1, false), Err(GeneralProtection));
        assert_eq!(write(0xda0, 0, false), Ok(Written::Ignored));
        assert_eq!(write(0xda0, 1 << 11, false), Err(GeneralProtection));
        assert_eq!(write(0x8b, 0, false), Ok(Written::Ignored));
        assert_eq!(write(0x1a0, 1, false), Ok(Written::Ignored));
        assert_eq!(write(0x1d9, 3, false), Ok(Written::DebugCtl(2)));
        assert_eq!(write(0x1d9, 1 << 6, false), Err(GeneralProtection), "branch traces");
        for msr in [0x10, 0xbd, 0x10a, 0x10b, 0xce, 0x3b, 0x480, 0x600, 0x832, 0xc001_0015] {
            assert_eq!(write(msr, 0, true), Err(GeneralProtection), "{msr:#x}");
        }
    }
}
