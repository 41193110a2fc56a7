//! How the emulated machine is booted: directly by the emulator, or through its firmware from a disk.

use crate::arch::Arch;
use crate::image::{self, BUNDLE, Content, DEFAULT_SETTINGS, MENU, POSTERN, SETTINGS};
use crate::machine::Machine;
use crate::paths;
use crate::setup::{Cache, uefi};
use anyhow::{Context, Result};
use clap::ValueEnum;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

/// The way a run boots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Firmware {
    /// The emulator starts Postern itself (aarch64).
    Direct,
    /// UEFI firmware starts Postern's application from a disk.
    Uefi,
    /// UEFI firmware starts GRUB, and GRUB the application.
    GrubUefi,
    /// UEFI firmware starts GRUB, and GRUB Postern by Multiboot2 (x86_64).
    GrubUefiMultiboot2,
    /// The BIOS starts GRUB from a CD, and GRUB Postern by Multiboot2 (x86_64).
    GrubBios,
}

/// What a UEFI disk starts first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Boot {
    /// Postern's application.
    Uefi,
    /// GRUB with a menu; on x86_64 its second entry boots by Multiboot2, without the application.
    GrubUefi,
}

/// All that a disk for one run is made of, but for the bundle.
#[derive(Clone, Debug)]
pub struct Chain {
    /// The emulator's firmware.
    pub firmware: PathBuf,
    programs: Vec<Content>,
}

impl Firmware {
    /// All ways of an architecture, the default one first.
    pub fn of(arch: Arch) -> &'static [Firmware] {
        match arch {
            Arch::Aarch64 => &[Firmware::Direct, Firmware::Uefi, Firmware::GrubUefi],
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

    /// Gets and builds the chain; none for a boot without UEFI.
    pub fn prepare(self, arch: Arch) -> Result<Option<Chain>> {
        let (boot, entry) = match self {
            Firmware::Direct | Firmware::GrubBios => return Ok(None),
            Firmware::Uefi => (Boot::Uefi, 0),
            Firmware::GrubUefi => (Boot::GrubUefi, 0),
            Firmware::GrubUefiMultiboot2 => (Boot::GrubUefi, 1),
        };
        let firmware = uefi::firmware(&Cache::open()?, arch)?;
        let mut programs = image::programs(arch, boot, None)?;
        if boot == Boot::GrubUefi {
            programs.push((MENU.into(), image::menu(arch, entry).into()));
        }
        Ok(Some(Chain { firmware, programs }))
    }
}

impl Chain {
    /// Content of the disk of one run.
    pub fn content(&self, machine: &Machine) -> Result<Vec<u8>> {
        let read = |file: &PathBuf| fs::read(file).with_context(|| format!("{} cannot be read", file.display()));
        let mut contents = self.programs.clone();
        contents.push((POSTERN.into(), read(&machine.kernel)?));
        contents.push((SETTINGS.into(), DEFAULT_SETTINGS.into()));
        if let Some(bundle) = &machine.initrd {
            contents.push((BUNDLE.into(), read(bundle)?));
        }
        image::disk(&contents)
    }

    /// Makes the disk of one run.
    pub fn disk(&self, machine: &Machine) -> Result<Disk> {
        static RUNS: AtomicU32 = AtomicU32::new(0);
        let name = format!("uefi-{}-{}.img", std::process::id(), RUNS.fetch_add(1, Ordering::Relaxed));
        let folder = paths::bare().join("machines");
        fs::create_dir_all(&folder)?;
        let disk = Disk(folder.join(name));
        fs::write(&disk.0, self.content(machine)?).context("the disk of this run cannot be written")?;
        Ok(disk)
    }
}

/// A disk image that disappears with its last user.
pub struct Disk(pub PathBuf);

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
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
    }
}
