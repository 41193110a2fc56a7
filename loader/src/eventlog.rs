//! The log of measurements: what was loaded, by its SHA-384 digest, in the TCG's crypto-agile format (TCG PC Client
//! Platform Firmware Profile 1.06, section 10), so that the tools that read a firmware's log read this one.

use alloc::vec::Vec;

/// TPM_ALG_SHA384 (TCG Algorithm Registry).
pub const SHA384: u16 = 0x000c;
/// Bytes of a digest.
pub const DIGEST_SIZE: usize = 48;
/// The register for settings and command lines, as GRUB does it.
pub const PCR_SETTINGS: u32 = 8;
/// The register for files, as GRUB does it.
pub const PCR_FILES: u32 = 9;
/// EV_NO_ACTION: nothing was extended.
const NO_ACTION: u32 = 3;
/// EV_IPL: what a boot loader measures.
pub const IPL: u32 = 0xd;
/// Bytes of the first entry: its header, and what [`EventLog::new`] says in it.
const FIRST: usize = 32 + 33;
/// Longest description, in bytes.
const DESCRIPTION_MAX: usize = 1024;

/// A log that grows.
#[derive(Clone, Debug)]
pub struct EventLog(Vec<u8>);

/// An entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    /// Register that was, or would have been, extended.
    pub register: u32,
    /// SHA-384 of what was measured.
    pub digest: &'a [u8; DIGEST_SIZE],
    /// What it was.
    pub description: &'a [u8],
}

impl Default for EventLog {
    fn default() -> Self {
        Self::new()
    }
}

impl EventLog {
    /// A log with its first entry, which says what the others look like (TCG_EfiSpecIDEvent).
    pub fn new() -> Self {
        let mut id = Vec::from(&b"Spec ID Event03\0"[..]);
        id.extend([0; 4]); // platform class: client
        id.extend([0, 2, 106, 2]); // version 2.0, errata 106, addresses of 64 bits
        id.extend(1u32.to_le_bytes());
        id.extend(SHA384.to_le_bytes());
        id.extend((DIGEST_SIZE as u16).to_le_bytes());
        id.push(0); // nothing of the vendor's
        let mut log = Vec::new();
        log.extend(0u32.to_le_bytes());
        log.extend(NO_ACTION.to_le_bytes());
        log.extend([0; 20]);
        log.extend((id.len() as u32).to_le_bytes());
        log.extend(id);
        Self(log)
    }

    /// Appends an entry (TCG_PCR_EVENT2).
    pub fn append(&mut self, register: u32, digest: &[u8; DIGEST_SIZE], description: &str) {
        let description = &description.as_bytes()[..description.len().min(DESCRIPTION_MAX)];
        let log = &mut self.0;
        log.extend(register.to_le_bytes());
        log.extend(IPL.to_le_bytes());
        log.extend(1u32.to_le_bytes());
        log.extend(SHA384.to_le_bytes());
        log.extend(digest);
        log.extend((description.len() as u32).to_le_bytes());
        log.extend(description);
    }

    /// The log as it goes into memory.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The entries of a log; ends at the first that is damaged.
pub fn events(log: &[u8]) -> impl Iterator<Item = Event<'_>> {
    let mut rest = log.get(FIRST..).unwrap_or_default();
    core::iter::from_fn(move || {
        let (event, tail) = next(rest)?;
        rest = tail;
        Some(event)
    })
}

fn next(log: &[u8]) -> Option<(Event<'_>, &[u8])> {
    let number = |at: usize| Some(u32::from_le_bytes(log.get(at..at + 4)?.try_into().ok()?));
    let header = (number(4)? == IPL, number(8)? == 1, log.get(12..14)? == SHA384.to_le_bytes());
    if header != (true, true, true) {
        return None;
    }
    let digest = log.get(14..14 + DIGEST_SIZE)?.try_into().ok()?;
    let size = number(14 + DIGEST_SIZE)? as usize;
    let start = 18 + DIGEST_SIZE;
    let description = log.get(start..start.checked_add(size)?)?;
    Some((Event { register: number(0)?, digest, description }, &log[start + size..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_can_be_read_and_its_truncations_hold_less() {
        let mut log = EventLog::new();
        log.append(PCR_FILES, &[7; DIGEST_SIZE], "host/kernel");
        log.append(PCR_SETTINGS, &[8; DIGEST_SIZE], "postern.conf");
        let read: Vec<_> = events(log.bytes()).collect();
        assert_eq!(read[0], Event { register: 9, digest: &[7; 48], description: b"host/kernel" });
        assert_eq!((read[1].register, read.len()), (8, 2));
        for length in 0..log.bytes().len() {
            assert!(events(&log.bytes()[..length]).count() < 2);
        }
    }

    #[test]
    fn the_first_entry_is_what_the_specification_says() {
        let log = EventLog::new();
        let bytes = log.bytes();
        assert_eq!(bytes.len(), FIRST);
        // Register 0, EV_NO_ACTION, an empty SHA-1 digest, 33 bytes.
        assert_eq!(bytes[..8], [0, 0, 0, 0, 3, 0, 0, 0]);
        assert_eq!(bytes[28..32], 33u32.to_le_bytes());
        assert_eq!(&bytes[32..48], b"Spec ID Event03\0");
        assert_eq!(bytes[52..], [0, 2, 106, 2, 1, 0, 0, 0, 12, 0, 48, 0, 0]);
    }
}
