//! Commands that the host gives to its local APIC (SDM volume 3, "Interrupt Command Register", "ICR Operation in x2APIC
//! Mode"), and what INIT and start-up IPIs do to a CPU. Pure.
//!
//! A real INIT would take a CPU out of Postern's hands, or be lost, so INIT and start-up IPIs are not sent: every CPU has a
//! word that says whether the host runs there and what it has been told.

/// Bits that have to be zero: 12, 13, 16, 17 and 20 to 31.
const RESERVED: u64 = 0xfff3_3000;
const LOGICAL: u64 = 1 << 11;
const ASSERT: u64 = 1 << 14;
const LEVEL: u64 = 1 << 15;
/// The destination that means everybody.
const BROADCAST: u32 = u32::MAX;

/// Who is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The CPU with this x2APIC identifier, or everybody.
    Physical(u32),
    /// The CPUs of a cluster (upper half) whose bits are set (lower half), or everybody.
    Logical(u32),
    /// Everybody but the sender.
    Others,
}

impl Target {
    /// Whether the CPU with x2APIC identifier `id` is meant.
    pub fn includes(self, id: u32, is_sender: bool) -> bool {
        match self {
            Self::Physical(wanted) => wanted == BROADCAST || wanted == id,
            // SDM volume 3, "Deriving Logical x2APIC ID from the Local x2APIC ID".
            Self::Logical(wanted) => {
                wanted == BROADCAST || wanted >> 16 == id >> 4 && wanted & 0xffff & 1 << (id & 0xf) != 0
            }
            Self::Others => !is_sender,
        }
    }
}

/// What a write to the interrupt command register asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// An interrupt or NMI: the hardware's to send.
    Send,
    /// INIT.
    Init(Target),
    /// A start-up IPI: the page to start at.
    Startup(Target, u8),
    /// Nothing happens: it does not exist, or it is not the host's to send.
    Nothing,
    /// Reserved bits: a general-protection fault.
    Refused,
}

/// Decodes a value written to the register.
pub fn decode(value: u64) -> Command {
    if value & RESERVED != 0 {
        return Command::Refused;
    }
    let destination = (value >> 32) as u32;
    let target = match (value >> 18 & 3, value & LOGICAL != 0) {
        (0, false) => Some(Target::Physical(destination)),
        (0, true) => Some(Target::Logical(destination)),
        (3, _) => Some(Target::Others),
        // Oneself, or everybody with oneself: only for interrupts.
        _ => None,
    };
    match (value >> 8 & 7, target) {
        (0 | 1, _) | (4, Some(_)) => Command::Send,
        // The end of a level-triggered INIT has had no meaning since the Pentium.
        (5, Some(_)) if value & LEVEL != 0 && value & ASSERT == 0 => Command::Nothing,
        (5, Some(target)) => Command::Init(target),
        (6, Some(target)) => Command::Startup(target, value as u8),
        // SMIs are the firmware's; the rest is reserved.
        _ => Command::Nothing,
    }
}

/// The host runs on the CPU.
pub const RUNS: u64 = 1;
/// The CPU has been sent INIT and has not looked yet.
pub const INIT: u64 = 1 << 1;
/// A start-up IPI has come; its vector is in bits 8 to 15.
pub const STARTUP: u64 = 1 << 2;

/// The CPU's word after an INIT.
pub fn after_init(word: u64) -> u64 {
    if word & RUNS != 0 { RUNS | INIT } else { 0 }
}

/// The CPU's word after a start-up IPI: only a CPU that waits for one takes it, and only the first.
pub fn after_startup(word: u64, vector: u8) -> u64 {
    if word & (RUNS | INIT) == RUNS || word & STARTUP != 0 { word } else { word | STARTUP | u64::from(vector) << 8 }
}

/// The CPU's word when it has gone back to waiting.
pub fn waiting(word: u64) -> u64 {
    word & !(RUNS | INIT)
}

/// The page that a waiting CPU is to start at.
pub fn vector(word: u64) -> Option<u8> {
    (word & STARTUP != 0).then_some((word >> 8) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_linux_sends() {
        // arch/x86/kernel/smpboot.c of Linux: INIT asserted, INIT deasserted, two start-up IPIs.
        assert_eq!(decode(1 << 32 | 0xc500), Command::Init(Target::Physical(1)));
        assert_eq!(decode(1 << 32 | 0x8500), Command::Nothing);
        assert_eq!(decode(1 << 32 | 0x69a), Command::Startup(Target::Physical(1), 0x9a));
        assert_eq!(decode(1 << 32 | 0xfd), Command::Send);
        assert_eq!(decode(0xc_08fb), Command::Send, "to all others");
        assert_eq!(decode(0x400), Command::Send, "an NMI");
    }

    #[test]
    fn shorthands() {
        assert_eq!(decode(3 << 18 | 0x500), Command::Init(Target::Others));
        assert_eq!(decode(3 << 18 | 0x608), Command::Startup(Target::Others, 8));
        for mode in [4, 5, 6] {
            assert_eq!(decode(1 << 18 | mode << 8), Command::Nothing, "oneself");
            assert_eq!(decode(2 << 18 | mode << 8), Command::Nothing, "everybody");
        }
        assert_eq!(decode(1 << 18 | 0x30), Command::Send);
    }

    #[test]
    fn garbage_never_reaches_the_register() {
        for bit in (0..32).filter(|bit| RESERVED & 1 << bit != 0) {
            assert_eq!(decode(1 << bit | 0x30), Command::Refused);
        }
        for mode in [2, 3, 7] {
            assert_eq!(decode(mode << 8), Command::Nothing);
        }
        // Whatever is written: what is sent has a mode that the hardware may have from the host.
        let mut state = 1u64;
        for _ in 0..100_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let value = state.rotate_left(17);
            if decode(value) == Command::Send {
                assert!(value & RESERVED == 0 && matches!(value >> 8 & 7, 0 | 1 | 4));
            }
        }
    }

    #[test]
    fn targets() {
        assert!(Target::Physical(3).includes(3, true) && !Target::Physical(3).includes(4, false));
        assert!(Target::Physical(u32::MAX).includes(9, false) && Target::Logical(u32::MAX).includes(9, true));
        assert!(Target::Others.includes(1, false) && !Target::Others.includes(1, true));
        // Identifier 0x25 is bit 5 of cluster 2.
        assert!(Target::Logical(2 << 16 | 1 << 5).includes(0x25, false));
        assert!(!Target::Logical(2 << 16 | 1 << 4).includes(0x25, false));
        assert!(!Target::Logical(1 << 16 | 1 << 5).includes(0x25, false));
    }

    #[test]
    fn a_cpu_is_started_once() {
        let parked = 0;
        let told = after_startup(parked, 0x9a);
        assert_eq!(vector(told), Some(0x9a));
        assert_eq!(after_startup(told, 0x10), told, "the second one is for CPUs that lost the first");
        assert_eq!(after_startup(RUNS, 0x10), RUNS, "a running CPU drops it");
        assert_eq!(after_init(parked), parked);
        assert_eq!(after_init(told), parked, "INIT before it has started");
    }

    #[test]
    fn a_start_that_follows_init_at_once_is_kept() {
        let told = after_startup(after_init(RUNS), 8);
        assert_ne!(told & INIT, 0);
        assert_eq!(vector(waiting(told)), Some(8));
        assert_eq!(vector(waiting(after_init(told))), None, "another INIT takes it back");
        assert_eq!(waiting(after_init(RUNS)), 0);
    }
}
