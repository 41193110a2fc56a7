//! What is wrong with an x86-64 machine that GRUB boots: a BIOS that does something else, or commands that GRUB executes at last,
//! which leave the machine as broken firmware would leave it.

use anyhow::{Result, bail};

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing.
    Nothing,
    /// What these commands of GRUB's do.
    Commands(&'static [&'static str]),
    /// The BIOS locks VMX off on every CPU.
    VmxLocked,
    /// RAM has so many holes.
    Holes(u32),
    /// ACPI's tables are these instead of the firmware's.
    Tables(Tables),
}

/// ACPI's tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tables {
    /// There are none.
    Absent,
    /// Nothing is wrong with them.
    InOrder,
    /// The root pointer's second sum is wrong.
    RootSum,
    /// The root pointer points to itself.
    RootOfItself,
    /// The sum of the table of tables is wrong.
    ListSum,
    /// The table of tables is 4 GiB long, less a byte.
    ListEndless,
    /// The only table is the table of tables.
    ListOfItself,
    /// A table is said to be where no memory can be.
    ListOutside,
    /// The sum of the table of CPUs is wrong.
    MadtSum,
    /// The table of CPUs is 1 GiB long.
    MadtEndless,
    /// It has an entry of length 0.
    MadtEmptyEntry,
    /// It has 33 CPUs.
    MadtManyCpus,
    /// It has all CPUs but the first.
    MadtOthersOnly,
}

/// Modules of GRUB's that have the commands.
pub const GRUB_MODULES: [&str; 4] = ["wrmsr", "memrw", "iorw", "mmap"];

/// Sends reads of 0xC0000 to 0xFFFFF to the ROM (Intel 440FX, "PAM: Programmable Attribute Map Registers"): the firmware's
/// tables are in the memory in front of it.
const HIDE_SHADOW: [&str; 4] = ["outl 0xcf8 0x80000058", "outl 0xcfc 0", "outl 0xcf8 0x8000005c", "outl 0xcfc 0"];
/// The end of the extended BIOS data area, where the root pointer is looked for first.
const ROOT: u64 = 0x9_ffd0;
/// How far below the end of memory the tables are: in what the firmware keeps for its own.
const BELOW_TOP: u64 = 0x8000;
/// Distance of the tables from each other.
const STEP: u64 = 0x1000;
/// A table's header.
const HEADER: usize = 36;

impl Trouble {
    /// The commands, for a machine with so much memory.
    pub fn commands(self, memory_mib: u64) -> Vec<String> {
        match self {
            Self::Nothing | Self::VmxLocked => vec![],
            Self::Commands(commands) => commands.iter().map(ToString::to_string).collect(),
            Self::Holes(number) => {
                (0..number).map(|n| format!("cutmem {}K {}K", 32_768 + n * 64, 32_772 + n * 64)).collect()
            }
            Self::Tables(tables) => {
                let hide = HIDE_SHADOW.map(String::from);
                let write = |(at, bytes): (u64, Vec<u8>)| words(at, &bytes);
                hide.into_iter().chain(tables.build(memory_mib << 20).into_iter().flat_map(write)).collect()
            }
        }
    }
}

/// How the BIOS sets IA32_FEATURE_CONTROL: RDMSR, OR EAX with both "VMX" and "locked", WRMSR; in 32-bit code on the first CPU, in
/// 16-bit code on the others.
const ALLOW_VMX: [&[u8]; 2] = [b"\x0f\x32\x83\xc8\x05\x0f\x30", b"\x0f\x32\x66\x83\xc8\x05\x0f\x30"];

/// Commands that write these bytes.
fn words(at: u64, bytes: &[u8]) -> Vec<String> {
    let mut padded = bytes.to_vec();
    padded.resize(bytes.len().next_multiple_of(4), 0);
    let words = padded.chunks(4).zip((at..).step_by(4));
    words.map(|(word, at)| format!("write_dword {at:#x} {:#x}", little_endian(word))).collect()
}

