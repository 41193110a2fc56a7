//! The emulated machine: QEMU's `virt` with EL2, a log on its first UART and the guest's console on its second.

use crate::setup::qemu::Emulator;
use crate::verdict::{Evidence, Verdict};
use anyhow::{Context, Result};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// The machine that Postern is made for: EL2 and a GICv3.
pub const VIRT: &str = "virt,virtualization=on,gic-version=3";

/// What to boot on what machine.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The `Image` that QEMU starts at EL2.
    pub kernel: PathBuf,
    /// The bundle.
    pub initrd: Option<PathBuf>,
    /// QEMU's machine type with its options.
    pub machine: &'static str,
    /// Physical CPUs.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// One instruction takes one nanosecond of virtual time: counts repeat exactly.
    pub count_instructions: bool,
    /// Kernel command line, for kernels that boot without Postern.
    pub append: Option<String>,
}

/// Something that happened in a session.
pub enum Event<'a> {
    /// A line of the log.
    Log(&'a str),
    /// Bytes from the guest's console.
    Console(&'a [u8]),
    /// A whole line from the guest's console.
    ConsoleLine(&'a str),
}

/// What the user or a scenario types into the guest's console.
#[derive(Clone)]
pub struct Keyboard(Sender<Vec<u8>>);

impl Keyboard {
    /// Types something; quietly nothing once the machine is gone.
    pub fn type_in(&self, bytes: &[u8]) {
        let _ = self.0.send(bytes.to_vec());
    }
}

enum Raw {
    Log(String),
    Console(Vec<u8>),
}

/// A machine that runs; it is switched off when dropped.
pub struct Session {
    child: Child,
    events: Receiver<Raw>,
    keyboard: Keyboard,
}

/// How long a session may go on after its end was seen, for the rest of its output.
const AFTERGLOW: Duration = Duration::from_millis(1500);
/// How long the machine has to switch itself off after a clean end.
const POWER_OFF: Duration = Duration::from_secs(10);
/// How often the stop flag and the deadline are looked at.
const TICK: Duration = Duration::from_millis(50);

impl Session {
    /// Switches a machine on.
    pub fn start(emulator: &Emulator, machine: &Machine) -> Result<Self> {
        let mut command = emulator.command();
        command.args(["-M", machine.machine, "-cpu", "max,pauth-impdef=on"]);
        command.arg("-smp").arg(machine.cpus.to_string()).arg("-m").arg(machine.memory_mib.to_string());
        command.args(["-nodefaults", "-display", "none", "-monitor", "none", "-no-reboot"]);
        // The first UART goes to QEMU's own error stream: its rare messages are worth having in the log.
        command.args([
            "-serial",
            "file:/dev/stderr",
            "-chardev",
            "stdio,id=guest,signal=off",
            "-serial",
            "chardev:guest",
        ]);
        if machine.count_instructions {
            command.args(["-icount", "shift=0,sleep=off"]);
        }
        command.arg("-kernel").arg(&machine.kernel);
        if let Some(file) = &machine.initrd {
            command.arg("-initrd").arg(file);
        }
        if let Some(line) = &machine.append {
            command.arg("-append").arg(line);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("the emulator does not start")?;
        let (sender, events) = channel();
        let log = child.stderr.take().expect("piped");
        let console = child.stdout.take().expect("piped");
        let keys = child.stdin.take().expect("piped");
        let log_sender = sender.clone();
        std::thread::spawn(move || forward_log(log, &log_sender));
        std::thread::spawn(move || forward_console(console, &sender));
        let (typed, to_type) = channel();
        std::thread::spawn(move || forward_keys(&to_type, keys));
        Ok(Session { child, events, keyboard: Keyboard(typed) })
    }

    /// What types into the guest's console.
    pub fn keyboard(&self) -> Keyboard {
        self.keyboard.clone()
    }

    /// Follows the session to its end, `limit` or `stop`, whichever comes first; `on` sees everything that happens and
    /// ends the session by answering false.
    pub fn follow(
        mut self,
        limit: Option<Duration>,
        stop: &AtomicBool,
        mut on: impl FnMut(Event<'_>, &Evidence) -> bool,
    ) -> Verdict {
        let started = Instant::now();
        let mut evidence = Evidence::default();
        let mut over_since: Option<Instant> = None;
        let otherwise = loop {
            let mut go_on = true;
            match self.events.recv_timeout(TICK) {
                Ok(Raw::Log(line)) => {
                    evidence.log(&line);
                    go_on = on(Event::Log(&line), &evidence);
                }
                Ok(Raw::Console(bytes)) => {
                    let lines = evidence.console(&bytes);
                    go_on = on(Event::Console(&bytes), &evidence);
                    for line in lines {
                        go_on &= on(Event::ConsoleLine(&line), &evidence);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break self.death(),
            }
            if !go_on || stop.load(Ordering::Relaxed) {
                break Verdict::Interrupted;
            }
            if let Some(limit) = limit.filter(|limit| started.elapsed() > *limit) {
                break Verdict::Timeout(limit.as_secs());
            }
            if evidence.is_over() {
                let patience = if evidence.crashed() { AFTERGLOW } else { POWER_OFF };
                if over_since.get_or_insert_with(Instant::now).elapsed() > patience {
                    break Verdict::Died("it did not switch off".into());
                }
            }
        };
        evidence.verdict(otherwise)
    }

    /// Why the emulator is gone; an empty reason when it ended without complaint.
    fn death(&mut self) -> Verdict {
        match self.child.wait() {
            Ok(status) if status.success() => Verdict::Died(String::new()),
            Ok(status) => Verdict::Died(status.to_string()),
            Err(error) => Verdict::Died(error.to_string()),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn forward_log(log: impl Read, sender: &Sender<Raw>) {
    let mut reader = BufReader::new(log);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
        let text = String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned();
        if sender.send(Raw::Log(text)).is_err() {
            return;
        }
        line.clear();
    }
}

fn forward_console(mut console: impl Read, sender: &Sender<Raw>) {
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = console.read(&mut buffer) {
        if sender.send(Raw::Console(buffer[..length].to_vec())).is_err() {
            return;
        }
    }
}

fn forward_keys(typed: &Receiver<Vec<u8>>, mut keys: ChildStdin) {
    while let Ok(bytes) = typed.recv() {
        if keys.write_all(&bytes).and_then(|()| keys.flush()).is_err() {
            return;
        }
    }
}
