//! A look at ACPI's tables before the `acpi` crate reads them (ACPI specification, "Root System Description Pointer",
//! "System Description Table Header", "MADT").
//!
//! The crate believes lengths: a table shorter than its header or an entry of length 0 makes it panic or loop, and an
//! address that is not memory makes it fault. So the tables that it is going to read have to pass here first. Pure: memory
//! comes through a function, so that damaged tables can be tried.

use loader::{BootError, Machine};

/// The bytes at a physical address, or none when they cannot be read.
pub type Read<'a> = &'a dyn Fn(u64, usize) -> Option<&'a [u8]>;

/// Bytes of the header that every table has.
const HEADER: usize = 36;
/// Bytes of the root pointer since revision 2; what follows an older one is read as well, and not used.
const ROOT_POINTER: usize = 36;
/// Longest table that is read; real ones are thousands of bytes.
const LENGTH_MAX: usize = 1 << 20;
const ROOT: BootError = BootError::Acpi("root pointer");
const LIST: BootError = BootError::Acpi("table of tables");
const ENTRY: BootError = BootError::Acpi("address of a table");
const TABLE: BootError = BootError::Acpi("a table's length or sum");
/// A MADT that is missing, or whose entries are not whole.
pub const MADT: BootError = BootError::Acpi("table of CPUs");

fn number(bytes: &[u8], at: usize, size: usize) -> Option<u64> {
    let field = bytes.get(at..at.checked_add(size)?)?;
    Some(field.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
}

fn sum_is_zero(bytes: &[u8]) -> bool {
    bytes.iter().fold(0, |sum: u8, byte| sum.wrapping_add(*byte)) == 0
}

/// Whether `bytes` starts with a root pointer that is in order.
pub fn is_root_pointer(bytes: &[u8]) -> bool {
    bytes.len() >= 20 && bytes.starts_with(b"RSD PTR ") && sum_is_zero(&bytes[..20])
}

/// Where the root pointer is: as the boot loader says, else where a BIOS puts it. In a PC's low memory UEFI puts nothing that
/// may be believed (ACPI Specification 6.5, section 5.2.5.2).
pub fn root_pointer(machine: &Machine, read: Read<'_>) -> Option<u64> {
    machine.rsdp.or_else(|| if machine.uefi { None } else { find_root_pointer(read) })
}

/// Looks for the root pointer where a PC's firmware puts it: in the first KiB of the extended BIOS data area, or below
/// 1 MiB, at a multiple of 16 bytes.
fn find_root_pointer(read: Read<'_>) -> Option<u64> {
    let ebda = read(0x40e, 2).and_then(|segment| number(segment, 0, 2)).map_or(0, |segment| segment << 4);
    let first = if (0x8_0000..0xa_0000).contains(&ebda) { ebda..ebda + 1024 } else { 0..0 };
    first.step_by(16).chain((0xe_0000..0x10_0000).step_by(16)).find(|at| read(*at, 20).is_some_and(is_root_pointer))
}

/// Checks the root pointer at `root`, the table of tables, every table's header, and all of the tables with one of the
/// `signatures`, of which the MADT (`APIC`) has to be there.
///
/// # Errors
/// One of them is damaged or not in readable memory.
pub fn check(root: u64, signatures: &[&[u8; 4]], read: Read<'_>) -> Result<(), BootError> {
    let (list, width) = root_table(root, read)?;
    let mut found = false;
    for entry in list[HEADER..].chunks(width) {
        let at = number(entry, 0, width).ok_or(LIST)?;
        if at == 0 {
            // Firmware leaves such entries for tables that it does not have after all.
            continue;
        }
        let header = read(at, HEADER).ok_or(ENTRY)?;
        if let Some(signature) = signatures.iter().find(|signature| header.starts_with(signature.as_slice())) {
            let table = table(at, signature, read).ok_or(TABLE)?;
            if table.starts_with(b"APIC") {
                found = entries_are_whole(table).then_some(true).ok_or(MADT)?;
            }
        }
    }
    if found { Ok(()) } else { Err(MADT) }
}

/// The table with this signature, if the root pointer at `root` leads to one that is in order.
pub fn find<'a>(root: u64, signature: &[u8; 4], read: Read<'a>) -> Option<&'a [u8]> {
    let (list, width) = root_table(root, read).ok()?;
    list[HEADER..].chunks(width).find_map(|entry| table(number(entry, 0, width)?, signature, read))
}

