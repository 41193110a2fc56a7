//! What a boot through UEFI has left for the host: the measurements of all that was loaded.

use abi::handoff::Region;
use core::fmt;
use loader::{eventlog, handoff};
use payloads::{Boot, say};

/// Says what is in the record, if there is one.
pub fn show(boot: &Boot) {
    let at = boot.machine.record;
    if at == 0 {
        return;
    }
    let Ok(record) = handoff::parse(bytes(&Region { start: at, size: handoff::SIZE as u64 })) else {
        say!("host: the record of the boot cannot be read");
        return;
    };
    let seed = if record.seed == [0; 64] { "no seed" } else { "A SEED" };
    let count = eventlog::events(bytes(&record.event_log)).count();
    say!("host: the record of the boot has {count} measurements and {seed}");
    for event in eventlog::events(bytes(&record.event_log)) {
        let name = core::str::from_utf8(event.description).unwrap_or("?");
        say!("host: measured into {}: {name}: {}", event.register, Hex(event.digest));
    }
}

/// A digest as text.
pub struct Hex<'a>(pub &'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

fn bytes(region: &Region) -> &'static [u8] {
    // SAFETY: Postern says that this is there; it is reserved, so nobody else writes it.
    unsafe { core::slice::from_raw_parts(region.start as *const u8, region.size as usize) }
}
