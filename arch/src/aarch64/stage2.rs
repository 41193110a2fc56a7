//! Stage-2 translation tables: 4 KiB granule, levels 1 to 3, two concatenated tables at the root for 40 bits of IPA
//! (Arm ARM D8.2, D8.3). Pure: compiles and is tested on any machine.

use core::sync::atomic::{AtomicU64, Ordering};
use guestmem::{Attrs, Entry, TableFormat};

const VALID: u64 = 1;
/// At levels 1 and 2 a table; at level 3 a page.
const TABLE_OR_PAGE: u64 = 1 << 1;
const READ: u64 = 1 << 6;
const WRITE: u64 = 1 << 7;
const INNER_SHAREABLE: u64 = 3 << 8;
const ACCESSED: u64 = 1 << 10;
/// XN[1:0] = 0b10: not executable at EL1 or EL0.
const EXECUTE_NEVER: u64 = 1 << 54;
const ADDRESS: u64 = 0x0000_ffff_ffff_f000;

/// MemAttr of RAM and of devices: what FEAT_S2FWB changes (Arm ARM D8.6.6).
static RAM_ATTRIBUTES: AtomicU64 = AtomicU64::new(0b1111 << 2);
static DEVICE_ATTRIBUTES: AtomicU64 = AtomicU64::new(0b1111 << 2);

/// With FEAT_S2FWB RAM is write-back whatever stage 1 says, so host and guest can never see a frame through different
/// attributes; devices get what stage 1 says. Without it stage 1 can only weaken what stage 2 says.
pub fn use_forced_write_back() {
    RAM_ATTRIBUTES.store(0b0110 << 2, Ordering::Relaxed);
    DEVICE_ATTRIBUTES.store(0b0111 << 2, Ordering::Relaxed);
}

/// The entry format.
#[derive(Clone, Copy, Debug)]
pub struct Stage2;

impl TableFormat for Stage2 {
    const ROOT_LEVEL: u32 = 1;
    const ROOT_FRAMES: u64 = 2;

    fn leaf(address: u64, level: u32, attrs: Attrs) -> u64 {
        let kind = if level == 3 { VALID | TABLE_OR_PAGE } else { VALID };
        let common = address & ADDRESS | kind | READ | WRITE | INNER_SHAREABLE | ACCESSED;
        match attrs {
            Attrs::Ram => common | RAM_ATTRIBUTES.load(Ordering::Relaxed),
            Attrs::SharedRam => common | EXECUTE_NEVER | RAM_ATTRIBUTES.load(Ordering::Relaxed),
            Attrs::Device => common | EXECUTE_NEVER | DEVICE_ATTRIBUTES.load(Ordering::Relaxed),
        }
    }

    fn table(address: u64) -> u64 {
        address & ADDRESS | VALID | TABLE_OR_PAGE
    }

    #[inline(always)]
    fn decode(entry: u64, level: u32) -> Entry {
        // What walks meet most, told by one comparison.
        if level < 3 && entry & (VALID | TABLE_OR_PAGE) == VALID | TABLE_OR_PAGE {
            return Entry::Table { address: entry & ADDRESS };
        }
        // A block at level 3 is reserved, and translates nothing.
        if entry & VALID == 0 || level == 3 && entry & TABLE_OR_PAGE == 0 {
            return Entry::Empty;
        }
        Entry::Leaf { address: entry & ADDRESS, attrs: attributes(entry) }
    }
}

fn attributes(entry: u64) -> Attrs {
    if entry & EXECUTE_NEVER == 0 {
        return Attrs::Ram;
    }
    // RAM and devices share an encoding without FWB, where only the address tells them apart; audits compare the
    // address and the right to execute.
    if entry & 0b1111 << 2 == DEVICE_ATTRIBUTES.load(Ordering::Relaxed) { Attrs::Device } else { Attrs::SharedRam }
}

/// VTCR_EL2 for `bits` of IPA (32 to 40): T0SZ, start at level 1, inner shareable write-back walks, PS of at least
/// `bits`, RES1 bit 31. VS = 0: 8-bit VMIDs, which all CPUs have.
pub const fn vtcr(bits: u64) -> u64 {
    let physical_size = if bits <= 32 {
        0
    } else if bits <= 36 {
        1
    } else {
        2
    };
    1 << 31 | physical_size << 16 | 3 << 12 | 1 << 10 | 1 << 8 | 1 << 6 | (64 - bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_is_read() {
        for level in 1..=3 {
            for attrs in [Attrs::Ram, Attrs::SharedRam] {
                let Entry::Leaf { address, .. } = Stage2::decode(Stage2::leaf(0x40_4000_0000, level, attrs), level)
                else {
                    panic!("level {level} {attrs:?} is no leaf")
                };
                assert_eq!(address, 0x40_4000_0000);
            }
        }
        assert_eq!(Stage2::decode(Stage2::table(0x1000), 2), Entry::Table { address: 0x1000 });
        assert_eq!(Stage2::decode(0, 1), Entry::Empty);
        assert_eq!(Stage2::decode(Stage2::MARK | 0x1000, 3), Entry::Empty);
        assert_eq!(Stage2::decode(VALID, 3), Entry::Empty, "a block at level 3 is reserved");
    }

    #[test]
    fn a5_ram_is_write_back_for_host_and_guest_alike() {
        // Without and with FEAT_S2FWB (Arm ARM D8.6.6): normal, inner and outer write-back; and forced write-back.
        for (forced, memory_attributes) in [(false, 0b1111), (true, 0b0110)] {
            if forced {
                use_forced_write_back();
            }
            for attrs in [Attrs::Ram, Attrs::SharedRam] {
                let entry = Stage2::leaf(0x4000_0000, 3, attrs);
                assert_eq!(entry >> 2 & 0xf, memory_attributes);
                assert_eq!(entry & INNER_SHAREABLE, INNER_SHAREABLE);
            }
            assert_ne!(Stage2::leaf(0, 3, Attrs::Device) >> 2 & 0xf, 0b0110, "devices are what stage 1 says");
        }
    }

    #[test]
    fn the_shared_half_and_devices_are_not_executable() {
        assert_eq!(Stage2::leaf(0, 3, Attrs::Ram) & EXECUTE_NEVER, 0);
        for attrs in [Attrs::SharedRam, Attrs::Device] {
            assert_eq!(Stage2::leaf(0, 3, attrs) & EXECUTE_NEVER, EXECUTE_NEVER);
        }
    }

    #[test]
    fn the_control_register_fits_the_address_size() {
        assert_eq!(vtcr(40) & 0x3f, 24);
        assert_eq!(vtcr(40) >> 16 & 7, 2);
        assert_eq!((vtcr(36) & 0x3f, vtcr(36) >> 16 & 7), (28, 1));
    }
}
