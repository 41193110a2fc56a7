//! Where things go in physical memory before there is an allocator.

use crate::machine::{Machine, RANGES_MAX};
use crate::{BootError, Bytes, overlap, whole_frames};
use arrayvec::ArrayVec;

/// What the boot loader and firmware have put into memory: image, device tree, initrd, reserved ranges.
///
/// # Errors
/// [`BootError::Overlap`] when image, device tree and initrd are not apart; the initrd lies outside RAM.
pub fn taken(machine: &Machine, image: &Bytes, tree: &Bytes) -> Result<ArrayVec<Bytes, { RANGES_MAX + 3 }>, BootError> {
    let mut taken = ArrayVec::<Bytes, { RANGES_MAX + 3 }>::new();
    taken.push(image.clone());
    taken.push(tree.clone());
    if let Some(initrd) = &machine.initrd {
        if !machine.memory.iter().any(|range| range.start <= initrd.start && initrd.end <= range.end) {
            return Err(BootError::HandOff("initrd: it lies outside memory"));
        }
        taken.push(initrd.clone());
    }
    for (index, range) in taken.iter().enumerate() {
        if taken[..index].iter().any(|other| overlap(range, other)) {
            return Err(BootError::Overlap("Postern's image, the device tree and the initrd"));
        }
    }
    taken.extend(machine.reserved.iter().cloned());
    Ok(taken)
}

/// Finds the lowest `size` bytes of RAM, aligned to `align` (a power of two), that touch none of `taken`.
///
/// # Errors
/// [`BootError::Memory`] with `what` when there is no such place.
pub fn place(
    machine: &Machine,
    taken: &[Bytes],
    size: u64,
    align: u64,
    what: &'static str,
) -> Result<Bytes, BootError> {
    for memory in &machine.memory {
        let mut start = memory.start;
        // Each turn either succeeds or moves past the end of one taken range, so there are at most as many turns.
        for _ in 0..=taken.len() {
            let Some(aligned) = start.checked_next_multiple_of(align) else { break };
            let Some(end) = aligned.checked_add(size).filter(|end| *end <= memory.end) else { break };
            match taken.iter().find(|range| overlap(range, &(aligned..end))) {
                None => return Ok(aligned..end),
                Some(range) => start = range.end,
            }
        }
    }
    Err(BootError::Memory(what))
}

/// `memory` without the ranges of `holes`, in whole frames of what remains.
pub fn without(memory: &[Bytes], holes: &[Bytes]) -> ArrayVec<Bytes, { 2 * RANGES_MAX }> {
    let mut out = ArrayVec::new();
    for range in memory {
        let Some(mut start) = range.start.checked_next_multiple_of(abi::FRAME_SIZE) else { continue };
        let end = range.end & !(abi::FRAME_SIZE - 1);
        while start < end {
            let inside = holes.iter().filter_map(whole_frames).find(|hole| hole.contains(&start));
            if let Some(hole) = inside {
                start = hole.end;
                continue;
            }
            let next = holes.iter().filter_map(whole_frames).map(|hole| hole.start);
            let stop = next.filter(|at| *at > start).min().map_or(end, |at| at.min(end));
            // A machine with more pieces than fit loses the last ones, which then belong to nobody.
            let _ = out.try_push(start..stop);
            start = stop;
        }
    }
    out
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init)] // Lists of ranges, some of which have one.
mod tests {
    use super::*;

    fn machine(memory: &[Bytes]) -> Machine {
        Machine { memory: memory.iter().cloned().collect(), ..Machine::default() }
    }

    #[test]
    fn a_place_is_aligned_free_and_in_ram() {
        let machine = machine(&[0x1000..0x3000, 0x10_0000..0x20_0000]);
        assert_eq!(place(&machine, &[], 0x1000, 0x1000, "t"), Ok(0x1000..0x2000));
        assert_eq!(place(&machine, &[0x1000..0x1001], 0x1000, 0x1000, "t"), Ok(0x2000..0x3000));
        assert_eq!(place(&machine, &[], 0x4000, 0x8000, "t"), Ok(0x10_0000..0x10_4000));
        assert_eq!(place(&machine, &[0..u64::MAX], 0x1000, 0x1000, "t"), Err(BootError::Memory("t")));
        assert_eq!(place(&machine, &[], u64::MAX, 0x1000, "t"), Err(BootError::Memory("t")));
    }

    #[test]
    fn holes_are_cut_out_in_whole_frames() {
        let left = without(&[0x1000..0x9000], &[0x3800..0x4800, 0x8000..0x9000]);
        assert_eq!(left.as_slice(), [0x1000..0x3000, 0x5000..0x8000]);
    }
}
