//! The test guest's root file system: a static busybox, `guest/init` and the scripts in `guest/scripts`.

use super::Cache;
use crate::cpio::Archive;
use crate::paths;
use crate::progress::Step;
use anyhow::{Context, Result};
use flate2::{Compression, write::GzEncoder};
use std::fs;
use std::io::Write;
use std::path::PathBuf;

/// Debian's static busybox for arm64.
pub fn busybox(cache: &Cache) -> Result<PathBuf> {
    cache.piece("busybox-arm64", "trixie busybox-static", |staging| {
        let apt = cache.trixie()?;
        let step = Step::start("busybox");
        let tree = super::beside(staging);
        super::remove(&tree)?;
        let origin = cache.unpacked(&apt, &["busybox-static:arm64"], &tree, &step)?;
        fs::rename(tree.join("usr/bin/busybox"), staging).context("busybox-static holds no usr/bin/busybox")?;
        super::remove(&tree)?;
        step.done(&origin);
        Ok(origin)
    })
}

/// Packs the initramfs into the build folder; done anew each time, since it takes a moment only.
pub fn pack(cache: &Cache) -> Result<PathBuf> {
    let mut archive = Archive::default();
    for folder in ["bin", "dev", "scripts"] {
        archive.folder(folder);
    }
    archive.device("dev/console", 5, 1);
    archive.program("bin/busybox", &fs::read(busybox(cache)?)?);
    let guest = paths::root().join("xtask/guest");
    archive.program("init", &fs::read(guest.join("init"))?);
    let mut scripts: Vec<_> = guest.join("scripts").read_dir()?.flatten().map(|e| e.path()).collect();
    scripts.sort();
    for script in scripts {
        let name = format!("scripts/{}", script.file_name().unwrap_or_default().to_string_lossy());
        archive.program(&name, &fs::read(script)?);
    }
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(&archive.finish())?;
    let file = paths::bare().join("guest-initrd.gz");
    crate::bundle::write_if_changed(&file, &gzip.finish()?)?;
    Ok(file)
}
