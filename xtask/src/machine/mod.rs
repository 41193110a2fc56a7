//! The emulated machine: a log on its first serial port, and the guest's console on its second.

mod desk;
pub mod eye;
mod kvm;
mod pc;
mod tpm;
mod uefi;
mod virt;

use crate::firmware::Chain;
use crate::setup::bochs::Bochs;
use crate::setup::grub::Grub;
use crate::setup::qemu::Qemu;
use crate::trouble::Trouble;
use crate::verdict::{Evidence, Verdict};
use anyhow::Result;
use desk::Desk;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::Child;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};
use tpm::Tpm;

/// The arm64 machine that Postern is made for: EL2 and a GICv3.
pub const VIRT: &str = "virt,virtualization=on,gic-version=3";

pub use pc::BOCHS_MEMORY_MAX_MIB;

/// The x86-64 machine that Postern is made for: VMX and EPT.
pub const PC: &str = crate::setup::bochs::MODEL;
/// One whose CPUs deliver interrupts to guests themselves, besides.
pub const PC_APICV: &str = crate::setup::bochs::MODEL_APICV;

/// A PC in QEMU, by its model of CPU: with a screen and perhaps a TPM, but without VMX.
pub const PC_NO_VMX: &str = "max";
/// The same with a CPU that claims VMX, and has nothing of it: all that the registers about it say is zero.
pub const PC_HOLLOW_VMX: &str = "max,+vmx,x-force-features=on";

/// Whether it is QEMU that has such an x86-64 machine.
pub fn is_qemu_pc(machine: &str) -> bool {
    machine.starts_with(PC_NO_VMX)
}

/// What emulates a machine, and boots it.
#[derive(Clone, Debug)]
pub enum Emulator {
    /// arm64: QEMU starts an `Image` itself.
    Qemu(Qemu),
    /// arm64, and x86-64 without VMX: UEFI firmware boots it from a disk.
    Uefi(Qemu, Chain),
    /// x86-64: firmware, the BIOS or UEFI, boots it from a disk or CD.
    ChainPc(Bochs, Chain),
    /// x86-64: GRUB boots a Multiboot2 kernel from a CD.
    Bochs(Bochs, Grub),
    /// x86-64: the same CD on this machine's own CPU, in a virtual machine that may use VMX itself.
    Kvm(Qemu, Grub),
}

/// What to boot on what machine.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The `Image` that QEMU starts at EL2, or the Multiboot2 kernel that GRUB starts.
    pub kernel: PathBuf,
    /// The bundle: QEMU's initrd, GRUB's first module.
    pub initrd: Option<PathBuf>,
    /// QEMU's machine type with its options (arm64), or the model of CPU (x86-64).
    pub machine: &'static str,
    /// Physical CPUs.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// What it has beside the usual.
    pub extras: Extras,
    /// Time as the machine sees it.
    pub clock: Clock,
    /// Kernel command line, for kernels that boot without Postern.
    pub append: Option<String>,
    /// The boot loader is to switch off instead of booting (x86-64).
    pub load_only: bool,
    /// What is wrong with it (x86-64).
    pub trouble: Trouble,
}

/// What a machine may have beside the usual.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extras {
    /// A screen that shows graphics: in QEMU, booted by firmware, it can be looked at; in Bochs the host tells what is on it.
    pub screen: bool,
    /// ACPI's tables, and no device tree (arm64, booted by firmware).
    pub acpi: bool,
    /// More lines of the application's settings.
    pub settings: &'static str,
}

impl Extras {
    /// Nothing more.
    pub const NONE: Self = Self { screen: false, acpi: false, settings: "" };
}

/// How a machine's time passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// As the emulator likes it; tests are done soonest so.
    Free,
    /// One second of the machine takes at least one of the user's.
    User,
    /// With every instruction, so that counts repeat exactly: QEMU one nanosecond, Bochs one tick of the TSC.
    Instructions,
}

