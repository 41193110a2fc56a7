//! The crash record: what a panic of Postern's leaves behind.

use core::fmt::Arguments;
use core::sync::atomic::{AtomicBool, Ordering};

static CRASHED: AtomicBool = AtomicBool::new(false);

/// Prints the record and switches the machine off. A crash within a crash only switches off.
///
/// The machine stops as a whole, because a hypervisor that no longer knows what is true must not go on handing out
/// memory; what the guests had stays in RAM behind tables that still deny it to the host.
pub fn crash(message: Arguments<'_>) -> ! {
    if !CRASHED.swap(true, Ordering::Relaxed) {
        let cpu = arch::machine::cpu();
        arch::console::write_last(format_args!("{}{message}", abi::bundle::CRASH_MARKER));
        arch::console::write_last(format_args!("postern: on CPU {cpu}, at tick {}", arch::machine::now()));
        arch::console::write_last(format_args!("postern: version {}", env!("CARGO_PKG_VERSION")));
    }
    arch::machine::power_off()
}
