//! Hybrid images: a CD that firmware takes for a disk when it is written to one.
//!
//! There is one copy of all files, in a FAT volume. UEFI finds it as the CD's boot image and as the disk's EFI system
//! partition. The BIOS starts GRUB, by the CD's other boot image or by the disk's first sector; it looks into the volume as
//! into any file.

use super::{Content, disk};
use crate::setup::grub::{Grub, Hybrid, SCREEN_MODES};
use anyhow::{Context, Result, ensure};
use loader::config::{self, Config, Tpm};
use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

/// The volume's path on the CD.
const VOLUME: &str = "/boot/postern/volume.img";

/// Who a CD's boot record is for, and where that is said, in bytes ("El Torito" 1.0, section "Boot Record Volume Descriptor").
const EL_TORITO: &[u8; 23] = b"EL TORITO SPECIFICATION";
const BOOT_RECORD_NAME: u64 = 17 * 2048 + 7;

/// What GRUB boots from the BIOS: paths on the volume.
#[derive(Clone, Debug)]
pub struct Bios {
    pub(super) hypervisor: String,
    pub(super) bundle: String,
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
        if config.tpm == Tpm::Required {
            return Err("from the BIOS nothing is measured: `tpm = required` cannot be kept".into());
        }
        let bundle = config.bundle.ok_or("from the BIOS there is only the `bundle`: name one")?;
        Ok(Bios { hypervisor: plain(config.hypervisor.unwrap_or(config::HYPERVISOR))?, bundle: plain(bundle)? })
    }

    /// The commands of GRUB's rescue parser.
    fn script(&self) -> String {
        let Bios { hypervisor, bundle } = self;
        let load = format!("multiboot2 {hypervisor}\nmodule2 {bundle}");
        format!("loopback volume {VOLUME}\nset root=volume\n{load}\nset gfxpayload={SCREEN_MODES}\nboot\n")
    }
}

/// A path as GRUB takes it, without what its parser takes for something else.
fn plain(path: &str) -> Result<String, String> {
    let path = path.replace('\\', "/");
    match path.chars().all(|c| c.is_ascii_alphanumeric() || "/._-+".contains(c)) {
        true => Ok(path),
        false => Err(format!("{path} has to be made of letters, digits and ._-+ to be read from the BIOS")),
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

/// Takes from an image what makes it a CD to boot from, so that what boots it has found the disk: EDK II looks for a CD's boot
/// record on disks, too, and not all firmware does.
pub fn forget_cd(image: &Path) -> Result<()> {
    let mut file = fs::OpenOptions::new().read(true).write(true).open(image)?;
    let mut name = [0; EL_TORITO.len()];
    file.seek(SeekFrom::Start(BOOT_RECORD_NAME))?;
    file.read_exact(&mut name)?;
    ensure!(name == *EL_TORITO, "the image has no boot record");
    file.seek(SeekFrom::Start(BOOT_RECORD_NAME))?;
    Ok(file.write_all(&[0; EL_TORITO.len()])?)
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
        assert!(bios("hypervisor = /p\nbundle = /b").unwrap().contains("multiboot2 /p\nmodule2 /b\nset gfx"));
        assert!(bios("bundle = /a b").unwrap_err().contains("/a b has to be made of letters"));
        assert!(bios("host-kernel = /k").unwrap_err().contains("`host-kernel`"));
        assert!(bios("bundle = /b\ntpm = required").unwrap_err().contains("nothing is measured"));
        assert!(bios("bundle = /b\nguest-cmdline = quiet").unwrap_err().contains("`guest-cmdline`"));
    }
}