/// Something that happened in a session.
pub enum Event<'a> {
    /// A line of the log.
    Log(&'a str),
    /// Bytes from the guest's console.
    Console(&'a [u8]),
    /// A whole line from the guest's console.
    ConsoleLine(&'a str),
    /// The machine has switched itself off, after as many ticks as the emulator says, if it says so.
    SwitchedOff {
        /// One for each instruction, and for the time of rest as many as of work.
        ticks: u64,
    },
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

type Typist = Box<dyn FnOnce() + Send>;

/// What the test host logs once the guest has its console, up to the guest's name.
const LAUNCHED: &str = "host: guest ";

enum Raw {
    Log(String),
    Console(Vec<u8>),
}

/// A machine that runs; it is switched off when dropped.
pub struct Session {
    child: Child,
    events: Receiver<Raw>,
    keyboard: Keyboard,
    /// Types, once it is started. The host empties its serial port as it sets it up, so what was typed before is kept until
    /// then.
    typist: Option<Typist>,
    /// Files of this one run.
    desk: Option<Desk>,
    /// Sees the screen, if there is one.
    eye: Option<eye::Eye>,
    /// The TPM, if there is one.
    tpm: Option<Tpm>,
    /// The console is still the firmware's: it uses all serial ports of a PC.
    firmware: bool,
    /// When one attempt to boot fails, firmware makes another.
    tries_again: bool,
}

/// How long a session may go on after its end was seen, for the rest of its output.
const AFTERGLOW: Duration = Duration::from_millis(1500);
/// How long the machine has to switch itself off after a clean end.
const POWER_OFF: Duration = Duration::from_secs(10);
/// How long firmware has for its next attempt to boot, after a message that stays for a while.
const NEXT_ATTEMPT: Duration = Duration::from_secs(40);
/// How often the stop flag and the deadline are looked at.
const TICK: Duration = Duration::from_millis(50);

impl Session {
    /// Switches a machine on.
    pub fn start(emulator: &Emulator, machine: &Machine) -> Result<Self> {
        match emulator {
            Emulator::Qemu(qemu) => virt::start(qemu, machine),
            Emulator::Uefi(qemu, chain) => uefi::start(qemu, chain, machine),
            Emulator::ChainPc(bochs, chain) => pc::start_chain(bochs, chain, machine),
            Emulator::Bochs(bochs, grub) => pc::start(bochs, grub, machine),
            Emulator::Kvm(qemu, grub) => kvm::start(qemu, grub, machine),
        }
    }

    /// Follows a started emulator on the streams of its two serial ports.
    fn new(
        child: Child,
        log: impl Read + Send + 'static,
        console: impl Read + Send + 'static,
        keys: impl Write + Send + 'static,
    ) -> Self {
        let (sender, events) = channel();
        let log_sender = sender.clone();
        std::thread::spawn(move || forward_log(log, &log_sender));
        std::thread::spawn(move || forward_console(console, &sender));
        let (typed, to_type) = channel();
        let typist: Typist = Box::new(move || forward_keys(&to_type, keys));
        Session {
            child,
            events,
            keyboard: Keyboard(typed),
            typist: Some(typist),
            desk: None,
            eye: None,
            tpm: None,
            firmware: false,
            tries_again: false,
        }
    }

    /// Lets go of what was typed: somebody listens now.
    fn listen(&mut self) {
        if let Some(typist) = self.typist.take() {
            std::thread::spawn(typist);
        }
    }

    /// What looks at the screen.
    pub fn eye(&self) -> Option<eye::Eye> {
        self.eye.clone()
    }

    /// Takes the TPM, which then outlives the machine.
    pub fn take_tpm(&mut self) -> Option<Tpm> {
        self.tpm.take()
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
                    if line.starts_with(LAUNCHED) {
                        self.firmware = false;
                        self.listen();
                    }
                    evidence.log(&line);
                    go_on = on(Event::Log(&line), &evidence);
                }
                // What firmware says is not the guest's, and it must not get what is typed for the guest.
                Ok(Raw::Console(_)) if self.firmware => {}
                Ok(Raw::Console(bytes)) => {
                    self.listen();
                    let lines = evidence.console(&bytes);
                    go_on = on(Event::Console(&bytes), &evidence);
                    for line in lines {
                        go_on &= on(Event::ConsoleLine(&line), &evidence);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    let death = self.death();
                    if let Some(ticks) = self.desk.as_ref().and_then(Desk::ticks) {
                        on(Event::SwitchedOff { ticks }, &evidence);
                    }
                    break death;
                }
            }
            if !go_on || stop.load(Ordering::Relaxed) || crate::terminal::nobody_reads() {
                break Verdict::Interrupted;
            }
            if let Some(limit) = limit.filter(|limit| started.elapsed() > *limit) {
                break Verdict::Timeout(limit.as_secs());
            }
            if evidence.is_over() {
                let patience = match evidence.stays_on() {
                    true => AFTERGLOW,
                    false if self.tries_again && evidence.was_refused() => NEXT_ATTEMPT,
                    false => POWER_OFF,
                };
                if over_since.get_or_insert_with(Instant::now).elapsed() > patience {
                    break Verdict::Died("it did not switch off".into());
                }
            } else {
                over_since = None;
            }
        };
        evidence.verdict(otherwise)
    }

    /// Why the emulator is gone; an empty reason when it ended without complaint.
    fn death(&mut self) -> Verdict {
        let status = self.child.wait();
        if let Some(desk) = self.desk.as_ref().filter(|desk| desk.is_bochs()) {
            return Verdict::Died(desk.last_words());
        }
        match status {
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

fn forward_keys(typed: &Receiver<Vec<u8>>, mut keys: impl Write) {
    while let Ok(bytes) = typed.recv() {
        if keys.write_all(&bytes).and_then(|()| keys.flush()).is_err() {
            return;
        }
    }
}
