//! The log: a ring of text that the host can read, and the console.
//!
//! *Errors* and *warnings* are about Postern and its machine and go to the console too, as do the few lines of boot.
//! Refusals are *debug*: they go to the ring only, because a caller that is refused all day must not be able to keep a
//! CPU busy with a serial line. Who boots the machine may want it otherwise ([`set_level`]).

use arch::console;
use core::fmt::Write;
use core::sync::atomic::{AtomicUsize, Ordering};
use log::{LevelFilter, Log, Metadata, Record};
use spin::Mutex;

/// Bytes of log text that are kept.
const RING_SIZE: usize = 16 << 10;
/// Longest line of the host's that is written in one piece, in bytes.
const HOST_LINE: usize = 160;

struct Ring {
    text: [u8; RING_SIZE],
    /// Bytes ever written; the ring holds the last `RING_SIZE` of them.
    end: u64,
}

static RING: Mutex<Ring> = Mutex::new(Ring { text: [0; RING_SIZE], end: 0 });

impl Write for Ring {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        for byte in text.bytes() {
            self.text[(self.end % RING_SIZE as u64) as usize] = byte;
            self.end += 1;
        }
        Ok(())
    }
}

/// The last level that goes to the console, as the `log` crate numbers them.
static LEVEL: AtomicUsize = AtomicUsize::new(LevelFilter::Info as usize);

struct Logger;

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let _ = writeln!(RING.lock(), "postern: {}", record.args());
        if record.level() as usize <= LEVEL.load(Ordering::Relaxed) {
            console::write_line(format_args!("postern: {}", record.args()));
        }
    }

    fn flush(&self) {}
}

/// Starts logging.
pub fn init() {
    // Fails only when a logger is there already, as in a second test.
    if log::set_logger(&Logger).is_ok() {
        log::set_max_level(LevelFilter::Debug);
    }
}

/// What goes to the console from now on: 1 errors, to 5 everything; other numbers change nothing. The ring gets debugging
/// text in any case. Whether it is a level.
pub fn set_level(level: u32) -> bool {
    let filter =
        LevelFilter::iter().find(|filter| *filter as u32 == level).filter(|filter| *filter != LevelFilter::Off);
    if let Some(filter) = filter {
        LEVEL.store(filter as usize, Ordering::Relaxed);
        log::set_max_level(filter.max(LevelFilter::Debug));
    }
    filter.is_some()
}

/// Copies text from `position` on into `words`, eight bytes each, and returns the position after it and the number of
/// bytes. Text that the ring has lost is skipped.
pub fn read(position: u64, mut store: impl FnMut(usize, u64)) -> (u64, u64) {
    let ring = RING.lock();
    let oldest = ring.end.saturating_sub(RING_SIZE as u64);
    let start = position.clamp(oldest, ring.end);
    let count = (ring.end - start).min(abi::FRAME_SIZE);
    for word in 0..count.div_ceil(8) {
        let bytes = core::array::from_fn(|byte| {
            let at = start + word * 8 + byte as u64;
            if at < ring.end { ring.text[(at % RING_SIZE as u64) as usize] } else { 0 }
        });
        store(word as usize, u64::from_le_bytes(bytes));
    }
    (start + count, count)
}

struct HostLine {
    text: [u8; HOST_LINE],
    length: usize,
}

static HOST_LINE_BUFFER: Mutex<[HostLine; loader::machine::CPUS_MAX]> =
    Mutex::new([const { HostLine { text: [0; HOST_LINE], length: 0 } }; loader::machine::CPUS_MAX]);

/// Room for all that one call can complete: a line, and then only empty ones.
const ROOM: usize = HOST_LINE + 2 + 2 * 40;

/// Collects the host's bytes and writes its lines whole, so that they do not mix with others'. Unprintable bytes become
/// question marks: a terminal must not obey an untrusted host. Returns whether all that was to be written is, which a UART
/// takes its time for; `None`, with nothing taken, when too much is left of before.
pub fn host_bytes(cpu: usize, bytes: &[u8]) -> Option<bool> {
    let mut lines = HOST_LINE_BUFFER.lock();
    if console::room() < ROOM {
        console::pump();
        return None;
    }
    if let Some(line) = lines.get_mut(cpu) {
        for byte in bytes {
            if *byte != b'\n' {
                line.text[line.length] = if matches!(byte, b' '..=b'~') { *byte } else { b'?' };
                line.length += 1;
            }
            if *byte == b'\n' || line.length == HOST_LINE {
                console::queue_line(&line.text[..line.length]);
                line.length = 0;
            }
        }
    }
    Some(console::pump())
}
