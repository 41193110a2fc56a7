//! A walk of a guest's own page tables, to read the instruction that has trapped (SDM volume 3, "4-Level Paging").
//!
//! The CPU has just fetched the same bytes, so what is checked here only decides about a guest that has changed its
//! tables in between.

use super::vapic::GeneralProtection;

/// What of a guest's registers decides where its code is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paging {
    /// CR3.
    pub cr3: u64,
    /// CR4.SMEP.
    pub smep: bool,
    /// At privilege level 3.
    pub user: bool,
    /// Bits of a physical address, at most 52.
    pub physical_bits: u32,
}

/// Why there is no instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Miss {
    /// The tables do not let the CPU fetch there.
    Denied,
    /// The memory is not there.
    Absent,
}

/// The part of an address that is within a page.
pub const PAGE_BITS: u64 = abi::FRAME_SIZE - 1;
const PRESENT: u64 = 1;
const USER: u64 = 1 << 2;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
/// Linear addresses have 48 bits, the highest repeated.
const LINEAR_BITS: u32 = 48;

impl Paging {
    /// Guest physical address from which the CPU fetches `linear`. `read` gives the word at a multiple of eight.
    ///
    /// # Errors
    /// [`Miss`].
    pub fn fetch(&self, linear: u64, read: &mut impl FnMut(u64) -> Option<u64>) -> Result<u64, Miss> {
        if !is_canonical(linear) {
            return Err(Miss::Denied);
        }
        let frames = ((1_u64 << self.physical_bits.min(52)) - 1) & !0xfff;
        let mut table = self.cr3 & frames;
        let mut user = true;
        for level in (0..4).rev() {
            let shift = 12 + 9 * level;
            let entry = read(table + (linear >> shift & 0x1ff) * 8).ok_or(Miss::Absent)?;
            let reserved = entry & !frames & 0x000f_ffff_ffff_f000 != 0;
            if entry & PRESENT == 0 || reserved || entry & NO_EXECUTE != 0 {
                // Without EFER.NXE bit 63 is reserved, which faults as well.
                return Err(Miss::Denied);
            }
            user &= entry & USER != 0;
            if level == 0 || level < 3 && entry & LARGE != 0 {
                if user != self.user && (self.user || self.smep) {
                    return Err(Miss::Denied);
                }
                let within = (1_u64 << shift) - 1;
                return Ok(entry & frames & !within | linear & within);
            }
            table = entry & frames;
        }
        Err(Miss::Denied)
    }

    /// The four bytes at `linear`.
    ///
    /// # Errors
    /// [`Miss`].
    pub fn instruction(&self, linear: u64, read: impl FnMut(u64) -> Option<u64>) -> Result<[u8; 4], Miss> {
        let mut bytes = [0; 4];
        self.fill(linear, &mut bytes, read).map_err(|(_, miss)| miss)?;
        Ok(bytes)
    }

    /// Fills `bytes` with what is at `linear`, as far as there is something: so many bytes.
    pub fn code(&self, linear: u64, bytes: &mut [u8], read: impl FnMut(u64) -> Option<u64>) -> usize {
        let whole = bytes.len();
        self.fill(linear, bytes, read).map_or_else(|(count, _)| count, |()| whole)
    }

    /// Fills `bytes`; else how many are filled, and why no more.
    #[inline]
    fn fill(
        &self,
        linear: u64,
        bytes: &mut [u8],
        mut read: impl FnMut(u64) -> Option<u64>,
    ) -> Result<(), (usize, Miss)> {
        let mut word = None;
        for (n, byte) in bytes.iter_mut().enumerate() {
            let at = linear.wrapping_add(n as u64);
            // A new word, and maybe a new page.
            let (base, value) = match word {
                Some(held) if !at.is_multiple_of(8) => held,
                _ => {
                    let address = self.fetch(at, &mut read).map_err(|miss| (n, miss))? & !7;
                    (address, read(address).ok_or((n, Miss::Absent))?)
                }
            };
            word = Some((base, value));
            *byte = (value >> (at % 8 * 8)) as u8;
        }
        Ok(())
    }
}

