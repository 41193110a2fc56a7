//! The log console. Usable from the first line of Rust on; takes a lock only when locks work, which on some machines is
//! not before the MMU is on.
#![allow(unsafe_code)] // A cell that is written before there is a second CPU.

use crate::machine::Serial;
use core::cell::UnsafeCell;
use core::fmt::{Arguments, Write};
use core::sync::atomic::{AtomicBool, Ordering};
use spin::Mutex;

struct Console(UnsafeCell<Option<Serial>>);

// SAFETY: used by one CPU until `enable_locking`, and under LOCK from then on.
unsafe impl Sync for Console {}

static CONSOLE: Console = Console(UnsafeCell::new(None));
static LOCK: Mutex<()> = Mutex::new(());
static LOCKING: AtomicBool = AtomicBool::new(false);

/// Sets the console on the boot CPU.
pub fn install_early(serial: Option<Serial>) {
    // SAFETY: nothing else runs yet.
    unsafe { *CONSOLE.0.get() = serial };
}

/// From now on other CPUs may write.
pub fn enable_locking() {
    LOCKING.store(true, Ordering::Relaxed);
}

/// Writes one line, whole.
pub fn write_line(line: Arguments<'_>) {
    let guard = LOCKING.load(Ordering::Relaxed).then(|| LOCK.lock());
    // SAFETY: under the lock, or alone.
    if let Some(serial) = unsafe { &mut *CONSOLE.0.get() } {
        let _ = serial.write_fmt(line).and_then(|()| serial.write_str("\n"));
    }
    drop(guard);
}

/// Writes one line although another CPU may hold the lock for good: only when nothing runs on afterwards.
pub fn write_last(line: Arguments<'_>) {
    for _ in 0..1_000_000 {
        if let Some(_guard) = LOCK.try_lock() {
            break;
        }
        core::hint::spin_loop();
    }
    // SAFETY: the lock's holder has had its time; garbled text is better than none.
    if let Some(serial) = unsafe { &mut *CONSOLE.0.get() } {
        let _ = serial.write_fmt(line).and_then(|()| serial.write_str("\n"));
    }
}
