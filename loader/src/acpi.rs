//! What ACPI's tables say of an arm64 machine: enough for a device tree ([`crate::acpi_tree`]). Sections are those of the
//! ACPI Specification 6.5; SPCR and MCFG have specifications of their own.
//!
//! Firmware's tables, but read like anybody's: every length is checked, and memory comes through a function. The `acpi`
//! crate would believe lengths, wants unsafe code for its mappings, and has no GTDT.

use crate::machine::{CPUS_MAX, RANGES_MAX};
use crate::{BootError, Bytes};
use arrayvec::ArrayVec;

/// The bytes at a physical address, or none when they cannot be read.
pub type Read<'a> = &'a dyn Fn(u64, usize) -> Option<&'a [u8]>;

/// Bytes of the header that every table has (5.2.6).
const HEADER: usize = 36;
/// Longest table that is read, and most tables; real ones are thousands of bytes, and dozens.
const LENGTH_MAX: usize = 1 << 20;
const TABLES_MAX: usize = 256;
/// Bytes of a redistributor without LPIs' virtual frames (GICv3 specification, "Redistributor register map"), and of an ITS.
const REDISTRIBUTOR: u64 = 0x2_0000;
const ITS: u64 = 0x2_0000;
const DISTRIBUTOR: u64 = 0x1_0000;
const UART: u64 = 0x1000;

const fn damaged(what: &'static str) -> BootError {
    BootError::HandOff(what)
}

/// A timer's interrupt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interrupt {
    /// INTID.
    pub number: u32,
    /// Edge-triggered.
    pub edge: bool,
    /// Active low.
    pub low: bool,
}

/// How PSCI is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Psci {
    /// SMC.
    Smc,
    /// HVC.
    Hvc,
}

/// What the tables say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tables {
    /// MPIDR affinities of the CPUs that can be started.
    pub cpus: ArrayVec<u64, CPUS_MAX>,
    /// Distributor registers.
    pub distributor: Bytes,
    /// Redistributor regions.
    pub redistributors: ArrayVec<Bytes, RANGES_MAX>,
    /// Interrupt translation services.
    pub its: ArrayVec<Bytes, RANGES_MAX>,
    /// The timer's interrupts: secure, non-secure, virtual, hypervisor's.
    pub timer: [Interrupt; 4],
    /// PSCI.
    pub psci: Psci,
    /// The PL011 of the console and its interrupt.
    pub uart: Option<(Bytes, u32)>,
    /// Configuration space of PCI segments.
    pub pci: ArrayVec<Bytes, RANGES_MAX>,
}

fn number(bytes: &[u8], at: usize, size: usize) -> Option<u64> {
    let field = bytes.get(at..at.checked_add(size)?)?;
    Some(field.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
}

fn sum_is_zero(bytes: &[u8]) -> bool {
    bytes.iter().fold(0, |sum: u8, byte| sum.wrapping_add(*byte)) == 0
}

/// The whole table at `at`, header included.
fn table<'a>(at: u64, signature: &[u8], read: Read<'a>) -> Option<&'a [u8]> {
    let length = number(read(at, HEADER)?, 4, 4)? as usize;
    let whole = (HEADER..=LENGTH_MAX).contains(&length).then(|| read(at, length)).flatten()?;
    (whole.starts_with(signature) && sum_is_zero(whole)).then_some(whole)
}

/// The table of tables (5.2.5.3, 5.2.8): arm64 has the newer one only.
fn root<'a>(at: u64, read: Read<'a>) -> Option<&'a [u8]> {
    let pointer = read(at, HEADER)?;
    let good = pointer.starts_with(b"RSD PTR ") && pointer[15] >= 2 && sum_is_zero(pointer.get(..20)?);
    table(number(pointer, 24, 8).filter(|_| good && sum_is_zero(pointer))?, b"XSDT", read)
}

/// The first table with a signature; `None` when there is none, an error when it is damaged.
fn find<'a>(root: &[u8], signature: &[u8], read: Read<'a>) -> Result<Option<&'a [u8]>, BootError> {
    for entry in root[HEADER..].chunks_exact(8).take(TABLES_MAX) {
        let at = number(entry, 0, 8).unwrap_or(0);
        if read(at, HEADER).is_some_and(|header| header.starts_with(signature)) {
            return table(at, signature, read).map(Some).ok_or(damaged("ACPI tables: one of them is damaged"));
        }
    }
    Ok(None)
}

/// Reads the tables that the root pointer at `rsdp` leads to.
///
/// # Errors
/// Damaged tables; a machine without GICv3, PSCI or the timer's interrupts; more CPUs or regions than Postern can manage.
pub fn read(rsdp: u64, read: Read<'_>) -> Result<Tables, BootError> {
    let root = root(rsdp, read).ok_or(damaged("ACPI tables: their root is damaged"))?;
    let wanted = |signature: &[u8], missing| find(root, signature, read)?.ok_or(damaged(missing));
    let mut tables = Tables {
        cpus: ArrayVec::new(),
        distributor: 0..0,
        redistributors: ArrayVec::new(),
        its: ArrayVec::new(),
        timer: timer(wanted(b"GTDT", "ACPI tables: no GTDT, which describes the timer")?)
            .ok_or(damaged("ACPI tables: the GTDT is cut short"))?,
        psci: psci(wanted(b"FACP", "ACPI tables: no FADT, which tells of PSCI")?)
            .ok_or(damaged("ACPI tables: the FADT knows no PSCI"))?,
        uart: find(root, b"SPCR", read)?.and_then(uart),
        pci: ArrayVec::new(),
    };
    interrupt_controller(wanted(b"APIC", "ACPI tables: no MADT, which lists the CPUs")?, &mut tables)?;
    if let Some(mcfg) = find(root, b"MCFG", read)? {
        pci(mcfg, &mut tables)?;
    }
    if tables.cpus.is_empty() || tables.distributor.is_empty() || tables.redistributors.is_empty() {
        return Err(damaged("ACPI tables: the MADT has no CPUs, or no GICv3"));
    }
    Ok(tables)
}

