//! `cargo xtask image`: a disk or CD that boots Postern, the same to the last bit for the same content.

pub mod check;
mod disk;
pub mod iso;

use crate::arch::{Arch, Dialect};
use crate::bundle::Bundle;
use crate::firmware::Boot;
use crate::paths::Scratch;
use crate::run::default_cmdline;
use crate::setup::{Cache, initramfs, signing, uefi};
use crate::{build, setup};
use anyhow::{Context, Result, bail};
use loader::config;
use std::fs;
use std::path::{Path, PathBuf};

pub use disk::{CYLINDER, disk};

/// Where the application looks for its settings.
pub const SETTINGS: &str = "/EFI/POSTERN/postern.conf";
/// Where the settings expect the bundle unless they say something else.
pub const BUNDLE: &str = "/EFI/POSTERN/bundle.cpio";
/// Where Postern's image is unless they say something else.
pub const POSTERN: &str = "/EFI/POSTERN/postern";
/// The application, where a boot loader in its place starts it from.
const APPLICATION: &str = "/EFI/POSTERN/postern.efi";

/// GRUB's menu.
pub const MENU: &str = "/boot/grub/grub.cfg";

/// A menu that starts the application as a kernel, with a command line and an initrd, which it ignores: they are not measured.
pub const LINUX_MENU: &str = "set timeout=1\nmenuentry \"Postern as Linux\" \
                              { linux /EFI/POSTERN/postern.efi quiet; initrd /EFI/POSTERN/postern.conf }\n";

/// Settings of an image for which the user has none.
pub const DEFAULT_SETTINGS: &str = "# What Postern's UEFI application loads; docs/boot.md lists the settings.\n\
                                    bundle = /EFI/POSTERN/bundle.cpio\n";

/// What to make.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// Architecture of the machine.
    #[arg(long, value_enum, default_value_t = Arch::Aarch64)]
    arch: Arch,
    /// Settings for the image (docs/boot.md). The files it names are read from the folder it is in: `/EFI/x` from `EFI/x`,
    /// else from `x` there. What is not there and has its default path is built [default: Debian in the test host].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// What firmware starts: the application, or GRUB with a menu that does.
    #[arg(long, value_enum, default_value_t = Boot::Uefi)]
    boot: Boot,
    /// Sign what firmware starts, and the application, for Secure Boot with this key (PEM).
    #[arg(long, value_name = "KEY", requires = "cert")]
    sign: Option<PathBuf>,
    /// The certificate of the key (PEM).
    #[arg(long, value_name = "CERT", requires = "sign")]
    cert: Option<PathBuf>,
    /// What to make [default: iso when the file is called so, else disk].
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// The image; an existing file is overwritten.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// Kinds of images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// A GPT disk with an EFI system partition, for UEFI.
    Disk,
    /// A CD that is a disk as well when it is written to one: for UEFI, and on x86_64 for the BIOS.
    Iso,
}

/// A file for the volume: its path there, and its content.
pub type Content = (String, Vec<u8>);

/// Makes an image, and says what to do with it.
pub fn run(options: &Options) -> Result<()> {
    make(options)?;
    let size = fs::metadata(&options.out).map(|meta| meta.len())?;
    say!("{}", options.told(size));
    Ok(())
}

