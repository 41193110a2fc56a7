//! A PC on this machine's own CPU: QEMU with KVM, and VMX for its guest.

use super::desk::Desk;
use super::{Machine, Session, virt};
use crate::setup::grub::Grub;
use crate::setup::qemu::Qemu;
use anyhow::Result;

/// Makes the CD and switches the machine on.
pub fn start(qemu: &Qemu, grub: &Grub, machine: &Machine) -> Result<Session> {
    let desk = Desk::new()?;
    let cd = desk.cd(grub, machine)?;
    let mut command = qemu.command();
    // The CPU's own features, and nothing that could not be moved to another machine.
    command.args(["-M", "q35", "-accel", "kvm", "-cpu", "host,migratable=off,+vmx,+x2apic"]);
    virt::size(&mut command, machine);
    command.arg("-cdrom").arg(cd).args(["-boot", "d"]);
    let mut session = virt::spawn(command, |log| log)?;
    session.desk = Some(desk);
    Ok(session)
}
