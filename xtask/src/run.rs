//! `cargo xtask run`: boots any kernel and initrd as a protected guest.

use crate::arch::{Arch, Dialect};
use crate::build::{self, Images};
use crate::bundle::Bundle;
use crate::check;
use crate::firmware::{Chain, Firmware};
use crate::machine::{self, Clock, Emulator, Event, Extras, Machine, Session};
use crate::setup::qemu::Qemu;
use crate::setup::{self, Cache, initramfs};
use crate::terminal;
use crate::trouble::Trouble;
use crate::verdict::Verdict;
use anyhow::{Context, Error, Result};
use std::fs;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Memory of the emulated machine beyond the guest's, for Postern, the host and the bundle.
pub const HOST_MIB: u64 = 512;
const MIB: u64 = 1 << 20;

/// A protected guest in the emulator.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// Architecture of machine and guest.
    #[arg(long, value_enum, default_value_t = Arch::Aarch64)]
    pub arch: Arch,
    /// Guest ABI: `realm` (aarch64) runs any stock Linux since 6.13, `pkvm` (aarch64) one built with ARM_PKVM_GUEST, `tdx`
    /// (x86_64) one built with INTEL_TDX_GUEST, such as Debian's [default: realm on aarch64, tdx on x86_64].
    #[arg(long, value_enum)]
    pub dialect: Option<Dialect>,
    /// Guest kernel: a raw arm64 `Image` or an x86-64 `bzImage` [default: Debian's cloud kernel for realm and tdx, one built
    /// from Debian's source for pkvm].
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// Guest initrd: a cpio archive, compressed or not [default: busybox with a shell; none when --kernel is given].
    #[arg(long, value_name = "FILE")]
    pub initrd: Option<PathBuf>,
    /// Guest kernel command line [default: console and early console on the guest's serial port].
    #[arg(long, value_name = "STR")]
    pub cmdline: Option<String>,
    /// Virtual CPUs of the guest, 1 to 8.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=abi::host::VCPUS_MAX as i64))]
    pub cpus: u32,
    /// Memory of the guest: a multiple of 2 MiB such as 512M or 1G, at most 16G (x86_64: 2560M) and at least what kernel and
    /// initrd need.
    #[arg(long, value_name = "SIZE", default_value = "512M", value_parser = size)]
    pub memory: u64,
    /// Physical CPUs of the emulated machine, 1 to 8 [default: 2; on x86_64 1, since Bochs 3.0 is not reliable with more].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=8))]
    pub host_cpus: Option<u32>,
    /// End the run, with an error, after so many seconds [default: no limit].
    #[arg(long, value_name = "SECS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub timeout: Option<u64>,
    /// What boots the machine [default: direct on aarch64, grub-bios on x86_64].
    #[arg(long, value_enum)]
    pub firmware: Option<Firmware>,
    /// What runs the machine: `kvm` (x86_64) is this machine's own CPU, if it gives virtual machines VMX.
    #[arg(long, value_enum, default_value_t = Accel::Emulator)]
    pub accel: Accel,
    /// Write the log of hypervisor and host to this file [default: standard error].
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
}

/// What runs the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Accel {
    /// QEMU without acceleration, or Bochs.
    Emulator,
    /// QEMU with KVM and nested VMX.
    Kvm,
}

/// What every command that boots Postern needs.
pub struct Workbench {
    /// The emulator.
    pub emulator: Emulator,
    /// Hypervisor and payloads.
    pub images: Images,
    /// Guest kernel and initrd of each dialect that was asked for.
    pub guests: Vec<(Dialect, PathBuf)>,
    /// Debian's older kernel, where there are two.
    pub older: Option<PathBuf>,
    /// The test guest's root file system.
    pub initrd: PathBuf,
    /// Ways to boot through firmware that are ready.
    chains: Vec<(Firmware, Chain)>,
    /// What has x86-64 machines without VMX, if one is wanted.
    without_vmx: Option<Qemu>,
}

