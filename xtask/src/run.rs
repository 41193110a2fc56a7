//! `cargo xtask run`: boots any kernel and initrd as a protected guest.

use crate::build::{self, Images};
use crate::bundle::Bundle;
use crate::machine::{Event, Machine, Session, VIRT};
use crate::setup::qemu::Emulator;
use crate::setup::{self, Cache, Dialect, initramfs};
use crate::terminal;
use crate::verdict::Verdict;
use anyhow::{Context, Result, bail};
use std::fs;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Memory of the emulated machine beyond the guest's, for Postern, the host and the bundle.
pub const HOST_MIB: u64 = 512;
/// Memory a guest needs beyond kernel and initrd, at the very least.
const GUEST_SPARE: u64 = 48 << 20;
/// Largest kernel or initrd: the test host keeps both in its memory beside the guest's.
const BOOT_FILE_MAX: u64 = 128 << 20;
const MIB: u64 = 1 << 20;

/// A protected guest in the emulator.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// Architecture of machine and guest.
    #[arg(long, value_enum, default_value_t = Arch::Aarch64)]
    pub arch: Arch,
    /// Guest ABI: `realm` runs any stock Linux since 6.13, `pkvm` one built with ARM_PKVM_GUEST.
    #[arg(long, value_enum, default_value_t = Dialect::Realm)]
    pub dialect: Dialect,
    /// Guest kernel, a raw arm64 `Image` [default: Debian's cloud kernel for realm, one built from Debian's source for
    /// pkvm].
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// Guest initrd [default: busybox with a shell; none when --kernel is given].
    #[arg(long, value_name = "FILE")]
    pub initrd: Option<PathBuf>,
    /// Guest kernel command line [default: console and early console on the guest's PL011].
    #[arg(long, value_name = "STR")]
    pub cmdline: Option<String>,
    /// Virtual CPUs of the guest.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=abi::host::VCPUS_MAX as i64))]
    pub cpus: u32,
    /// Memory of the guest: a multiple of 2 MiB such as 512M or 1G.
    #[arg(long, value_name = "SIZE", default_value = "512M", value_parser = size)]
    pub memory: u64,
    /// Physical CPUs of the emulated machine.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=8))]
    pub host_cpus: u32,
    /// End the run, with an error, after so many seconds [default: no limit].
    #[arg(long, value_name = "SECS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub timeout: Option<u64>,
    /// Write the log of hypervisor and host to this file [default: standard error].
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
}

/// Architectures that Postern runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Arch {
    /// arm64 with EL2, in QEMU.
    Aarch64,
}

/// What every command that boots Postern needs.
pub struct Workbench {
    /// The emulator.
    pub emulator: Emulator,
    /// Hypervisor and payloads.
    pub images: Images,
    /// Guest kernel and initrd of each dialect that was asked for.
    pub guests: Vec<(Dialect, PathBuf)>,
    /// The test guest's root file system.
    pub initrd: PathBuf,
}

impl Workbench {
    /// Gets and builds everything; kernels only for the dialects named.
    pub fn prepare(dialects: &[Dialect]) -> Result<Self> {
        let cache = Cache::open()?;
        let toolchain = setup::toolchain::find(&cache)?;
        let emulator = setup::qemu::find(&cache)?;
        let kernel = |dialect: &Dialect| Ok((*dialect, cache.guest_kernel(*dialect)?));
        let guests = dialects.iter().map(kernel).collect::<Result<_>>()?;
        let initrd = initramfs::pack(&cache)?;
        drop(cache);
        Ok(Workbench { emulator, images: build::all(&toolchain)?, guests, initrd })
    }

    /// Default kernel of a dialect.
    pub fn kernel(&self, dialect: Dialect) -> Result<&Path> {
        let found = self.guests.iter().find(|(d, _)| *d == dialect);
        Ok(&found.with_context(|| format!("no {} kernel was prepared", dialect.name()))?.1)
    }
}

/// Default guest command line. A realm's devices are in the shared half of its address space, which only the early
/// console has to be told (bit 39 of the 40 that Postern gives a realm).
pub fn default_cmdline(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Realm => "console=ttyAMA0 earlycon=pl011,0x8009000000",
        Dialect::Pkvm => "console=ttyAMA0",
    }
}

/// Boots the guest and gives its console to the user.
pub fn run(options: &Options) -> Result<Verdict> {
    let stop = terminal::stop_flag();
    // What the user named is looked at before anything is fetched or built.
    for file in options.kernel.iter().chain(&options.initrd) {
        check_file(file)?;
    }
    if let Some(kernel) = &options.kernel {
        check_memory(kernel, options.initrd.as_deref(), options.memory)?;
    }
    check_log(options.log.as_deref())?;
    let dialects = if options.kernel.is_none() { vec![options.dialect] } else { vec![] };
    let bench = Workbench::prepare(&dialects)?;
    let mut bundle = Bundle { host: bench.images.payload("host")?, ..Bundle::default() };
    bundle.set("mode", "run");
    bundle.set("dialect", options.dialect.name());
    bundle.set("cpus", options.cpus);
    bundle.set("memory", options.memory);
    let kernel = options.kernel.clone().map_or_else(|| bench.kernel(options.dialect).map(Path::to_owned), Ok)?;
    bundle.initrd = options.initrd.clone().or_else(|| options.kernel.is_none().then(|| bench.initrd.clone()));
    check_memory(&kernel, bundle.initrd.as_deref(), options.memory)?;
    bundle.kernel = Some(kernel);
    bundle.cmdline = Some(options.cmdline.clone().unwrap_or_else(|| default_cmdline(options.dialect).into()));
    let file = bundle.write(&format!("run-{}", std::process::id()))?;
    let machine = Machine {
        kernel: bench.images.postern.clone(),
        initrd: Some(file.clone()),
        machine: VIRT,
        cpus: options.host_cpus,
        memory_mib: options.memory / MIB + HOST_MIB,
        count_instructions: false,
        append: None,
    };
    let verdict = converse(&bench.emulator, &machine, options, &stop);
    let _ = fs::remove_file(file);
    verdict
}

