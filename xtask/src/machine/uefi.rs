//! QEMU's `virt` machine with UEFI firmware and a disk to boot from.

use super::{Machine, Session, virt};
use crate::firmware::{Chain, Disk};
use crate::setup::qemu::Qemu;
use anyhow::Result;
use std::io::{self, Read};

/// Switches the machine on.
pub fn start(qemu: &Qemu, chain: &Chain, machine: &Machine) -> Result<Session> {
    let disk = chain.disk(machine)?;
    let mut command = qemu.command();
    // Firmware describes the machine by ACPI or by a device tree, never by both; Postern reads the tree.
    virt::describe(&mut command, machine, ",acpi=off");
    command.arg("-bios").arg(&chain.firmware);
    command.arg("-drive").arg(format!("if=none,id=boot,format=raw,readonly=on,file={}", disk.0.display()));
    command.args(["-device", "virtio-blk-device,drive=boot"]);
    virt::spawn(command, |log| Log { log, _disk: disk })
}

/// The log of a run, which is read to its end: until then there is a disk.
struct Log<R> {
    log: R,
    _disk: Disk,
}

impl<R: Read> Read for Log<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.log.read(buffer)
    }
}
