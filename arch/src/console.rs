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
/// Bytes of text that wait for the UART.
const QUEUE: usize = 4096;
/// So many bytes are offered to the UART in one piece.
const PIECE: usize = 256;

/// Text that the UART has not taken yet. A line of text takes a UART as long as a CPU a million instructions, and nobody's
/// interrupts can wait for that.
struct Queue {
    text: [u8; QUEUE],
    start: usize,
    length: usize,
}

impl Queue {
    fn push(&mut self, byte: u8) {
        if self.length < QUEUE {
            self.text[(self.start + self.length) % QUEUE] = byte;
            self.length += 1;
        }
    }

    fn first(&self) -> Option<u8> {
        (self.length > 0).then(|| self.text[self.start % QUEUE])
    }

    fn pop(&mut self) {
        (self.start, self.length) = ((self.start + 1) % QUEUE, self.length.saturating_sub(1));
    }

    /// Writes all of it, however long that takes.
    fn drain(&mut self, serial: &mut Serial) {
        while let Some(byte) = self.first() {
            let _ = serial.write_char(char::from(byte));
            self.pop();
        }
    }
}

static LOCK: Mutex<Queue> = Mutex::new(Queue { text: [0; QUEUE], start: 0, length: 0 });
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
    let mut guard = LOCKING.load(Ordering::Relaxed).then(|| LOCK.lock());
    // SAFETY: under the lock, or alone.
    if let Some(serial) = unsafe { &mut *CONSOLE.0.get() } {
        if let Some(queue) = &mut guard {
            queue.drain(serial);
        }
        let _ = serial.write_fmt(line).and_then(|()| serial.write_str("\n"));
    }
    drop(guard);
}

/// Takes a line of printable ASCII that [`pump`] writes; it is lost when there is no [`room`].
pub fn queue_line(line: &[u8]) {
    let mut queue = LOCK.lock();
    line.iter().chain(b"\r\n").for_each(|byte| queue.push(*byte));
}

/// Bytes that [`queue_line`] has room for, with two for the end of each line.
pub fn room() -> usize {
    QUEUE - LOCK.lock().length
}

/// Gives the UART some of what waits for it, without waiting for it. Whether nothing is left.
pub fn pump() -> bool {
    let mut queue = LOCK.lock();
    // SAFETY: under the lock.
    let Some(serial) = (unsafe { &mut *CONSOLE.0.get() }) else {
        queue.length = 0;
        return true;
    };
    for _ in 0..PIECE {
        match queue.first() {
            Some(byte) if serial.try_byte(byte) => queue.pop(),
            first => return first.is_none(),
        }
    }
    queue.length == 0
}

/// Writes one line although another CPU may hold the lock for good: only when nothing runs on afterwards.
pub fn write_last(line: Arguments<'_>) {
    let mut queue = None;
    for _ in 0..1_000_000 {
        queue = LOCK.try_lock();
        if queue.is_some() {
            break;
        }
        core::hint::spin_loop();
    }
    // SAFETY: the lock's holder has had its time; garbled text is better than none.
    if let Some(serial) = unsafe { &mut *CONSOLE.0.get() } {
        if let Some(queue) = &mut queue {
            queue.drain(serial);
        }
        let _ = serial.write_fmt(line).and_then(|()| serial.write_str("\n"));
    }
}