impl Workbench {
    /// Gets and builds everything; kernels only for the dialects named.
    pub fn prepare(arch: Arch, dialects: &[Dialect]) -> Result<Self> {
        let cache = Cache::open()?;
        let toolchain = setup::toolchain::find(&cache, arch)?;
        let emulator = match arch {
            Arch::Aarch64 => Emulator::Qemu(setup::qemu::find(&cache, arch)?),
            Arch::X86_64 => Emulator::Bochs(setup::bochs::find(&cache)?, setup::grub::find(&cache)?),
        };
        let kernel = |dialect: &Dialect| Ok((*dialect, cache.guest_kernel(*dialect)?));
        let guests = dialects.iter().map(kernel).collect::<Result<_>>()?;
        let older = dialects.contains(&Dialect::Tdx).then(|| cache.stable_tdx_kernel()).transpose()?;
        let initrd = initramfs::pack(&cache, arch)?;
        drop(cache);
        Ok(Workbench {
            emulator,
            images: build::all(&toolchain)?,
            guests,
            older,
            initrd,
            chains: vec![],
            without_vmx: None,
        })
    }

    /// Has the machine booted through firmware from now on.
    pub fn boot_through(&mut self, firmware: Firmware, arch: Arch) -> Result<()> {
        self.get_ready_for(firmware, arch.machine(), arch)?;
        self.emulator = self.emulator_for(firmware, arch.machine());
        Ok(())
    }

    /// Gets and builds what it takes to boot a machine through firmware.
    pub fn get_ready_for(&mut self, firmware: Firmware, machine: &str, arch: Arch) -> Result<()> {
        if machine::is_qemu_pc(machine) && self.without_vmx.is_none() {
            self.without_vmx = Some(setup::qemu::find(&Cache::open()?, arch)?);
        }
        if !self.chains.iter().any(|(known, _)| *known == firmware) {
            self.chains.extend(firmware.prepare(arch)?.map(|chain| (firmware, chain)));
        }
        Ok(())
    }

    /// Has this machine's own CPU run Postern from now on.
    fn accelerate(&mut self) -> Result<()> {
        if let Emulator::Bochs(_, grub) = &self.emulator {
            self.emulator = Emulator::Kvm(setup::qemu::find(&Cache::open()?, Arch::X86_64)?, grub.clone());
        }
        Ok(())
    }

    /// The emulator of a machine, with a way to boot that is ready.
    pub fn emulator_for(&self, firmware: Firmware, machine: &str) -> Emulator {
        let chain = self.chains.iter().find(|(known, _)| *known == firmware).map(|(_, chain)| chain.clone());
        let without_vmx = self.without_vmx.as_ref().filter(|_| machine::is_qemu_pc(machine));
        match (&self.emulator, chain) {
            (Emulator::Bochs(..), Some(chain)) if let Some(qemu) = without_vmx => Emulator::Uefi(qemu.clone(), chain),
            (Emulator::Qemu(qemu), Some(chain)) => Emulator::Uefi(qemu.clone(), chain),
            (Emulator::Bochs(bochs, _), Some(chain)) => Emulator::ChainPc(bochs.clone(), chain),
            (emulator, _) => emulator.clone(),
        }
    }

    /// Default kernel of a dialect.
    pub fn kernel(&self, dialect: Dialect) -> Result<&Path> {
        let found = self.guests.iter().find(|(d, _)| *d == dialect);
        Ok(&found.with_context(|| format!("no {} kernel was prepared", dialect.name()))?.1)
    }
}

/// The kernel's word for the first serial port.
pub fn console(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Realm | Dialect::Pkvm => "console=ttyAMA0",
        Dialect::Tdx => "console=ttyS0",
    }
}

/// Default guest command line. A realm's devices are in the shared half of its address space, which only the early
/// console has to be told (bit 39 of the 40 that Postern gives a realm).
pub fn default_cmdline(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Realm => "console=ttyAMA0 earlycon=pl011,0x8009000000",
        Dialect::Pkvm => "console=ttyAMA0",
        Dialect::Tdx => "console=ttyS0 earlyprintk=ttyS0",
    }
}

impl Options {
    /// The dialect and way to boot asked for, or those of the architecture.
    ///
    /// # Errors
    /// The architecture has no such guests, or does not boot like that.
    pub fn check(&self) -> Result<(Dialect, Firmware), String> {
        let firmware = Firmware::choose(self.firmware, self.arch)?;
        let dialect = self.dialect.unwrap_or(self.arch.default_dialect());
        if dialect.arch() != self.arch {
            let (name, arch) = (dialect.name(), dialect.arch().name());
            return Err(format!("--dialect {name} is spoken by {arch} guests: add --arch {arch}"));
        }
        if self.accel == Accel::Kvm && (self.arch != Arch::X86_64 || firmware != Firmware::GrubBios) {
            return Err("--accel kvm is for --arch x86_64 with --firmware grub-bios".into());
        }
        let most = crate::machine::BOCHS_MEMORY_MAX_MIB - HOST_MIB;
        if self.arch == Arch::X86_64 && self.accel != Accel::Kvm && self.memory / MIB > most {
            return Err(format!("--memory is at most {most}M for a guest in Bochs"));
        }
        Ok((dialect, firmware))
    }
}

