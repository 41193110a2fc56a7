//! Writing and reading the application's record of the boot ([`abi::handoff`]).

use crate::memory_map::MemoryMap;
use crate::{BootError, Bytes};
use abi::handoff::{HandOff, MAGIC, MEMORY_MAX, MemoryRange, Region, SIZE_MIN, VERSION, memory};

/// Bytes of the record.
pub const SIZE: usize = size_of::<HandOff>();
/// Bytes of an entry of its memory map.
pub const RANGE_SIZE: usize = size_of::<MemoryRange>();

const CUT: BootError = BootError::HandOff("record of the boot: it is cut short");

/// Reads numbers one after the other; what is missing at the end is zero.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn word(&mut self) -> u64 {
        let (head, tail) = self.0.split_at_checked(8).unwrap_or((&[0; 8], &[]));
        self.0 = tail;
        u64::from_le_bytes(head.try_into().unwrap_or_default())
    }

    fn half(&mut self) -> u32 {
        let (head, tail) = self.0.split_at_checked(4).unwrap_or((&[0; 4], &[]));
        self.0 = tail;
        u32::from_le_bytes(head.try_into().unwrap_or_default())
    }

    fn region(&mut self) -> Region {
        Region { start: self.word(), size: self.word() }
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let (head, tail) = self.0.split_first_chunk().unwrap_or((&[0; N], &[]));
        self.0 = tail;
        *head
    }
}

/// Reads the record at the start of `bytes`. Fields behind its own size are zero.
///
/// # Errors
/// [`BootError::HandOff`] when it is none, of another version, cut short, or says what cannot be.
pub fn parse(bytes: &[u8]) -> Result<HandOff, BootError> {
    let least = bytes.get(..SIZE_MIN).ok_or(CUT)?;
    let size = u32::from_le_bytes([least[12], least[13], least[14], least[15]]) as usize;
    let mut r = Reader(bytes.get(..size.clamp(SIZE_MIN, SIZE)).ok_or(CUT)?);
    let record = HandOff {
        magic: r.word(),
        version: r.half(),
        size: r.half(),
        memory: r.word(),
        memory_count: r.word(),
        bundle: r.region(),
        tree: r.region(),
        event_log: r.region(),
        rsdp: r.word(),
        framebuffer: r.region(),
        resolution: [r.half(), r.half()],
        stride: r.half(),
        pixel_format: r.half(),
        log_level: r.half(),
        flags: r.half(),
        entered_at: r.word(),
        left_at: r.word(),
        seed: r.array(),
        reading: r.word(),
        measuring: r.word(),
        leaving_at: r.word(),
    };
    check(&record)?;
    Ok(record)
}

fn check(record: &HandOff) -> Result<(), BootError> {
    let fault = |what| Err(BootError::HandOff(what));
    if record.magic != MAGIC {
        return fault("record of the boot: its magic number is another's");
    }
    if record.version != VERSION || (record.size as usize) < SIZE_MIN {
        return fault("record of the boot: application and Postern are of different versions");
    }
    if record.memory_count as usize > MEMORY_MAX || record.memory_count > MEMORY_MAX as u64 || record.log_level > 5 {
        return fault("record of the boot: a number in it is out of range");
    }
    for region in [record.bundle, record.tree, record.event_log, record.framebuffer] {
        if bytes(&region).is_none() {
            return fault("record of the boot: a range in it leaves the address space");
        }
    }
    Ok(())
}

/// A region as a range; `None` when it leaves the address space.
pub fn bytes(region: &Region) -> Option<Bytes> {
    Some(region.start..region.start.checked_add(region.size)?)
}

/// Reads the memory map that a record points to.
///
/// # Errors
/// [`BootError::HandOff`] when it is unsorted, overlaps, or knows a kind of memory that Postern does not.
pub fn memory_map(bytes: &[u8], count: u64) -> Result<MemoryMap, BootError> {
    let mut map = MemoryMap::new();
    let mut r = Reader(bytes);
    if count > MEMORY_MAX as u64 || bytes.len() < count as usize * RANGE_SIZE {
        return Err(BootError::HandOff("memory map: it is cut short"));
    }
    for _ in 0..count {
        let range = MemoryRange { start: r.word(), end: r.word(), kind: r.word() };
        let aligned = (range.start | range.end).is_multiple_of(abi::FRAME_SIZE);
        let sorted = map.last().is_none_or(|last: &MemoryRange| last.end <= range.start);
        let known = (memory::FREE..=memory::FIRMWARE).contains(&range.kind);
        if !aligned || range.start >= range.end || !sorted || !known {
            return Err(BootError::HandOff("memory map: it is unsorted or overlaps"));
        }
        map.push(range);
    }
    Ok(map)
}

/// Writes a record; the length of what was written. `None` when there is no room.
pub fn write(record: &HandOff, into: &mut [u8]) -> Option<usize> {
    let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    let words = [
        record.magic,
        pair(record.version, record.size),
        record.memory,
        record.memory_count,
        record.bundle.start,
        record.bundle.size,
        record.tree.start,
        record.tree.size,
        record.event_log.start,
        record.event_log.size,
        record.rsdp,
        record.framebuffer.start,
        record.framebuffer.size,
        pair(record.resolution[0], record.resolution[1]),
        pair(record.stride, record.pixel_format),
        pair(record.log_level, record.flags),
        record.entered_at,
        record.left_at,
    ];
    let (head, tail) = into.get_mut(..SIZE)?.split_at_mut(words.len() * 8);
    let (seed, times) = tail.split_at_mut(record.seed.len());
    put_words(&words, head);
    seed.copy_from_slice(&record.seed);
    put_words(&[record.reading, record.measuring, record.leaving_at], times);
    Some(SIZE)
}

