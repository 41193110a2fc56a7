//! Decoding of ESR_EL2, HPFAR_EL2 and FAR_EL2 (Arm ARM D19.2.37). Pure: compiles and is tested on any machine.

use crate::{Abort, MmioAccess};

/// ESR_EL2.EC.
pub const fn class(esr: u64) -> u64 {
    esr >> 26 & 0x3f
}

/// Exception classes that Postern handles.
pub mod ec {
    /// WFI, WFE, WFIT, WFET.
    pub const WFX: u64 = 0x01;
    /// FP and SIMD access.
    pub const FP: u64 = 0x07;
    /// HVC from AArch64.
    pub const HVC: u64 = 0x16;
    /// SMC from AArch64.
    pub const SMC: u64 = 0x17;
    /// MSR, MRS or a system instruction.
    pub const SYSREG: u64 = 0x18;
    /// Instruction abort from a lower level.
    pub const INSTRUCTION_ABORT: u64 = 0x20;
    /// Data abort from a lower level.
    pub const DATA_ABORT: u64 = 0x24;
}

/// A trapped MSR, MRS or system instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SysregAccess {
    /// op0, op1, CRn, CRm, op2.
    pub register: (u64, u64, u64, u64, u64),
    /// Rt; 31 is the zero register.
    pub rt: usize,
    /// MRS.
    pub read: bool,
}

/// Decodes the syndrome of class 0x18.
pub const fn sysreg(esr: u64) -> SysregAccess {
    SysregAccess {
        register: (esr >> 20 & 3, esr >> 14 & 7, esr >> 10 & 0xf, esr >> 1 & 0xf, esr >> 17 & 7),
        rt: (esr >> 5 & 0x1f) as usize,
        read: esr & 1 != 0,
    }
}

/// What kind of stage-2 fault an abort is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No translation at this IPA, or the access flag or size is wrong: HPFAR_EL2 is valid.
    Translation,
    /// A permission fault: HPFAR_EL2 is valid only on a stage-1 walk.
    Permission,
    /// An external abort or anything else.
    Other,
}

/// Decodes the fault status code of an abort.
pub const fn fault(esr: u64) -> Fault {
    match esr & 0x3f {
        0x00..=0x0b => Fault::Translation,
        0x0c..=0x0f => Fault::Permission,
        _ => Fault::Other,
    }
}

/// Decodes an abort with a valid HPFAR_EL2; `register` reads a general-purpose register.
pub fn abort(esr: u64, far: u64, hpfar: u64, register: impl Fn(usize) -> u64) -> Abort {
    let fetch = class(esr) == ec::INSTRUCTION_ABORT;
    let walk = esr & 1 << 7 != 0;
    // On a walk FAR is the address being translated, so the low bits say nothing of the table entry's address.
    let low = if walk { 0 } else { far & 0xfff };
    // FIPA is IPA[51:12] in bits 47:4.
    let address = (hpfar & 0x0000_ffff_ffff_fff0) << 8 | low;
    // A cache maintenance instruction (CM) is reported as a write and has no operand.
    let write = esr & 1 << 6 != 0 && !fetch;
    let maintenance = esr & 1 << 8 != 0;
    let valid = !fetch && esr & 1 << 24 != 0 && !walk && !maintenance;
    let access = valid.then(|| operand(esr, write, register));
    Abort { address, write: write && !maintenance, fetch, walk, access }
}

fn operand(esr: u64, write: bool, register: impl Fn(usize) -> u64) -> MmioAccess {
    let size = 1u32 << (esr >> 22 & 3);
    let rt = (esr >> 16 & 0x1f) as usize;
    let mask = if size == 8 { u64::MAX } else { (1 << (size * 8)) - 1 };
    let value = write.then(|| if rt == 31 { 0 } else { register(rt) & mask });
    MmioAccess { size, value, rt, sign_extend: esr & 1 << 21 != 0, wide: esr & 1 << 15 != 0 }
}

/// What a load of `value` leaves in its register.
pub fn extend(access: &MmioAccess, value: u64) -> u64 {
    let bits = access.size * 8;
    if bits >= 64 {
        return value;
    }
    let value = value & ((1 << bits) - 1);
    let signed = if access.sign_extend { ((value << (64 - bits)) as i64 >> (64 - bits)) as u64 } else { value };
    if access.wide { signed } else { signed & 0xffff_ffff }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_write_shows_only_its_operand() {
        // strb w3: ISV, SAS 0, SRT 3, WnR, translation fault level 3.
        let esr = 0x24 << 26 | 1 << 24 | 3 << 16 | 1 << 6 | 7;
        let abort = abort(esr, 0xffff_0000_0000_1018, 0x0900_0000 >> 8, |rt| 0x1234_5600 + rt as u64);
        assert_eq!(abort.address, 0x0900_0018);
        assert_eq!(abort.access.map(|access| (access.size, access.value)), Some((1, Some(3))));
        assert!(abort.write && !abort.fetch && !abort.walk);
    }

    #[test]
    fn walks_fetches_and_maintenance_have_no_operand() {
        for esr in [0x24 << 26 | 1 << 24 | 1 << 7 | 5, 0x20 << 26 | 7, 0x24 << 26 | 1 << 24 | 1 << 8 | 1 << 6 | 7] {
            assert_eq!(abort(esr, 0, 0x10, |_| 0).access, None, "{esr:#x}");
        }
    }

    #[test]
    fn loads_are_extended_as_the_instruction_says() {
        let access = |size, sign_extend, wide| MmioAccess { size, value: None, rt: 0, sign_extend, wide };
        assert_eq!(extend(&access(1, true, true), 0x1ff), u64::MAX);
        assert_eq!(extend(&access(1, true, false), 0xff), 0xffff_ffff);
        assert_eq!(extend(&access(2, false, true), 0x1_8000), 0x8000);
        assert_eq!(extend(&access(8, true, true), 1 << 63), 1 << 63);
    }
}
