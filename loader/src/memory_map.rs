//! The firmware's memory map, boiled down to what Postern asks of it: what is free, what holds tables, what is not ours
//! (UEFI Specification 2.10, table 7.10 "Memory Type Usage after ExitBootServices()").

use crate::Bytes;
use abi::handoff::{MEMORY_MAX, MemoryRange, memory};
use arrayvec::ArrayVec;

/// A memory map: sorted, without overlaps, neighbours of one kind merged.
pub type MemoryMap = ArrayVec<MemoryRange, MEMORY_MAX>;

/// EFI_MEMORY_UC, _WC, _WT, _WB: how a range may be cached. What may only be uncached is a device.
const CACHEABLE: u64 = 1 << 1 | 1 << 2 | 1 << 3;
/// EFI_MEMORY_RUNTIME: runtime services need it, whatever its type.
const RUNTIME: u64 = 1 << 63;
/// EFI_MEMORY_SP: set aside for a purpose that its owner knows.
const SPECIFIC: u64 = 1 << 18;

/// What an EFI memory descriptor means for Postern; `None` for what is no memory.
pub fn kind(efi_type: u32, attributes: u64) -> Option<u64> {
    if attributes & CACHEABLE == 0 {
        return None;
    }
    match efi_type {
        // Loader and boot services code and data, conventional.
        1..=4 | 7 if attributes & (RUNTIME | SPECIFIC) == 0 => Some(memory::FREE),
        9 if attributes & RUNTIME == 0 => Some(memory::ACPI),
        // Reserved, runtime services, non-volatile store, PAL code, and the types above with an attribute that binds them.
        0..=7 | 9 | 10 | 13 => Some(memory::FIRMWARE),
        // Broken, devices, persistent, not yet accepted, unknown.
        _ => None,
    }
}

/// Adds a range, whole frames of it. Firmware that describes an address twice gets the more careful answer. Answers false
/// when the map is full and the range had to be left out.
pub fn add(map: &mut MemoryMap, range: &Bytes, kind: u64) -> bool {
    let free = kind == memory::FREE;
    let (up, down) = (abi::FRAME_SIZE - 1, !(abi::FRAME_SIZE - 1));
    // Half a frame that is free belongs to nobody; half a frame that is not free takes the other half along.
    let (start, end) = match free {
        true => (range.start.saturating_add(up) & down, range.end & down),
        false => (range.start & down, range.end.saturating_add(up) & down),
    };
    if start >= end {
        return true;
    }
    let mut new = MemoryRange { start, end, kind };
    let overlapping = |other: &MemoryRange| other.start < end && start < other.end;
    if map.iter().any(overlapping) {
        // All that overlaps becomes one range of the most careful kind.
        for other in map.iter().filter(|other| overlapping(other)) {
            new.start = new.start.min(other.start);
            new.end = new.end.max(other.end);
            new.kind = new.kind.max(other.kind);
        }
        map.retain(|other| !(other.start < end && start < other.end));
    }
    insert(map, new)
}

fn insert(map: &mut MemoryMap, mut new: MemoryRange) -> bool {
    let mut at = map.iter().take_while(|other| other.start < new.start).count();
    if at > 0 && map[at - 1].end == new.start && map[at - 1].kind == new.kind {
        at -= 1;
        new.start = map.remove(at).start;
    }
    if map.get(at).is_some_and(|next| next.start == new.end && next.kind == new.kind) {
        new.end = map.remove(at).end;
    }
    map.try_insert(at, new).is_ok()
}

/// All memory, whatever its kind; gaps remain gaps.
pub fn extents(map: &MemoryMap) -> ArrayVec<Bytes, MEMORY_MAX> {
    let mut out = ArrayVec::<Bytes, MEMORY_MAX>::new();
    for range in map {
        match out.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => out.push(range.start..range.end),
        }
    }
    out
}

