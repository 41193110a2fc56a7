//! The log console: a serial line, and a screen until the host runs. Usable from the first line of Rust on; takes a lock only when locks work, which on some machines is
//! not before the MMU is on.
#![allow(unsafe_code)] // A cell that is written before there is a second CPU.

use crate::machine::Serial;
use crate::screen::Screen;
use core::cell::UnsafeCell;
use core::fmt::{Arguments, Write};
use core::sync::atomic::{AtomicBool, Ordering};
use spin::Mutex;

struct Console(UnsafeCell<Devices>);

struct Devices {
    serial: Option<Serial>,
    screen: Option<Screen>,
}

impl Devices {
    fn write(&mut self, line: Arguments<'_>, on_screen: bool) {
        if let Some(serial) = &mut self.serial {
            let _ = serial.write_fmt(line).and_then(|()| serial.write_str("\n"));
        }
        if let Some(screen) = self.screen.as_mut().filter(|_| on_screen) {
            let _ = screen.write_fmt(line).and_then(|()| screen.write_str("\n"));
        }
    }
}

// SAFETY: used by one CPU until `enable_locking`, and under LOCK from then on.
unsafe impl Sync for Console {}

static CONSOLE: Console = Console(UnsafeCell::new(Devices { serial: None, screen: None }));
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
/// The screen is Postern's.
static SCREEN: AtomicBool = AtomicBool::new(true);

/// Sets the console on the boot CPU.
pub fn install_early(serial: Option<Serial>) {
    // SAFETY: nothing else runs yet.
    unsafe { (*CONSOLE.0.get()).serial = serial };
}

/// Adds a screen on the boot CPU.
pub fn install_screen(screen: Option<Screen>) {
    // SAFETY: nothing else runs yet.
    unsafe { (*CONSOLE.0.get()).screen = screen };
}

/// From now on the screen is the host's, until Postern crashes.
pub fn leave_screen() {
    SCREEN.store(false, Ordering::Relaxed);
}

/// From now on other CPUs may write.
pub fn enable_locking() {
    LOCKING.store(true, Ordering::Relaxed);
}

/// Writes one line, whole.
pub fn write_line(line: Arguments<'_>) {
    let mut guard = LOCKING.load(Ordering::Relaxed).then(|| LOCK.lock());
    // SAFETY: under the lock, or alone.
    let devices = unsafe { &mut *CONSOLE.0.get() };
    if let (Some(serial), Some(queue)) = (&mut devices.serial, &mut guard) {
        queue.drain(serial);
    }
    devices.write(line, SCREEN.load(Ordering::Relaxed));
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
    let Some(serial) = (unsafe { &mut (*CONSOLE.0.get()).serial }) else {
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
    let devices = unsafe { &mut *CONSOLE.0.get() };
    if let (Some(serial), Some(queue)) = (&mut devices.serial, &mut queue) {
        queue.drain(serial);
    }
    devices.write(line, true);
}
