//! The host's local APIC in xAPIC mode, whose registers are a page of memory (SDM volume 3, "The Local APIC Block Diagram",
//! "Interrupt Command Register (ICR)"), and the way from one mode to another ("x2APIC State Transitions"). Pure.
//!
//! The page is not in the host's table, so that every access comes here: a write to the command register could start a CPU
//! outside of its VM. All other registers are the host's, as they are in x2APIC mode.

use super::icr::{self, Command, Target};

/// The page, where every CPU has it after a reset. The host cannot move it.
pub const PAGE: u64 = 0xfee0_0000;
/// What the host's table leaves out: the page, and the addresses around it whose writes are interrupts when a device does them.
pub const WINDOW: core::ops::Range<u64> = PAGE..PAGE + (1 << 20);

/// IA32_APIC_BASE: the APIC is on; it is in x2APIC mode.
pub const ENABLED: u64 = 1 << 11;
/// See [`ENABLED`].
pub const X2APIC: u64 = 1 << 10;
/// A destination that means everybody.
const BROADCAST: u32 = 0xff;
/// The bits of the command's lower half that are somebody's: vector, delivery mode, destination mode, level, trigger,
/// shorthand. Bit 12 is the delivery status.
const COMMAND_BITS: u32 = 0x000c_cfff;

/// Mode of a CPU's APIC as the host has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Switched off. To hardware it is on: Postern's NMIs have to arrive.
    Off,
    /// xAPIC: a page of memory.
    Mapped,
    /// x2APIC: model-specific registers.
    X2,
}

impl Mode {
    /// The mode that IA32_APIC_BASE says; `None` for a combination that does not exist.
    fn of(base: u64) -> Option<Self> {
        match (base & ENABLED != 0, base & X2APIC != 0) {
            (false, false) => Some(Self::Off),
            (true, false) => Some(Self::Mapped),
            (true, true) => Some(Self::X2),
            (false, true) => None,
        }
    }

    /// The mode after a write of `new` to IA32_APIC_BASE, which holds `old` as the host sees it, on a CPU that has x2APIC mode or
    /// not. `None`: a general-protection fault. Out of x2APIC mode there is no way, as on a CPU where it is locked
    /// (IA32_XAPIC_DISABLE_STATUS): it leads through an APIC that is off, which some CPUs cannot switch on again, and which
    /// Postern's NMIs do not reach.
    pub fn change(old: u64, new: u64, x2apic: bool) -> Option<Self> {
        if (old ^ new) & !(ENABLED | X2APIC) != 0 {
            return None;
        }
        match (Self::of(old)?, Self::of(new)?) {
            (from, to) if from == to => Some(to),
            (Self::Mapped, Self::X2) if x2apic => Some(Self::X2),
            (Self::Mapped, Self::Off) => Some(Self::Off),
            (Self::Off, Self::Mapped) => Some(Self::Mapped),
            _ => None,
        }
    }
}

/// What a register of the page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register {
    /// The hardware's.
    Native,
    /// The lower half of the interrupt command, whose write sends it.
    Command,
    /// The upper half: the destination.
    Destination,
    /// Nothing: reads give 0, writes do nothing.
    Nothing,
}

/// The register that a read at `offset` means.
pub fn read(offset: u64) -> Register {
    match offset {
        0x300 => Register::Command,
        0x310 => Register::Destination,
        // Identifier, version, arbitration and processor priority, what is in service, triggered by level and requested, the
        // timer's current count; and what can be written, but for the end of an interrupt.
        0x20 | 0x30 | 0x90 | 0xa0 | 0x100..=0x270 | 0x390 => Register::Native,
        0xb0 => Register::Nothing,
        _ => write(offset),
    }
}

/// The register that a write at `offset` means. The identifier can be written on some CPUs; not here, where Postern counts on it.
pub fn write(offset: u64) -> Register {
    match offset {
        0x300 => Register::Command,
        0x310 => Register::Destination,
        // Task priority, end of interrupt, logical destination and its format, spurious interrupts, errors, local vectors,
        // the timer's initial count and divisor.
        0x80 | 0xb0 | 0xd0 | 0xe0 | 0xf0 | 0x280 | 0x2f0 | 0x320..=0x380 | 0x3e0 => Register::Native,
        _ => Register::Nothing,
    }
}

/// A command and its destination, the upper half of the register, as it goes to the hardware.
pub fn sent(high: u32, low: u32) -> [u32; 2] {
    [high & 0xff00_0000, low & COMMAND_BITS]
}

