//! Exceptions that Postern gives to EL1: what the CPU itself would do for an exception taken to EL1 (Arm ARM D1.4.1,
//! pseudocode AArch64.TakeException). The EL1 registers of whoever gets it are the loaded ones.

use super::features::{self, Feature};
use super::sysreg::{field, mrs, msr};

/// ESR_ELx.EC values.
pub mod class {
    /// Instruction abort from a lower exception level; one more means from the same level.
    pub const INSTRUCTION_ABORT: u64 = 0x20;
    /// Data abort from a lower exception level; one more means from the same level.
    pub const DATA_ABORT: u64 = 0x24;
    /// Unknown reason.
    pub const UNKNOWN: u64 = 0;
}

/// 32-bit instruction.
const IL: u64 = 1 << 25;
/// Synchronous external abort, not on a translation table walk.
const EXTERNAL: u64 = 0x10;

/// A synchronous external abort at `address`, which is what Linux on bare metal gets for memory that does not answer:
/// SIGBUS for a process, the exception table for the kernel's own accesses.
pub fn external_abort(pc: &mut u64, pstate: &mut u64, address: u64, fetch: bool, write: bool) {
    let same = u64::from(*pstate & 0xc != 0);
    let base = if fetch { class::INSTRUCTION_ABORT } else { class::DATA_ABORT };
    let iss = EXTERNAL | u64::from(write && !fetch) << 6;
    msr!("far_el1", address);
    take(pc, pstate, (base + same) << 26 | IL | iss);
}

/// The exception of an instruction that does not exist.
pub fn undefined(pc: &mut u64, pstate: &mut u64) {
    take(pc, pstate, class::UNKNOWN << 26 | IL);
}

fn take(pc: &mut u64, pstate: &mut u64, esr: u64) {
    // PSTATE.M: AArch32 has bit 4; EL in bits 3:2; bit 0 selects SP_ELx.
    let offset = if *pstate & 1 << 4 != 0 {
        0x600
    } else if *pstate & 0xc == 0 {
        0x400
    } else if *pstate & 1 != 0 {
        0x200
    } else {
        0
    };
    msr!("esr_el1", esr);
    msr!("elr_el1", *pc);
    msr!("spsr_el1", *pstate);
    *pc = mrs!("vbar_el1").wrapping_add(offset);
    *pstate = new_pstate(*pstate, mrs!("sctlr_el1"));
}

/// EL1h, D, A, I, F masked; NZCV, DIT and PAN kept; PAN set unless SCTLR.SPAN; SSBS from SCTLR.DSSBS; TCO set with MTE.
fn new_pstate(old: u64, sctlr: u64) -> u64 {
    let kept = old & (0xf << 28 | 1 << 24 | 1 << 22);
    let pan = if field(sctlr, 23, 1) == 0 { 1 << 22 } else { 0 };
    let ssbs = if features::has(Feature::Ssbs) { field(sctlr, 44, 1) << 12 } else { 0 };
    let tco = if features::has(Feature::Mte) { 1 << 25 } else { 0 };
    kept | pan | ssbs | tco | 0x3c5
}
