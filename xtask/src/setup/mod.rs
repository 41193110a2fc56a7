//! Finds or fetches what building and running need, into a cache outside the source tree.
//!
//! Each piece is made in a staging folder and moved into place when it is complete, so that an interrupted set-up goes on
//! where it was. Once a piece is there, nothing here uses the network.

mod apt;
pub mod bochs;
pub mod grub;
pub mod initramfs;
mod kernel;
pub mod kvm;
mod manifest;
mod pkvm;
pub mod private;
pub mod qemu;
pub mod signing;
mod sources;
pub mod toolchain;
pub mod uefi;

use crate::arch::{Arch, Dialect};
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
            Dialect::Realm => kernel::arm64(self),
            Dialect::Pkvm => pkvm::kernel(self),
            Dialect::Tdx => kernel::bzimage(self, kernel::Series::Backports),
        }
    }

    /// Debian's older x86-64 kernel, the other guest of the `tdx` dialect.
    pub fn stable_tdx_kernel(&self) -> Result<PathBuf> {
        kernel::bzimage(self, kernel::Series::Stable)
    }
}

/// What `setup` is to do.
#[derive(clap::Args, Clone, Copy, Debug)]
pub struct Options {
    /// Only for this architecture [default: all].
    #[arg(long, value_enum)]
    arch: Option<Arch>,
    /// Change nothing: read everything in the cache and compare checksums. Exit status 1 when something is damaged or gone.
    #[arg(long, conflicts_with_all = ["refresh", "arch"])]
    verify: bool,
    /// Forget what is there and get the newest of everything.
    #[arg(long)]
    refresh: bool,
}

/// Checks every piece against its checksum, and gets what is missing or damaged.
pub fn run(options: Options) -> Result<()> {
    let cache = Cache::open()?;
    if options.refresh {
        let _ = fs::remove_file(cache.root.join("manifest"));
        remove(&cache.root.join("apt"))?;
        *cache.manifest.borrow_mut() = Manifest::open(&cache.root)?;
    }
    let bad = cache.check_all()?;
    if options.verify {
        if !bad.is_empty() {
            bail!("damaged or gone: {}; `cargo xtask setup` gets it again", bad.join(", "));
        }
        return Ok(());
    }
    for name in &bad {
        remove(&cache.root.join(name))?;
    }
    let mut found = Vec::new();
    for arch in Arch::ALL.into_iter().filter(|arch| options.arch.is_none_or(|only| only == *arch)) {
        found.extend(cache.pieces(arch)?);
    }
    let width = found.iter().map(|(title, _)| title.len()).max().unwrap_or(0) + 2;
    for (title, what) in found {
        say!("{title:<width$}{what}");
    }
    say!("\nIn {}:", cache.root.display());
    let manifest = cache.manifest.borrow();
    let width = manifest.entries().iter().map(|entry| entry.name.len()).max().unwrap_or(0) + 2;
    for entry in manifest.entries() {
        say!("  {:<width$}{}", entry.name, brief(&entry.origin));
    }
    Ok(())
}

/// The first of many packages stands for them all.
fn brief(origin: &str) -> String {
    match origin.split(", ").collect::<Vec<_>>().as_slice() {
        [first, others @ ..] if others.len() > 3 => format!("{first} and {} other packages", others.len()),
        _ => origin.to_owned(),
    }
}

impl Cache {
    /// Gets all that an architecture needs; what it is, and where.
    fn pieces(&self, arch: Arch) -> Result<Vec<(String, String)>> {
        let path = |path: PathBuf| path.display().to_string();
        let name = arch.name();
        let mut found = vec![(format!("{name} core"), toolchain::find(self, arch)?.describe())];
        let mut say = |what: &str, value: String| found.push((format!("{name} {what}"), value));
        match arch {
            Arch::Aarch64 => {
                say("emulator", qemu::find(self)?.version);
                say("realm guest kernel", path(self.guest_kernel(Dialect::Realm)?));
                say("pkvm guest kernel", path(self.guest_kernel(Dialect::Pkvm)?));
            }
            Arch::X86_64 => {
                say("emulator", bochs::find(self)?.version);
                say("boot loader", grub::find(self)?.describe());
                say("tdx guest kernel", path(self.guest_kernel(Dialect::Tdx)?));
                say("older tdx guest kernel", path(self.stable_tdx_kernel()?));
            }
        }
        say("busybox", path(initramfs::busybox(self, arch)?));
        Ok(found)
    }

    /// Reads all content; names of the pieces that are damaged or gone.
    fn check_all(&self) -> Result<Vec<String>> {
        let step = Step::start("checksums");
        let entries = self.manifest.borrow().entries().to_vec();
        let mut bad = Vec::new();
        for entry in &entries {
            step.note(&entry.name);
            if self.manifest.borrow_mut().check(&self.root, &entry.name, &entry.recipe, true)? != State::Good {
                bad.push(entry.name.clone());
            }
        }
        let summary = match bad.as_slice() {
            [] => format!("{} pieces match", entries.len()),
            names => format!("damaged or gone: {}", names.join(", ")),
        };
        step.done(&summary);
        Ok(bad)
    }
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