/// What a write of `low` to the command register asks for while its upper half is `high`. INIT and start-up messages have to
/// name their targets by identifier: nobody does otherwise, and the other way depends on registers of the targets'.
pub fn command(high: u32, low: u32) -> Command {
    let destination = match high >> 24 {
        BROADCAST => u32::MAX,
        other => other,
    };
    match icr::decode(u64::from(destination) << 32 | u64::from(low & COMMAND_BITS)) {
        Command::Init(Target::Logical(_)) | Command::Startup(Target::Logical(_), _) => Command::Nothing,
        command => command,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: u64 = PAGE | 1 << 8;
    const OFF: u64 = BASE;
    const MAPPED: u64 = BASE | ENABLED;
    const X2: u64 = MAPPED | X2APIC;

    #[test]
    fn transitions_are_the_manuals_with_the_lock() {
        let change = |old, new| Mode::change(old, new, true);
        assert_eq!(change(OFF, OFF), Some(Mode::Off));
        assert_eq!(change(OFF, MAPPED), Some(Mode::Mapped));
        assert_eq!(change(OFF, X2), None);
        assert_eq!(change(MAPPED, OFF), Some(Mode::Off));
        assert_eq!(change(MAPPED, MAPPED), Some(Mode::Mapped));
        assert_eq!(change(MAPPED, X2), Some(Mode::X2));
        assert_eq!(change(X2, OFF), None);
        assert_eq!(change(X2, MAPPED), None);
        assert_eq!(change(X2, X2), Some(Mode::X2));
        for from in [OFF, MAPPED, X2] {
            assert_eq!(change(from, BASE | X2APIC), None, "x2APIC mode of an APIC that is off");
        }
        assert_eq!(Mode::change(MAPPED, X2, false), None, "a CPU without it");
    }

    #[test]
    fn nothing_else_of_the_register_changes() {
        for (old, new) in [(OFF, MAPPED), (MAPPED, MAPPED), (MAPPED, X2), (X2, X2), (MAPPED, OFF)] {
            for bit in (0..64).filter(|bit| ![10, 11].contains(bit)) {
                assert_eq!(Mode::change(old, new ^ 1 << bit, true), None, "bit {bit}");
            }
        }
    }

    #[test]
    fn what_linux_sends() {
        // The wake-up of CPU 1 (arch/x86/kernel/smpboot.c), an interrupt to all others, one to a set.
        assert_eq!(command(1 << 24, 0xc500), Command::Init(Target::Physical(1)));
        assert_eq!(command(1 << 24, 0x8500), Command::Nothing);
        assert_eq!(command(1 << 24, 0x69a), Command::Startup(Target::Physical(1), 0x9a));
        assert_eq!(command(0, 0xc_08fb), Command::Send);
        assert_eq!(command(3 << 24, 0x8fd), Command::Send);
        assert_eq!(command(0, 0x400), Command::Send, "an NMI");
    }

    #[test]
    fn everybody_and_sets() {
        assert_eq!(command(0xff << 24, 0x4500), Command::Init(Target::Physical(u32::MAX)));
        assert_eq!(command(1 << 24, 0x4d00), Command::Nothing, "INIT to a set");
        assert_eq!(command(0xff << 24, 0x4e08), Command::Nothing, "a start-up message to a set");
        assert_eq!(command(0, 0xc_4500), Command::Init(Target::Others));
    }

    #[test]
    fn garbage_never_reaches_the_register() {
        for mode in [2, 3, 5, 6, 7] {
            for rest in [0u32, 1 << 11, 1 << 14, 1 << 15, 1 << 18, 2 << 18, 3 << 18, 1 << 12, 0xfff3_2000] {
                assert_ne!(command(0x0100_0000, mode << 8 | rest), Command::Send, "{mode} {rest:#x}");
                assert_ne!(command(0x0100_0000, mode << 8 | rest), Command::Refused, "{mode} {rest:#x}");
            }
        }
        let mut state = 1u64;
        for _ in 0..100_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let (high, low) = ((state >> 32) as u32, state as u32);
            let [high_sent, low_sent] = sent(high, low);
            assert!(high_sent & 0xff_ffff == 0 && low_sent & 0xfff3_3000 == 0);
            if command(high, low) == Command::Send {
                assert!(matches!(low_sent >> 8 & 7, 0 | 1 | 4));
            }
        }
    }

    #[test]
    fn registers() {
        let writable =
            [0x80, 0xb0, 0xd0, 0xe0, 0xf0, 0x280, 0x2f0, 0x320, 0x330, 0x340, 0x350, 0x360, 0x370, 0x380, 0x3e0];
        for offset in (0..0x1000).step_by(16) {
            let expected = match offset {
                0x300 => Register::Command,
                0x310 => Register::Destination,
                _ if writable.contains(&offset) => Register::Native,
                _ => Register::Nothing,
            };
            assert_eq!(write(offset), expected, "{offset:#x}");
        }
        assert_eq!((read(0x20), write(0x20)), (Register::Native, Register::Nothing), "the identifier stays");
        assert_eq!((read(0x390), read(0x270), read(0xb0)), (Register::Native, Register::Native, Register::Nothing));
        assert_eq!((read(0x300), read(0x310)), (Register::Command, Register::Destination));
        assert_eq!((read(0x3f0), read(0x400), read(0xff0)), (Register::Nothing, Register::Nothing, Register::Nothing));
    }
}