/// Whether the bits above the 48th repeat it.
pub fn is_canonical(linear: u64) -> bool {
    let unused = u64::BITS - LINEAR_BITS;
    (linear << unused) as i64 >> unused == linear as i64
}

/// The four entries that a CPU loads from CR3 when it switches 32-bit paging with PAE on (SDM "PDPTE Registers").
///
/// # Errors
/// The memory is not there, or reserved bits are set: the instruction faults.
pub fn pdptes(
    cr3: u64,
    physical_bits: u32,
    mut read: impl FnMut(u64) -> Option<u64>,
) -> Result<[u64; 4], GeneralProtection> {
    let reserved = 0x1e6 | !((1_u64 << physical_bits.min(52)) - 1);
    let mut entries = [0; 4];
    for (n, entry) in entries.iter_mut().enumerate() {
        *entry = read((cr3 & 0xffff_ffe0) + n as u64 * 8).ok_or(GeneralProtection)?;
        if *entry & PRESENT != 0 && *entry & reserved != 0 {
            return Err(GeneralProtection);
        }
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    const P: Paging = Paging { cr3: 0x1000, smep: true, user: false, physical_bits: 40 };
    const RIP: u64 = 0xffff_8000_0040_3ffd;

    /// Tables that map `RIP`'s page to 0x9000 and the next one to 0x5000.
    fn tables() -> BTreeMap<u64, u64> {
        BTreeMap::from([
            (0x1000 + 0x100 * 8, 0x2003),
            (0x2000, 0x3003),
            (0x3000 + 2 * 8, 0x4003),
            (0x4000 + 3 * 8, 0x9003),
            (0x4000 + 4 * 8, 0x5001),
            (0x9ff8, u64::from_le_bytes([0, 0, 0, 0, 0, 0xa5, 0xa6, 0xa7])),
            (0x5000, u64::from_le_bytes([0xb0, 0, 0, 0, 0, 0, 0, 0])),
        ])
    }

    fn reader(tables: &BTreeMap<u64, u64>) -> impl FnMut(u64) -> Option<u64> + '_ {
        |address| {
            assert_eq!(address % 8, 0);
            tables.get(&address).copied()
        }
    }

    #[test]
    fn four_kilobyte_pages() {
        assert_eq!(P.fetch(RIP, &mut reader(&tables())), Ok(0x9ffd));
        assert_eq!(P.fetch(RIP + 3, &mut reader(&tables())), Ok(0x5000));
        assert_eq!(P.fetch(0xffff_8000_0040_5000, &mut reader(&tables())), Err(Miss::Absent));
    }

    #[test]
    fn bytes_across_words_and_pages() {
        let tables = tables();
        assert_eq!(P.instruction(RIP, reader(&tables)), Ok([0xa5, 0xa6, 0xa7, 0xb0]));
        let mut whole = tables.clone();
        whole.insert(0x9ff0, u64::from_le_bytes([0, 0x66, 0x0f, 0x01, 0xcc, 0, 0, 0]));
        assert_eq!(P.instruction(RIP - 0xc, reader(&whole)), Ok([0x66, 0x0f, 0x01, 0xcc]));
    }

    #[test]
    fn code_ends_where_the_tables_do() {
        let mut tables = tables();
        let mut bytes = [0xee; 15];
        assert_eq!(P.code(RIP, &mut bytes, reader(&tables)), 3 + 8, "one word of the second page is there");
        assert_eq!(bytes[..5], [0xa5, 0xa6, 0xa7, 0xb0, 0]);
        tables.insert(0x4000 + 4 * 8, 0);
        assert_eq!(P.code(RIP, &mut bytes, reader(&tables)), 3);
        assert_eq!(P.code(1 << 56, &mut bytes, reader(&tables)), 0);
        assert_eq!(P.code(RIP, &mut bytes[..2], reader(&tables)), 2);
    }

    #[test]
    fn large_pages() {
        let mut large = tables();
        large.insert(0x3010, 0x7_0020_0000 | 0x83 | 1 << 12);
        assert_eq!(P.fetch(0xffff_8000_0040_2ffd, &mut reader(&large)), Ok(0x7_0020_2ffd), "bit 12 is PAT");
        large.insert(0x2000, 0x7_4000_0083);
        assert_eq!(P.fetch(0xffff_8000_3210_3ffd, &mut reader(&large)), Ok(0x7_7210_3ffd));
    }

    #[test]
    fn every_level_can_say_no() {
        for at in [0x1800_u64, 0x2000, 0x3010, 0x4018] {
            for (value, cause) in [(0_u64, "not present"), (1 << 63, "no execute"), (1 << 45, "reserved")] {
                let mut changed = tables();
                let entry = changed.get_mut(&at).unwrap();
                *entry = if value == 0 { *entry & !1 } else { *entry | value };
                assert_eq!(P.fetch(RIP, &mut reader(&changed)), Err(Miss::Denied), "{at:#x} {cause}");
            }
            let mut gone = tables();
            gone.remove(&at);
            assert_eq!(P.fetch(RIP, &mut reader(&gone)), Err(Miss::Absent));
        }
    }

    #[test]
    fn user_code_is_the_users() {
        let user = Paging { user: true, ..P };
        let mut open = tables();
        assert_eq!(user.fetch(RIP, &mut reader(&open)), Err(Miss::Denied));
        for at in [0x1800, 0x2000, 0x3010, 0x4018] {
            *open.get_mut(&at).unwrap() |= USER;
        }
        assert_eq!(user.fetch(RIP, &mut reader(&open)), Ok(0x9ffd));
        assert_eq!(P.fetch(RIP, &mut reader(&open)), Err(Miss::Denied), "SMEP");
        assert_eq!(Paging { smep: false, ..P }.fetch(RIP, &mut reader(&open)), Ok(0x9ffd));
        *open.get_mut(&0x2000).unwrap() &= !USER;
        assert_eq!(user.fetch(RIP, &mut reader(&open)), Err(Miss::Denied), "one level is enough");
    }

    #[test]
    fn addresses_that_are_not_canonical() {
        for linear in [0x0000_8000_0000_0000, 0xffff_7fff_ffff_ffff, 1 << 56] {
            assert!(!is_canonical(linear));
            assert_eq!(P.fetch(linear, &mut |_| panic!("no walk")), Err(Miss::Denied));
        }
        assert!(is_canonical(0x0000_7fff_ffff_ffff) && is_canonical(0xffff_8000_0000_0000));
    }

    #[test]
    fn no_table_makes_it_panic() {
        for value in [0, 1, 0x83, u64::MAX, u64::MAX >> 1, 0x000f_ffff_ffff_f003] {
            for linear in [0, RIP, u64::MAX, u64::MAX - 2] {
                let _ = P.instruction(linear, |_| Some(value));
                let _ = Paging { physical_bits: 52, ..P }.instruction(linear, |_| Some(value));
            }
        }
    }

    #[test]
    fn entries_of_32_bit_paging() {
        let read = |address: u64| Some(if address == 0x2008 { 0x5000 } else { 0x3001 | address & 8 });
        assert_eq!(pdptes(0x2000, 40, |_| Some(0x3001)), Ok([0x3001; 4]));
        assert_eq!(pdptes(0x2000, 40, read).map(|entries| entries[1]), Ok(0x5000), "not present: nothing is checked");
        assert_eq!(pdptes(0x2000, 40, |_| Some(0x3003)), Err(GeneralProtection), "writable is reserved");
        assert_eq!(pdptes(0x2000, 40, |_| Some(1 << 40 | 1)), Err(GeneralProtection));
        assert_eq!(pdptes(0x2000, 40, |_| None), Err(GeneralProtection));
    }
}
