//! QEMU's `virt` machine with UEFI firmware and disks to boot from.

use super::desk::Desk;
use super::eye::Eye;
use super::{Machine, Session, virt};
use crate::firmware::Chain;
use crate::setup::qemu::Qemu;
use anyhow::Result;

/// Switches the machine on.
pub fn start(qemu: &Qemu, chain: &Chain, machine: &Machine) -> Result<Session> {
    let desk = Desk::new()?;
    let mut command = qemu.command();
    // Firmware describes the machine by ACPI or by a device tree, never by both.
    virt::describe(&mut command, machine, if machine.extras.acpi { "" } else { ",acpi=off" });
    if let Some(firmware) = &chain.firmware {
        command.arg("-bios").arg(firmware);
    }
    for (index, medium) in chain.media(machine, &desk.folder)?.iter().enumerate() {
        let file = medium.file.display();
        command.arg("-drive").arg(format!("if=none,id=disk{index},format=raw,readonly=on,file={file}"));
        command.arg("-device").arg(format!("virtio-blk-device,drive=disk{index},bootindex={index}"));
    }
    let eye = machine.extras.screen.then(|| Eye::open(&mut command, &desk.folder));
    let mut session = virt::spawn(command, |log| log)?;
    (session.desk, session.eye) = (Some(desk), eye);
    Ok(session)
}
