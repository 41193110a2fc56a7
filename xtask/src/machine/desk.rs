//! The files of one run.

use super::{Machine, pc};
use crate::paths;
use crate::setup::grub::{Grub, Menu};
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// Folder with the files of one run, deleted in the end.
pub struct Desk {
    pub folder: PathBuf,
}

impl Desk {
    /// A new folder.
    pub fn new() -> Result<Self> {
        static RUNS: AtomicU32 = AtomicU32::new(0);
        let name = format!("run-{}-{}", std::process::id(), RUNS.fetch_add(1, Ordering::Relaxed));
        let folder = paths::bare().join("machines").join(name);
        fs::create_dir_all(&folder).with_context(|| format!("{} cannot be made", folder.display()))?;
        Ok(Desk { folder })
    }

    /// Makes the CD that GRUB boots the machine from.
    pub fn cd(&self, grub: &Grub, machine: &Machine) -> Result<PathBuf> {
        let cd = self.folder.join("boot.iso");
        let modules: Vec<&Path> = machine.initrd.iter().map(PathBuf::as_path).collect();
        let menu = Menu {
            kernel: &machine.kernel,
            modules: &modules,
            linux: machine.append.as_deref(),
            load_only: machine.load_only,
            script: &machine.trouble.commands(machine.memory_mib),
        };
        grub.cd(&self.folder, &menu, &cd)?;
        Ok(cd)
    }

    /// Whether Bochs has worked here, and says in its log why it ended.
    pub fn is_bochs(&self) -> bool {
        self.log().exists()
    }

    /// Where Bochs logs.
    pub fn log(&self) -> PathBuf {
        self.folder.join("bochs.log")
    }

    /// Why Bochs ended; nothing when the machine switched itself off.
    pub fn last_words(&self) -> String {
        pc::last_words(&fs::read_to_string(self.log()).unwrap_or_default())
    }

    /// When Bochs ended.
    pub fn ticks(&self) -> Option<u64> {
        pc::ticks(&fs::read_to_string(self.log()).ok()?)
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        // Bochs leaves a lock file beside its CD when it is killed; it goes with the folder.
        let _ = fs::remove_dir_all(&self.folder);
    }
}