fn little_endian(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

impl Trouble {
    /// The BIOS, given the proper one.
    pub fn bios(self, mut image: Vec<u8>) -> Result<Vec<u8>> {
        if self != Self::VmxLocked {
            return Ok(image);
        }
        for code in ALLOW_VMX {
            let Some(at) = image.windows(code.len()).position(|bytes| bytes == code) else {
                bail!("this BIOS does not set IA32_FEATURE_CONTROL as it is known to");
            };
            // The constant is the last byte before WRMSR.
            image[at + code.len() - 3] = 1;
        }
        Ok(image)
    }
}

impl Tables {
    /// The tables and their addresses, for memory that ends at `top`.
    fn build(self, top: u64) -> Vec<(u64, Vec<u8>)> {
        if self == Self::Absent {
            return vec![];
        }
        let [list, fadt, madt, dsdt] = [0, 1, 2, 3].map(|n| top - BELOW_TOP + n * STEP);
        let tables = match self {
            Self::ListOfItself => vec![list],
            Self::ListOutside => vec![fadt, madt, 1 << 40],
            // An entry without a table is no flaw.
            Self::InOrder => vec![fadt, 0, madt],
            _ => vec![fadt, madt],
        };
        let mut contents = [
            (list, table(b"XSDT", &tables.iter().flat_map(|at| at.to_le_bytes()).collect::<Vec<_>>())),
            (fadt, table(b"FACP", &fadt_body(dsdt as u32))),
            (madt, table(b"APIC", &self.cpus())),
            (dsdt, table(b"DSDT", SOFT_OFF)),
        ];
        match self {
            Self::ListSum => contents[0].1[9] ^= 1,
            Self::ListEndless => set_length(&mut contents[0].1, u32::MAX),
            Self::MadtSum => contents[2].1[9] ^= 1,
            Self::MadtEndless => set_length(&mut contents[2].1, 1 << 30),
            _ => {}
        }
        let mut root = root(if self == Self::RootOfItself { ROOT } else { list });
        if self == Self::RootSum {
            root[32] ^= 1;
        }
        contents.into_iter().chain([(ROOT, root)]).collect()
    }

    /// The MADT but for its header (ACPI specification, "Multiple APIC Description Table").
    fn cpus(self) -> Vec<u8> {
        let ids = match self {
            Self::MadtManyCpus => 0..33,
            Self::MadtOthersOnly => 1..2,
            _ => 0..2u8,
        };
        let mut out = [0xfee0_0000u32.to_le_bytes(), 1u32.to_le_bytes()].concat();
        ids.for_each(|id| out.extend([0, 8, id, id, 1, 0, 0, 0]));
        if self == Self::MadtEmptyEntry {
            out.extend([0, 0]);
        }
        out
    }
}

/// `Name (\_S5, Package (4) { 0, 0, 0, 0 })` in ACPI's byte code: what means off to the emulator's chipset.
const SOFT_OFF: &[u8] = b"\x08\\_S5_\x12\x06\x04\0\0\0\0";

/// The FADT but for its header: the emulator's power management, and a reset register where it has none.
fn fadt_body(dsdt: u32) -> Vec<u8> {
    let mut out = vec![0; 276 - HEADER];
    let mut put = |at: usize, bytes: &[u8]| out[at - HEADER..at - HEADER + bytes.len()].copy_from_slice(bytes);
    put(40, &dsdt.to_le_bytes());
    // PM1a control, the timer and its length.
    put(64, &0xb004u32.to_le_bytes());
    put(76, &0xb008u32.to_le_bytes());
    put(91, &[4]);
    // There is a reset register: a port, its value.
    put(112, &(1u32 << 10).to_le_bytes());
    put(116, &[1, 8, 0, 1, 0, 0x47, 0, 0, 0, 0, 0, 0, 0x55]);
    out
}

fn table(signature: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let mut out = signature.to_vec();
    out.extend(((HEADER + body.len()) as u32).to_le_bytes());
    // Revision, sum, who made it.
    out.extend([1, 0]);
    out.extend(b"POSTRNTROUBLE ");
    out.extend([0; 12]);
    out.extend(body);
    out[9] = sum(&out);
    out
}

/// Lies about the length; the sum stays right.
fn set_length(table: &mut [u8], length: u32) {
    table[4..8].copy_from_slice(&length.to_le_bytes());
    table[9] = 0;
    table[9] = sum(table);
}

/// The root pointer, revision 2 (ACPI specification, "Root System Description Pointer").
fn root(list: u64) -> Vec<u8> {
    let mut out = b"RSD PTR \0POSTRN\x02\0\0\0\0".to_vec();
    out.extend(36u32.to_le_bytes());
    out.extend(list.to_le_bytes());
    out.extend([0; 4]);
    out[8] = sum(&out[..20]);
    out[32] = sum(&out);
    out
}

/// What makes the sum of all bytes zero.
fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum: u8, byte| sum.wrapping_sub(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_in_order_have_their_sums_and_lengths() {
        for (at, bytes) in Tables::InOrder.build(1 << 28) {
            assert_eq!(bytes.iter().fold(0, |sum: u8, byte| sum.wrapping_add(*byte)), 0, "{at:#x}");
            assert!(at == ROOT || little_endian(&bytes[4..8]) == bytes.len() as u64);
        }
        const { assert!(ROOT + 36 <= 0xa_0000, "the root pointer fits") };
    }

    #[test]
    fn every_flaw_changes_something() {
        use Tables::*;
        let good = Trouble::Tables(InOrder).commands(256);
        let flaws = [
            Absent,
            RootSum,
            RootOfItself,
            ListSum,
            ListEndless,
            ListOfItself,
            ListOutside,
            MadtSum,
            MadtEndless,
            MadtEmptyEntry,
            MadtManyCpus,
            MadtOthersOnly,
        ];
        assert!(flaws.into_iter().all(|flaw| Trouble::Tables(flaw).commands(256) != good));
        assert!(good.contains(&"write_dword 0x9ffd0 0x20445352".into()), "\"RSD \"");
    }

    #[test]
    fn a_bios_is_changed_where_it_sets_the_register_only() {
        let image = [&[7, 5, 5][..], ALLOW_VMX[1], &[5], ALLOW_VMX[0], &[5]].concat();
        assert_eq!(Trouble::Nothing.bios(image.clone()).unwrap(), image);
        let changed = Trouble::VmxLocked.bios(image.clone()).unwrap();
        let places: Vec<_> = (0..image.len()).filter(|at| image[*at] != changed[*at]).collect();
        assert_eq!(places, [8, 16]);
        assert!(Trouble::VmxLocked.bios(vec![5; 100]).is_err());
    }

    #[test]
    fn holes_do_not_touch() {
        let commands = Trouble::Holes(2).commands(256);
        assert_eq!(commands, ["cutmem 32768K 32772K", "cutmem 32832K 32836K"]);
    }
}
