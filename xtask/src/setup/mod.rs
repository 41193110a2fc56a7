//! Finds or fetches what building and running need, into a cache outside the source tree.
//!
//! Each piece is made in a staging folder and moved into place when it is complete, so that an interrupted set-up goes on
//! where it was. Once a piece is there, nothing here uses the network.

mod apt;
pub mod initramfs;
mod kernel;
mod manifest;
mod pkvm;
pub mod qemu;
mod sources;
pub mod toolchain;

use crate::progress::Step;
use anyhow::{Context, Result, bail};
use apt::{Apt, World};
use manifest::{Manifest, State};
use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};

/// The cache folder, held by one process at a time until dropped.
pub struct Cache {
    root: PathBuf,
    manifest: RefCell<Manifest>,
    _lock: fs::File,
}

/// Guest ABIs that have a default kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Dialect {
    /// Arm CCA's Realm Services Interface: any Linux since 6.13.
    Realm,
    /// pKVM's hypercalls: Linux built with ARM_PKVM_GUEST.
    Pkvm,
}

impl Dialect {
    /// Name on the command line and in the bundle's configuration.
    pub fn name(self) -> &'static str {
        match self {
            Dialect::Realm => "realm",
            Dialect::Pkvm => "pkvm",
        }
    }
}

impl Cache {
    /// Opens the cache: `POSTERN_CACHE`, else `postern` in the user's cache folder. Waits while another process holds it.
    pub fn open() -> Result<Self> {
        let root = folder()?;
        fs::create_dir_all(&root).with_context(|| {
            format!("the cache folder {} cannot be made; set POSTERN_CACHE to a folder you can write", root.display())
        })?;
        let lock = fs::File::create(root.join("lock"))
            .with_context(|| format!("{} is not writable; set POSTERN_CACHE to another folder", root.display()))?;
        if lock.try_lock().is_err() {
            eprintln!("waiting for another xtask that uses {}", root.display());
            lock.lock()?;
        }
        let manifest = RefCell::new(Manifest::open(&root)?);
        Ok(Cache { root, manifest, _lock: lock })
    }

    /// Folder in which a piece may keep work that is worth resuming.
    fn workshop(&self, name: &str) -> Result<PathBuf> {
        let folder = self.root.join("work").join(name);
        fs::create_dir_all(&folder)?;
        Ok(folder)
    }

    /// Path of the piece `name`, made now by `make` (which gets a path to create, and answers where it came from) unless
    /// one by the same `recipe` is there, undamaged.
    fn piece(&self, name: &str, recipe: &str, make: impl FnOnce(&Path) -> Result<String>) -> Result<PathBuf> {
        let path = self.root.join(name);
        match self.manifest.borrow_mut().check(&self.root, name, recipe, false)? {
            State::Good => return Ok(path),
            State::Damaged => eprintln!("{} does not match its checksum: getting it again", path.display()),
            State::Absent => {}
        }
        let staging = self.root.join("staging").join(name);
        remove(&staging)?;
        fs::create_dir_all(staging.parent().expect("below the cache"))?;
        let origin = make(&staging)?;
        remove(&path)?;
        fs::create_dir_all(path.parent().expect("below the cache"))?;
        fs::rename(&staging, &path)?;
        self.manifest.borrow_mut().record(&self.root, name, recipe, &origin)?;
        Ok(path)
    }

    /// Fetches single packages from Debian 13 or its backports and unpacks them into `into`.
    fn unpacked(&self, apt: &Apt, packages: &[&str], into: &Path, step: &Step) -> Result<String> {
        let files = apt.packages(packages, step)?;
        apt::unpack(&files, into, step)?;
        apt.clean()?;
        Ok(files.iter().map(|f| apt::identity(f)).collect::<Vec<_>>().join(", "))
    }

    fn trixie(&self) -> Result<Apt> {
        Apt::open(&self.root, World::Trixie)
    }

    /// Kernel that a guest of this dialect boots unless the user names one.
    pub fn guest_kernel(&self, dialect: Dialect) -> Result<PathBuf> {
        match dialect {
            Dialect::Realm => kernel::debian(self),
            Dialect::Pkvm => pkvm::kernel(self),
        }
    }
}

/// Gets every piece. `verify` reads and checks all cached content, `refresh` forgets it first.
pub fn everything(verify: bool, refresh: bool) -> Result<()> {
    let cache = Cache::open()?;
    if refresh {
        let _ = fs::remove_file(cache.root.join("manifest"));
        remove(&cache.root.join("apt"))?;
        *cache.manifest.borrow_mut() = Manifest::open(&cache.root)?;
    }
    if verify {
        verify_all(&cache)?;
    }
    let toolchain = toolchain::find(&cache)?;
    println!("core for bare metal   {}", toolchain.describe());
    let emulator = qemu::find(&cache)?;
    println!("emulator              {}", emulator.version);
    println!("realm guest kernel    {}", cache.guest_kernel(Dialect::Realm)?.display());
    println!("pkvm guest kernel     {}", cache.guest_kernel(Dialect::Pkvm)?.display());
    println!("busybox               {}", initramfs::busybox(&cache)?.display());
    for entry in cache.manifest.borrow().entries() {
        println!("  {:<20}{}", entry.name, entry.origin);
    }
    Ok(())
}

fn verify_all(cache: &Cache) -> Result<()> {
    let step = Step::start("checksums");
    let entries = cache.manifest.borrow().entries().to_vec();
    let mut damaged = Vec::new();
    for entry in &entries {
        step.note(&entry.name);
        let state = cache.manifest.borrow_mut().check(&cache.root, &entry.name, &entry.recipe, true)?;
        if state == State::Damaged {
            remove(&cache.root.join(&entry.name))?;
            damaged.push(entry.name.as_str());
        }
    }
    let summary = match damaged.as_slice() {
        [] => format!("{} entries match", entries.len()),
        names => format!("damaged, will be fetched again: {}", names.join(", ")),
    };
    step.done(&summary);
    Ok(())
}

fn folder() -> Result<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(folder) = variable("POSTERN_CACHE") {
        return std::path::absolute(&folder).with_context(|| format!("POSTERN_CACHE={} is no path", folder.display()));
    }
    if let Some(folder) = variable("XDG_CACHE_HOME") {
        return Ok(folder.join("postern"));
    }
    match variable("HOME") {
        Some(home) => Ok(home.join(".cache/postern")),
        None => bail!("neither HOME nor XDG_CACHE_HOME is set; set POSTERN_CACHE to a folder for downloads"),
    }
}

fn remove(path: &Path) -> Result<()> {
    let result = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match result {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("{} cannot be removed", path.display()))
        }
        _ => Ok(()),
    }
}

/// A second staging path, for what a piece is picked from.
fn beside(staging: &Path) -> PathBuf {
    let mut name = staging.file_name().unwrap_or_default().to_owned();
    name.push(".unpacked");
    staging.with_file_name(name)
}

/// First executable called `name` on the PATH.
fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
}
