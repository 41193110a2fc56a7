//! The crash record: what a panic of Postern's leaves behind.

use core::fmt::Arguments;
use core::sync::atomic::{AtomicUsize, Ordering};

/// The CPU that crashed first, plus one; 0 for none.
static CRASHED: AtomicUsize = AtomicUsize::new(0);
/// How long another one leaves it time for its record, in seconds.
const PATIENCE: u64 = 5;

/// Prints the record and switches the machine off. A crash within a crash only switches off.
///
/// The machine stops as a whole, because a hypervisor that no longer knows what is true must not go on handing out
/// memory; what the guests had stays in RAM behind tables that still deny it to the host.
pub fn crash(message: Arguments<'_>) -> ! {
    let cpu = arch::machine::cpu();
    let first = CRASHED.compare_exchange(0, cpu + 1, Ordering::Relaxed, Ordering::Relaxed);
    if first.is_err_and(|first| first != cpu + 1) {
        // Switching off now would cut its record short.
        let (start, patience) = (arch::machine::now(), PATIENCE * arch::machine::frequency());
        while arch::machine::now().wrapping_sub(start) < patience {
            core::hint::spin_loop();
        }
    }
    if first.is_ok() {
        arch::console::write_last(format_args!("{}{message}", abi::bundle::CRASH_MARKER));
        arch::console::write_last(format_args!("postern: on CPU {cpu}, at tick {}", arch::machine::now()));
        arch::console::write_last(format_args!("postern: version {}", env!("CARGO_PKG_VERSION")));
    }
    arch::machine::power_off()
}
