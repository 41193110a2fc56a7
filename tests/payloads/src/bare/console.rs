//! Text output: to Postern's log through a host call, or to a UART. Whole lines, so that CPUs do not mix theirs.

use super::hostcall;
use crate::uart;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU64, Ordering};
use spin::mutex::SpinMutex;

/// Longest line that is written at once; longer ones are cut into several writes.
const LINE: usize = 240;
/// The sink is Postern's log.
const LOG: u64 = 1;

static SINK: AtomicU64 = AtomicU64::new(0);
static OUT: SpinMutex<Line> = SpinMutex::new(Line { bytes: [0; LINE], length: 0 });

struct Line {
    bytes: [u8; LINE],
    length: usize,
}

/// Sends the output to Postern's log.
pub fn use_log() {
    SINK.store(LOG, Ordering::Relaxed);
}

/// Sends the output to the UART at `address`, a port on x86-64.
pub fn use_uart(address: u64) {
    SINK.store(address, Ordering::Relaxed);
}

impl Line {
    fn flush(&mut self) {
        let bytes = &self.bytes[..self.length];
        match SINK.load(Ordering::Relaxed) {
            0 => {}
            LOG => bytes.chunks(40).for_each(hostcall::console_write),
            address => bytes.iter().for_each(|byte| uart::put(address, *byte)),
        }
        self.length = 0;
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if self.length == LINE {
                self.flush();
            }
            self.bytes[self.length] = byte;
            self.length += 1;
        }
        Ok(())
    }
}

/// Writes one line; see [`crate::say`].
pub fn write_line(text: fmt::Arguments<'_>) {
    let mut line = OUT.lock();
    let _ = line.write_fmt(text);
    let _ = line.write_str("\n");
    line.flush();
}

/// Writes one line from a panic, whatever state the console was in.
pub fn write_last_line(text: fmt::Arguments<'_>) {
    let mut line = Line { bytes: [0; LINE], length: 0 };
    let _ = line.write_fmt(text);
    let _ = line.write_str("\n");
    line.flush();
}

/// Writes one line of formatted text.
#[macro_export]
macro_rules! say {
    ($($text:tt)*) => { $crate::console::write_line(format_args!($($text)*)) };
}
