//! Postern's own page tables as data: four levels, identity (SDM volume 3, "4-Level Paging").
//!
//! RAM is writable and never executable, Postern's text read-only and executable, its constants read-only: nothing is
//! both, which [`Builder::is_write_xor_execute`] checks. Pure: a table's physical address is only a number here.

use loader::{BootError, Bytes};

/// How a range is mapped; write-back, but for devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// RAM: readable, writable.
    Data,
    /// Constants: readable.
    Constants,
    /// Instructions: readable, executable.
    Text,
    /// Registers: readable, writable, uncacheable.
    Device,
}

/// One table.
pub type Table = [u64; 512];

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
/// PWT and PCD: entry 3 of the page attributes, which `mmu` leaves at uncacheable.
const UNCACHEABLE: u64 = 1 << 3 | 1 << 4;
/// Accessed and dirty, set beforehand so that the CPU never has to.
const USED: u64 = 1 << 5 | 1 << 6;
/// An entry above the last level is a page, not a table.
const LARGE: u64 = 1 << 7;
const EXECUTE_DISABLE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// An identity mapping has the lower half of the canonical addresses.
pub const LIMIT: u64 = 1 << 47;

impl Protection {
    fn bits(self) -> u64 {
        match self {
            Self::Data => PRESENT | USED | WRITABLE | EXECUTE_DISABLE,
            Self::Constants => PRESENT | USED | EXECUTE_DISABLE,
            Self::Text => PRESENT | USED,
            Self::Device => PRESENT | USED | WRITABLE | EXECUTE_DISABLE | UNCACHEABLE,
        }
    }
}

/// Builds the tables, which come from the start of a range of free RAM.
pub struct Builder<'a> {
    tables: &'a mut [Table],
    used: usize,
    /// Physical address of the first table, the root.
    base: u64,
    /// The CPU has pages of 1 GiB.
    gigabytes: bool,
}

impl<'a> Builder<'a> {
    /// Starts with an empty root table; `tables` lies at physical address `base`.
    ///
    /// # Errors
    /// No room.
    pub fn new(tables: &'a mut [Table], base: u64, gigabytes: bool) -> Result<Self, BootError> {
        let mut builder = Self { tables, used: 0, base, gigabytes };
        builder.table()?;
        Ok(builder)
    }

    /// Physical address of the root table.
    pub fn root(&self) -> u64 {
        self.base
    }

    /// The first byte after the tables made so far.
    pub fn used_up_to(&self) -> u64 {
        self.address(self.used)
    }

    fn address(&self, table: usize) -> u64 {
        self.base + table as u64 * abi::FRAME_SIZE
    }

    fn table(&mut self) -> Result<usize, BootError> {
        *self.tables.get_mut(self.used).ok_or(BootError::Memory("Postern's own page tables"))? = [0; 512];
        self.used += 1;
        Ok(self.used - 1)
    }

    /// Maps `range`, widened to whole frames, with the largest entries that fit; later calls replace what earlier ones
    /// mapped. Only before the tables are in use.
    ///
    /// # Errors
    /// No room for tables; the range leaves the address space.
    pub fn map(&mut self, range: &Bytes, protection: Protection) -> Result<(), BootError> {
        self.set(range, protection.bits())
    }

    /// Leaves a hole where `range` is.
    ///
    /// # Errors
    /// As for [`Self::map`].
    pub fn unmap(&mut self, range: &Bytes) -> Result<(), BootError> {
        self.set(range, 0)
    }

    fn set(&mut self, range: &Bytes, bits: u64) -> Result<(), BootError> {
        let range = loader::whole_frames(range).filter(|range| range.end <= LIMIT);
        let range = range.ok_or(BootError::Memory("an absurd range"))?;
        let mut at = range.start;
        while at < range.end {
            at += self.set_largest(at, range.end, bits)?;
        }
        Ok(())
    }

    /// Sets one entry for `at` and returns how many bytes it covers.
    fn set_largest(&mut self, at: u64, end: u64, bits: u64) -> Result<u64, BootError> {
        let mut table = 0;
        for level in 0..4 {
            let size = size_of_entry(level);
            let index = ((at / size) % 512) as usize;
            let entry = self.tables[table][index];
            let is_table = is_table(entry, level);
            let allowed = level == 3 || level == 2 || level == 1 && self.gigabytes;
            if level == 3 || allowed && !is_table && at.is_multiple_of(size) && at + size <= end {
                let large = if level == 3 { 0 } else { LARGE };
                self.tables[table][index] = if bits == 0 { 0 } else { at | bits | large };
                return Ok(size);
            }
            table = if is_table { self.below(entry) } else { self.split(table, index, level)? };
        }
        unreachable!("level 3 always returns")
    }

    fn below(&self, entry: u64) -> usize {
        (((entry & ADDRESS) - self.base) / abi::FRAME_SIZE) as usize
    }

    /// Puts a table where an entry is, with the same translations.
    fn split(&mut self, table: usize, index: usize, level: u64) -> Result<usize, BootError> {
        let entry = self.tables[table][index];
        let new = self.table()?;
        if entry & PRESENT != 0 {
            let entry = if level == 2 { entry & !LARGE } else { entry };
            for (slot, step) in self.tables[new].iter_mut().zip(0..) {
                *slot = entry + step * size_of_entry(level + 1);
            }
        }
        self.tables[table][index] = self.address(new) | PRESENT | WRITABLE | USED;
        Ok(new)
    }