/// The port of the power management timer that a FADT names (PM_TMR_LEN, X_PM_TMR_BLK, PM_TMR_BLK: section 5.2.9). It may be
/// shorter than the specification has it: the crate's structure is as long as that of ACPI 6.
pub fn pm_timer(fadt: &[u8]) -> Option<u16> {
    const PORTS: u64 = 1;
    if number(fadt, 91, 1)? != 4 {
        return None;
    }
    let new = number(fadt, 212, 8).filter(|address| *address != 0);
    let address = match new {
        Some(address) => (number(fadt, 208, 1)? == PORTS).then_some(address)?,
        None => number(fadt, 76, 4)?,
    };
    u16::try_from(address).ok().filter(|port| *port != 0)
}

/// The byte code of the DSDT that a FADT names, if it is in order.
pub fn code<'a>(fadt: &[u8], read: Read<'a>) -> Option<&'a [u8]> {
    let places = [number(fadt, 140, 8), number(fadt, 40, 4)];
    let dsdt = places.into_iter().flatten().find(|at| *at != 0)?;
    table(dsdt, b"DSDT", read).map(|table| &table[HEADER..])
}

/// The table of tables and the bytes of each of its entries.
fn root_table<'a>(root: u64, read: Read<'a>) -> Result<(&'a [u8], usize), BootError> {
    let pointer = read(root, ROOT_POINTER).filter(|bytes| is_root_pointer(bytes)).ok_or(ROOT)?;
    let list = |at, size, signature| {
        let list = table(number(pointer, at, size)?, signature, read)?;
        Some((list, size))
    };
    if pointer[15] == 0 {
        return list(16, 4, b"RSDT").ok_or(LIST);
    }
    if number(pointer, 20, 4) != Some(ROOT_POINTER as u64) || !sum_is_zero(pointer) {
        return Err(ROOT);
    }
    list(24, 8, b"XSDT").ok_or(LIST)
}

/// The whole table at `at`, header included.
fn table<'a>(at: u64, signature: &[u8; 4], read: Read<'a>) -> Option<&'a [u8]> {
    let length = number(read(at, HEADER)?, 4, 4)? as usize;
    if !(HEADER..=LENGTH_MAX).contains(&length) {
        return None;
    }
    read(at, length).filter(|bytes| bytes.starts_with(signature) && sum_is_zero(bytes))
}

