//! The test device that guests and the test host share; see the host's `mailbox`.

/// Guest physical address of the registers.
#[cfg(target_os = "none")]
pub use crate::arch::MAILBOX as BASE;
/// First argument: a guest physical address or an interrupt.
pub const ARGUMENT: u64 = 0;
/// Second argument.
pub const VALUE: u64 = 8;
/// Written last: one of [`command`].
pub const COMMAND: u64 = 16;
/// The result.
pub const RESULT: u64 = 24;

/// Write: lowers the line of the interrupt written.
pub const LOWER: u64 = 32;

/// Result: the host's access raised an exception.
pub const FAULT: u64 = 0xfa17_fa17_fa17_fa17;
/// Result: unknown command, or the host has given nothing at that address.
pub const NOTHING: u64 = 0xdead_dead_dead_dead;

/// Seed of the pattern in the victim's general registers while it exits; its vectors have the next seed's.
pub const VICTIM_SEED: u64 = 0xbeef_cafe;

/// What the guest of the demonstration writes: `Hi, host`.
pub const GREETING: u64 = u64::from_le_bytes(*b"Hi, host");
/// What the host answers, eight bytes further on: `Hi guest`.
pub const ANSWER: u64 = u64::from_le_bytes(*b"Hi guest");

/// What the host can be asked to do.
pub mod command {
    /// Read eight bytes of the frame behind a guest address.
    pub const READ: u64 = 1;
    /// Write eight bytes there.
    pub const WRITE: u64 = 2;
    /// Ask Postern for the state of that frame.
    pub const STATE: u64 = 3;
    /// Pin that frame.
    pub const PIN: u64 = 4;
    /// Unpin it.
    pub const UNPIN: u64 = 5;
    /// Set the level of a device interrupt.
    pub const INTERRUPT: u64 = 6;
    /// Run an audit: the number of violations.
    pub const AUDIT: u64 = 7;
    /// The victim is ready to be attacked.
    pub const READY: u64 = 8;
    /// Demonstration: a page is shared and holds [`super::GREETING`] and the answer is expected in it.
    pub const DEMO_SHARED: u64 = 9;
    /// Demonstration: what the guest read as an answer.
    pub const DEMO_ANSWER: u64 = 10;
    /// Demonstration: the page is private again.
    pub const DEMO_UNSHARED: u64 = 11;
    /// Demonstration: how many words of the page were not zero after it was taken back.
    pub const DEMO_RESIDUE: u64 = 12;
}
