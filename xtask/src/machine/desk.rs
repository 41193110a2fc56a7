//! The files of one run.

use super::{Machine, pc};
use crate::paths::Scratch;
use crate::setup::grub::{Grub, Menu};
use anyhow::Result;
use std::fs;
use std::path::{Path, PathBuf};

/// Folder with the files of one run, deleted in the end, with the lock file that Bochs leaves beside a disk when it is killed.
pub struct Desk(Scratch);

impl Desk {
    /// A new folder.
    pub fn new() -> Result<Self> {
        Scratch::new().map(Desk)
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.0.0
    }

    /// Makes the CD that GRUB boots the machine from.
    pub fn cd(&self, grub: &Grub, machine: &Machine) -> Result<PathBuf> {
        let cd = self.folder().join("boot.iso");
        let modules: Vec<&Path> = machine.initrd.iter().map(PathBuf::as_path).collect();
        let menu = Menu {
            kernel: &machine.kernel,
            modules: &modules,
            linux: machine.append.as_deref(),
            load_only: machine.load_only,
            script: &machine.trouble.commands(machine.memory_mib),
        };
        grub.cd(self.folder(), &menu, &cd)?;
        Ok(cd)
    }

    /// Whether Bochs has worked here, and says in its log why it ended.
    pub fn is_bochs(&self) -> bool {
        self.log().exists()
    }

    /// Where Bochs logs.
    pub fn log(&self) -> PathBuf {
        self.folder().join("bochs.log")
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