    /// Whether no page is both writable and executable.
    pub fn is_write_xor_execute(&self) -> bool {
        self.all_pages(0, 0, &|entry| entry & WRITABLE == 0 || entry & EXECUTE_DISABLE != 0)
    }

    fn all_pages(&self, table: usize, level: u64, holds: &dyn Fn(u64) -> bool) -> bool {
        self.tables[table].iter().filter(|entry| *entry & PRESENT != 0).all(|entry| match is_table(*entry, level) {
            true => self.all_pages(self.below(*entry), level + 1, holds),
            false => holds(*entry),
        })
    }
}

/// Bytes that an entry of a level covers; the root is level 0.
fn size_of_entry(level: u64) -> u64 {
    1 << (39 - 9 * level)
}

fn is_table(entry: u64, level: u64) -> bool {
    level < 3 && entry & PRESENT != 0 && entry & LARGE == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: u64 = 0x70_0000;

    fn tables() -> Vec<Table> {
        vec![[!0; 512]; 16]
    }

    /// What the hardware would make of `address`: the physical address and the page's entry.
    fn walk(tables: &[Table], address: u64) -> Option<(u64, u64)> {
        let mut table = 0;
        for level in 0..4 {
            let size = size_of_entry(level);
            let entry = tables[table][((address / size) % 512) as usize];
            if entry & PRESENT == 0 {
                return None;
            }
            if !is_table(entry, level) {
                // Bit 7 of the last level selects another memory type; below the address of a large page is nothing.
                assert!(level < 3 || entry & LARGE == 0, "{address:#x}");
                assert_eq!(entry & ADDRESS & (size - 1), 0, "{address:#x}");
                return Some((entry & ADDRESS & !(size - 1) | address & (size - 1), entry));
            }
            table = ((entry & ADDRESS) - BASE) as usize / 4096;
        }
        None
    }

    #[test]
    fn every_address_is_itself_with_its_protection() {
        for gigabytes in [false, true] {
            let mut memory = tables();
            let mut builder = Builder::new(&mut memory, BASE, gigabytes).expect("room");
            builder.map(&(0..0x9_f123), Protection::Data).expect("room");
            builder.map(&(0x10_0000..0xc000_0000), Protection::Data).expect("room");
            builder.map(&(0x20_0000..0x24_5000), Protection::Text).expect("room");
            builder.map(&(0x24_5000..0x24_6000), Protection::Constants).expect("room");
            builder.unmap(&(0x30_0000..0x30_1000)).expect("room");
            builder.map(&(0xfee0_0000..0xfee0_1000), Protection::Device).expect("room");
            assert!(builder.is_write_xor_execute());
            let cases = [
                (0, Some(Protection::Data)),
                (0x9_f000, Some(Protection::Data)),
                (0xa_0000, None),
                (0x1f_fff8, Some(Protection::Data)),
                (0x20_0000, Some(Protection::Text)),
                (0x24_4ff8, Some(Protection::Text)),
                (0x24_5008, Some(Protection::Constants)),
                (0x24_6008, Some(Protection::Data)),
                (0x2f_fff8, Some(Protection::Data)),
                (0x30_0008, None),
                (0x30_1000, Some(Protection::Data)),
                (0xbfff_fff8, Some(Protection::Data)),
                (0xc000_0000, None),
                (0xfee0_0ff8, Some(Protection::Device)),
                (0xfee0_1000, None),
            ];
            for (address, protection) in cases {
                let found = walk(&memory, address);
                assert_eq!(found.map(|(to, _)| to), protection.map(|_| address), "{address:#x}");
                let bits = found.map(|(_, entry)| entry & (PRESENT | WRITABLE | EXECUTE_DISABLE | USED | UNCACHEABLE));
                assert_eq!(bits, protection.map(Protection::bits), "{address:#x}");
            }
        }
    }

    #[test]
    fn pages_of_a_gigabyte_only_where_the_cpu_has_them() {
        let used = |gigabytes| {
            let mut memory = tables();
            let mut builder = Builder::new(&mut memory, BASE, gigabytes).expect("room");
            builder.map(&(0..4 << 30), Protection::Data).expect("room");
            (builder.used_up_to() - BASE) / 4096
        };
        assert_eq!((used(true), used(false)), (2, 6));
    }

    #[test]
    fn a_page_that_is_writable_and_executable_is_found() {
        let mut memory = tables();
        let mut builder = Builder::new(&mut memory, BASE, true).expect("room");
        builder.map(&(0..0x40_0000), Protection::Data).expect("room");
        builder.map(&(0x1000..0x2000), Protection::Text).expect("room");
        assert!(builder.is_write_xor_execute());
        builder.set(&(0x3000..0x4000), Protection::Text.bits() | WRITABLE).expect("room");
        assert!(!builder.is_write_xor_execute());
    }

    #[test]
    fn no_room_and_absurd_ranges_are_errors() {
        let mut memory = vec![[0; 512]; 3];
        let mut builder = Builder::new(&mut memory, BASE, true).expect("room");
        assert_eq!(builder.map(&(0..0x1000), Protection::Data), Err(BootError::Memory("Postern's own page tables")));
        for range in [LIMIT..LIMIT + 0x1000, LIMIT - 0x1000..LIMIT + 1, 0..u64::MAX] {
            assert_eq!(builder.map(&range, Protection::Data), Err(BootError::Memory("an absurd range")));
        }
        assert!(Builder::new(&mut [], BASE, true).is_err());
    }
}
