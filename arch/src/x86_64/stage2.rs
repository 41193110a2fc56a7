//! Second-level translation tables: EPT of four levels (SDM volume 3, "The EPT Translation Mechanism"). Level 0 is the
//! PML4 here, level 3 the table of pages. Pure: compiles and is tested on any machine.

use guestmem::{Attrs, Entry, TableFormat};

const READ: u64 = 1;
const WRITE: u64 = 1 << 1;
const EXECUTE: u64 = 1 << 2;
const RIGHTS: u64 = READ | WRITE | EXECUTE;
/// Memory type, in leaves: 0 uncacheable, 6 write-back.
const MEMORY_TYPE: u64 = 7 << 3;
const WRITE_BACK: u64 = 6 << 3;
const UNCACHEABLE: u64 = 0;
/// The type is what the entry says, whatever the PAT of who runs says: RAM is never seen through two types, so a cache
/// never holds what somebody wrote past it. CR0.CD would override it, and is kept clear (`host`, `vcpu`).
const IGNORE_PAT: u64 = 1 << 6;
/// A leaf above the last level.
const LARGE: u64 = 1 << 7;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// The entry format.
#[derive(Clone, Copy, Debug)]
pub struct Stage2;

impl TableFormat for Stage2 {
    const ROOT_LEVEL: u32 = 0;
    const ROOT_FRAMES: u64 = 1;

    fn leaf(address: u64, level: u32, attrs: Attrs) -> u64 {
        let large = if level == 3 { 0 } else { LARGE };
        let common = address & ADDRESS | large | READ | WRITE;
        match attrs {
            Attrs::Ram => common | EXECUTE | WRITE_BACK | IGNORE_PAT,
            Attrs::SharedRam => common | WRITE_BACK | IGNORE_PAT,
            // With the PAT: a frame buffer can be write-combining, and nothing can be cached.
            Attrs::Device => common | UNCACHEABLE,
        }
    }

    fn table(address: u64) -> u64 {
        address & ADDRESS | RIGHTS
    }

    #[inline(always)]
    fn decode(entry: u64, level: u32) -> Entry {
        // What walks meet most, told by one comparison: Postern lets nothing be written or executed that cannot be read.
        if level < 3 && entry & (READ | LARGE) == READ {
            return Entry::Table { address: entry & ADDRESS };
        }
        // Present is any right (SDM volume 3, "EPT Violations"); the marks have none.
        if entry & RIGHTS == 0 {
            return Entry::Empty;
        }
        let address = entry & ADDRESS;
        match (level, entry & LARGE != 0) {
            (3, _) | (1 | 2, true) => Entry::Leaf { address, attrs: attributes(entry) },
            // Bit 7 is reserved at level 0, where Postern never sets it.
            _ => Entry::Table { address },
        }
    }
}

fn attributes(entry: u64) -> Attrs {
    match (entry & MEMORY_TYPE == WRITE_BACK, entry & EXECUTE != 0) {
        (true, true) => Attrs::Ram,
        (true, false) => Attrs::SharedRam,
        (false, _) => Attrs::Device,
    }
}

/// EPTP for a root table: write-back walks of four levels, no accessed and dirty bits (SDM volume 3, "Extended-Page-Table
/// Pointer (EPTP)").
pub const fn eptp(root: u64) -> u64 {
    root & ADDRESS | 3 << 3 | 6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_is_read() {
        for level in 1..=3 {
            for attrs in [Attrs::Ram, Attrs::SharedRam, Attrs::Device] {
                let entry = Stage2::leaf(0x40_4000_0000, level, attrs);
                assert_eq!(Stage2::decode(entry, level), Entry::Leaf { address: 0x40_4000_0000, attrs });
            }
        }
        for level in 0..=2 {
            assert_eq!(Stage2::decode(Stage2::table(0x1000), level), Entry::Table { address: 0x1000 });
        }
        assert_eq!(Stage2::decode(0, 1), Entry::Empty);
    }

    #[test]
    fn marks_are_not_present() {
        for level in 0..=3 {
            assert_eq!(Stage2::decode(Stage2::MARK | 0x0000_ffff_ffff_f000, level), Entry::Empty);
        }
        assert_eq!((Stage2::MARK | 0x0000_ffff_ffff_f000) & RIGHTS, 0, "hardware takes it for a violation");
    }

    #[test]
    fn a5_ram_is_write_back_for_host_and_guest_alike() {
        for attrs in [Attrs::Ram, Attrs::SharedRam] {
            for level in 1..=3 {
                let entry = Stage2::leaf(0x4000_0000, level, attrs);
                assert_eq!(entry >> 3 & 7, 6);
                assert_ne!(entry & IGNORE_PAT, 0);
            }
        }
        let device = Stage2::leaf(0, 1, Attrs::Device);
        assert_eq!(device >> 3 & 7, 0);
        assert_eq!(device & IGNORE_PAT, 0, "write-combining frame buffers");
    }

    #[test]
    fn the_shared_half_and_devices_are_not_executable() {
        assert_ne!(Stage2::leaf(0, 3, Attrs::Ram) & EXECUTE, 0);
        for attrs in [Attrs::SharedRam, Attrs::Device] {
            assert_eq!(Stage2::leaf(0, 3, attrs) & EXECUTE, 0);
        }
    }

    /// SDM volume 3, "EPT Misconfigurations": writable or executable only, a reserved memory type, reserved bits.
    #[test]
    fn no_entry_is_a_misconfiguration() {
        let leaves = (1..=3).flat_map(|level| {
            [Attrs::Ram, Attrs::SharedRam, Attrs::Device].map(|attrs| (level, Stage2::leaf(!0 << 30, level, attrs)))
        });
        for (level, entry) in leaves.chain((0..=2).map(|level| (level, Stage2::table(!0 << 12)))) {
            assert_ne!(entry & READ, 0);
            assert_eq!(entry >> 52, 0, "suppress #VE and the bits for software stay clear");
            if Stage2::decode(entry, level) == (Entry::Table { address: ADDRESS }) {
                assert_eq!(entry & 0xf8, 0, "reserved in an entry that points to a table");
            } else {
                assert!(matches!(entry >> 3 & 7, 0 | 6));
                assert_eq!(entry & LARGE != 0, level != 3);
            }
        }
    }

    #[test]
    fn the_pointer_says_write_back_and_four_levels() {
        assert_eq!(eptp(0x1234_5000), 0x1234_501e);
    }
}
