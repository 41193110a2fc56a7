//! QEMU's `virt` machine, or its PC without VMX, with UEFI firmware and disks to boot from.

use super::desk::Desk;
use super::eye::Eye;
use super::tpm::Tpm;
use super::{Machine, Session, is_qemu_pc, virt};
use crate::firmware::{Chain, Drive};
use crate::setup::qemu::Qemu;
use anyhow::{Context, Result};
use std::fs;
use std::path::Path;

/// Switches the machine on.
pub fn start(qemu: &Qemu, chain: &Chain, machine: &Machine) -> Result<Session> {
    let desk = Desk::new()?;
    let mut command = qemu.command();
    let pc = is_qemu_pc(machine.machine);
    if pc {
        command.args(["-M", "q35", "-cpu", machine.machine]);
        virt::size(&mut command, machine);
    } else {
        // Firmware describes the machine by ACPI or by a device tree, never by both.
        virt::describe(&mut command, machine, if machine.extras.acpi { "" } else { ",acpi=off" });
    }
    let firmware = chain.firmware.as_deref().context("this machine has no firmware of its own")?;
    match &chain.variables {
        None => {
            command.arg("-bios").arg(firmware);
        }
        Some(variables) => {
            let file = desk.folder().join("variables.fd");
            fs::write(&file, variables)?;
            let flash = |unit: u32, file: &Path, how: &str| {
                format!("if=pflash,unit={unit},format=raw,file={}{how}", file.display())
            };
            command.arg("-drive").arg(flash(0, firmware, ",readonly=on"));
            command.arg("-drive").arg(flash(1, &file, ""));
        }
    }
    let bus = if pc { "pci" } else { "device" };
    for (index, medium) in chain.media(machine, desk.folder())?.iter().enumerate() {
        let file = medium.file.display();
        command.arg("-drive").arg(format!("if=none,id=disk{index},format=raw,readonly=on,file={file}"));
        let device = match medium.drive {
            Drive::Disk | Drive::HybridDisk => format!("virtio-blk-{bus}"),
            Drive::Cd => {
                command.arg("-device").arg(format!("virtio-scsi-{bus}"));
                "scsi-cd".into()
            }
        };
        command.arg("-device").arg(format!("{device},drive=disk{index},bootindex={index}"));
    }
    let (screen, interface) = if pc { ("VGA", "tpm-crb") } else { ("ramfb", "tpm-tis-device") };
    let eye = machine.extras.screen.then(|| Eye::open(&mut command, screen, desk.folder()));
    let tpm = chain.tpm.as_ref().map(|program| Tpm::plug_in(program, &mut command, interface)).transpose()?;
    let mut session = virt::spawn(command, |log| log)?;
    (session.desk, session.eye, session.tpm) = (Some(desk), eye, tpm);
    session.tries_again = true;
    Ok(session)
}
