//! What the programs need of ACPI: the Multiple APIC Description Table (ACPI specification, section "MADT"), and registers that
//! the Fixed ACPI Description Table names (section "FADT").

use crate::list::List;
use core::sync::atomic::{AtomicU64, Ordering};

/// The root pointer, once [`madt`] has found it.
static ROOT: AtomicU64 = AtomicU64::new(0);

/// What the table says.
#[derive(Default)]
pub struct Madt {
    /// APIC identifiers of the CPUs.
    pub cpus: List<u64>,
    /// Mailbox through which other CPUs are woken; zero when they are started with INIT and SIPI.
    pub mailbox: u64,
}

fn bytes<const N: usize>(address: u64) -> [u8; N] {
    // SAFETY: callers follow the tables that firmware, or the VMM, has put into memory; all of it is mapped.
    unsafe { (address as *const [u8; N]).read_unaligned() }
}

fn half(address: u64) -> u16 {
    u16::from_le_bytes(bytes(address))
}

fn word(address: u64) -> u32 {
    u32::from_le_bytes(bytes(address))
}

fn long(address: u64) -> u64 {
    u64::from_le_bytes(bytes(address))
}

/// The root pointer, in the places where a PC's firmware leaves it (ACPI specification, "Finding the RSDP").
fn find_root() -> Option<u64> {
    let area = u64::from(half(0x40e)) << 4;
    let areas = [area..area + 0x400, 0xe_0000..0x10_0000];
    areas.into_iter().flat_map(|range| range.step_by(16)).find(|at| &bytes::<8>(*at) == b"RSD PTR ")
}

/// The table with this signature.
fn table(root: u64, signature: &[u8; 4]) -> Option<u64> {
    let extended = bytes::<1>(root + 15)[0] >= 2 && long(root + 24) != 0;
    let (list, step) = if extended { (long(root + 24), 8) } else { (word(root + 16).into(), 4) };
    let end = list + u64::from(word(list + 4));
    let entries = (list + 36..end).step_by(step);
    let tables = entries.map(|at| if step == 8 { long(at) } else { word(at).into() });
    tables.into_iter().find(|address| &bytes::<4>(*address) == signature)
}

/// Reads the table; `root` is the root pointer if somebody has said where it is.
pub fn madt(root: u64) -> Madt {
    let mut madt = Madt::default();
    let root = if root == 0 { find_root() } else { Some(root) };
    ROOT.store(root.unwrap_or(0), Ordering::Relaxed);
    let Some(table) = root.and_then(|root| table(root, b"APIC")) else { return madt };
    let end = table + u64::from(word(table + 4));
    let mut at = table + 44;
    while at + 2 <= end {
        let [kind, length] = bytes(at);
        match kind {
            // Local APIC, local x2APIC: enabled ones.
            0 if word(at + 4) & 1 != 0 => madt.cpus.push(bytes::<1>(at + 3)[0].into()),
            9 if word(at + 8) & 1 != 0 => madt.cpus.push(word(at + 4).into()),
            16 => madt.mailbox = long(at + 8),
            _ => {}
        }
        at += u64::from(length.max(2));
    }
    madt
}

fn fadt() -> Option<u64> {
    let root = ROOT.load(Ordering::Relaxed);
    if root == 0 { None } else { table(root, b"FACP") }
}

/// Port of the register that suspends the machine and switches it off: PM1a control.
pub fn sleep_port() -> Option<u16> {
    fadt().map(|fadt| word(fadt + 64) as u16).filter(|port| *port != 0)
}

/// Port and value that reset the machine, if the table names such a register.
pub fn reset() -> Option<(u16, u8)> {
    let fadt = fadt().filter(|fadt| word(fadt + 4) > 128 && word(fadt + 112) & 1 << 10 != 0)?;
    Some((long(fadt + 120) as u16, bytes::<1>(fadt + 128)[0]))
}