/// Writes a memory map as [`memory_map`] reads it; `None` when there is no room.
pub fn write_memory_map(map: &MemoryMap, into: &mut [u8]) -> Option<usize> {
    let size = map.len() * RANGE_SIZE;
    for (range, room) in map.iter().zip(into.get_mut(..size)?.chunks_exact_mut(RANGE_SIZE)) {
        put_words(&[range.start, range.end, range.kind], room);
    }
    Some(size)
}

fn put_words(words: &[u64], into: &mut [u8]) {
    for (word, room) in words.iter().zip(into.chunks_exact_mut(8)) {
        room.copy_from_slice(&word.to_le_bytes());
    }
}

/// An empty record with the settings that do not depend on the machine.
pub const EMPTY: HandOff = HandOff {
    magic: MAGIC,
    version: VERSION,
    size: SIZE as u32,
    memory: 0,
    memory_count: 0,
    bundle: Region { start: 0, size: 0 },
    tree: Region { start: 0, size: 0 },
    event_log: Region { start: 0, size: 0 },
    rsdp: 0,
    framebuffer: Region { start: 0, size: 0 },
    resolution: [0; 2],
    stride: 0,
    pixel_format: 0,
    log_level: 0,
    flags: 0,
    entered_at: 0,
    left_at: 0,
    seed: [0; 64],
    reading: 0,
    measuring: 0,
    leaving_at: 0,
};

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> HandOff {
        HandOff {
            memory: 0x1000,
            memory_count: 3,
            bundle: Region { start: 0x5000, size: 77 },
            tree: Region { start: 1, size: 2 },
            event_log: Region { start: 3, size: 4 },
            rsdp: 5,
            framebuffer: Region { start: 6, size: 7 },
            resolution: [8, 9],
            stride: 10,
            pixel_format: 2,
            log_level: 4,
            flags: 3,
            entered_at: 11,
            left_at: 12,
            seed: core::array::from_fn(|i| i as u8),
            reading: 13,
            measuring: 14,
            leaving_at: 15,
            ..EMPTY
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let mut room = [0; SIZE];
        assert_eq!(write(&record(), &mut room), Some(SIZE));
        assert_eq!(parse(&room), Ok(record()));
        assert_eq!(write(&record(), &mut room[1..]), None);
        // The layout that the assembly and C see is the one that is written.
        assert_eq!(room[core::mem::offset_of!(HandOff, log_level)], 4);
        assert_eq!(room[core::mem::offset_of!(HandOff, left_at)], 12);
        assert_eq!(room[core::mem::offset_of!(HandOff, leaving_at)], 15);
    }

    #[test]
    fn an_older_record_is_shorter_and_a_newer_one_longer() {
        let mut room = [0xff; SIZE + 8];
        write(&record(), &mut room);
        let size = |bytes: &mut [u8], size: usize| bytes[12..16].copy_from_slice(&(size as u32).to_le_bytes());
        size(&mut room, SIZE_MIN);
        let old = HandOff { size: SIZE_MIN as u32, reading: 0, measuring: 0, leaving_at: 0, ..record() };
        assert_eq!(parse(&room[..SIZE_MIN]), Ok(old));
        assert_eq!(parse(&room), Ok(old), "what is behind it is not the record's");
        size(&mut room, SIZE + 8);
        assert_eq!(parse(&room), Ok(HandOff { size: SIZE as u32 + 8, ..record() }));
        size(&mut room, SIZE_MIN - 1);
        assert!(parse(&room).is_err());
    }

    #[test]
    fn bad_records_are_refused() {
        let mut room = [0; SIZE];
        write(&record(), &mut room);
        for length in 0..SIZE {
            assert!(parse(&room[..length]).is_err());
        }
        for (at, value) in [(0, 0), (8, 2), (12, 207), (24, 200), (31, 1), (39, 0xff), (120, 6)] {
            let mut bad = room;
            bad[at] = value;
            if at == 39 {
                bad[32..48].fill(0xff);
            }
            assert!(parse(&bad).is_err(), "byte {at}");
        }
    }

    #[test]
    fn memory_maps_survive_and_bad_ones_do_not() {
        let range = |start, end, kind| MemoryRange { start, end, kind };
        let good: MemoryMap = [range(0, 0x1000, 1), range(0x1000, 0x3000, 3)].into_iter().collect();
        let mut room = [0; 2 * RANGE_SIZE];
        assert_eq!(write_memory_map(&good, &mut room), Some(48));
        assert_eq!(memory_map(&room, 2), Ok(good));
        assert!(memory_map(&room, 3).is_err() && memory_map(&room, u64::MAX).is_err());
        for bad in [[range(0x1000, 0x2000, 1), range(0, 0x1000, 1)], [range(0, 0x2000, 1), range(0x1000, 0x3000, 1)]] {
            write_memory_map(&bad.into_iter().collect(), &mut room);
            assert!(memory_map(&room, 2).is_err());
        }
        for bad in [range(0, 0x10, 1), range(0, 0x1000, 4), range(0, 0x1000, 0), range(0x1000, 0x1000, 1)] {
            write_memory_map(&[bad].into_iter().collect(), &mut room);
            assert!(memory_map(&room, 1).is_err());
        }
    }
}
