//! Names of the files in the bundle: an uncompressed `newc` cpio archive that the boot loader passes as initrd.
//!
//! Postern itself reads only the `host/` part. The archive stays in host memory, so the host can read the rest.

/// The host's kernel, an arm64 Linux `Image`.
pub const HOST_KERNEL: &str = "host/kernel";
/// The host's initrd; when absent, the host gets the whole bundle as its initrd.
pub const HOST_INITRD: &str = "host/initrd";
/// The host's kernel command line.
pub const HOST_CMDLINE: &str = "host/cmdline";
/// Settings of the test host, lines of `name=value`.
pub const CONFIG: &str = "config";
/// A setting there that is Postern's: `yes` makes it wipe all RAM that nothing uses before the host starts, because the
/// guests of a boot before this one may have left things there. It costs a machine with much RAM seconds.
pub const WIPE_OPTION: &str = "postern.wipe";
/// A setting that is Postern's: what goes to the log console, as `log-level` of the UEFI application, which wins.
pub const LOG_OPTION: &str = "postern.log-level";
/// The last setting that is Postern's: `panic`, `abort` or `stack` makes [`crate::host::CRASH_TEST`] crash it so, in
/// builds with the feature `crash-test`.
pub const CRASH_OPTION: &str = "postern.crash";
/// The guest's kernel.
pub const GUEST_KERNEL: &str = "guest/kernel";
/// The guest's initrd, optional.
pub const GUEST_INITRD: &str = "guest/initrd";
/// The guest's kernel command line, optional.
pub const GUEST_CMDLINE: &str = "guest/cmdline";
/// The tiny guest of modes that bring a guest of their own; without it they take [`GUEST_KERNEL`].
pub const GUEST_TINY: &str = "guest/tiny";
/// The log line that ends a session is this, then `ok` or the reason.
pub const END_MARKER: &str = "POSTERN-END: ";
/// The first line of a crash record.
pub const CRASH_MARKER: &str = "POSTERN-CRASH: ";
