//! The EL1 and EL0 registers of whoever owns the CPU: the host, or one vCPU.
//!
//! Not in the list, and so neither saved nor reachable: registers of features that the ID registers shown to host and
//! guest hide and that trap (SME, MTE, PMU of guests, statistical profiling, trace, activity monitors), and AArch32's.

use super::features::{self, Feature};
use super::sysreg::{isb, mrs, msr};
use core::arch::asm;

macro_rules! el1_state {
    ($($field:ident = $name:literal),* $(,)?) => {
        /// EL1 and EL0 system registers (Arm ARM D19.2).
        #[derive(Clone, Debug, Default)]
        pub struct El1State { $(pub $field: u64,)* keys: [u64; 10] }

        impl El1State {
            /// All zero.
            pub const ZERO: Self = Self { $($field: 0,)* keys: [0; 10] };

            /// Reads the CPU's registers into `self`.
            pub fn save(&mut self) {
                $(self.$field = mrs!($name);)*
                if features::has(Feature::PointerAuth) {
                    self.keys = read_keys();
                }
            }

            /// Writes `self` into the CPU's registers. They take effect with the next exception return.
            pub fn restore(&self) {
                $(msr!($name, self.$field);)*
                if features::has(Feature::PointerAuth) {
                    write_keys(&self.keys);
                }
            }
        }
    };
}

el1_state! {
    sctlr = "sctlr_el1", ttbr0 = "ttbr0_el1", ttbr1 = "ttbr1_el1", tcr = "tcr_el1", esr = "esr_el1",
    afsr0 = "afsr0_el1", afsr1 = "afsr1_el1", far = "far_el1", mair = "mair_el1", amair = "amair_el1",
    vbar = "vbar_el1", contextidr = "contextidr_el1", cpacr = "cpacr_el1", cntkctl = "cntkctl_el1",
    // PAR_EL1 is written by every AT that Postern itself issues, so it is part of the state.
    par = "par_el1", tpidr = "tpidr_el1", sp_el1 = "sp_el1", elr = "elr_el1", spsr = "spsr_el1",
    mdscr = "mdscr_el1", csselr = "csselr_el1", tpidr_el0 = "tpidr_el0", tpidrro_el0 = "tpidrro_el0",
    sp_el0 = "sp_el0",
}

impl El1State {
    /// Architectural reset as far as software may rely on it: MMU and caches off (Arm ARM, SCTLR_EL1).
    pub fn reset() -> Self {
        // RES1 bits of SCTLR_EL1: EOS, TSCXT/EIS, SPAN, nTLSMD, LSMAOE, and nTWE, nTWI.
        Self { sctlr: 0x30d5_0800, ..Self::default() }
    }
}

fn read_keys() -> [u64; 10] {
    [
        mrs!("s3_0_c2_c1_0"), // APIAKeyLo_EL1 ...
        mrs!("s3_0_c2_c1_1"),
        mrs!("s3_0_c2_c1_2"), // APIB
        mrs!("s3_0_c2_c1_3"),
        mrs!("s3_0_c2_c2_0"), // APDA
        mrs!("s3_0_c2_c2_1"),
        mrs!("s3_0_c2_c2_2"), // APDB
        mrs!("s3_0_c2_c2_3"),
        mrs!("s3_0_c2_c3_0"), // APGA
        mrs!("s3_0_c2_c3_1"),
    ]
}

fn write_keys(keys: &[u64; 10]) {
    msr!("s3_0_c2_c1_0", keys[0]);
    msr!("s3_0_c2_c1_1", keys[1]);
    msr!("s3_0_c2_c1_2", keys[2]);
    msr!("s3_0_c2_c1_3", keys[3]);
    msr!("s3_0_c2_c2_0", keys[4]);
    msr!("s3_0_c2_c2_1", keys[5]);
    msr!("s3_0_c2_c2_2", keys[6]);
    msr!("s3_0_c2_c2_3", keys[7]);
    msr!("s3_0_c2_c3_0", keys[8]);
    msr!("s3_0_c2_c3_1", keys[9]);
}

/// FP and SIMD registers of a guest.
#[repr(C, align(16))]
#[derive(Clone, Debug)]
pub struct FpState {
    v: [u128; 32],
    fpsr: u64,
    fpcr: u64,
}

impl FpState {
    /// All zero.
    pub const fn new() -> Self {
        Self { v: [0; 32], fpsr: 0, fpcr: 0 }
    }
}

/// Bytes for the host's FP and, where present, SVE registers at the longest vector length (2048 bits): Z, P, FFR and
/// two control words.
pub const HOST_FP_SIZE: usize = 32 * 256 + 17 * 32 + 16;

/// CPTR_EL2 with E2H = 0: bits that are RES1 or that trap what neither host nor guest gets (SME, bit 12).
const CPTR_BASE: u64 = 0x22ff | 1 << 12;
/// CPTR_EL2.TZ: traps SVE, RES1 without it.
const CPTR_TZ: u64 = 1 << 8;
/// CPTR_EL2.TFP: traps FP and SIMD.
const CPTR_TFP: u64 = 1 << 10;
/// CPTR_EL2.TTA and TAM: trace and activity monitors.
const CPTR_TTA_TAM: u64 = 1 << 20 | 1 << 30;

/// CPTR_EL2 while the host runs. Trace units and activity monitors see guests too, so the host gets neither.
pub fn cptr_host() -> u64 {
    CPTR_BASE | CPTR_TTA_TAM | if features::has(Feature::Sve) { 0 } else { CPTR_TZ }
}

/// CPTR_EL2 while a guest runs; `fp_live` when its FP registers are loaded.
pub fn cptr_guest(fp_live: bool) -> u64 {
    CPTR_BASE | CPTR_TZ | CPTR_TTA_TAM | if fp_live { 0 } else { CPTR_TFP }
}