/// Boots the guest and gives its console to the user.
pub fn run(options: &Options) -> Result<Verdict> {
    let stop = terminal::stop_flag();
    let (dialect, firmware) = options.check().map_err(Error::msg)?;
    // What the user named is looked at before anything is fetched or built.
    for file in options.kernel.iter().chain(&options.initrd) {
        check::file(file)?;
    }
    if let Some(file) = &options.initrd {
        check::initrd(file)?;
    }
    if let Some(kernel) = &options.kernel {
        check::memory(options.arch, kernel, options.initrd.as_deref(), options.memory)?;
        if options.initrd.is_none() {
            eprintln!("note: --kernel without --initrd: this guest gets no initrd");
        }
    }
    options.log.iter().try_for_each(|file| check::writable("--log", file))?;
    if options.accel == Accel::Kvm {
        setup::kvm::check()?;
    }
    let dialects = if options.kernel.is_none() { vec![dialect] } else { vec![] };
    let mut bench = Workbench::prepare(options.arch, &dialects)?;
    bench.boot_through(firmware, options.arch)?;
    if options.accel == Accel::Kvm {
        bench.accelerate()?;
    }
    let kernel = options.kernel.clone().map_or_else(|| bench.kernel(dialect).map(Path::to_owned), Ok)?;
    let file = bundle(options, dialect, &bench, &kernel)?;
    let machine = Machine {
        kernel: bench.images.postern.clone(),
        initrd: Some(file.clone()),
        machine: options.arch.machine(),
        cpus: options.host_cpus.unwrap_or(options.arch.cpus()),
        memory_mib: options.memory / MIB + HOST_MIB,
        clock: Clock::User,
        append: None,
        load_only: false,
        trouble: Trouble::Nothing,
        extras: Extras::NONE,
    };
    let verdict = converse(&bench.emulator, &machine, options, &stop);
    let _ = fs::remove_file(file);
    if let Ok(verdict) = &verdict
        && !verdict.is_ok()
        && *verdict != Verdict::Interrupted
    {
        let doubt = match options.initrd.is_none() && verdict.to_string().contains(NO_ROOT) {
            true => Some("there is no root file system: --initrd FILE gives the guest one".into()),
            false => check::doubt(dialect, &kernel),
        };
        doubt.iter().for_each(|doubt| eprintln!("hint: {doubt}"));
    }
    verdict
}

/// What a Linux says that has neither an initrd nor a disk.
const NO_ROOT: &str = "Unable to mount root fs";

/// Packs the bundle of this run.
fn bundle(options: &Options, dialect: Dialect, bench: &Workbench, kernel: &Path) -> Result<PathBuf> {
    let mut bundle = Bundle { host: bench.images.payloads.get("host")?, ..Bundle::default() };
    bundle.set("mode", "run");
    bundle.set("dialect", dialect.name());
    bundle.set("cpus", options.cpus);
    bundle.set("memory", options.memory);
    bundle.initrd = options.initrd.clone().or_else(|| options.kernel.is_none().then(|| bench.initrd.clone()));
    check::memory(options.arch, kernel, bundle.initrd.as_deref(), options.memory)?;
    bundle.kernel = Some(kernel.to_owned());
    bundle.cmdline = Some(options.cmdline.clone().unwrap_or_else(|| default_cmdline(dialect).into()));
    bundle.write(&format!("run-{}", std::process::id()))
}

