//! Postern's own translation: EL2 stage 1, identity, 4 KiB granule, 40 bits (Arm ARM D8.2; E2H = 0).
//!
//! RAM is mapped write-back and never executable, Postern's text read-only and executable, its constants read-only, its
//! data writable: nothing is both. Stacks have an unmapped frame below them.

use super::sysreg::{field, instruction, isb, mrs, msr};
use loader::{BootError, Bytes};

/// How a range is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// RAM: readable, writable.
    Data,
    /// Constants: readable.
    Constants,
    /// Instructions: readable, executable.
    Text,
    /// Device registers: readable, writable, nGnRE.
    Device,
}

const VALID: u64 = 1;
const TABLE_OR_PAGE: u64 = 2;
const ADDRESS: u64 = 0x0000_ffff_ffff_f000;
/// MAIR_EL2: attribute 0 normal write-back, attribute 1 device nGnRE.
pub const MAIR: u64 = 0x04ff;
/// SCTLR_EL2: RES1 bits, and M, C, SA, I, WXN.
pub const SCTLR: u64 = 0x30c5_0830 | 1 | 1 << 2 | 1 << 3 | 1 << 12 | 1 << 19;

impl Protection {
    fn bits(self) -> u64 {
        const EXECUTE_NEVER: u64 = 1 << 54;
        const READ_ONLY: u64 = 1 << 7;
        // AF, inner shareable, AP[1] RES1 in a regime with one privilege level.
        const COMMON: u64 = VALID | 1 << 10 | 3 << 8 | 1 << 6;
        match self {
            Self::Data => COMMON | EXECUTE_NEVER,
            Self::Constants => COMMON | EXECUTE_NEVER | READ_ONLY,
            Self::Text => COMMON | READ_ONLY,
            Self::Device => COMMON | EXECUTE_NEVER | 1 << 2,
        }
    }
}

/// Builds the tables, which come from the start of a range of free RAM.
pub struct Builder {
    root: u64,
    next: u64,
    end: u64,
}

impl Builder {
    /// Starts with an empty root table at the start of `memory`.
    ///
    /// # Errors
    /// No room.
    pub fn new(memory: Bytes) -> Result<Self, BootError> {
        let mut builder = Self { root: memory.start, next: memory.start, end: memory.end };
        builder.table()?;
        Ok(builder)
    }

    /// The first byte after the tables made so far.
    pub fn used_up_to(&self) -> u64 {
        self.next
    }

    fn table(&mut self) -> Result<u64, BootError> {
        let table = self.next;
        if table + abi::FRAME_SIZE > self.end {
            return Err(BootError::Memory("Postern's own page tables"));
        }
        self.next += abi::FRAME_SIZE;
        for index in 0..512 {
            // SAFETY: a frame of the range that the caller set aside; the MMU is off or it is mapped as data.
            unsafe { ((table + index * 8) as *mut u64).write_volatile(0) };
        }
        Ok(table)
    }

    /// Maps `range`, widened to whole frames, with the largest entries that fit; later calls replace what earlier ones
    /// mapped. Only before the tables are in use.
    ///
    /// # Errors
    /// No room for tables.
    pub fn map(&mut self, range: &Bytes, protection: Protection) -> Result<(), BootError> {
        self.set(range, protection.bits())
    }

    /// Leaves a hole where `range` is.
    ///
    /// # Errors
    /// No room for tables.
    pub fn unmap(&mut self, range: &Bytes) -> Result<(), BootError> {
        self.set(range, 0)
    }

    fn set(&mut self, range: &Bytes, bits: u64) -> Result<(), BootError> {
        let Some(range) = loader::whole_frames(range) else { return Err(BootError::Memory("an absurd range")) };
        let mut at = range.start;
        while at < range.end.min(1 << 40) {
            at += self.set_largest(at, range.end, bits)?;
        }
        Ok(())
    }

    /// Sets one entry for `at` and returns how many bytes it covers.
    fn set_largest(&mut self, at: u64, end: u64, bits: u64) -> Result<u64, BootError> {
        let mut table = self.root;
        for level in 0..4 {
            let shift = 39 - 9 * level;
            let size = 1 << shift;
            let slot = (table + (at >> shift & 511) * 8) as *mut u64;
            // SAFETY: an entry of a table of ours.
            let entry = unsafe { slot.read_volatile() };
            let is_table = level < 3 && entry & 3 == 3;
            if level == 3 || (level > 0 && !is_table && at.is_multiple_of(size) && at + size <= end) {
                let page = if level == 3 { TABLE_OR_PAGE } else { 0 };
                let new = if bits == 0 { 0 } else { at & ADDRESS & !(size - 1) | bits | page };
                // SAFETY: as above; the tables are not in use yet.
                unsafe { slot.write_volatile(new) };
                return Ok(size);
            }
            table = if is_table { entry & ADDRESS } else { self.split(slot, entry, level)? };
        }
        unreachable!("level 3 always returns")
    }

    /// Puts a table where `entry` is, with the same translations.
    fn split(&mut self, slot: *mut u64, entry: u64, level: u64) -> Result<u64, BootError> {
        let table = self.table()?;
        if entry & VALID != 0 {
            let step = 1 << (30 - 9 * level);
            let page = if level == 2 { TABLE_OR_PAGE } else { 0 };
            for index in 0..512 {
                // SAFETY: a table just made.
                unsafe { ((table + index * 8) as *mut u64).write_volatile((entry + index * step) | page) };
            }
        }
        // SAFETY: the caller's entry.
        unsafe { slot.write_volatile(table | VALID | TABLE_OR_PAGE) };
        Ok(table)
    }

    /// Turns the MMU and caches on with these tables.
    pub fn enable(self) -> Regime {
        let physical_size = field(mrs!("id_aa64mmfr0_el1"), 0, 4).min(5);
        // T0SZ = 24, write-back walks, inner shareable, 4 KiB, RES1 bits 23 and 31.
        let tcr = 1 << 31 | 1 << 23 | physical_size << 16 | 3 << 12 | 1 << 10 | 1 << 8 | 24;
        super::cache::clean_invalidate(self.root, self.next);
        msr!("mair_el2", MAIR);
        msr!("tcr_el2", tcr);
        msr!("ttbr0_el2", self.root);
        instruction!("dsb ish");
        isb();
        instruction!("tlbi alle2");
        instruction!("ic iallu");
        instruction!("dsb nsh");
        isb();
        msr!("sctlr_el2", SCTLR);
        isb();
        Regime { ttbr0: self.root, tcr }
    }
}

/// The registers that a secondary CPU needs to use the same tables.
#[derive(Clone, Copy, Debug)]
pub struct Regime {
    /// TTBR0_EL2.
    pub ttbr0: u64,
    /// TCR_EL2.
    pub tcr: u64,
}
