//! QEMU's `virt` machine with EL2.

use super::{Clock, Machine, Session};
use crate::setup::qemu::Qemu;
use anyhow::{Context, Result};
use std::io::Read;
use std::process::{ChildStderr, Command, Stdio};

/// Switches the machine on.
pub fn start(qemu: &Qemu, machine: &Machine) -> Result<Session> {
    let mut command = qemu.command();
    describe(&mut command, machine, "");
    command.arg("-kernel").arg(&machine.kernel);
    if let Some(file) = &machine.initrd {
        command.arg("-initrd").arg(file);
    }
    if let Some(line) = &machine.append {
        command.arg("-append").arg(line);
    }
    spawn(command, |log| log)
}

/// The machine itself; `options` are further ones of its type.
pub fn describe(command: &mut Command, machine: &Machine, options: &str) {
    command.arg("-M").arg(format!("{}{options}", machine.machine)).args(["-cpu", "max,pauth-impdef=on"]);
    size(command, machine);
    if machine.clock == Clock::Instructions {
        command.args(["-icount", "shift=0,sleep=off"]);
    }
}

/// CPUs, memory, two serial ports and nothing else.
pub fn size(command: &mut Command, machine: &Machine) {
    command.arg("-smp").arg(machine.cpus.to_string()).arg("-m").arg(machine.memory_mib.to_string());
    command.args(["-nodefaults", "-display", "none", "-monitor", "none", "-no-reboot"]);
    // The first UART goes to QEMU's own error stream: its rare messages are worth having in the log.
    command.args(["-serial", "file:/dev/stderr", "-chardev", "stdio,id=guest,signal=off", "-serial", "chardev:guest"]);
}

/// Starts the emulator; `wrap` may tie something to its log.
pub fn spawn<R: Read + Send + 'static>(mut command: Command, wrap: impl FnOnce(ChildStderr) -> R) -> Result<Session> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().context("the emulator does not start")?;
    let log = wrap(child.stderr.take().expect("piped"));
    let console = child.stdout.take().expect("piped");
    let keys = child.stdin.take().expect("piped");
    Ok(Session::new(child, log, console, keys))
}
