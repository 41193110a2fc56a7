//! What the ownership core asks of the machine under it.

use crate::sync::Word;
use crate::{Pfn, Size, Space};

/// Access rights and memory type of a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Attrs {
    /// Normal write-back memory, read, write and execute.
    Ram,
    /// Normal write-back memory, read and write: the shared half of a guest's address space.
    SharedRam,
    /// Device memory, read and write.
    Device,
}

/// One decoded table entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// The walker finds no translation here.
    Empty,
    /// Maps memory.
    Leaf {
        /// First byte of what it maps.
        address: u64,
        /// How it maps it.
        attrs: Attrs,
    },
    /// Points to a table of the next level.
    Table {
        /// Byte address of the table.
        address: u64,
    },
}

/// How one architecture writes table entries. A table is one frame of 512 entries, the root [`ROOT_FRAMES`] of them.
///
/// Levels are numbered as the Arm manual does: an entry covers 1 GiB at level 1, 2 MiB at level 2 and 4 KiB at level 3.
/// The top level of EPT is 0.
///
/// [`ROOT_FRAMES`]: TableFormat::ROOT_FRAMES
pub trait TableFormat {
    /// Level of the root's entries, 0 or 1.
    const ROOT_LEVEL: u32;
    /// Contiguous frames of the root, a power of two; the root is aligned to as many.
    const ROOT_FRAMES: u64;
    /// An invalid entry that walkers ignore but that is not zero. The core adds a frame address to it (bits 12 to 47)
    /// and keeps it in guest tables where a frame belongs to the address but is not mapped there at present.
    const MARK: u64 = 1 << 11;

    /// A leaf at `level` (2 or 3; 1 in the host's table).
    fn leaf(address: u64, level: u32, attrs: Attrs) -> u64;
    /// An entry that points to the table at `address`.
    fn table(address: u64) -> u64;
    /// What an entry at `level` says. Zero and anything based on [`TableFormat::MARK`] are [`Entry::Empty`].
    fn decode(entry: u64, level: u32) -> Entry;
}

/// The machine as the ownership core sees it.
pub trait Machine: Sync {
    /// Encoding of the second-stage tables.
    type Format: TableFormat;

    /// The 512 words of a frame of RAM: one that belongs to Postern (tables, record pages, bitmaps), or that the caller
    /// works on under its block lock. The core asks only for frames inside the regions that it was built with. A walk
    /// that loses a race against the end of its VM may read (never write) a frame that has just been given back, and
    /// discards what it finds.
    fn words(&self, frame: Pfn) -> &[Word; 512];
    /// Zeroes a frame and makes the zeroes visible to every observer (point of coherency where the machine needs it).
    fn wipe(&self, frame: Pfn);
    /// [`Machine::wipe`] for several frames in a row, for machines that are faster in larger pieces.
    fn wipe_several(&self, first: Pfn, frames: u64) {
        for index in 0..frames {
            self.wipe(first.offset(index));
        }
    }
    /// Writes a frame's cached content back and forgets it, so that what is read from here on is what everybody reads,
    /// also a CPU whose caches are off. Machines whose owners cannot see memory in two ways need do nothing.
    fn settle(&self, _frame: Pfn) {}
    /// Completes the removal of one translation on all CPUs and devices, entries that combine both stages included.
    /// `address` is the address in that space, with the bit that selects the shared half.
    fn flush(&self, space: Space, address: u64, size: Size);
    /// Completes the removal of all translations of a space.
    fn flush_all(&self, space: Space);
    /// Makes table entries written before visible to table walkers.
    fn publish(&self);
    /// An interrupt is pending: work should stop soon.
    fn should_yield(&self) -> bool;
}
