//! The host's free memory, in 2 MiB blocks and single frames.

use abi::{BLOCK_SIZE, FRAME_SIZE};
use alloc::vec::Vec;
use core::cmp::Reverse;
use core::ops::Range;
use payloads::{Boot, hostcall, say};
use spin::mutex::SpinMutex;

struct Free {
    blocks: Vec<u64>,
    singles: Vec<u64>,
    /// Part of a block, for contiguous frames.
    run: Range<u64>,
}

static FREE: SpinMutex<Free> = SpinMutex::new(Free { blocks: Vec::new(), singles: Vec::new(), run: 0..0 });

/// Collects what the machine lists as RAM and nobody uses.
pub fn init(boot: &Boot) {
    let machine = &boot.machine;
    let mut used: Vec<Range<u64>> = machine.reserved.to_vec();
    used.extend([boot.image.clone(), machine.initrd.clone(), boot.description.clone()]);
    let mut free = FREE.lock();
    for range in machine.memory.iter() {
        let mut at = range.start.next_multiple_of(FRAME_SIZE);
        while at + FRAME_SIZE <= range.end {
            let whole = at.is_multiple_of(BLOCK_SIZE) && at + BLOCK_SIZE <= range.end;
            let overlaps = |size| used.iter().any(|taken| taken.start < at + size && at < taken.end);
            if whole && !overlaps(BLOCK_SIZE) {
                free.blocks.push(at);
                at += BLOCK_SIZE;
            } else {
                if !overlaps(FRAME_SIZE) {
                    free.singles.push(at);
                }
                at += FRAME_SIZE;
            }
        }
    }
    // Taken from the end: the lowest addresses first.
    free.blocks.reverse();
}

/// From now on blocks come from a GiB that is free from end to end, the lowest addresses first: where it begins.
pub fn prefer_gib() -> Option<u64> {
    const GIB: u64 = 1 << 30;
    let mut free = FREE.lock();
    let is_free = |gib: u64| free.blocks.iter().filter(|block| **block / GIB == gib).count() as u64 == GIB / BLOCK_SIZE;
    let starts = free.blocks.iter().filter(|block| block.is_multiple_of(GIB));
    let gib = starts.map(|start| start / GIB).find(|gib| is_free(*gib))?;
    free.blocks.sort_by_key(|block| (block / GIB == gib, Reverse(*block)));
    Some(gib * GIB)
}

/// Bytes that are free.
pub fn free_bytes() -> u64 {
    let free = FREE.lock();
    let run = free.run.end - free.run.start;
    free.blocks.len() as u64 * BLOCK_SIZE + free.singles.len() as u64 * FRAME_SIZE + run
}

/// A frame; its content is whatever it was.
pub fn frame() -> Option<u64> {
    let mut free = FREE.lock();
    if let Some(frame) = free.singles.pop() {
        return Some(frame);
    }
    let block = free.blocks.pop()?;
    free.singles.extend((1..BLOCK_SIZE / FRAME_SIZE).rev().map(|n| block + n * FRAME_SIZE));
    Some(block)
}

/// A frame, zeroed.
pub fn zeroed_frame() -> Option<u64> {
    let frame = frame()?;
    zero(frame, 1);
    Some(frame)
}

/// A block of 2 MiB.
pub fn block() -> Option<u64> {
    FREE.lock().blocks.pop()
}

/// `count` contiguous frames, at most a block of them, starting on a multiple of 8 KiB.
pub fn contiguous(count: u64) -> Option<u64> {
    let mut free = FREE.lock();
    let size = count.next_multiple_of(2) * FRAME_SIZE;
    if free.run.end - free.run.start < size {
        let block = free.blocks.pop()?;
        let rest = core::mem::replace(&mut free.run, block..block + BLOCK_SIZE);
        free.singles.extend(rest.step_by(FRAME_SIZE as usize));
    }
    let start = free.run.start;
    free.run.start += size;
    if !count.is_multiple_of(2) {
        free.singles.push(start + count * FRAME_SIZE);
    }
    Some(start)
}

/// Gives a frame back.
pub fn free_frame(frame: u64) {
    FREE.lock().singles.push(frame);
}

/// Gives a frame back that was Postern's for a while; one that is not the host's again is left out, and said to be.
pub fn free_returned(frame: u64) {
    match hostcall::frame_state(frame) {
        abi::host::frame::HOST => free_frame(frame),
        state => say!("host: frame {frame:#x} is lost, its state is {state}"),
    }
}

/// Gives a block back.
pub fn free_block(block: u64) {
    FREE.lock().blocks.push(block);
}

/// Gives contiguous frames back; those that are not the host's are left out.
pub fn free_contiguous(start: u64, count: u64) {
    (0..count).for_each(|n| free_returned(start + n * FRAME_SIZE));
}

/// Zeroes frames that are the host's.
pub fn zero(start: u64, count: u64) {
    // SAFETY: the frames come from the allocator and the caller holds them; nothing refers to their content.
    unsafe { core::ptr::write_bytes(start as *mut u8, 0, (count * FRAME_SIZE) as usize) };
}

/// Leaves something in a frame that is about to be given away, at both ends: a wipe that is forgotten has to show.
pub fn soil(frame: u64) {
    write(frame, 0xd1d1_d1d1_d1d1_d1d1);
    write(frame + FRAME_SIZE - 8, 0xd2d2_d2d2_d2d2_d2d2);
}

/// Reads the eight bytes at `address`, which has to be in a frame that is the host's.
pub fn read(address: u64) -> u64 {
    // SAFETY: host memory, mapped; volatile because frames change hands behind the compiler's back.
    unsafe { (address as *const u64).read_volatile() }
}

/// Writes eight bytes at `address`, which has to be in a frame that the caller holds.
pub fn write(address: u64, value: u64) {
    // SAFETY: as above, and the caller holds the frame.
    unsafe { (address as *mut u64).write_volatile(value) };
}

/// Fills a frame that the caller holds with `bytes` and zeroes.
pub fn fill(frame: u64, bytes: &[u8]) {
    zero(frame, 1);
    // SAFETY: the caller holds the frame; at most its size is copied, from memory that is no frame of the allocator.
    unsafe {
        core::ptr::copy_nonoverlapping(bytes.as_ptr(), frame as *mut u8, bytes.len().min(FRAME_SIZE as usize));
    }
}

/// Offset of the first word of a frame that is not zero.
pub fn first_nonzero(frame: u64) -> Option<u64> {
    (0..FRAME_SIZE).step_by(8).find(|offset| read(frame + offset) != 0)
}
