//! What booting through UEFI needs beside the emulator: firmware, GRUB for EFI, and a TPM.

use super::private::Private;
use super::{Cache, remove};
use crate::arch::Arch;
use crate::progress::Step;
use anyhow::{Context, Result};
use std::fs;
use std::path::PathBuf;

/// UEFI firmware (EDK II) for the emulated machine: what QEMU takes as `-bios`, and Bochs as its ROM.
pub fn firmware(cache: &Cache, arch: Arch) -> Result<PathBuf> {
    match arch {
        Arch::Aarch64 => {
            let file = "usr/share/qemu-efi-aarch64/QEMU_EFI.fd";
            picked(cache, "uefi-arm64.fd", "arm64 UEFI firmware", "qemu-efi-aarch64", file)
        }
        Arch::X86_64 => picked(cache, "uefi-amd64.fd", "x86-64 UEFI firmware", "ovmf", "usr/share/ovmf/OVMF.fd"),
    }
}

/// Folder of GRUB's modules for an architecture's UEFI.
pub fn grub_modules(cache: &Cache, arch: Arch) -> Result<PathBuf> {
    let (package, folder) = match arch {
        Arch::Aarch64 => ("grub-efi-arm64-bin:arm64", "arm64-efi"),
        Arch::X86_64 => ("grub-efi-amd64-bin:amd64", "x86_64-efi"),
    };
    let name = format!("grub-{folder}");
    picked(cache, &name, "GRUB for UEFI", package, &format!("usr/lib/grub/{folder}"))
}

/// arm64 firmware that has Secure Boot, drives a TPM, and takes no program with memory that is both written and executed: its
/// code, and its variables as it has them at first. Debian builds no other that knows of TPMs.
pub fn secure_firmware(cache: &Cache) -> Result<(PathBuf, PathBuf)> {
    let get = |name: &str, file: &str| {
        picked(cache, name, "arm64 UEFI firmware", "qemu-efi-aarch64", &format!("usr/share/AAVMF/{file}"))
    };
    let code = get("uefi-arm64-secure.fd", "AAVMF_CODE.secboot.strictnx.fd")?;
    Ok((code, get("uefi-arm64-variables.fd", "AAVMF_VARS.fd")?))
}

/// The emulator of a TPM.
pub fn tpm(cache: &Cache) -> Result<Private> {
    Private::find(cache, "swtpm", "TPM", &["swtpm"], &[])
}

/// One file or folder out of a package.
fn picked(cache: &Cache, name: &str, title: &str, package: &str, path: &str) -> Result<PathBuf> {
    cache.piece(name, "trixie 1", |staging| {
        let apt = cache.trixie()?;
        let step = Step::start(title);
        let unpacked = super::beside(staging);
        remove(&unpacked)?;
        let origin = cache.unpacked(&apt, &[package], &unpacked, &step)?;
        fs::rename(unpacked.join(path), staging).with_context(|| format!("{package} holds no {path}"))?;
        remove(&unpacked)?;
        step.done(&origin);
        Ok(origin)
    })
}
