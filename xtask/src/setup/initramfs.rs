//! The test guest's root file system: a static busybox, `guest/init` and the scripts in `guest/scripts`.

use super::{Cache, kernel};
use crate::arch::Arch;
use crate::cpio::Archive;
use crate::paths;
use crate::progress::Step;
use anyhow::{Context, Result};
use flate2::{Compression, write::GzEncoder};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Debian's static busybox for an architecture.
pub fn busybox(cache: &Cache, arch: Arch) -> Result<PathBuf> {
    let debian = arch.debian();
    cache.piece(&format!("busybox-{debian}"), "trixie busybox-static", |staging| {
        let apt = cache.trixie()?;
        let step = Step::start("busybox");
        let tree = super::beside(staging);
        super::remove(&tree)?;
        let origin = cache.unpacked(&apt, &[&format!("busybox-static:{debian}")], &tree, &step)?;
        fs::rename(tree.join("usr/bin/busybox"), staging).context("busybox-static holds no usr/bin/busybox")?;
        super::remove(&tree)?;
        step.done(&origin);
        Ok(origin)
    })
}

/// Packs the initramfs into the build folder; done anew each time, since it takes a moment only.
pub fn pack(cache: &Cache, arch: Arch) -> Result<PathBuf> {
    let mut archive = Archive::default();
    for folder in ["bin", "dev", "scripts", "lib", "lib/modules"] {
        archive.folder(folder);
    }
    archive.device("dev/console", 5, 1);
    archive.program("bin/busybox", &fs::read(busybox(cache, arch)?)?);
    let guest = paths::root().join("xtask/guest");
    archive.program("init", &fs::read(guest.join("init"))?);
    for script in sorted(&guest.join("scripts"))? {
        archive.program(&format!("scripts/{}", name(&script)), &fs::read(&script)?);
    }
    if arch == Arch::X86_64 {
        for folder in kernel::report_modules(cache)? {
            let target = format!("lib/modules/{}", name(&folder));
            archive.folder(&target);
            for module in sorted(&folder)? {
                archive.file(&format!("{target}/{}", name(&module)), &fs::read(&module)?);
            }
        }
    }
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(&archive.finish())?;
    let file = paths::bare().join(format!("guest-initrd-{}.gz", arch.debian()));
    crate::bundle::write_if_changed(&file, &gzip.finish()?)?;
    Ok(file)
}

fn sorted(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files: Vec<_> = folder.read_dir()?.flatten().map(|e| e.path()).collect();
    files.sort();
    Ok(files)
}

fn name(file: &Path) -> String {
    file.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