/// GTDT (5.2.25): an INTID and flags for each timer.
fn timer(gtdt: &[u8]) -> Option<[Interrupt; 4]> {
    let mut out = [Interrupt::default(); 4];
    for (at, timer) in (48..).step_by(8).zip(&mut out) {
        let flags = number(gtdt, at + 4, 4)?;
        *timer = Interrupt { number: number(gtdt, at, 4)? as u32, edge: flags & 1 != 0, low: flags & 2 != 0 };
    }
    Some(out)
}

/// FADT (5.2.9.4): ARM_BOOT_ARCH says whether there is PSCI, and that it is called by HVC.
fn psci(fadt: &[u8]) -> Option<Psci> {
    match number(fadt, 129, 2)? & 3 {
        1 => Some(Psci::Smc),
        3 => Some(Psci::Hvc),
        _ => None,
    }
}

/// SPCR: a PL011, or what behaves like one (types 3, 13 and 14 of DBG2), in memory.
fn uart(spcr: &[u8]) -> Option<(Bytes, u32)> {
    let (kind, space, base) = (number(spcr, 36, 1)?, number(spcr, 40, 1)?, number(spcr, 44, 8)?);
    // Bit 3: the interrupt is the interrupt controller's.
    let interrupt = if number(spcr, 52, 1)? & 8 != 0 { number(spcr, 54, 4)? as u32 } else { 0 };
    let known = matches!(kind, 3 | 13 | 14) && space == 0 && base != 0;
    known.then(|| Some((base..base.checked_add(UART)?, interrupt)))?
}

/// MADT (5.2.12): entries of type, length, content.
fn interrupt_controller(madt: &[u8], tables: &mut Tables) -> Result<(), BootError> {
    const CUT: BootError = damaged("ACPI tables: the MADT's entries are damaged");
    let range = |start: u64, size: u64| Some(start..start.checked_add(size)?).filter(|_| start != 0);
    let mut own = ArrayVec::<Bytes, RANGES_MAX>::new();
    let mut rest = madt.get(HEADER + 8..).ok_or(CUT)?;
    while !rest.is_empty() {
        let length = usize::from(*rest.get(1).ok_or(CUT)?);
        let entry = rest.get(..length).filter(|_| length >= 2).ok_or(CUT)?;
        rest = &rest[length..];
        let field = |at, size| number(entry, at, size).ok_or(CUT);
        match entry[0] {
            // 5.2.12.14: a CPU that is enabled, or can be. Its own redistributor counts where no region is listed.
            0xb if field(12, 4)? & (1 | 1 << 3) != 0 => {
                tables.cpus.try_push(field(68, 8)? & 0xff_00ff_ffff).map_err(|_| BootError::TooMany("CPUs"))?;
                match (own.last_mut(), range(field(60, 8)?, REDISTRIBUTOR)) {
                    (Some(last), Some(region)) if last.end == region.start => last.end = region.end,
                    (_, region) => region.map_or(Ok(()), |region| push(&mut own, region))?,
                }
            }
            // 5.2.12.15: version 0 is for the hardware to tell.
            0xc if matches!(field(20, 1)?, 0 | 3 | 4) => {
                tables.distributor = range(field(8, 8)?, DISTRIBUTOR).ok_or(CUT)?;
            }
            // 5.2.12.17, 5.2.12.18
            0xe => push(&mut tables.redistributors, range(field(4, 8)?, field(12, 4)?).ok_or(CUT)?)?,
            0xf => push(&mut tables.its, range(field(8, 8)?, ITS).ok_or(CUT)?)?,
            _ => {}
        }
    }
    tables.redistributors.retain(|region| !region.is_empty());
    if tables.redistributors.is_empty() {
        tables.redistributors = own;
    }
    Ok(())
}

/// MCFG: 1 MiB of configuration space for each bus.
fn pci(mcfg: &[u8], tables: &mut Tables) -> Result<(), BootError> {
    const CUT: BootError = damaged("ACPI tables: the MCFG is damaged");
    for entry in mcfg.get(HEADER + 8..).ok_or(CUT)?.chunks_exact(16) {
        let field = |at, size| number(entry, at, size).ok_or(CUT);
        let (base, first, last) = (field(0, 8)?, field(10, 1)?, field(11, 1)?);
        let start = base.checked_add(first << 20).ok_or(CUT)?;
        let end = base.checked_add((last + 1) << 20).filter(|end| *end > start).ok_or(CUT)?;
        push(&mut tables.pci, start..end)?;
    }
    Ok(())
}

fn push(list: &mut ArrayVec<Bytes, RANGES_MAX>, range: Bytes) -> Result<(), BootError> {
    list.try_push(range).map_err(|_| BootError::TooMany("regions of devices"))
}