/// Whether the entries of a MADT (type, length, contents) fill it exactly, and none is shorter than its type says.
fn entries_are_whole(madt: &[u8]) -> bool {
    /// Lengths of the types that the specification has, 0 to 16.
    const LENGTHS: [usize; 17] = [8, 12, 10, 8, 6, 12, 16, 16, 16, 16, 12, 76, 24, 24, 16, 20, 16];
    let mut at = HEADER + 8;
    while at < madt.len() {
        let Some([kind, length]) = madt.get(at..at + 2) else { return false };
        let least = LENGTHS.get(usize::from(*kind)).copied().unwrap_or(2);
        if usize::from(*length) < least {
            return false;
        }
        at += usize::from(*length);
    }
    at == madt.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 64 KiB of memory at address 0.
    struct Memory(Vec<u8>);

    impl Memory {
        fn check(&self) -> Result<(), BootError> {
            check(0x100, &[b"APIC", b"FACP"], &|at, size| self.0.get(usize::try_from(at).ok()?..)?.get(..size))
        }

        fn put(&mut self, at: usize, bytes: &[u8]) {
            self.0[at..at + bytes.len()].copy_from_slice(bytes);
        }

        fn sign(&mut self, at: usize, size: usize, sum: usize) {
            self.0[at + sum] = 0;
            let total = self.0[at..at + size].iter().fold(0, |sum: u8, byte| sum.wrapping_add(*byte));
            self.0[at + sum] = total.wrapping_neg();
        }

        fn table(&mut self, at: usize, signature: &[u8], contents: &[u8]) {
            let size = HEADER + contents.len();
            self.put(at, signature);
            self.put(at + 4, &(size as u32).to_le_bytes());
            self.put(at + HEADER, contents);
            self.sign(at, size, 9);
        }
    }

    const CPU0: [u8; 8] = [0, 8, 0, 0, 1, 0, 0, 0];
    const CPU_WIDE: [u8; 16] = [9, 16, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
    const IO_APIC: [u8; 12] = [1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0];

    fn machine(entries: &[&[u8]]) -> Memory {
        let mut memory = Memory(vec![0; 1 << 16]);
        memory.put(0x100, b"RSD PTR ");
        memory.0[0x10f] = 2;
        memory.put(0x118, &0x1000u64.to_le_bytes());
        memory.put(0x114, &36u32.to_le_bytes());
        memory.sign(0x100, 20, 8);
        memory.sign(0x100, 36, 32);
        memory.table(0x1000, b"XSDT", &[0x2000u64.to_le_bytes(), 0x3000u64.to_le_bytes()].concat());
        let mut fadt = [0; 208];
        fadt[76 - HEADER..80 - HEADER].copy_from_slice(&0xb008u32.to_le_bytes());
        memory.table(0x2000, b"FACP", &fadt);
        memory.table(0x3000, b"APIC", &[&[0; 8], entries.concat().as_slice()].concat());
        memory
    }

    #[test]
    fn tables_in_order_pass() {
        assert_eq!(machine(&[&CPU0, &IO_APIC, &CPU_WIDE, &[0x80, 2]]).check(), Ok(()));
        assert_eq!(machine(&[]).check(), Ok(()));
    }

    #[test]
    fn entries_without_a_table_are_skipped() {
        let mut memory = machine(&[&CPU0]);
        memory.table(0x1000, b"XSDT", &[0, 0x2000, 0, 0x3000, 0].map(u64::to_le_bytes).concat());
        // What lies at address 0 is not looked at.
        let read = |at: u64, size| memory.0.get(usize::try_from(at).ok().filter(|at| *at != 0)?..)?.get(..size);
        assert_eq!(check(0x100, &[b"APIC", b"FACP"], &read), Ok(()));
        assert!(find(0x100, b"APIC", &read).is_some());
    }

    #[test]
    fn the_byte_code_is_found_where_the_fadt_says() {
        let mut memory = machine(&[&CPU0]);
        let code = |memory: &Memory| {
            let read = |at: u64, size| memory.0.get(usize::try_from(at).ok()?..)?.get(..size);
            code(find(0x100, b"FACP", &read)?, &read).map(<[u8]>::to_vec)
        };
        assert_eq!(code(&memory), None, "at 0");
        memory.table(0x5000, b"DSDT", b"old");
        memory.table(0x6000, b"DSDT", b"new");
        memory.put(0x2000 + 40, &0x5000u32.to_le_bytes());
        memory.sign(0x2000, HEADER + 208, 9);
        assert_eq!(code(&memory), Some(b"old".to_vec()));
        memory.put(0x2000 + 140, &0x6000u64.to_le_bytes());
        memory.sign(0x2000, HEADER + 208, 9);
        assert_eq!(code(&memory), Some(b"new".to_vec()));
        memory.0[0x6000 + 37] ^= 1;
        assert_eq!(code(&memory), None, "its sum is wrong");
    }

    #[test]
    fn the_old_root_table_will_do() {
        let mut memory = machine(&[&CPU0]);
        memory.table(0x1000, b"RSDT", &[0x2000u32.to_le_bytes(), 0x3000u32.to_le_bytes()].concat());
        memory.put(0x110, &0x1000u32.to_le_bytes());
        memory.0[0x10f] = 0;
        memory.sign(0x100, 20, 8);
        assert_eq!(memory.check(), Ok(()));
    }

    #[test]
    fn damage_anywhere_is_an_error() {
        for at in [0x100, 0x10f, 0x118, 0x1000, 0x1004, 0x1024 + 8, 0x3000, 0x3004, 0x3030] {
            let mut memory = machine(&[&CPU0]);
            memory.0[at] ^= 0x41;
            assert!(memory.check().is_err(), "{at:#x}");
        }
    }

    #[test]
    fn lengths_that_lie_are_an_error_although_the_sum_is_right() {
        for length in [0u32, 1, 35, 0x4000_0000, u32::MAX] {
            for (at, error) in [(0x1000, LIST), (0x3000, TABLE)] {
                let mut memory = machine(&[&CPU0]);
                memory.put(at + 4, &length.to_le_bytes());
                memory.sign(at, (length as usize).clamp(10, 0x100), 9);
                assert_eq!(memory.check(), Err(error), "{length:#x} at {at:#x}");
            }
        }
        for entry in [&[0u8, 0][..], &[0, 1], &[0, 3, 0], &[9, 4, 0, 0], &[0, 255, 0, 0, 1, 0, 0, 0], &[0]] {
            assert_eq!(machine(&[&CPU0, entry]).check(), Err(MADT), "{entry:?}");
        }
    }

    #[test]
    fn a_root_pointer_is_checked_whole_from_revision_1_on() {
        let mut memory = machine(&[&CPU0]);
        memory.0[0x100 + 33] ^= 1;
        assert_eq!(memory.check(), Err(ROOT));
        let mut memory = machine(&[&CPU0]);
        memory.put(0x114, &40u32.to_le_bytes());
        memory.sign(0x100, 36, 32);
        assert_eq!(memory.check(), Err(ROOT));
    }

    #[test]
    fn a_table_of_megabytes_is_an_error() {
        let mut memory = machine(&[&CPU0]);
        memory.0.resize(4 << 20, 0);
        memory.table(0x1_0000, b"FACP", &vec![0; 2 << 20]);
        memory.table(0x1000, b"XSDT", &[0x1_0000u64.to_le_bytes(), 0x3000u64.to_le_bytes()].concat());
        assert_eq!(memory.check(), Err(TABLE));
    }

    #[test]
    fn addresses_outside_memory_are_an_error() {
        let mut memory = machine(&[&CPU0]);
        memory.table(0x1000, b"XSDT", &[0x2000u64.to_le_bytes(), u64::MAX.to_le_bytes()].concat());
        assert_eq!(memory.check(), Err(ENTRY));
        memory.table(0x1000, b"XSDT", &[1, 2, 3]);
        assert_eq!(memory.check(), Err(LIST));
    }

    #[test]
    fn tables_that_name_themselves_or_no_cpus_are_an_error() {
        let mut memory = machine(&[&CPU0]);
        memory.table(0x1000, b"XSDT", &0x1000u64.to_le_bytes());
        assert_eq!(memory.check(), Err(MADT), "only itself");
        memory.table(0x1000, b"XSDT", &[]);
        assert_eq!(memory.check(), Err(MADT), "nothing");
        memory.table(0x1000, b"XSDT", &[0x1000u64.to_le_bytes(), 0x3000u64.to_le_bytes()].concat());
        assert_eq!(memory.check(), Ok(()), "itself and the MADT: a table that nobody reads");
        memory.put(0x118, &0x100u64.to_le_bytes());
        memory.sign(0x100, 36, 32);
        assert_eq!(memory.check(), Err(LIST), "the root pointer names itself");
    }

    #[test]
    fn the_timer_is_found_in_tables_of_any_length() {
        let mut fadt = vec![0; 276];
        fadt[76..80].copy_from_slice(&0xb008u32.to_le_bytes());
        assert_eq!(pm_timer(&fadt), None, "of no length");
        fadt[91] = 4;
        assert_eq!(pm_timer(&fadt), Some(0xb008));
        fadt[208] = 1;
        fadt[212..220].copy_from_slice(&0x608u64.to_le_bytes());
        assert_eq!(pm_timer(&fadt), Some(0x608), "the newer field");
        for length in 0..fadt.len() {
            let found = match length {
                0..92 => None,
                92..220 => Some(0xb008),
                _ => Some(0x608),
            };
            assert_eq!(pm_timer(&fadt[..length]), found, "{length} bytes");
        }
        fadt[208] = 0;
        assert_eq!(pm_timer(&fadt), None, "in memory");
        fadt[208] = 1;
        fadt[214] = 1;
        assert_eq!(pm_timer(&fadt), None, "no port has this number");
    }

    #[test]
    fn uefi_leaves_no_root_pointer_in_low_memory() {
        let mut memory = vec![0; 1 << 20];
        memory[0xf_1230..0xf_1230 + 36].copy_from_slice(&machine(&[]).0[0x100..0x124]);
        let find = |uefi, rsdp| {
            let machine = Machine { uefi, rsdp, ..Machine::default() };
            root_pointer(&machine, &|at, size| memory.get(at as usize..)?.get(..size))
        };
        assert_eq!((find(false, None), find(false, Some(0x5000))), (Some(0xf_1230), Some(0x5000)));
        assert_eq!((find(true, None), find(true, Some(0x5000))), (None, Some(0x5000)));
    }

    #[test]
    fn the_root_pointer_is_looked_for_in_both_places() {
        let mut memory = vec![0; 1 << 20];
        let find = |memory: &[u8]| find_root_pointer(&|at, size| memory.get(at as usize..)?.get(..size));
        assert_eq!(find(&memory), None);
        let pointer = &machine(&[]).0[0x100..0x124];
        memory[0xf_1230..0xf_1230 + 36].copy_from_slice(pointer);
        assert_eq!(find(&memory), Some(0xf_1230));
        memory[0x40e..0x410].copy_from_slice(&0x9fc0u16.to_le_bytes());
        memory[0x9_fc10..0x9_fc10 + 36].copy_from_slice(pointer);
        assert_eq!(find(&memory), Some(0x9_fc10));
    }
}
