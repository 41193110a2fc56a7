//! The test device that guests and the test host share; see the host's `mailbox`.

/// Guest physical address of the registers.
pub const BASE: u64 = 0x0a00_0000;
/// First argument: a guest physical address or an interrupt.
pub const ARGUMENT: u64 = 0;
/// Second argument.
pub const VALUE: u64 = 8;
/// Written last: one of [`command`].
pub const COMMAND: u64 = 16;
/// The result.
pub const RESULT: u64 = 24;

/// Result: the host's access raised an exception.
pub const FAULT: u64 = 0xfa17_fa17_fa17_fa17;
/// Result: unknown command, or the host has given nothing at that address.
pub const NOTHING: u64 = 0xdead_dead_dead_dead;

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
}