/// Joins the user's terminal, or pipes, to the guest's console until the session ends.
fn converse(
    emulator: &Emulator,
    machine: &Machine,
    options: &Options,
    stop: &Arc<std::sync::atomic::AtomicBool>,
) -> Result<Verdict> {
    let mut log: Box<dyn Write> = match &options.log {
        Some(file) => Box::new(fs::File::create(file)?),
        None => Box::new(std::io::stderr()),
    };
    let session = Session::start(emulator, machine)?;
    let raw = terminal::RawMode::enter();
    terminal::forward_stdin(session.keyboard(), raw.is_some(), Arc::clone(stop));
    let mut stdout = std::io::stdout().lock();
    let mut column = 0;
    let limit = options.timeout.map(Duration::from_secs);
    let verdict = session.follow(limit, stop, |event, _| match event {
        Event::Log(line) => writeln!(log, "{line}").is_ok(),
        Event::Console(bytes) => {
            column = bytes.iter().rev().take_while(|byte| **byte != b'\n').count();
            stdout.write_all(bytes).and_then(|()| stdout.flush()).is_ok()
        }
        Event::ConsoleLine(_) => true,
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

/// Refuses what cannot be booted for want of content or rights.
fn check_file(file: &Path) -> Result<()> {
    let meta = fs::metadata(file).with_context(|| format!("{} cannot be read", file.display()))?;
    if !meta.is_file() || meta.len() == 0 {
        bail!("{} is not a file with content", file.display());
    }
    if meta.len() > BOOT_FILE_MAX {
        bail!("{} is larger than {} MiB", file.display(), BOOT_FILE_MAX / MIB);
    }
    fs::File::open(file).with_context(|| format!("{} cannot be read", file.display()))?;
    Ok(())
}

/// Refuses a guest memory that the kernel and initrd would not even fit into.
fn check_memory(kernel: &Path, initrd: Option<&Path>, memory: u64) -> Result<()> {
    // The initrd is there twice, packed and unpacked, before the guest can free the packed one.
    let packed = initrd.map_or(Ok(0), |file| fs::metadata(file).map(|meta| meta.len()))?;
    let needed = image_size(kernel)? + 2 * packed + GUEST_SPARE;
    if needed > memory {
        let least = needed.div_ceil(2 * MIB) * 2;
        bail!("--memory {}M is too little: this kernel and initrd need at least {least}M", memory / MIB);
    }
    Ok(())
}

/// Bytes that an arm64 `Image` needs in memory, its uninitialised data included.
fn image_size(file: &Path) -> Result<u64> {
    let bytes = fs::read(file)?;
    if bytes.starts_with(&[0x1f, 0x8b]) {
        bail!("{} is compressed; unpack it first (`zcat FILE > Image`)", file.display());
    }
    match loader::image::parse(&bytes, "kernel") {
        Ok(image) => Ok(image.text_offset + image.size),
        Err(_) => bail!("{} is not a raw arm64 kernel Image (arch/arm64/boot/Image)", file.display()),
    }
}

fn check_log(log: Option<&Path>) -> Result<()> {
    let Some(file) = log else { return Ok(()) };
    let folder = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if file.is_dir() || !folder.is_dir() {
        bail!("--log {}: there is no such folder", file.display());
    }
    Ok(())
}

/// `512M`, `1G` or bytes.
fn size(text: &str) -> std::result::Result<u64, String> {
    let (digits, unit) = match text.char_indices().find(|(_, c)| !c.is_ascii_digit()) {
        Some((at, _)) => text.split_at(at),
        None => (text, ""),
    };
    let shift = match unit.to_ascii_uppercase().trim_end_matches("IB").trim_end_matches('B') {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        _ => return Err(format!("`{unit}` is no unit; use K, M or G")),
    };
    let number: u64 = digits.parse().map_err(|_| "not a number such as 512M".to_owned())?;
    let bytes = number.checked_mul(1 << shift).filter(|b| *b <= 16 << 30).ok_or("at most 16G")?;
    if bytes == 0 || bytes % (2 * MIB) != 0 {
        return Err("not a multiple of 2 MiB".into());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(size("512M"), Ok(512 << 20));
        assert_eq!(size("1GiB"), Ok(1 << 30));
        assert_eq!(size("536870912"), Ok(512 << 20));
        for bad in ["", "0", "M", "3M", "512X", "1000000G", "-1", "99999999999999999999G"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }
}