/// What is not free, in at most `most` ranges: where there are more, those with the least between them become one, and
/// what is between them is lost.
pub fn reserved(map: &MemoryMap, most: usize) -> ArrayVec<Bytes, MEMORY_MAX> {
    let mut out = ArrayVec::<Bytes, MEMORY_MAX>::new();
    for range in map.iter().filter(|range| range.kind != memory::FREE) {
        match out.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => out.push(range.start..range.end),
        }
    }
    while out.len() > most.max(1) {
        let gap = |at: &usize| out[at + 1].start - out[*at].end;
        let Some(nearest) = (0..out.len() - 1).min_by_key(gap) else { break };
        out[nearest].end = out.remove(nearest + 1).end;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const WB: u64 = 1 << 3;

    #[test]
    fn kinds_follow_the_specification() {
        for free in [1, 2, 3, 4, 7] {
            assert_eq!(kind(free, WB), Some(memory::FREE));
            assert_eq!(kind(free, WB | RUNTIME), Some(memory::FIRMWARE), "bound by an attribute");
        }
        for kept in [0, 5, 6, 10, 13] {
            assert_eq!(kind(kept, WB), Some(memory::FIRMWARE));
        }
        assert_eq!(kind(9, WB), Some(memory::ACPI));
        for none in [8, 11, 12, 14, 15, 99, u32::MAX] {
            assert_eq!(kind(none, WB), None);
        }
        assert_eq!(kind(7, 1), None, "uncached only");
    }

    fn map(ranges: &[(u64, u64, u64)]) -> MemoryMap {
        let mut map = MemoryMap::new();
        for (start, end, kind) in ranges {
            assert!(add(&mut map, &(*start..*end), *kind));
        }
        map
    }

    #[test]
    fn neighbours_merge_and_overlaps_are_taken_carefully() {
        use memory::{ACPI, FIRMWARE, FREE};
        let merged = map(&[(0x5000, 0x6000, FREE), (0x1000, 0x3000, FREE), (0x3000, 0x5000, FREE)]);
        assert_eq!(merged.as_slice(), [MemoryRange { start: 0x1000, end: 0x6000, kind: FREE }]);
        let careful = map(&[(0x1000, 0x4000, FREE), (0x3000, 0x5000, FIRMWARE), (0x8000, 0x9000, ACPI)]);
        assert_eq!(careful[0], MemoryRange { start: 0x1000, end: 0x5000, kind: FIRMWARE });
        assert_eq!(extents(&careful).as_slice(), [0x1000..0x5000, 0x8000..0x9000]);
        let halves = map(&[(0x1800, 0x2800, FREE), (0x5800, 0x6800, FIRMWARE)]);
        assert_eq!(halves.as_slice(), [MemoryRange { start: 0x5000, end: 0x7000, kind: FIRMWARE }]);
    }

    #[test]
    fn a_full_map_says_so_and_many_reserved_ranges_become_few() {
        let mut full = MemoryMap::new();
        for index in 0..MEMORY_MAX as u64 {
            let start = index * 0x4000 + if index % 2 == 1 { 0x1000 } else { 0 };
            assert!(add(&mut full, &(start..start + 0x1000), memory::FIRMWARE));
        }
        assert!(!add(&mut full, &(1 << 40..1 << 41), memory::FREE));
        let few = reserved(&full, 8);
        assert_eq!(few.len(), 8);
        for range in &full {
            assert!(few.iter().any(|wide| wide.start <= range.start && range.end <= wide.end), "nothing is forgotten");
        }
        let two = map(&[(0, 0x1000, 2), (0x2000, 0x3000, 3), (0x9000, 0xa000, 3)]);
        assert_eq!(reserved(&two, 2).as_slice(), [0..0x3000, 0x9000..0xa000]);
    }

    #[test]
    fn ends_of_the_address_space_do_no_harm() {
        let mut all = MemoryMap::new();
        assert!(add(&mut all, &(0..u64::MAX), memory::FIRMWARE));
        assert!(add(&mut all, &(u64::MAX - 1..u64::MAX), memory::FREE));
        assert!(add(&mut all, &(5..5), memory::FREE));
        assert_eq!(all.len(), 1);
    }
}
