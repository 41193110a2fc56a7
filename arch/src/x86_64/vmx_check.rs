//! Whether a CPU's VMX has what Postern is built on. Pure: it looks at the values of the capability registers
//! (SDM volume 3, appendix "VMX Capability Reporting Facility").

use loader::BootError;

/// What the capability registers say. Of controls, the bits that may be 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// IA32_FEATURE_CONTROL.
    pub feature_control: u64,
    /// IA32_VMX_BASIC.
    pub basic: u64,
    /// Pin-based controls.
    pub pin: u64,
    /// Primary processor-based controls.
    pub primary: u64,
    /// Secondary processor-based controls, 0 when there are none.
    pub secondary: u64,
    /// VM-exit controls.
    pub exit: u64,
    /// VM-entry controls.
    pub entry: u64,
    /// IA32_VMX_EPT_VPID_CAP, 0 when there is none.
    pub ept_vpid: u64,
}

const LOCKED: u64 = 1;
const VMX_OUTSIDE_SMX: u64 = 1 << 2;
/// IA32_VMX_BASIC: memory type of VMX's structures, write-back is 6.
const MEMORY_TYPE: u64 = 0xf << 50;
const WRITE_BACK: u64 = 6 << 50;
/// IA32_VMX_BASIC: VMX's structures have to lie below 4 GiB.
const BELOW_4_GIB: u64 = 1 << 48;
/// External-interrupt exiting, NMI exiting, virtual NMIs, preemption timer.
const PIN: u64 = 1 | 1 << 3 | 1 << 5 | 1 << 6;
/// Interrupt-window exiting, HLT exiting, NMI-window exiting, unconditional I/O exiting, I/O bitmaps, MSR bitmaps,
/// secondary controls.
const PRIMARY: u64 = 1 << 2 | 1 << 7 | 1 << 22 | 1 << 24 | 1 << 25 | 1 << 28 | 1 << 31;
const EPT: u64 = 1 << 1;
const VPID: u64 = 1 << 5;
const UNRESTRICTED_GUEST: u64 = 1 << 7;
/// 64-bit host, saves and loads of PAT and EFER.
const EXIT: u64 = 1 << 9 | 1 << 18 | 1 << 19 | 1 << 20 | 1 << 21;
/// IA-32e mode guest, loads of PAT and EFER.
const ENTRY: u64 = 1 << 9 | 1 << 14 | 1 << 15;
/// Walks of four levels, write-back tables, pages of 2 MiB and 1 GiB.
const EPT_FORMAT: u64 = 1 << 6 | 1 << 14 | 1 << 16 | 1 << 17;
/// INVEPT, of one context and of all.
const INVEPT: u64 = 1 << 20 | 1 << 25 | 1 << 26;
/// INVVPID, of one context and of all.
const INVVPID: u64 = 1 << 32 | 1 << 41 | 1 << 42;

macro_rules! lacks {
    ($what:literal) => {
        concat!("the CPU's VMX lacks what Postern needs: ", $what)
    };
}

/// Checks them.
///
/// # Errors
/// Names what is missing.
pub fn check(has: &Capabilities) -> Result<(), BootError> {
    let all = |value: u64, wanted: u64| value & wanted == wanted;
    if all(has.feature_control, LOCKED) && !all(has.feature_control, VMX_OUTSIDE_SMX) {
        return Err(BootError::Cpu("firmware has turned VMX off and locked it: turn virtualisation on in firmware"));
    }
    let needed = [
        (
            has.basic & MEMORY_TYPE == WRITE_BACK && has.basic & BELOW_4_GIB == 0,
            lacks!("VMX structures in write-back memory"),
        ),
        (all(has.pin, PIN), lacks!("VMX exits for interrupts and NMIs, virtual NMIs and a preemption timer")),
        (all(has.primary, PRIMARY), lacks!("VMX MSR and I/O bitmaps, interrupt windows and secondary controls")),
        (all(has.secondary, EPT), lacks!("EPT")),
        (all(has.secondary, UNRESTRICTED_GUEST), lacks!("VMX unrestricted guests")),
        (all(has.secondary, VPID), lacks!("VPID")),
        (all(has.exit, EXIT) && all(has.entry, ENTRY), lacks!("VMX switching of EFER and PAT")),
        (
            all(has.ept_vpid, EPT_FORMAT),
            lacks!("EPT with four levels, pages of 2 MiB and 1 GiB, and write-back tables"),
        ),
        (all(has.ept_vpid, INVEPT), lacks!("INVEPT of one context and of all")),
        (all(has.ept_vpid, INVVPID), lacks!("INVVPID of one context and of all")),
    ];
    match needed.iter().find(|(present, _)| !present) {
        None => Ok(()),
        Some((_, text)) => Err(BootError::Cpu(text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An Ice Lake client CPU as Bochs 3.0 shows it, firmware having left FEATURE_CONTROL alone.
    const GOOD: Capabilities = Capabilities {
        feature_control: 0,
        basic: WRITE_BACK | 1 << 55 | 0x400 << 32 | 4,
        pin: 0xff,
        primary: 0xfff9_fffe,
        secondary: 0x0053_fcff,
        exit: 0x01ff_ffff,
        entry: 0x0003_ffff,
        ept_vpid: 0x0f01_0677_4141,
    };

    #[test]
    fn a_good_cpu_passes_unlocked_or_locked_on() {
        assert_eq!(check(&GOOD), Ok(()));
        assert_eq!(check(&Capabilities { feature_control: 5, ..GOOD }), Ok(()));
    }

    #[test]
    fn locked_off_is_said_as_such() {
        for feature_control in [1, 3] {
            let error = check(&Capabilities { feature_control, ..GOOD });
            assert!(matches!(error, Err(BootError::Cpu(text)) if text.contains("locked")));
        }
    }

    fn is_lack(result: Result<(), BootError>) -> bool {
        matches!(result, Err(BootError::Cpu(text)) if text.contains("lacks"))
    }

    #[test]
    fn every_needed_bit_is_missed() {
        let without = |change: fn(&mut Capabilities, u64), bits: u64| {
            for bit in (0..64).filter(|bit| bits & 1 << bit != 0) {
                let mut has = GOOD;
                change(&mut has, 1 << bit);
                assert!(is_lack(check(&has)), "bit {bit} of {bits:#x}");
            }
        };
        without(|has, bit| has.pin &= !bit, PIN);
        without(|has, bit| has.primary &= !bit, PRIMARY);
        without(|has, bit| has.secondary &= !bit, EPT | VPID | UNRESTRICTED_GUEST);
        without(|has, bit| has.exit &= !bit, EXIT);
        without(|has, bit| has.entry &= !bit, ENTRY);
        without(|has, bit| has.ept_vpid &= !bit, EPT_FORMAT | INVEPT | INVVPID);
        without(|has, bit| has.basic &= !bit, WRITE_BACK);
        assert!(check(&Capabilities { basic: GOOD.basic | BELOW_4_GIB, ..GOOD }).is_err());
        assert_eq!(check(&Capabilities { ept_vpid: 0, secondary: 0, ..GOOD }), Err(BootError::Cpu(lacks!("EPT"))));
    }
}