/// Makes an image. All that the user named is looked at before anything is built.
pub fn make(options: &Options) -> Result<()> {
    let settings = match &options.config {
        Some(path) => fs::read(path).with_context(|| format!("--config {} cannot be read", path.display()))?,
        None => DEFAULT_SETTINGS.into(),
    };
    let named = options.config.as_deref().unwrap_or(Path::new(SETTINGS));
    let parsed = config::parse(&settings).map_err(|error| anyhow::anyhow!("{}: {error}", named.display()))?;
    if options.arch == Arch::X86_64 && (parsed.device_tree.is_some() || parsed.console.is_some()) {
        bail!("{}: `device-tree` and `console` are for arm64", named.display());
    }
    let wanted = [
        ("hypervisor", parsed.hypervisor.or(Some(config::HYPERVISOR))),
        ("bundle", parsed.bundle),
        ("host-kernel", parsed.host_kernel),
        ("host-initrd", parsed.host_initrd),
        ("guest-kernel", parsed.guest_kernel),
        ("guest-initrd", parsed.guest_initrd),
        ("device-tree", parsed.device_tree),
    ];
    let folder = options.config.as_deref().and_then(Path::parent);
    let find = |(setting, path): (&str, Option<&str>)| {
        let path = path?.replace('\\', "/");
        let source = Source::of(folder, &path).and_then(|source| source.checked(setting, options.arch));
        Some(source.map(|source| (path, source)).with_context(|| format!("{}: `{setting}`", named.display())))
    };
    let sources = wanted.into_iter().filter_map(find).collect::<Result<Vec<_>>>()?;
    let format = options.format();
    let bios = (format == Format::Iso && options.arch == Arch::X86_64).then(|| iso::Bios::of(&parsed)).transpose();
    let bios = bios.map_err(|why| anyhow::anyhow!("{}: {why}", named.display()))?;
    let sign = options.sign.as_deref().zip(options.cert.as_deref());
    if let Some((key, cert)) = sign {
        crate::check::pem("--sign", key, "PRIVATE KEY")?;
        crate::check::pem("--cert", cert, "CERTIFICATE")?;
    }
    crate::check::writable("--out", &options.out)?;
    if let Some((key, cert)) = sign {
        signing::pair(&signing::tools(&Cache::open()?)?, key, cert)?;
    }
    let workshop = Scratch::new()?;
    let mut contents = programs(options.arch, options.boot, sign, &workshop.0)?;
    for (path, source) in sources {
        contents.push((path, source.read(options.arch)?));
    }
    if options.boot == Boot::GrubUefi {
        contents.push((MENU.into(), menu(options.arch, &parsed, 0).into()));
    }
    contents.push((SETTINGS.into(), settings));
    match format {
        Format::Disk => fs::write(&options.out, disk(&contents)?)
            .with_context(|| format!("{} cannot be written (is the disk full?)", options.out.display()))?,
        Format::Iso => {
            let grub = setup::grub::find(&Cache::open()?)?;
            iso::make(&grub, &workshop.0, &contents, bios.as_ref(), &options.out)?;
        }
    }
    Ok(())
}

/// Builds what every image of an architecture has beforehand.
pub fn get_ready(arch: Arch, boot: Boot) -> Result<()> {
    let workshop = Scratch::new()?;
    programs(arch, boot, None, &workshop.0)?;
    let toolchain = setup::toolchain::find(&Cache::open()?, arch)?;
    build::for_machines(&toolchain).map(|_| ())
}

impl Options {
    /// An image as it is without further wishes.
    pub fn plain(arch: Arch, boot: Boot, format: Format, config: Option<PathBuf>, out: PathBuf) -> Self {
        Options { arch, config, boot, sign: None, cert: None, format: Some(format), out }
    }

    /// What is made.
    fn format(&self) -> Format {
        let suffix = self.out.extension().is_some_and(|suffix| suffix.eq_ignore_ascii_case("iso"));
        self.format.unwrap_or(if suffix { Format::Iso } else { Format::Disk })
    }

    /// What was made, and what to do with it.
    fn told(&self, size: u64) -> String {
        let what = match (self.format(), self.arch) {
            (Format::Disk, _) => "a disk that UEFI boots",
            (Format::Iso, Arch::Aarch64) => "a CD, or a disk when written to one, that UEFI boots",
            (Format::Iso, Arch::X86_64) => "a CD, or a disk when written to one, that UEFI and the BIOS boot",
        };
        let (out, arch) = (self.out.display(), self.arch.name());
        format!(
            "{out}: {} MiB, {what} on {arch} machines\n\
             To boot from a stick (all that is on it is lost): sudo dd if={out} of=/dev/sdX bs=4M conv=fsync status=progress",
            size.div_ceil(1 << 20)
        )
    }
}

/// Where a file comes from that the settings name.
#[derive(Debug, PartialEq, Eq)]
enum Source {
    /// It lies beside the settings.
    Beside(PathBuf),
    /// The hypervisor of this tree.
    Hypervisor,
    /// Debian in the test host.
    Bundle,
}

impl Source {
    /// Of a path on the volume.
    fn of(folder: Option<&Path>, path: &str) -> Result<Self> {
        if let Some(file) = folder.and_then(|folder| beside(folder, path)) {
            fs::File::open(&file).with_context(|| format!("{} cannot be read", file.display()))?;
            return Ok(Source::Beside(file));
        }
        match path {
            _ if path.eq_ignore_ascii_case(POSTERN) => Ok(Source::Hypervisor),
            _ if path.eq_ignore_ascii_case(BUNDLE) => Ok(Source::Bundle),
            _ => bail!(
                "no file {path} is beside the settings, nor is it something that is built here: put it into their folder"
            ),
        }
    }

