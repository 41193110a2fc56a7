//! Text output: to Postern's log through a host call, or to a PL011. Whole lines, so that CPUs do not mix theirs.

use super::gic::{read32, write32};
use super::hostcall;
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

/// PL011 register offsets (Arm DDI0183 section 3.2).
mod register {
    pub const DATA: u64 = 0;
    pub const FLAGS: u64 = 0x18;
    pub const LINE_CONTROL: u64 = 0x2c;
    pub const CONTROL: u64 = 0x30;
}
const TRANSMIT_FULL: u32 = 1 << 5;
const RECEIVE_EMPTY: u32 = 1 << 4;

/// Sends the output to Postern's log.
pub fn use_log() {
    SINK.store(LOG, Ordering::Relaxed);
}

/// Sends the output to the PL011 at `address`.
pub fn use_uart(address: u64) {
    SINK.store(address, Ordering::Relaxed);
}

/// Switches a PL011 on: FIFO, receiver and transmitter.
pub fn uart_init(address: u64) {
    write32(address + register::CONTROL, 0);
    write32(address + register::LINE_CONTROL, 3 << 5 | 1 << 4);
    write32(address + register::CONTROL, 1 | 1 << 8 | 1 << 9);
}

/// Writes a byte to a PL011, waiting for room.
pub fn uart_put(address: u64, byte: u8) {
    while read32(address + register::FLAGS) & TRANSMIT_FULL != 0 {
        core::hint::spin_loop();
    }
    write32(address + register::DATA, byte.into());
}

/// Takes a byte from a PL011's receiver.
pub fn uart_get(address: u64) -> Option<u8> {
    (read32(address + register::FLAGS) & RECEIVE_EMPTY == 0).then(|| read32(address + register::DATA) as u8)
}

impl Line {
    fn flush(&mut self) {
        let bytes = &self.bytes[..self.length];
        match SINK.load(Ordering::Relaxed) {
            0 => {}
            LOG => bytes.chunks(40).for_each(hostcall::console_write),
            uart => bytes.iter().for_each(|byte| uart_put(uart, *byte)),
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
