//! Crashes on purpose, to see that the crash record is legible: what dies with a bug must not die mute.
//!
//! Only in builds with the feature `crash-test`, and only when the bundle asks for it: no call of a host reaches this in a
//! machine that was not booted for it.
#![allow(unsafe_code)] // It reads where nothing can be.

use crate::settings;
use abi::bundle::CRASH_OPTION;
use core::hint::black_box;

/// A way to die.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// A panic.
    Panic,
    /// An access to an address that has no translation.
    Abort,
    /// More stack than there is.
    Stack,
}

impl Crash {
    /// What the bundle's settings ask for.
    pub fn from_settings(config: &[u8]) -> Option<Self> {
        match settings::get(config, CRASH_OPTION)? {
            "panic" => Some(Self::Panic),
            "abort" => Some(Self::Abort),
            "stack" => Some(Self::Stack),
            _ => None,
        }
    }

    /// Dies.
    pub fn happen(self) -> ! {
        match self {
            Self::Panic => panic!("a panic on purpose"),
            Self::Abort => {
                // On every machine an address that no table can translate: neither all ones nor all zeroes at the top.
                let nowhere = black_box(1_u64 << 60) as *const u64;
                // SAFETY: no memory is read: the access faults, and the fault does not return.
                let value = unsafe { nowhere.read_volatile() };
                panic!("the impossible address holds {value:#x}")
            }
            Self::Stack => panic!("the stack has no end: {}", dig(black_box(u64::MAX))),
        }
    }
}

/// Uses a piece of stack smaller than a guard page for each of `depth` calls.
#[inline(never)]
fn dig(depth: u64) -> u64 {
    let piece = black_box([depth; 64]);
    if depth == 0 { piece[0] } else { dig(depth - 1) + black_box(piece)[1] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_setting_of_the_right_name_asks_for_it() {
        assert_eq!(Crash::from_settings(b"mode=crash\npostern.crash = stack\n"), Some(Crash::Stack));
        for settings in [&b""[..], b"mode=crash\n", b"crash=panic\n", b"postern.crash=\n", b"postern.crash=yes\n"] {
            assert_eq!(Crash::from_settings(settings), None);
        }
    }
}
