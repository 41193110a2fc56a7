//! How the emulated machine is booted: directly by the emulator, or through its firmware from a disk.

mod mistake;
mod secure;

use crate::arch::Arch;
use crate::image::iso;
use crate::image::{self, BUNDLE, Content, DEFAULT_SETTINGS, Format, MENU, POSTERN, SETTINGS};
use crate::machine::Machine;
use crate::paths;
use crate::setup::private::Private;
use crate::setup::{Cache, uefi};
use anyhow::{Context, Result};
use clap::ValueEnum;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

pub use mistake::Mistake;

/// The way a run boots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Firmware {
    /// The emulator starts Postern itself (aarch64).
    Direct,
    /// UEFI firmware starts Postern's application from a disk.
    Uefi,
    /// UEFI firmware starts GRUB, and GRUB the application.
    GrubUefi,
    /// UEFI firmware starts GRUB, and GRUB the application as it starts Linux (aarch64).
    GrubUefiLinux,
    /// UEFI firmware starts GRUB, and GRUB Postern by Multiboot2 (x86_64).
    GrubUefiMultiboot2,
    /// The BIOS starts GRUB from a CD, and GRUB Postern by Multiboot2 (x86_64).
    GrubBios,
    /// An image that `cargo xtask image` has made, with its hypervisor for real machines, and its bundle or the scenario's.
    #[value(skip)]
    Image(Rom, Boot, Drive),
    /// UEFI tries a disk with each of these mistakes, then one without.
    #[value(skip)]
    Mistakes(&'static [Mistake]),
    /// GRUB's menu has a disk with a mistake, one without, and an entry that switches the machine off.
    #[value(skip)]
    Menu,
    /// UEFI that starts signed programs only tries one that is not, one that was altered, and one that is.
    #[value(skip)]
    SecureBoot,
    /// UEFI that finds a TPM 2.0; on x86_64 in QEMU.
    #[value(skip)]
    Tpm,
}

/// What runs first on a PC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rom {
    /// The emulator's BIOS.
    Bios,
    /// UEFI.
    Uefi,
}

/// What an image has been written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drive {
    /// A disk, such as a USB stick.
    Disk,
    /// A disk with an image that is a CD as well.
    HybridDisk,
    /// A CD.
    Cd,
}

/// What a UEFI disk starts first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Boot {
    /// Postern's application.
    Uefi,
    /// GRUB with a menu; on x86_64 its second entry boots by Multiboot2, without the application.
    GrubUefi,
}

/// All that the media of one run are made of, but for Postern and the bundle.
#[derive(Clone, Debug)]
pub struct Chain {
    /// The emulator's firmware, if it is not its own BIOS.
    pub firmware: Option<PathBuf>,
    /// Its variables as they are at first, if it is to remember any.
    pub variables: Option<Vec<u8>>,
    /// The emulator of the TPM that it measures into, if there is one.
    pub tpm: Option<Private>,
    programs: Vec<Content>,
    media: Media,
}

/// What there is besides or in place of one disk with everything in order.
#[derive(Clone, Debug)]
enum Media {
    Disk,
    Image(Arch, Boot, Drive),
    Mistakes(&'static [Mistake]),
    /// With the programs of the disk without a mistake.
    Menu(Vec<Content>),
    /// With the programs that are not to start.
    SecureBoot([Content; 2]),
}

/// What the machine finds in a drive.
pub struct Medium {
    /// Its content.
    pub file: PathBuf,
    /// The drive.
    pub drive: Drive,
}

impl Firmware {
    /// All ways of an architecture, the default one first.
    pub fn of(arch: Arch) -> &'static [Firmware] {
        match arch {
            Arch::Aarch64 => &[Firmware::Direct, Firmware::Uefi, Firmware::GrubUefi, Firmware::GrubUefiLinux],
            Arch::X86_64 => &[Firmware::GrubBios, Firmware::Uefi, Firmware::GrubUefi, Firmware::GrubUefiMultiboot2],
        }
    }

    /// What the user wished, or the default.
    ///
    /// # Errors
    /// The architecture does not boot like that.
    pub fn choose(wish: Option<Firmware>, arch: Arch) -> Result<Firmware, String> {
        let all = Firmware::of(arch);
        let chosen = wish.unwrap_or(all[0]);
        if !all.contains(&chosen) {
            let names: Vec<String> = all.iter().map(|firmware| firmware.name()).collect();
            let (name, arch) = (chosen.name(), arch.name());
            return Err(format!("--firmware {name} does not exist for {arch}, which has {}", names.join(", ")));
        }
        Ok(chosen)
    }

