//! The bundle that boots beside Postern: the host's kernel, its settings, and the guest.

use crate::cpio::Archive;
use abi::bundle as name;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// What goes into a bundle.
#[derive(Clone, Debug, Default)]
pub struct Bundle {
    /// Host kernel: the flat image of a payload.
    pub host: PathBuf,
    /// Settings for the test host, in order.
    pub config: Vec<(String, String)>,
    /// Guest kernel.
    pub kernel: Option<PathBuf>,
    /// Guest initrd.
    pub initrd: Option<PathBuf>,
    /// Guest kernel command line.
    pub cmdline: Option<String>,
    /// Further files, by their names in the bundle.
    pub extra: Vec<(String, PathBuf)>,
}

impl Bundle {
    /// Adds a setting.
    pub fn set(&mut self, key: &str, value: impl ToString) {
        self.config.push((key.into(), value.to_string()));
    }

    /// Writes the archive into the build folder under `file`.
    pub fn write(&self, file: &str) -> Result<PathBuf> {
        let mut archive = Archive::default();
        let read = |path: &PathBuf| fs::read(path).with_context(|| format!("{} cannot be read", path.display()));
        archive.folder("host");
        archive.folder("guest");
        archive.file(name::HOST_KERNEL, &read(&self.host)?);
        let config: String = self.config.iter().map(|(key, value)| format!("{key}={value}\n")).collect();
        archive.file(name::CONFIG, config.as_bytes());
        if let Some(kernel) = &self.kernel {
            archive.file(name::GUEST_KERNEL, &read(kernel)?);
        }
        if let Some(initrd) = &self.initrd {
            archive.file(name::GUEST_INITRD, &read(initrd)?);
        }
        if let Some(cmdline) = &self.cmdline {
            archive.file(name::GUEST_CMDLINE, cmdline.as_bytes());
        }
        for (name, path) in &self.extra {
            archive.file(name, &read(path)?);
        }
        let path = crate::paths::bare().join("bundles").join(format!("{file}.cpio"));
        write_if_changed(&path, &archive.finish())?;
        Ok(path)
    }
}

/// Writes a file in one step, unless it already has this content.
pub fn write_if_changed(path: &Path, content: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|old| old == content) {
        return Ok(());
    }
    let folder = path.parent().expect("a file in a folder");
    fs::create_dir_all(folder)?;
    let new = path.with_extension(format!("new-{}", std::process::id()));
    fs::write(&new, content).with_context(|| format!("{} cannot be written (is the disk full?)", new.display()))?;
    fs::rename(&new, path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn postern_finds_its_files_in_the_archive() {
        let mut archive = Archive::default();
        archive.folder("host");
        archive.file(name::HOST_KERNEL, b"kernel");
        archive.file(name::CONFIG, b"mode=run\n");
        let bytes = archive.finish();
        assert_eq!(loader::cpio::find(&bytes, name::HOST_KERNEL).unwrap().unwrap().data, b"kernel");
        assert_eq!(loader::cpio::find(&bytes, name::CONFIG).unwrap().unwrap().data, b"mode=run\n");
        assert!(loader::cpio::find(&bytes, name::GUEST_KERNEL).unwrap().is_none());
    }
}
