//! What Postern reads of ACPI's tables: which CPUs there are, where the power management timer is, and by which registers the
//! machine is switched off and reset.

use super::acpi_check::{self, MADT};
use super::acpi_power::Power;
use acpi::address::AddressSpace;
use acpi::fadt::Fadt;
use acpi::madt::{Madt, MadtEntry};
use acpi::{AcpiHandler, AcpiTable, PhysicalMapping};
use core::ptr::NonNull;
use loader::{BootError, Machine};

/// A CPU that can be started (ACPI specification, "Local APIC Flags").
const ENABLED: u32 = 1;

/// Memory at its own address: what boot's page tables map.
#[derive(Clone, Copy, Debug)]
struct Low;

impl AcpiHandler for Low {
    unsafe fn map_physical_region<T>(&self, address: usize, size: usize) -> PhysicalMapping<Self, T> {
        let pointer = NonNull::new(address as *mut T).expect("no table is at address 0");
        // SAFETY: the check has read all of it.
        unsafe { PhysicalMapping::new(address, pointer, size, size, *self) }
    }

    fn unmap_physical_region<T>(_: &PhysicalMapping<Self, T>) {}
}

fn read<'a>(at: u64, size: usize) -> Option<&'a [u8]> {
    let end = at.checked_add(size as u64)?;
    // SAFETY: boot's tables map 4 GiB. What firmware calls a table may be a device, but reading is what ACPI asks for.
    (at != 0 && end <= 1 << 32).then(|| unsafe { core::slice::from_raw_parts(at as *const u8, size) })
}

/// Where firmware of the BIOS kind has put the root pointer.
pub fn find() -> Option<u64> {
    acpi_check::find_root_pointer(&read)
}

/// How the machine is switched off and reset. Only while boot's page tables are in use, and after [`init`].
pub fn power(root: u64) -> Power {
    let fadt = acpi_check::find(root, b"FACP", &read).unwrap_or(&[]);
    Power::parse(fadt, acpi_check::code(fadt, &read).unwrap_or(&[]))
}

/// The table of this kind, if there is one and it is in order. The crate's own search takes every entry of the list for a
/// table's address, and firmware leaves some at 0.
fn table<T: AcpiTable>(root: u64) -> Option<PhysicalMapping<Low, T>> {
    let table = acpi_check::find(root, T::SIGNATURE.as_str().as_bytes().first_chunk()?, &read)?;
    // SAFETY: the check has read all of it.
    Some(unsafe { Low.map_physical_region(table.as_ptr() as usize, table.len()) })
}

/// Puts the CPUs into `machine` and returns the port of the power management timer. Only while boot's page tables are in
/// use.
///
/// # Errors
/// Tables that are damaged or lack the CPUs; more CPUs than Postern can manage.
pub fn init(machine: &mut Machine, root: u64) -> Result<Option<u16>, BootError> {
    acpi_check::check(root, &[b"APIC", b"FACP"], &read)?;
    let madt = table::<Madt>(root).ok_or(MADT)?;
    for entry in madt.get().entries() {
        let (id, flags) = match entry {
            MadtEntry::LocalApic(entry) => (u64::from(entry.apic_id), entry.flags),
            MadtEntry::LocalX2Apic(entry) => (u64::from(entry.x2apic_id), entry.flags),
            _ => continue,
        };
        if flags & ENABLED != 0 && !machine.cpus.contains(&id) {
            machine.cpus.try_push(id).map_err(|_| BootError::TooMany("CPUs"))?;
        }
    }
    // Only a clock: a machine can do without.
    let timer = table::<Fadt>(root).and_then(|fadt| fadt.pm_timer_block().ok().flatten());
    let port = timer.filter(|timer| timer.address_space == AddressSpace::SystemIo);
    Ok(port.and_then(|timer| u16::try_from(timer.address).ok()).filter(|port| *port != 0))
}