    /// Refuses a file that is not what the setting takes it for: the machine would say so, too, but only when it boots.
    fn checked(self, setting: &str, arch: Arch) -> Result<Self> {
        let Source::Beside(file) = &self else { return Ok(self) };
        match (setting, arch) {
            ("host-kernel" | "guest-kernel", _) | ("hypervisor", Arch::Aarch64) => crate::check::kernel(arch, file)?,
            ("host-initrd" | "guest-initrd", _) => crate::check::initrd(file)?,
            ("hypervisor", Arch::X86_64) => begins(file, b"\x7fELF", "Postern for x86-64, an ELF program")?,
            ("device-tree", _) => begins(file, &[0xd0, 0x0d, 0xfe, 0xed], "device tree (dtb)")?,
            _ => begins(file, b"070701", "bundle, a cpio archive (newc)")?,
        }
        Ok(self)
    }

    /// The content, built if need be.
    fn read(&self, arch: Arch) -> Result<Vec<u8>> {
        let file = match self {
            Source::Beside(file) => file.clone(),
            Source::Hypervisor => build::for_machines(&setup::toolchain::find(&Cache::open()?, arch)?)?.image,
            Source::Bundle => default_bundle(arch)?,
        };
        fs::read(&file).with_context(|| format!("{} cannot be read", file.display()))
    }
}

/// A file that the settings name, as it lies beside them.
fn beside(folder: &Path, path: &str) -> Option<PathBuf> {
    let whole = folder.join(path.trim_start_matches('/'));
    let last = folder.join(path.rsplit('/').next()?);
    [whole, last].into_iter().find(|file| file.is_file())
}

/// Refuses a file that does not begin as all of its kind do.
fn begins(file: &Path, magic: &[u8], kind: &str) -> Result<()> {
    let bytes = fs::read(file).with_context(|| format!("{} cannot be read", file.display()))?;
    if !bytes.starts_with(magic) {
        bail!("{} is no {kind}", file.display());
    }
    Ok(())
}

/// Debian as a guest of the test host.
fn default_bundle(arch: Arch) -> Result<PathBuf> {
    let dialect = arch.default_dialect();
    let cache = Cache::open()?;
    let toolchain = setup::toolchain::find(&cache, arch)?;
    let (kernel, initrd) = (cache.guest_kernel(dialect)?, initramfs::pack(&cache, arch)?);
    drop(cache);
    let mut bundle = Bundle { host: build::payloads(&toolchain)?.get("host")?, ..Bundle::default() };
    for (name, value) in [("mode", "run"), ("dialect", Dialect::name(dialect)), ("cpus", "1"), ("memory", "268435456")]
    {
        bundle.set(name, value);
    }
    bundle.kernel = Some(kernel);
    bundle.initrd = Some(initrd);
    bundle.cmdline = Some(default_cmdline(dialect).into());
    bundle.write(&format!("image-{}", arch.name()))
}

/// What firmware starts from a volume without being told (UEFI Specification 2.10, section 3.5.1.1).
pub fn started_first(arch: Arch) -> &'static str {
    match arch {
        Arch::Aarch64 => "/EFI/BOOT/BOOTAA64.EFI",
        Arch::X86_64 => "/EFI/BOOT/BOOTX64.EFI",
    }
}

/// The programs of a volume: what firmware starts, and what that starts.
///
/// What is made on the way to them lies in `folder`.
pub fn programs(arch: Arch, boot: Boot, sign: Option<(&Path, &Path)>, folder: &Path) -> Result<Vec<Content>> {
    let cache = Cache::open()?;
    let first = started_first(arch);
    let toolchain = setup::toolchain::find_target(&cache, arch, arch.uefi_target())?;
    let mut programs = match boot {
        Boot::Uefi => vec![(first.to_owned(), build::application(&toolchain)?)],
        Boot::GrubUefi => {
            let grub = setup::grub::find(&cache)?;
            let modules = uefi::grub_modules(&cache, arch)?;
            vec![
                (first.to_owned(), grub.efi(folder, &modules)?),
                (APPLICATION.to_owned(), build::application(&toolchain)?),
            ]
        }
    };
    if let Some((key, cert)) = sign {
        let tools = signing::tools(&cache)?;
        for (path, file) in programs.iter_mut().filter(|(path, _)| path.to_ascii_lowercase().ends_with(".efi")) {
            let out = folder.join(path.rsplit('/').next().unwrap_or_default()).with_extension("signed.efi");
            signing::sign(&tools, file, key, cert, &out).with_context(|| format!("{path} cannot be signed"))?;
            *file = out;
        }
    }
    let read = |(path, file): (String, PathBuf)| Ok((path, fs::read(&file)?));
    programs.into_iter().map(read).collect()
}