    /// Name on the command line.
    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// Gets and builds the chain; none for what the emulator can do without.
    pub fn prepare(self, arch: Arch) -> Result<Option<Chain>> {
        let folder = paths::bare();
        let programs = |boot| image::programs(arch, boot, None, &folder);
        let with_menu = |menu: String| {
            let mut programs = programs(Boot::GrubUefi)?;
            programs.push((MENU.into(), menu.into()));
            anyhow::Ok(programs)
        };
        let (programs, media) = match self {
            Firmware::Direct | Firmware::GrubBios => return Ok(None),
            Firmware::Uefi | Firmware::Tpm => (programs(Boot::Uefi)?, Media::Disk),
            Firmware::GrubUefi => (with_menu(image::default_menu(arch, 0))?, Media::Disk),
            Firmware::GrubUefiLinux => (with_menu(image::LINUX_MENU.into())?, Media::Disk),
            Firmware::GrubUefiMultiboot2 => (with_menu(image::default_menu(arch, 1))?, Media::Disk),
            Firmware::Image(_, boot, drive) => {
                image::get_ready(arch, boot)?;
                (vec![], Media::Image(arch, boot, drive))
            }
            Firmware::Mistakes(list) => (programs(Boot::Uefi)?, Media::Mistakes(list)),
            Firmware::Menu => (with_menu(mistake::menu(arch))?, Media::Menu(programs(Boot::Uefi)?)),
            Firmware::SecureBoot => return secure::prepare(arch).map(Some),
        };
        let cache = Cache::open()?;
        let mut chain = Chain { firmware: None, variables: None, tpm: None, programs, media };
        match self {
            Firmware::Image(Rom::Bios, ..) => {}
            Firmware::Tpm if arch == Arch::Aarch64 => {
                let (firmware, variables) = uefi::secure_firmware(&cache)?;
                (chain.firmware, chain.variables) = (Some(firmware), Some(fs::read(variables)?));
            }
            _ => chain.firmware = Some(uefi::firmware(&cache, arch)?),
        }
        if self == Firmware::Tpm {
            chain.tpm = Some(uefi::tpm(&cache)?);
        }
        Ok(Some(chain))
    }
}

impl Chain {
    /// Makes the media of one run in `folder`, in the order in which firmware tries them.
    pub fn media(&self, machine: &Machine, folder: &Path) -> Result<Vec<Medium>> {
        if let Media::Image(arch, boot, drive) = self.media {
            return Ok(vec![Medium { file: made(arch, boot, drive, machine, folder)?, drive }]);
        }
        let contents = self.contents(machine)?;
        let mut disks = Vec::new();
        match &self.media {
            Media::Disk | Media::Image(..) => {}
            Media::Mistakes(list) => disks.extend(list.iter().map(|mistake| mistake.made(&contents))),
            Media::Menu(programs) => {
                disks.push(Mistake::Setting.made(&contents));
                disks.push(mistake::second(&contents, programs));
            }
            Media::SecureBoot(programs) => {
                disks.extend(programs.iter().map(|program| secure::disk(&contents, program)));
            }
        }
        if !matches!(self.media, Media::Menu(_)) {
            disks.push(contents);
        }
        let mut media = Vec::new();
        for (index, contents) in disks.iter().enumerate() {
            let file = folder.join(format!("boot{index}.img"));
            fs::write(&file, image::disk(contents)?).context("a disk of this run cannot be written")?;
            media.push(Medium { file, drive: Drive::Disk });
        }
        Ok(media)
    }

    /// Files of the volume with everything in order.
    pub fn contents(&self, machine: &Machine) -> Result<Vec<Content>> {
        let read = |file: &PathBuf| fs::read(file).with_context(|| format!("{} cannot be read", file.display()));
        let mut contents = self.programs.clone();
        contents.push((POSTERN.into(), read(&machine.kernel)?));
        contents.push((SETTINGS.into(), format!("{DEFAULT_SETTINGS}{}", machine.extras.settings).into()));
        if let Some(bundle) = &machine.initrd {
            contents.push((BUNDLE.into(), read(bundle)?));
        }
        Ok(contents)
    }
}

/// An image as its user makes it: of this tree alone, or of settings with a bundle beside them.
fn made(arch: Arch, boot: Boot, drive: Drive, machine: &Machine, folder: &Path) -> Result<PathBuf> {
    let (format, name) = match drive {
        Drive::Disk => (Format::Disk, "postern.img"),
        Drive::HybridDisk | Drive::Cd => (Format::Iso, "postern.iso"),
    };
    let settings = folder.join("postern.conf");
    let config = machine.initrd.as_ref().map(|bundle| {
        fs::write(&settings, DEFAULT_SETTINGS)?;
        fs::copy(bundle, folder.join("bundle.cpio")).map(|_| settings)
    });
    let out = folder.join(name);
    // They use the cache and build, one at a time.
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock();
    image::make(&image::Options::plain(arch, boot, format, config.transpose()?, out.clone()))?;
    if drive == Drive::HybridDisk {
        iso::forget_cd(&out)?;
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_architecture_has_its_own_ways_to_boot() {
        assert_eq!(Firmware::choose(None, Arch::Aarch64), Ok(Firmware::Direct));
        assert_eq!(Firmware::choose(None, Arch::X86_64), Ok(Firmware::GrubBios));
        assert_eq!(Firmware::choose(Some(Firmware::Uefi), Arch::X86_64), Ok(Firmware::Uefi));
        let wrong = Firmware::choose(Some(Firmware::Direct), Arch::X86_64).unwrap_err();
        assert!(wrong.contains("direct does not exist for x86_64, which has grub-bios, uefi, "), "{wrong}");
        assert!(Firmware::choose(Some(Firmware::GrubBios), Arch::Aarch64).is_err());
        assert!(Firmware::choose(Some(Firmware::GrubUefiMultiboot2), Arch::Aarch64).is_err());
        assert!(Firmware::choose(Some(Firmware::GrubUefiLinux), Arch::X86_64).is_err());
    }
}
