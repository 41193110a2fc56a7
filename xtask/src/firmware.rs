//! How the emulated machine is booted: directly by the emulator, or through its firmware from a disk.

use crate::arch::Arch;
use crate::image::{self, BUNDLE, Content, DEFAULT_SETTINGS, POSTERN, SETTINGS};
use crate::machine::Machine;
use crate::paths;
use crate::setup::{Cache, uefi};
use anyhow::{Context, Result};
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

/// The way a run boots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Firmware {
    /// The emulator starts Postern itself; on x86-64, GRUB does from the BIOS.
    #[default]
    Direct,
    /// UEFI firmware starts Postern's application from a disk.
    Uefi,
    /// UEFI firmware starts GRUB, and GRUB the application.
    GrubUefi,
}

/// What a UEFI disk starts first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Boot {
    /// Postern's application.
    Uefi,
    /// GRUB with a menu.
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
    /// Gets and builds the chain; none for a direct boot.
    pub fn prepare(self, arch: Arch) -> Result<Option<Chain>> {
        let boot = match self {
            Firmware::Direct => return Ok(None),
            Firmware::Uefi => Boot::Uefi,
            Firmware::GrubUefi => Boot::GrubUefi,
        };
        let firmware = uefi::firmware(&Cache::open()?, arch)?;
        Ok(Some(Chain { firmware, programs: image::programs(arch, boot, None)? }))
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
