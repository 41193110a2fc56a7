//! Looks at what the user wants to boot before anything is fetched, built or booted.

use crate::arch::{Arch, Dialect};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::Path;

/// Memory a guest needs beyond kernel and initrd, at the very least.
const GUEST_SPARE: u64 = 48 << 20;
/// Largest kernel or initrd: the test host keeps both in its memory beside the guest's.
const BOOT_FILE_MAX: u64 = 128 << 20;
const MIB: u64 = 1 << 20;
/// First bytes of what Linux unpacks as an initrd (`lib/decompress.c`, `init/initramfs.c`): gzip twice, bzip2, lzma, xz, lzo,
/// lz4, zstd, and cpio without compression.
const INITRD_MAGIC: [&[u8]; 10] = [
    &[0x1f, 0x8b],
    &[0x1f, 0x9e],
    b"BZh",
    &[0x5d, 0, 0],
    &[0xfd, b'7', b'z', b'X', b'Z', 0],
    &[0x89, b'L', b'Z', b'O'],
    &[0x02, 0x21, 0x4c, 0x18],
    &[0x28, 0xb5, 0x2f, 0xfd],
    b"070701",
    b"070702",
];

/// Refuses what cannot be read, for want of content or rights.
pub fn file(file: &Path) -> Result<()> {
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

/// Refuses what no Linux can unpack as an initrd.
pub fn initrd(file: &Path) -> Result<()> {
    let bytes = fs::read(file)?;
    if !INITRD_MAGIC.iter().any(|magic| bytes.starts_with(magic)) {
        bail!("{} is no initrd: neither a cpio archive (newc) nor a compressed file", file.display());
    }
    Ok(())
}

/// Refuses a guest memory that the kernel and initrd would not even fit into.
pub fn memory(arch: Arch, kernel: &Path, initrd: Option<&Path>, memory: u64) -> Result<()> {
    // The initrd is there twice, packed and unpacked, before the guest can free the packed one.
    let packed = initrd.map_or(Ok(0), |file| fs::metadata(file).map(|meta| meta.len()))?;
    let needed = image_size(arch, kernel)? + 2 * packed + GUEST_SPARE;
    if needed > memory {
        let least = needed.div_ceil(2 * MIB) * 2;
        bail!("--memory {}M is too little: this kernel and initrd need at least {least}M", memory / MIB);
    }
    Ok(())
}

/// Refuses what no machine of this kind starts as a kernel.
pub fn kernel(arch: Arch, file: &Path) -> Result<()> {
    image_size(arch, file).map(|_| ())
}

/// Bytes that a kernel needs in memory, its uninitialised data included.
fn image_size(arch: Arch, file: &Path) -> Result<u64> {
    let bytes = fs::read(file)?;
    match arch {
        Arch::Aarch64 if bytes.starts_with(&[0x1f, 0x8b]) => {
            bail!("{} is compressed; unpack it first (`zcat FILE > Image`)", file.display())
        }
        Arch::Aarch64 => match loader::image::parse(&bytes, "kernel") {
            Ok(image) => Ok(image.text_offset + image.size),
            Err(_) => bail!("{} is not a raw arm64 kernel Image (arch/arm64/boot/Image)", file.display()),
        },
        Arch::X86_64 => match loader::bzimage::parse(&bytes, "kernel") {
            Ok(image) => Ok(image.size),
            Err(_) if bytes.get(0x202..0x206) == Some(b"HdrS") && loader::bzimage::is_cut(&bytes) => {
                bail!("{} is cut short: its header says that it is longer", file.display())
            }
            Err(_) => bail!("{} is not an x86-64 bzImage (arch/x86/boot/bzImage)", file.display()),
        },
    }
}

/// What may be the matter when this kernel says nothing, or stops early, under this dialect.
pub fn doubt(dialect: Dialect, kernel: &Path) -> Option<String> {
    // A part of the name of the driver's source file, which its warnings quote.
    let (text, option) = match dialect {
        Dialect::Pkvm => (&b"pkvm-guest"[..], "CONFIG_ARM_PKVM_GUEST"),
        Dialect::Realm | Dialect::Tdx => return None,
    };
    let bytes = fs::read(kernel).ok()?;
    let found = bytes.windows(text.len()).any(|window| window == text);
    (!found).then(|| {
        format!("{} seems to be built without {option}, which --dialect {} needs", kernel.display(), dialect.name())
    })
}

/// Refuses a file that could not be written in the end. What is there stays as it is.
pub fn writable(option: &str, file: &Path) -> Result<()> {
    let name = file.display();
    let folder = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if file.is_dir() {
        bail!("{option} {name} is a folder: name a file");
    }
    if !folder.is_dir() {
        bail!("{option} {name}: there is no folder {}; make it first", folder.display());
    }
    let exists = file.exists();
    if exists && !file.is_file() {
        // A device or a pipe, which another program would notice.
        return Ok(());
    }
    let opened = fs::OpenOptions::new().append(true).create(true).open(file);
    opened.with_context(|| format!("{option} {name} cannot be written; name a file where you may write"))?;
    if !exists {
        fs::remove_file(file.canonicalize()?)?;
    }
    Ok(())
}

/// Refuses what is no file of the PEM kind that `option` wants, such as `CERTIFICATE`.
pub fn pem(option: &str, path: &Path, kind: &str) -> Result<()> {
    file(path).with_context(|| option.to_owned())?;
    let text = fs::read(path)?;
    let text = String::from_utf8_lossy(&text);
    if !text.lines().any(|line| line.starts_with("-----BEGIN ") && line.trim_end().ends_with(&format!("{kind}-----"))) {
        bail!("{option} {}: no {} in PEM form (-----BEGIN …{kind}-----)", path.display(), kind.to_lowercase());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_initrd_is_known_by_its_first_bytes() {
        let path = std::env::temp_dir().join(format!("postern-initrd-{}", std::process::id()));
        let check = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            initrd(&path).is_ok()
        };
        assert!(check(b"\x1f\x8b\x08..."));
        assert!(check(b"070701000000"));
        assert!(check(b"\x28\xb5\x2f\xfd"));
        assert!(!check(b"#!/bin/sh\necho hello\n"));
        assert!(!check(b"070707"), "the old portable format");
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn what_cannot_be_written_is_said_and_nothing_is_left() {
        let folder = std::env::temp_dir().join(format!("postern-writable-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let new = folder.join("new");
        writable("--log", &new).unwrap();
        assert!(!new.exists(), "a look leaves nothing");
        fs::write(&new, "old").unwrap();
        writable("--log", &new).unwrap();
        assert_eq!(fs::read(&new).unwrap(), b"old", "and changes nothing");
        let error = |file: &Path| format!("{:#}", writable("--log", file).unwrap_err());
        assert!(error(&folder).contains("is a folder: name a file"));
        assert!(error(&folder.join("a/b")).contains(&format!("there is no folder {}", folder.join("a").display())));
        let nowhere = error(Path::new("/proc/postern.log"));
        assert!(nowhere.starts_with("--log /proc/postern.log cannot be written; name a file"), "{nowhere}");
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn keys_and_certificates_are_told_apart() {
        let path = std::env::temp_dir().join(format!("postern-pem-{}", std::process::id()));
        fs::write(&path, "-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----\n").unwrap();
        assert!(pem("--sign", &path, "PRIVATE KEY").is_ok());
        assert!(pem("--cert", &path, "CERTIFICATE").unwrap_err().to_string().contains("no certificate in PEM form"));
        fs::remove_file(&path).unwrap();
        assert!(format!("{:#}", pem("--cert", &path, "CERTIFICATE").unwrap_err()).starts_with("--cert: "));
    }
}
