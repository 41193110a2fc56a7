//! `cargo xtask image`: a disk that boots Postern through UEFI, the same to the last bit for the same content.

use crate::arch::{Arch, Dialect};
use crate::bundle::Bundle;
use crate::firmware::Boot;
use crate::run::{Workbench, default_cmdline};
use crate::setup::uefi;
use crate::{build, paths, setup};
use anyhow::{Context, Result, bail};
use fatfs::{Date, DateTime, FatType, FileSystem, FormatVolumeOptions, FsOptions, Time, TimeProvider};
use gpt::disk::LogicalBlockSize;
use gpt::mbr::ProtectiveMBR;
use gpt::partition_types::EFI;
use loader::config;
use std::fs;
use std::io::{Cursor, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use uuid::Uuid;

const SECTOR: u64 = 512;
const MIB: u64 = 1 << 20;
/// Where the only partition starts, and what is left behind it for the second copy of the table.
const MARGIN: u64 = MIB;
/// Emulators that know a disk by its geometry want whole cylinders of 16 heads and 63 sectors.
pub const CYLINDER: u64 = 16 * 63 * SECTOR;
/// FAT32 has at least 65525 clusters; this leaves no doubt.
const PARTITION_MIN: u64 = 48 * MIB;
/// Identities of the disk, its partition and its file system: fixed, so that images repeat bit for bit.
const DISK: Uuid = Uuid::from_u128(0x706f_7374_6572_4e00_8000_0000_0000_0001);
const PARTITION: Uuid = Uuid::from_u128(0x706f_7374_6572_4e00_8000_0000_0000_0002);
const VOLUME: u32 = 0x504f_5354;

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
    /// The image; an existing file is overwritten.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// A file for the volume: its path there, and its content.
pub type Content = (String, Vec<u8>);

/// Makes an image.
pub fn run(options: &Options) -> Result<()> {
    let settings = match &options.config {
        Some(path) => fs::read(path).with_context(|| format!("{} cannot be read", path.display()))?,
        None => DEFAULT_SETTINGS.into(),
    };
    let named = options.config.as_deref().unwrap_or(Path::new(SETTINGS));
    let parsed = config::parse(&settings).map_err(|error| anyhow::anyhow!("{}: {error}", named.display()))?;
    let mut wanted: Vec<String> = vec![parsed.hypervisor.unwrap_or(config::HYPERVISOR).into()];
    let paths = [parsed.bundle, parsed.host_kernel, parsed.host_initrd, parsed.guest_kernel, parsed.guest_initrd];
    wanted.extend(paths.into_iter().chain([parsed.device_tree]).flatten().map(str::to_owned));
    let folder = options.config.as_deref().and_then(Path::parent);
    let mut contents = programs(options.arch, options.boot, options.sign.as_deref().zip(options.cert.as_deref()))?;
    for path in wanted.iter().map(|path| path.replace('\\', "/")) {
        let beside = folder.and_then(|folder| beside(folder, &path));
        let file = beside.map_or_else(|| built(options.arch, &path), Ok)?;
        contents.push((path, fs::read(&file).with_context(|| format!("{} cannot be read", file.display()))?));
    }
    contents.push((SETTINGS.into(), settings));
    if options.boot == Boot::GrubUefi {
        contents.push((MENU.into(), menu(options.arch, 0).into()));
    }
    let disk = disk(&contents)?;
    fs::write(&options.out, disk).with_context(|| format!("{} cannot be written", options.out.display()))?;
    Ok(())
}

/// A file that the settings name, as it lies beside them.
fn beside(folder: &Path, path: &str) -> Option<PathBuf> {
    let whole = folder.join(path.trim_start_matches('/'));
    let last = folder.join(path.rsplit('/').next()?);
    [whole, last].into_iter().find(|file| file.is_file())
}

/// A file that this tree builds, by the path it has on a volume.
fn built(arch: Arch, path: &str) -> Result<PathBuf> {
    if path.eq_ignore_ascii_case(POSTERN) {
        let toolchain = setup::toolchain::find(&setup::Cache::open()?, arch)?;
        return Ok(build::all(&toolchain)?.postern);
    }
    if path.eq_ignore_ascii_case(BUNDLE) {
        return default_bundle(arch);
    }
    bail!("{path} is neither beside the settings nor something that is built here")
}

/// Debian as a guest of the test host.
fn default_bundle(arch: Arch) -> Result<PathBuf> {
    let dialect = arch.default_dialect();
    let bench = Workbench::prepare(arch, &[dialect])?;
    let mut bundle = Bundle { host: bench.images.payload("host")?, ..Bundle::default() };
    for (name, value) in [("mode", "run"), ("dialect", Dialect::name(dialect)), ("cpus", "1"), ("memory", "268435456")]
    {
        bundle.set(name, value);
    }
    bundle.kernel = Some(bench.kernel(dialect)?.to_owned());
    bundle.initrd = Some(bench.initrd.clone());
    bundle.cmdline = Some(default_cmdline(dialect).into());
    bundle.write(&format!("image-{}", arch.name()))
}

/// The programs of a volume: what firmware starts, and what that starts.
pub fn programs(arch: Arch, boot: Boot, sign: Option<(&Path, &Path)>) -> Result<Vec<Content>> {
    let cache = setup::Cache::open()?;
    let first = match arch {
        Arch::Aarch64 => "/EFI/BOOT/BOOTAA64.EFI",
        Arch::X86_64 => "/EFI/BOOT/BOOTX64.EFI",
    };
    let toolchain = setup::toolchain::find_target(&cache, arch, arch.uefi_target())?;
    let mut programs = match boot {
        Boot::Uefi => vec![(first.to_owned(), build::application(&toolchain)?)],
        Boot::GrubUefi => {
            let grub = setup::grub::find(&cache)?;
            let modules = uefi::grub_modules(&cache, arch)?;
            vec![
                (first.to_owned(), grub.efi(&paths::bare(), &modules)?),
                (APPLICATION.to_owned(), build::application(&toolchain)?),
            ]
        }
    };
    if let Some((key, cert)) = sign {
        let tools = uefi::signer(&cache)?;
        for (path, file) in programs.iter_mut().filter(|(path, _)| path.to_ascii_lowercase().ends_with(".efi")) {
            *file = signed(&tools, file, key, cert).with_context(|| format!("{path} cannot be signed"))?;
        }
    }
    let read = |(path, file): (String, PathBuf)| Ok((path, fs::read(&file)?));
    programs.into_iter().map(read).collect()
}

/// The menu of an image with GRUB; `default` is the entry that boots by itself.
pub fn menu(arch: Arch, default: usize) -> String {
    let application = format!("menuentry \"Postern\" {{ chainloader {APPLICATION} }}\n");
    let multiboot = match arch {
        Arch::Aarch64 => String::new(),
        // Without the application nothing is measured, and the settings are not read.
        Arch::X86_64 => {
            format!("menuentry \"Postern by Multiboot2\" {{ multiboot2 {POSTERN}; module2 {BUNDLE} }}\n")
        }
    };
    format!("set default={default}\nset timeout=1\n{application}{multiboot}")
}

fn signed(tools: &setup::private::Private, file: &Path, key: &Path, cert: &Path) -> Result<PathBuf> {
    let out = file.with_extension("signed.efi");
    let (program, arguments) = tools.start("sbsign");
    let mut command = Command::new(program);
    command.args(arguments).arg("--key").arg(key).arg("--cert").arg(cert).arg("--output").arg(&out).arg(file);
    let done = command.stdin(Stdio::null()).output().context("sbsign does not start")?;
    if !done.status.success() {
        bail!("sbsign: {}", String::from_utf8_lossy(&done.stderr).lines().last().unwrap_or("no reason given"));
    }
    Ok(out)
}

/// A disk with these files on one EFI system partition.
pub fn disk(contents: &[Content]) -> Result<Vec<u8>> {
    let bytes: u64 = contents.iter().map(|(_, content)| content.len() as u64 + 64 * 1024).sum();
    let size = (bytes + bytes / 64 + 8 * MIB).max(PARTITION_MIN).next_multiple_of(MIB);
    let volume = volume(contents, size)?;
    let mut disk = Cursor::new(vec![0; (size + 2 * MARGIN).next_multiple_of(CYLINDER) as usize]);
    let sectors = u32::try_from(disk.get_ref().len() as u64 / SECTOR - 1).context("the image is larger than 2 TiB")?;
    ProtectiveMBR::with_lb_size(sectors).overwrite_lba0(&mut disk)?;
    let config = gpt::GptConfig::new().writable(true).logical_block_size(LogicalBlockSize::Lb512);
    let mut table = config.create_from_device(disk, Some(DISK))?;
    let id = table.add_partition("postern", size, EFI, 0, Some(MARGIN / SECTOR))?;
    let mut partitions = table.partitions().clone();
    let partition = partitions.get_mut(&id).context("the partition that was just made")?;
    partition.part_guid = PARTITION;
    let start = partition.first_lba * SECTOR;
    table.update_partitions(partitions)?;
    let mut disk = table.write()?;
    disk.seek(SeekFrom::Start(start))?;
    disk.write_all(&volume)?;
    Ok(disk.into_inner())
}

/// The time that all files are from: the first that FAT knows.
#[derive(Debug)]
struct Epoch;

impl TimeProvider for Epoch {
    fn get_current_date(&self) -> Date {
        Date { year: 1980, month: 1, day: 1 }
    }

    fn get_current_date_time(&self) -> DateTime {
        DateTime { date: self.get_current_date(), time: Time { hour: 0, min: 0, sec: 0, millis: 0 } }
    }
}

/// A FAT32 volume of `size` bytes.
fn volume(contents: &[Content], size: u64) -> Result<Vec<u8>> {
    let mut volume = Cursor::new(vec![0; size as usize]);
    let options = FormatVolumeOptions::new().fat_type(FatType::Fat32).volume_id(VOLUME).volume_label(*b"POSTERN    ");
    fatfs::format_volume(&mut volume, options.bytes_per_cluster(512))?;
    {
        let system = FileSystem::new(&mut volume, FsOptions::new().time_provider(&Epoch))?;
        for (path, content) in contents {
            let mut folder = system.root_dir();
            let mut parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
            let name = parts.pop().unwrap_or_default();
            for part in parts {
                folder = folder.create_dir(part)?;
            }
            let mut file = folder.create_file(name).with_context(|| format!("{path} cannot be put on a FAT volume"))?;
            file.truncate()?;
            file.write_all(content)?;
        }
    }
    Ok(volume.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn contents() -> Vec<Content> {
        vec![("/EFI/BOOT/BOOTAA64.EFI".into(), b"application".to_vec()), (SETTINGS.into(), DEFAULT_SETTINGS.into())]
    }

    #[test]
    fn an_image_holds_its_files_and_repeats_bit_for_bit() {
        let disk = disk(&contents()).unwrap();
        assert!(disk == super::disk(&contents()).unwrap(), "the same content makes the same image");
        let table = gpt::GptConfig::new().open_from_device(Cursor::new(disk.clone())).unwrap();
        let partition = table.partitions().values().next().unwrap();
        assert_eq!((table.partitions().len(), partition.part_type_guid.guid), (1, EFI.guid));
        let start = (partition.first_lba * SECTOR) as usize;
        let system = FileSystem::new(Cursor::new(disk[start..].to_vec()), FsOptions::new()).unwrap();
        assert_eq!(system.fat_type(), FatType::Fat32);
        for (path, content) in contents() {
            let mut read = Vec::new();
            system.root_dir().open_file(path.trim_start_matches('/')).unwrap().read_to_end(&mut read).unwrap();
            assert_eq!(read, content);
        }
    }

    #[test]
    fn the_default_settings_are_ones_that_the_application_takes() {
        let parsed = config::parse(DEFAULT_SETTINGS.as_bytes()).unwrap();
        assert_eq!(parsed.bundle, Some(BUNDLE));
        assert_eq!(config::HYPERVISOR.replace('\\', "/"), POSTERN);
    }
}