/// Joins the user's terminal, or pipes, to the guest's console until the session ends.
fn converse(
    emulator: &Emulator,
    machine: &Machine,
    options: &Options,
    stop: &Arc<std::sync::atomic::AtomicBool>,
) -> Result<Verdict> {
    let mut log: Box<dyn Write> = match &options.log {
        Some(file) => {
            Box::new(fs::File::create(file).with_context(|| format!("--log {} cannot be written", file.display()))?)
        }
        None => Box::new(std::io::stderr()),
    };
    let session = Session::start(emulator, machine)?;
    let raw = terminal::RawMode::enter();
    terminal::forward_stdin(session.keyboard(), raw.is_some(), Arc::clone(stop));
    let mut column = 0;
    let limit = options.timeout.map(Duration::from_secs);
    let verdict = session.follow(limit, stop, |event, _| match event {
        Event::Log(line) => writeln!(log, "{line}").is_ok(),
        Event::Console(bytes) => {
            column = bytes.iter().rev().take_while(|byte| **byte != b'\n').count();
            terminal::pass_on(bytes)
        }
        Event::ConsoleLine(_) | Event::SwitchedOff { .. } => true,
    });
    drop(raw);
    if column > 0 && std::io::stdout().is_terminal() && std::io::stderr().is_terminal() {
        // What follows starts on a line of its own.
        eprintln!();
    }
    if let (Verdict::Crash(record), Some(_)) = (&verdict, &options.log) {
        record.iter().for_each(|line| eprintln!("{line}"));
    }
    Ok(verdict)
}

/// `512M`, `1G` or bytes.
fn size(text: &str) -> std::result::Result<u64, String> {
    const FORMS: &str = "give whole K, M or G, such as 1536M or 2G, or bytes";
    let (digits, unit) = match text.char_indices().find(|(_, c)| !c.is_ascii_digit()) {
        Some((at, _)) => text.split_at(at),
        None => (text, ""),
    };
    let shift = match unit.to_ascii_uppercase().trim_end_matches("IB").trim_end_matches('B') {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        _ => return Err(FORMS.into()),
    };
    let number: u64 = match digits.parse() {
        Ok(number) => number,
        // A number without end.
        Err(_) if !digits.is_empty() => u64::MAX,
        Err(_) => return Err(FORMS.into()),
    };
    let bytes = number.checked_mul(1 << shift).filter(|b| *b <= 16 << 30).ok_or("at most 16G")?;
    if bytes == 0 || bytes % (2 * MIB) != 0 {
        return Err(format!("not a multiple of 2 MiB; {FORMS}"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dialects_belong_to_architectures() {
        use clap::Parser;
        #[derive(Parser)]
        struct Line {
            #[command(flatten)]
            options: Options,
        }
        let dialect = |words: &[&str]| {
            let line = Line::try_parse_from(["x"].iter().chain(words)).map_err(|error| error.to_string())?;
            line.options.check().map(|(dialect, _)| dialect)
        };
        assert_eq!(dialect(&[]), Ok(Dialect::Realm));
        assert_eq!(dialect(&["--dialect", "pkvm"]), Ok(Dialect::Pkvm));
        assert_eq!(dialect(&["--arch", "x86_64"]), Ok(Dialect::Tdx));
        assert!(dialect(&["--dialect", "tdx"]).unwrap_err().contains("--arch x86_64"));
        assert!(dialect(&["--arch", "x86_64", "--dialect", "realm"]).is_err());
        assert!(dialect(&["--accel", "kvm"]).unwrap_err().contains("x86_64"));
        assert_eq!(dialect(&["--arch", "x86_64", "--accel", "kvm"]), Ok(Dialect::Tdx));
        assert!(dialect(&["--arch", "x86_64", "--accel", "kvm", "--firmware", "uefi"]).is_err());
        assert!(dialect(&["--firmware", "grub-bios"]).unwrap_err().contains("direct, uefi, grub-uefi"));
        for bad in [["--cpus", "0"], ["--cpus", "9"], ["--host-cpus", "9"], ["--memory", "3M"], ["--timeout", "0"]] {
            assert!(dialect(&bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(size("512M"), Ok(512 << 20));
        assert_eq!(size("1GiB"), Ok(1 << 30));
        assert_eq!(size("536870912"), Ok(512 << 20));
        for bad in ["", "0", "M", "3M", "512X", "1000000G", "-1", "99999999999999999999G"] {
            assert!(size(bad).is_err(), "{bad}");
        }
        for unclear in ["1.5G", "1,5G", "512X", "half", "-1", "", "M"] {
            assert!(size(unclear).unwrap_err().contains("1536M"), "{unclear}");
        }
        assert_eq!(size("99999999999999999999G"), Err("at most 16G".into()));
    }
}
