//! What the CPU says about a guest's exit, decoded (SDM volume 3, "VM Exits" and appendix "VMX Basic Exit Reasons").

use super::cpuid::{XCR0_AVX, XCR0_AVX512, XCR0_BASE};
use super::vapic::GeneralProtection;
use crate::PortAccess;

/// Encoding of TDCALL (SDM volume 2, "TDCALL").
pub const TDCALL: [u8; 4] = [0x66, 0x0f, 0x01, 0xcc];

/// CR4.OSXSAVE.
pub const CR4_OSXSAVE: u64 = 1 << 18;
/// CR4.SMEP.
pub const CR4_SMEP: u64 = 1 << 20;
/// CR4.MCE: a guest has its own in the read shadow, the CPU keeps its set.
pub const CR4_MCE: u64 = 1 << 6;
/// CR4 bits that a guest has: VME, PVI, TSD, DE, PSE, PAE, PGE, PCE, OSFXSR, OSXMMEXCPT, UMIP, FSGSBASE, PCIDE, OSXSAVE,
/// SMEP, SMAP. What the CPU lacks it refuses itself.
pub const CR4_GUEST: u64 = 0b11_1111 | 0b1_1111 << 7 | 0b11 << 16 | CR4_OSXSAVE | CR4_SMEP | 1 << 21;
/// CR0 bits that a guest has in the read shadow only: NE, which VMX wants set, NW and CD, which would stay for Postern.
pub const CR0_SHADOWED: u64 = 1 << 5 | 0b11 << 29;

/// An access to a control register that exits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlAccess {
    /// MOV to CR0 that changes a bit of the read shadow, from this register.
    WriteCr0(usize),
    /// The same for CR4.
    WriteCr4(usize),
    /// MOV to CR8.
    WriteCr8(usize),
    /// MOV from CR8.
    ReadCr8(usize),
    /// Nothing that is made to exit.
    Other,
}

/// Decodes the qualification of a control-register access.
pub fn control_access(qualification: u64) -> ControlAccess {
    let register = (qualification >> 8 & 0xf) as usize;
    match (qualification & 0xf, qualification >> 4 & 0b11) {
        (0, 0) => ControlAccess::WriteCr0(register),
        (4, 0) => ControlAccess::WriteCr4(register),
        (8, 0) => ControlAccess::WriteCr8(register),
        (8, 1) => ControlAccess::ReadCr8(register),
        _ => ControlAccess::Other,
    }
}

/// What the read shadow of CR4 becomes when the guest writes `value`; the CPU then does and checks the rest itself.
///
/// # Errors
/// The guest has one of the bits not.
pub fn cr4_shadow(value: u64) -> Result<u64, GeneralProtection> {
    if value & !(CR4_GUEST | CR4_MCE) == 0 { Ok(value & CR4_MCE) } else { Err(GeneralProtection) }
}

/// Checks a value for XCR0 (SDM volume 1, "XCR0"; volume 2, "XSETBV").
///
/// # Errors
/// No such register, or a combination that does not exist or that the guest has not.
pub fn xcr0(register: u32, value: u64, features: u64) -> Result<u64, GeneralProtection> {
    let with = |bits: u64| value & bits == bits;
    let without = |bits: u64| value & bits == 0;
    let consistent = with(1)
        && (without(XCR0_AVX) || with(XCR0_BASE))
        && (without(XCR0_AVX512) || with(XCR0_AVX512) && with(XCR0_AVX));
    if register == 0 && value & !features == 0 && consistent { Ok(value) } else { Err(GeneralProtection) }
}

/// An I/O instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Io {
    /// IN or OUT.
    Single(PortAccess),
    /// INS or OUTS, which a TDX guest does not get done for it.
    String,
}

/// Decodes the qualification of an I/O instruction; `rax` is the guest's.
pub fn io(qualification: u64, rax: u64) -> Io {
    if qualification & 1 << 4 != 0 {
        return Io::String;
    }
    let size = (qualification & 0b111) as u32 + 1;
    let port = (qualification >> 16) as u16;
    let value = (qualification & 1 << 3 == 0).then_some((rax & low_bytes(size)) as u32);
    Io::Single(PortAccess { port, size, value })
}

/// RAX after an IN of so many bytes: AL and AX leave the rest, EAX clears the upper half.
pub fn port_result(rax: u64, size: u32, value: u64) -> u64 {
    let bytes = low_bytes(size);
    if size >= 4 { value & bytes } else { rax & !bytes | value & bytes }
}

/// A mask of the lowest bytes.
pub fn low_bytes(size: u32) -> u64 {
    if size >= 8 { u64::MAX } else { (1 << (8 * size)) - 1 }
}

/// What the CPU says of an EPT violation (SDM "Exit Qualification for EPT Violations").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EptViolation {
    /// A write.
    pub write: bool,
    /// An instruction fetch.
    pub fetch: bool,
    /// The guest linear address is known.
    pub linear: bool,
    /// Of the walk of the guest's tables, not of the access itself.
    pub walk: bool,
    /// There is a translation, which lacks the right.
    pub mapped: bool,
    /// IRET had ended the blocking of NMIs before it faulted.
    pub iret: bool,
}

