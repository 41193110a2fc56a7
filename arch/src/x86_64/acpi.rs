//! What Postern reads of ACPI's tables: which CPUs there are, where the power management timer is, and by which registers the
//! machine is switched off and reset.

use super::acpi_check::{self, MADT};
use super::acpi_power::Power;
use acpi::madt::{Madt, MadtEntry};
use core::pin::Pin;
use loader::{BootError, Machine};

/// A CPU that can be started (ACPI specification, "Local APIC Flags").
const ENABLED: u32 = 1;

fn read<'a>(at: u64, size: usize) -> Option<&'a [u8]> {
    let end = at.checked_add(size as u64)?;
    // SAFETY: boot's tables map 4 GiB. What firmware calls a table may be a device, but reading is what ACPI asks for.
    (at != 0 && end <= 1 << 32).then(|| unsafe { core::slice::from_raw_parts(at as *const u8, size) })
}

/// Where the root pointer is, if there is one.
pub fn find(machine: &Machine) -> Option<u64> {
    acpi_check::root_pointer(machine, &read)
}

/// How the machine is switched off and reset. Only while boot's page tables are in use, and after [`init`].
pub fn power(root: u64) -> Power {
    let fadt = acpi_check::find(root, b"FACP", &read).unwrap_or(&[]);
    Power::parse(fadt, acpi_check::code(fadt, &read).unwrap_or(&[]))
}

/// Puts the CPUs into `machine` and returns the port of the power management timer. Only while boot's page tables are in
/// use.
///
/// # Errors
/// Tables that are damaged or lack the CPUs; more CPUs than Postern can manage.
pub fn init(machine: &mut Machine, root: u64) -> Result<Option<u16>, BootError> {
    acpi_check::check(root, &[b"APIC", b"FACP"], &read)?;
    let madt = acpi_check::find(root, b"APIC", &read).ok_or(MADT)?;
    // SAFETY: the check has read all of it, which is as long as this structure at least, and nothing moves it.
    let madt = unsafe { Pin::new_unchecked(&*madt.as_ptr().cast::<Madt>()) };
    for entry in madt.entries() {
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
    Ok(acpi_check::find(root, b"FACP", &read).and_then(acpi_check::pm_timer))
}
