//! Hybrid images: a CD that firmware takes for a disk when it is written to one.
//!
//! There is one copy of all files, in a FAT volume. UEFI finds it as the CD's boot image and as the disk's EFI system
//! partition. The BIOS starts GRUB, by the CD's other boot image or by the disk's first sector; it looks into the volume as
//! into any file.

use super::{Content, disk};
use crate::paths;
use crate::setup::grub::{Grub, Hybrid};
use anyhow::{Context, Result};
use loader::config::{self, Config};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// The volume's path on the CD.
const VOLUME: &str = "/boot/postern/volume.img";

/// What GRUB boots from the BIOS: paths on the volume.
pub struct Bios {
    hypervisor: String,
    bundle: String,
}

impl Bios {
    /// What the settings mean where the application does not run.
    ///
    /// # Errors
    /// Something that only the application does.
    pub fn of(config: &Config<'_>) -> Result<Self, String> {
        let pieces = [
            ("host-kernel", config.host_kernel),
            ("host-initrd", config.host_initrd),
            ("host-cmdline", config.host_cmdline),
            ("guest-kernel", config.guest_kernel),
            ("guest-initrd", config.guest_initrd),
            ("guest-cmdline", config.guest_cmdline),
        ];
        if let Some((name, _)) = pieces.iter().find(|(_, value)| value.is_some()) {
            return Err(format!("from the BIOS there is only the `bundle`: put what `{name}` names into it"));
        }
        let path = |path: &str| path.replace('\\', "/");
        let bundle = config.bundle.map(path).ok_or("from the BIOS there is only the `bundle`: name one")?;
        Ok(Bios { hypervisor: path(config.hypervisor.unwrap_or(config::HYPERVISOR)), bundle })
    }

    /// The commands of GRUB's rescue parser, which knows no quoting of its own worth the name.
    fn script(&self) -> String {
        let Bios { hypervisor, bundle } = self;
        format!("loopback volume {VOLUME}\nset root=volume\nmultiboot2 {hypervisor}\nmodule2 {bundle}\nboot\n")
    }
}

/// A folder for the pieces of one image, deleted in the end.
pub struct Folder(pub PathBuf);

impl Folder {
    /// A new one.
    pub fn new() -> Result<Self> {
        static RUNS: AtomicU32 = AtomicU32::new(0);
        let name = format!("iso-{}-{}", std::process::id(), RUNS.fetch_add(1, Ordering::Relaxed));
        let folder = paths::bare().join("machines").join(name);
        fs::create_dir_all(&folder).with_context(|| format!("{} cannot be made", folder.display()))?;
        Ok(Folder(folder))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Makes the image `out` with these files, with pieces in `folder`.
pub fn make(grub: &Grub, folder: &Path, contents: &[Content], bios: Option<&Bios>, out: &Path) -> Result<()> {
    let tree = folder.join("tree");
    let volume = tree.join(VOLUME.trim_start_matches('/'));
    fs::create_dir_all(volume.parent().expect("a file in a folder"))?;
    fs::write(&volume, disk::volume(contents)?).context("the volume cannot be written (is the disk full?)")?;
    let script = bios.map(Bios::script);
    grub.hybrid(&Hybrid { folder, tree: &tree, volume: VOLUME, script: script.as_deref() }, out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bios(settings: &str) -> Result<String, String> {
        let config = config::parse(settings.as_bytes()).map_err(|error| error.to_string())?;
        Bios::of(&config).map(|bios| bios.script())
    }

    #[test]
    fn the_bios_boots_what_the_settings_name_or_says_what_it_cannot() {
        let script = bios("bundle = \\EFI\\POSTERN\\b.cpio\ntpm = off").unwrap();
        assert!(script.contains("\nmultiboot2 /EFI/POSTERN/postern\nmodule2 /EFI/POSTERN/b.cpio\n"), "{script}");
        assert!(bios("hypervisor = /p\nbundle = /b").unwrap().contains("multiboot2 /p\nmodule2 /b\n"));
        assert!(bios("host-kernel = /k").unwrap_err().contains("`host-kernel`"));
        assert!(bios("bundle = /b\nguest-cmdline = quiet").unwrap_err().contains("`guest-cmdline`"));
    }
}