/// Decodes the qualification of an EPT violation.
pub fn ept_violation(qualification: u64) -> EptViolation {
    let bit = |n: u32| qualification >> n & 1 != 0;
    let mapped = qualification >> 3 & 0b111 != 0;
    EptViolation { write: bit(1), fetch: bit(2), linear: bit(7), walk: bit(7) && !bit(8), mapped, iret: bit(12) }
}

/// The VM-entry value of the preemption timer, of 32 bits, that ends after so many ticks of the TSC, fewer than 2^32: it
/// counts once when bit `rate` of the TSC changes. Never zero, or the guest would not execute a single instruction.
#[inline(always)]
pub fn preemption_timer(ticks: u64, rate: u32) -> u64 {
    (ticks >> (rate & 0x1f)).wrapping_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GP: Result<u64, GeneralProtection> = Err(GeneralProtection);

    #[test]
    fn control_registers() {
        assert_eq!(control_access(0x300), ControlAccess::WriteCr0(3));
        assert_eq!(control_access(0xf04), ControlAccess::WriteCr4(15));
        assert_eq!(control_access(0x408), ControlAccess::WriteCr8(4));
        assert_eq!(control_access(0x018), ControlAccess::ReadCr8(0));
        // CLTS, LMSW, CR3, MOV from CR0.
        for qualification in [0x20, 0x30, 0x003, 0x010, u64::MAX] {
            assert_eq!(control_access(qualification), ControlAccess::Other);
        }
    }

    #[test]
    fn a_guest_has_no_vmx_five_levels_keys_or_cet() {
        assert_eq!(cr4_shadow(0x60), Ok(0x40));
        assert_eq!(cr4_shadow(0x20), Ok(0));
        assert_eq!(cr4_shadow(0x37_0fff), Ok(0x40));
        for bit in [12, 13, 14, 19, 22, 23, 24, 25, 28, 32, 63] {
            assert_eq!(cr4_shadow(1 << bit), GP, "bit {bit}");
        }
    }

    #[test]
    fn values_of_xcr0() {
        let all = 0xe7;
        for good in [1, 3, 7, 0xe7] {
            assert_eq!(xcr0(0, good, all), Ok(good));
        }
        // Without x87, AVX without SSE, AVX-512 in part or without AVX, MPX, PKRU, AMX.
        for bad in [0, 2, 5, 0x27, 0xe3, 0xc7, 0x1b, 0x207, 0x6_0007, 1 << 63 | 7] {
            assert_eq!(xcr0(0, bad, all), GP, "{bad:#x}");
        }
        assert_eq!(xcr0(0, 7, 3), GP, "not this guest's");
        assert_eq!(xcr0(1, 1, all), GP, "no such register");
    }

    #[test]
    fn ports() {
        let port = 0x3f8 << 16;
        assert_eq!(io(port, 0x1234_5678), Io::Single(PortAccess { port: 0x3f8, size: 1, value: Some(0x78) }));
        assert_eq!(io(port | 1, 0x1234_5678), Io::Single(PortAccess { port: 0x3f8, size: 2, value: Some(0x5678) }));
        assert_eq!(
            io(port | 3 | 1 << 6, 0xff_1234_5678),
            Io::Single(PortAccess { port: 0x3f8, size: 4, value: Some(0x1234_5678) })
        );
        assert_eq!(io(0xffff_0000 | 1 << 3, 5), Io::Single(PortAccess { port: 0xffff, size: 1, value: None }));
        assert_eq!(io(port | 1 << 4 | 1 << 5, 0), Io::String);
        let rax = 0x1122_3344_5566_7788;
        assert_eq!(port_result(rax, 1, 0xabcd_ef01), 0x1122_3344_5566_7701);
        assert_eq!(port_result(rax, 2, 0xabcd_ef01), 0x1122_3344_5566_ef01);
        assert_eq!(port_result(rax, 4, 0xff_abcd_ef01), 0xabcd_ef01);
    }

    #[test]
    fn violations() {
        let read = ept_violation(1 | 1 << 7 | 1 << 8);
        let none = EptViolation { write: false, fetch: false, linear: false, walk: false, mapped: false, iret: false };
        assert_eq!(read, EptViolation { linear: true, ..none });
        assert!(ept_violation(2 | 1 << 7).walk && ept_violation(2 | 1 << 7).write);
        assert!(ept_violation(4 | 1 << 7 | 1 << 8).fetch);
        assert!(ept_violation(4 | 0b011 << 3).mapped && !ept_violation(4 | 1 << 7).mapped);
        assert!(!ept_violation(1).walk, "nothing is known of the linear address");
        assert!(ept_violation(1 | 1 << 12).iret);
    }

    #[test]
    fn the_timer_ends_after_the_deadline_and_never_at_once() {
        assert_eq!(preemption_timer(0, 5), 1);
        assert_eq!(preemption_timer(1000, 5), 32);
        assert_eq!(preemption_timer(u64::from(u32::MAX) - 1, 0), u64::from(u32::MAX));
        for left in 0..200 {
            assert!(preemption_timer(left, 5) << 5 >= left);
        }
    }
}
