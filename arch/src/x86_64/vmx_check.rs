//! Whether a CPU has what Postern is built on. Pure: it looks at what CPUID and the capability registers say (SDM volume 3,
//! appendix "VMX Capability Reporting Facility").

use loader::{BootError, Lacking};

/// What the CPU says. Of controls, the bits that may be 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// CPUID leaf 1, ECX.
    pub features: u32,
    /// CPUID leaf 0x8000_0001, EDX.
    pub extended: u32,
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
/// Interrupt windows, HLT exiting, NMI windows, unconditional I/O exiting.
const EXITING: u64 = 1 << 2 | 1 << 7 | 1 << 22 | 1 << 24;
const EPT: u64 = 1 << 1;
const VPID: u64 = 1 << 5;
/// TPR shadow; x2APIC virtualisation, APIC-register virtualisation, virtual-interrupt delivery: what it takes to leave a
/// guest's APIC to the CPU. Some CPUs have the first two only, and those would save a guest little.
const TPR_SHADOW: u64 = 1 << 21;
const APICV: u64 = 1 << 4 | 1 << 8 | 1 << 9;
/// 64-bit host.
const EXIT_64BIT: u64 = 1 << 9;
/// IA-32e mode guest.
const ENTRY_64BIT: u64 = 1 << 9;
/// Saves and loads of PAT and EFER at an exit, loads at an entry.
const EXIT_SWITCHES: u64 = 1 << 18 | 1 << 19 | 1 << 20 | 1 << 21;
const ENTRY_SWITCHES: u64 = 1 << 14 | 1 << 15;
/// INVEPT, of one context and of all.
const INVEPT: u64 = 1 << 20 | 1 << 25 | 1 << 26;
/// INVVPID, of one context and of all.
const INVVPID: u64 = 1 << 32 | 1 << 41 | 1 << 42;