/// The menu of an image with GRUB and these settings; `default` is the entry that boots by itself. Without the application
/// nothing is measured and the settings are not read, so the second entry is there only where they ask for no more than that.
pub fn menu(arch: Arch, settings: &config::Config<'_>, default: usize) -> String {
    let application = format!("menuentry \"Postern\" {{ chainloader {APPLICATION} }}\n");
    let multiboot = match (arch, iso::Bios::of(settings)) {
        (Arch::X86_64, Ok(iso::Bios { hypervisor, bundle })) => {
            format!("menuentry \"Postern by Multiboot2\" {{ multiboot2 {hypervisor}; module2 {bundle} }}\n")
        }
        _ => String::new(),
    };
    format!("set default={default}\nset timeout=1\n{application}{multiboot}")
}

/// The menu of an image with the default settings.
pub fn default_menu(arch: Arch, default: usize) -> String {
    let settings = config::parse(DEFAULT_SETTINGS.as_bytes()).expect("a test has parsed them");
    menu(arch, &settings, default)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_settings_are_ones_that_the_application_takes() {
        let parsed = config::parse(DEFAULT_SETTINGS.as_bytes()).unwrap();
        assert_eq!(parsed.bundle, Some(BUNDLE));
        assert_eq!(config::HYPERVISOR.replace('\\', "/"), POSTERN);
    }

    #[test]
    fn what_settings_name_is_found_or_refused_before_it_is_built() {
        let folder = Scratch::new().unwrap();
        fs::create_dir_all(folder.0.join("EFI")).unwrap();
        fs::write(folder.0.join("EFI/whole"), "1").unwrap();
        fs::write(folder.0.join("last"), "2").unwrap();
        let of = |path: &str| Source::of(Some(&folder.0), path);
        assert_eq!(of("/EFI/whole").unwrap(), Source::Beside(folder.0.join("EFI/whole")));
        assert_eq!(of("/a/b/last").unwrap(), Source::Beside(folder.0.join("last")));
        assert_eq!(of(POSTERN).unwrap(), Source::Hypervisor);
        assert_eq!(Source::of(None, BUNDLE).unwrap(), Source::Bundle);
        assert!(of("/EFI/none").unwrap_err().to_string().contains("no file /EFI/none is beside"));
    }

    #[test]
    fn what_settings_name_has_to_be_what_they_take_it_for() {
        let folder = Scratch::new().unwrap();
        let ok = |setting: &str, content: &[u8], arch| {
            let file = folder.0.join("file");
            fs::write(&file, content).unwrap();
            Source::Beside(file).checked(setting, arch).is_ok()
        };
        let good: [(&str, &[u8]); 4] = [
            ("bundle", b"070701..."),
            ("guest-initrd", b"\x1f\x8b..."),
            ("device-tree", b"\xd0\x0d\xfe\xed..."),
            ("hypervisor", b"\x7fELF..."),
        ];
        for (setting, content) in good {
            assert!(ok(setting, content, Arch::X86_64), "{setting}");
        }
        for setting in
            ["hypervisor", "bundle", "host-kernel", "host-initrd", "guest-kernel", "guest-initrd", "device-tree"]
        {
            for arch in Arch::ALL {
                assert!(!ok(setting, b"# A text", arch) && !ok(setting, b"", arch), "{setting}");
            }
        }
        assert_eq!(Source::Bundle.checked("bundle", Arch::X86_64).unwrap(), Source::Bundle, "built here");
    }

    #[test]
    fn what_was_made_is_told_with_what_to_do_with_it() {
        use clap::Parser;
        #[derive(Parser)]
        struct Line {
            #[command(flatten)]
            options: Options,
        }
        let told = |words: &[&str]| Line::parse_from(["x"].iter().chain(words)).options.told((60 << 20) + 1);
        let iso = told(&["--arch", "x86_64", "--out", "a/p.iso"]);
        assert!(iso.starts_with("a/p.iso: 61 MiB, a CD, or a disk when written to one, that UEFI and the BIOS boot"));
        assert!(iso.contains(" dd if=a/p.iso of=/dev/sdX "), "{iso}");
        assert!(told(&["--out", "p.ISO"]).contains("that UEFI boots on aarch64"), "no BIOS there");
        assert!(told(&["--out", "p.img"]).contains("MiB, a disk that UEFI boots on aarch64"));
    }

    #[test]
    fn the_menu_offers_only_what_the_settings_allow() {
        let of = |text: &str| menu(Arch::X86_64, &config::parse(text.as_bytes()).unwrap(), 0);
        assert!(of("hypervisor = /p\nbundle = /b").contains("multiboot2 /p; module2 /b }"));
        assert!(!of("bundle = /b\ntpm = required").contains("multiboot2"), "nothing is measured there");
        assert!(!of("host-kernel = /k").contains("multiboot2"), "there is no bundle");
        assert!(default_menu(Arch::X86_64, 1).contains("default=1") && default_menu(Arch::X86_64, 1).contains(BUNDLE));
        assert!(!default_menu(Arch::Aarch64, 0).contains("multiboot2"));
    }
}