/// Puts the host's FP state away into `host` and loads the guest's.
///
/// # Safety
/// `host` is this CPU's save area of [`HOST_FP_SIZE`] bytes, aligned to 16.
pub unsafe fn fp_to_guest(host: *mut u8, guest: &FpState) {
    msr!("cptr_el2", cptr_host());
    isb();
    // SAFETY: the caller's area; FP (and SVE, which is only used when present) is accessible at EL2 by now.
    unsafe {
        if features::has(Feature::Sve) { save_sve(host) } else { save_fp(host.cast()) }
        restore_fp(guest);
    }
    msr!("cptr_el2", cptr_guest(true));
    isb();
}

/// The reverse of [`fp_to_guest`]; leaves CPTR_EL2 as for the host.
///
/// # Safety
/// As for [`fp_to_guest`], which has filled `host`.
pub unsafe fn fp_to_host(host: *mut u8, guest: &mut FpState) {
    msr!("cptr_el2", cptr_host());
    isb();
    // SAFETY: as above.
    unsafe {
        save_fp(guest);
        if features::has(Feature::Sve) { restore_sve(host) } else { restore_fp(&*host.cast()) }
    }
}

// The registers are not declared as clobbered: this code is built for a target that does not know them.

unsafe fn save_fp(to: *mut FpState) {
    // SAFETY: the caller gives a valid FpState and has made FP accessible.
    unsafe {
        asm!(
            ".arch_extension fp", ".arch_extension simd",
            "stp q0, q1, [{p}]", "stp q2, q3, [{p}, #32]", "stp q4, q5, [{p}, #64]", "stp q6, q7, [{p}, #96]",
            "stp q8, q9, [{p}, #128]", "stp q10, q11, [{p}, #160]", "stp q12, q13, [{p}, #192]",
            "stp q14, q15, [{p}, #224]", "stp q16, q17, [{p}, #256]", "stp q18, q19, [{p}, #288]",
            "stp q20, q21, [{p}, #320]", "stp q22, q23, [{p}, #352]", "stp q24, q25, [{p}, #384]",
            "stp q26, q27, [{p}, #416]", "stp q28, q29, [{p}, #448]", "stp q30, q31, [{p}, #480]",
            "mrs {t}, fpsr", "str {t}, [{p}, #512]", "mrs {t}, fpcr", "str {t}, [{p}, #520]",
            ".arch_extension nosimd", ".arch_extension nofp",
            p = in(reg) to, t = out(reg) _, options(nostack, preserves_flags)
        );
    }
}

unsafe fn restore_fp(from: &FpState) {
    // SAFETY: the caller has made FP accessible.
    unsafe {
        asm!(
            ".arch_extension fp", ".arch_extension simd",
            "ldp q0, q1, [{p}]", "ldp q2, q3, [{p}, #32]", "ldp q4, q5, [{p}, #64]", "ldp q6, q7, [{p}, #96]",
            "ldp q8, q9, [{p}, #128]", "ldp q10, q11, [{p}, #160]", "ldp q12, q13, [{p}, #192]",
            "ldp q14, q15, [{p}, #224]", "ldp q16, q17, [{p}, #256]", "ldp q18, q19, [{p}, #288]",
            "ldp q20, q21, [{p}, #320]", "ldp q22, q23, [{p}, #352]", "ldp q24, q25, [{p}, #384]",
            "ldp q26, q27, [{p}, #416]", "ldp q28, q29, [{p}, #448]", "ldp q30, q31, [{p}, #480]",
            "ldr {t}, [{p}, #512]", "msr fpsr, {t}", "ldr {t}, [{p}, #520]", "msr fpcr, {t}",
            ".arch_extension nosimd", ".arch_extension nofp",
            p = in(reg) core::ptr::from_ref(from), t = out(reg) _, options(nostack, preserves_flags)
        );
    }
}

/// Z at 0, P and FFR behind them, control words last; offsets scale with the vector length.
unsafe fn save_sve(to: *mut u8) {
    // SAFETY: the caller gives HOST_FP_SIZE bytes and has made SVE accessible at the longest length.
    unsafe {
        asm!(
            ".arch_extension fp", ".arch_extension sve",
            ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
            "str z\\n, [{p}, #\\n, mul vl]",
            ".endr",
            ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
            "str p\\n, [{q}, #\\n, mul vl]",
            ".endr",
            "rdffr p0.b", "str p0, [{q}, #16, mul vl]",
            "mrs {t}, fpsr", "str {t}, [{c}]", "mrs {t}, fpcr", "str {t}, [{c}, #8]",
            ".arch_extension nosve", ".arch_extension nofp",
            p = in(reg) to, q = in(reg) to.add(32 * 256), c = in(reg) to.add(HOST_FP_SIZE - 16), t = out(reg) _,
            options(nostack, preserves_flags)
        );
    }
}

unsafe fn restore_sve(from: *const u8) {
    // SAFETY: as for save_sve, which filled the area.
    unsafe {
        asm!(
            ".arch_extension fp", ".arch_extension sve",
            ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
            "ldr z\\n, [{p}, #\\n, mul vl]",
            ".endr",
            "ldr p0, [{q}, #16, mul vl]", "wrffr p0.b",
            ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
            "ldr p\\n, [{q}, #\\n, mul vl]",
            ".endr",
            "ldr {t}, [{c}]", "msr fpsr, {t}", "ldr {t}, [{c}, #8]", "msr fpcr, {t}",
            ".arch_extension nosve", ".arch_extension nofp",
            p = in(reg) from, q = in(reg) from.add(32 * 256), c = in(reg) from.add(HOST_FP_SIZE - 16), t = out(reg) _,
            options(nostack, preserves_flags)
        );
    }
}