type Need = (&'static str, fn(&Capabilities) -> bool);

fn all(value: u64, wanted: u64) -> bool {
    value & wanted == wanted
}

/// What hangs on EPT is asked for only where there is EPT, and so on: a line that names everything would hide the cause.
fn of_ept(has: &Capabilities, wanted: u64) -> bool {
    !all(has.secondary, EPT) || all(has.ept_vpid, wanted)
}

#[rustfmt::skip]
const NEEDS: [Need; 21] = [
    ("XSAVE", |has| has.features & 1 << 26 != 0),
    ("the execute-disable bit (firmware can turn it off)", |has| has.extended & 1 << 20 != 0),
    ("VMX structures in write-back memory above 4 GiB",
        |has| has.basic & MEMORY_TYPE == WRITE_BACK && has.basic & BELOW_4_GIB == 0),
    ("VMX exits for interrupts", |has| all(has.pin, 1)),
    ("VMX exits for NMIs", |has| all(has.pin, 1 << 3)),
    ("virtual NMIs", |has| all(has.pin, 1 << 5)),
    ("the VMX preemption timer", |has| all(has.pin, 1 << 6)),
    ("VMX exits for windows, HLT and I/O", |has| all(has.primary, EXITING)),
    ("VMX I/O bitmaps", |has| all(has.primary, 1 << 25)),
    ("VMX MSR bitmaps", |has| all(has.primary, 1 << 28)),
    ("64-bit VMX", |has| all(has.exit, EXIT_64BIT) && all(has.entry, ENTRY_64BIT)),
    ("VMX switching of EFER and PAT", |has| all(has.exit, EXIT_SWITCHES) && all(has.entry, ENTRY_SWITCHES)),
    ("EPT", |has| all(has.secondary, EPT)),
    ("VPID", |has| all(has.secondary, VPID)),
    ("VMX unrestricted guests", |has| all(has.secondary, 1 << 7)),
    ("EPT of four levels", |has| of_ept(has, 1 << 6)),
    ("EPT tables in write-back memory", |has| of_ept(has, 1 << 14)),
    ("EPT pages of 2 MiB", |has| of_ept(has, 1 << 16)),
    ("EPT pages of 1 GiB", |has| of_ept(has, 1 << 17)),
    ("INVEPT", |has| of_ept(has, INVEPT)),
    ("INVVPID", |has| !all(has.secondary, VPID) || all(has.ept_vpid, INVVPID)),
];

static NAMES: [&str; NEEDS.len()] = {
    let mut names = [""; NEEDS.len()];
    let mut at = 0;
    while at < names.len() {
        names[at] = NEEDS[at].0;
        at += 1;
    }
    names
};

/// Checks them.
///
/// # Errors
/// Names all that is missing; if nothing is, that firmware has locked VMX off.
pub fn check(has: &Capabilities) -> Result<(), BootError> {
    let lack = |(n, (_, is_there)): (usize, &Need)| u32::from(!is_there(has)) << n;
    let missing = NEEDS.iter().enumerate().map(lack).sum();
    if missing != 0 {
        return Err(BootError::Lacks(Lacking { names: &NAMES, missing }));
    }
    if all(has.feature_control, LOCKED) && !all(has.feature_control, VMX_OUTSIDE_SMX) {
        return Err(BootError::Cpu("firmware has turned VMX off and locked it: turn virtualisation on in firmware"));
    }
    Ok(())
}

/// Whether a guest's APIC can be left to the CPU.
pub fn has_apicv(has: &Capabilities) -> bool {
    has.primary & TPR_SHADOW != 0 && has.secondary & APICV == APICV
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    /// An Ice Lake client CPU as Bochs 3.0 shows it, firmware having left FEATURE_CONTROL alone.
    const GOOD: Capabilities = Capabilities {
        features: 0xfffa_3203,
        extended: 0x2c10_0800,
        feature_control: 0,
        basic: WRITE_BACK | 1 << 55 | 0x400 << 32 | 4,
        pin: 0xff,
        primary: 0xfff9_fffe,
        secondary: 0x0053_ffff,
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

    /// What is missing, as it is said.
    fn lack(has: Capabilities) -> std::string::String {
        let text = check(&has).expect_err("something is missing").to_string();
        let named = text.strip_prefix("the CPU lacks what Postern needs: ").expect("it says that it is missing");
        named.to_string()
    }

    #[test]
    fn an_apic_is_left_only_to_a_cpu_with_all_of_it() {
        assert!(has_apicv(&GOOD));
        assert!(!has_apicv(&Capabilities { primary: GOOD.primary & !TPR_SHADOW, ..GOOD }));
        for bit in [1 << 4, 1 << 8, 1 << 9] {
            let has = Capabilities { secondary: GOOD.secondary & !bit, ..GOOD };
            assert!(!has_apicv(&has) && check(&has).is_ok(), "{bit:#x}");
        }
    }

    #[test]
    fn every_needed_bit_is_missed_by_its_name() {
        let without = |change: fn(&mut Capabilities, u64), bits: u64, name: &str| {
            for bit in (0..64).filter(|bit| bits & 1 << bit != 0) {
                let mut has = GOOD;
                change(&mut has, 1 << bit);
                assert_eq!(lack(has), name, "bit {bit}");
            }
        };
        without(|has, bit| has.features &= !(bit as u32), 1 << 26, "XSAVE");
        let disable = "the execute-disable bit (firmware can turn it off)";
        without(|has, bit| has.extended &= !(bit as u32), 1 << 20, disable);
        without(|has, bit| has.pin &= !bit, 1, "VMX exits for interrupts");
        without(|has, bit| has.pin &= !bit, 1 << 3, "VMX exits for NMIs");
        without(|has, bit| has.pin &= !bit, 1 << 5, "virtual NMIs");
        without(|has, bit| has.pin &= !bit, 1 << 6, "the VMX preemption timer");
        without(|has, bit| has.primary &= !bit, EXITING, "VMX exits for windows, HLT and I/O");
        without(|has, bit| has.primary &= !bit, 1 << 25, "VMX I/O bitmaps");
        without(|has, bit| has.primary &= !bit, 1 << 28, "VMX MSR bitmaps");
        without(|has, bit| has.secondary &= !bit, VPID, "VPID");
        without(|has, bit| has.secondary &= !bit, 1 << 7, "VMX unrestricted guests");
        without(|has, bit| has.exit &= !bit, EXIT_64BIT, "64-bit VMX");
        without(|has, bit| has.entry &= !bit, ENTRY_64BIT, "64-bit VMX");
        without(|has, bit| has.exit &= !bit, EXIT_SWITCHES, "VMX switching of EFER and PAT");
        without(|has, bit| has.entry &= !bit, ENTRY_SWITCHES, "VMX switching of EFER and PAT");
        without(|has, bit| has.ept_vpid &= !bit, 1 << 6, "EPT of four levels");
        without(|has, bit| has.ept_vpid &= !bit, 1 << 14, "EPT tables in write-back memory");
        without(|has, bit| has.ept_vpid &= !bit, 1 << 16, "EPT pages of 2 MiB");
        without(|has, bit| has.ept_vpid &= !bit, 1 << 17, "EPT pages of 1 GiB");
        without(|has, bit| has.ept_vpid &= !bit, INVEPT, "INVEPT");
        without(|has, bit| has.ept_vpid &= !bit, INVVPID, "INVVPID");
        let structures = "VMX structures in write-back memory above 4 GiB";
        without(|has, bit| has.basic &= !bit, WRITE_BACK, structures);
        assert_eq!(lack(Capabilities { basic: GOOD.basic | BELOW_4_GIB, ..GOOD }), structures);
    }

    #[test]
    fn all_that_is_missing_is_named_and_nothing_that_follows_from_it() {
        let none = Capabilities { ept_vpid: 0, secondary: 0, ..GOOD };
        assert_eq!(lack(none), "EPT, VPID, VMX unrestricted guests");
        assert_eq!(lack(Capabilities { features: 0, ..none }), "XSAVE, EPT, VPID, VMX unrestricted guests");
        let locked = Capabilities { feature_control: 1, ..none };
        assert_eq!(lack(locked), lack(none), "turning it on would not help");
    }
}
