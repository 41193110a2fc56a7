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
    /// Whether what is not there is an [`Absent`] piece, and nothing is got.
    looks_only: bool,
    _lock: Option<fs::File>,
}

/// A piece that is not there, by its name, in a cache that is only looked at.
#[derive(Debug, PartialEq, Eq)]
pub struct Absent(String);

impl std::fmt::Display for Absent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} is not there", self.0)
    }
}

impl std::error::Error for Absent {}

impl Cache {
    /// Opens the cache: `POSTERN_CACHE`, else `postern` in the user's cache folder. Waits while another process holds it.
    pub fn open() -> Result<Self> {
        let root = folder()?;
        fs::create_dir_all(&root).with_context(|| {
            format!("the cache folder {} cannot be made; set POSTERN_CACHE to a folder you can write", root.display())
        })?;
        let lock = fs::File::create(root.join("lock"))
            .with_context(|| format!("{} is not writable; set POSTERN_CACHE to another folder", root.display()))?;
        Self::held(root, Some(lock), false)
    }

    /// The cache in this folder as it is: nothing is made or got, and what is not there is [`Absent`].
    fn look(root: PathBuf) -> Result<Self> {
        let lock = fs::File::open(root.join("lock")).ok();
        Self::held(root, lock, true)
    }

    fn held(root: PathBuf, lock: Option<fs::File>, looks_only: bool) -> Result<Self> {
        if let Some(lock) = lock.as_ref().filter(|lock| lock.try_lock().is_err()) {
            eprintln!("waiting for another xtask that uses {}", root.display());
            lock.lock()?;
        }
        let manifest = RefCell::new(Manifest::open(&root)?);
        Ok(Cache { root, manifest, looks_only, _lock: lock })
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
            _ if self.looks_only => return Err(Absent(name.to_owned()).into()),
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
    /// Change nothing: read everything in the cache and compare checksums. Exit status 1 when something is damaged or gone, or
    /// was never there.
    #[arg(long, conflicts_with = "refresh")]
    verify: bool,
    /// Forget what is there and get the newest of everything.
    #[arg(long)]
    refresh: bool,
}

/// Checks every piece against its checksum, and gets what is missing or damaged.
pub fn run(options: Options) -> Result<()> {
    if options.verify {
        return verify(&Cache::look(folder()?)?, options.arch);
    }
    let cache = Cache::open()?;
    if options.refresh {
        let _ = fs::remove_file(cache.root.join("manifest"));
        remove(&cache.root.join("apt"))?;
        *cache.manifest.borrow_mut() = Manifest::open(&cache.root)?;
    }
    for name in cache.check_all()? {
        remove(&cache.root.join(name))?;
    }
    let mut found = Vec::new();
    for arch in chosen(options.arch) {
        for (title, what) in cache.pieces(arch)? {
            found.push((title, what?));
        }
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

/// The architecture asked for, or all.
fn chosen(arch: Option<Arch>) -> impl Iterator<Item = Arch> {
    Arch::ALL.into_iter().filter(move |one| arch.is_none_or(|only| only == *one))
}

/// Names what is damaged or gone, and what [`run`] would get besides.
fn verify(cache: &Cache, arch: Option<Arch>) -> Result<()> {
    let bad = cache.check_all()?;
    let mut absent = Vec::new();
    for arch in chosen(arch) {
        absent.extend(cache.pieces(arch)?.into_iter().filter_map(|(_, what)| Some(what.err()?.0)));
    }
    absent.retain(|name| !bad.contains(name));
    absent.sort();
    absent.dedup();
    let kinds = [("damaged or gone", bad), ("never fetched", absent)];
    let faults = kinds.iter().filter(|(_, names)| !names.is_empty());
    let faults: Vec<_> = faults.map(|(fault, names)| format!("{fault}: {}", names.join(", "))).collect();
    match faults.as_slice() {
        [] => Ok(()),
        some => bail!("in {}, {}; `cargo xtask setup` gets it", cache.root.display(), some.join("; ")),
    }
}

/// The first of many packages stands for them all.
fn brief(origin: &str) -> String {
    match origin.split(", ").collect::<Vec<_>>().as_slice() {
        [first, others @ ..] if others.len() > 3 => format!("{first} and {} other packages", others.len()),
        _ => origin.to_owned(),
    }
}

impl Cache {
    /// Gets all that an architecture needs; what it is, and where. Nothing is [`Absent`] but in a cache that is only looked at.
    fn pieces(&self, arch: Arch) -> Result<Vec<(String, Result<String, Absent>)>> {
        let path = |path: PathBuf| path.display().to_string();
        let mut found = Vec::new();
        let mut say = |what: &str, value: Result<String>| -> Result<()> {
            let value = value.map(Ok).or_else(|error| error.downcast().map(Err))?;
            found.push((format!("{} {what}", arch.name()), value));
            Ok(())
        };
        say("core", toolchain::find(self, arch).map(|toolchain| toolchain.describe()))?;
        match arch {
            Arch::Aarch64 => {
                say("emulator", qemu::find(self, arch).map(|qemu| qemu.version))?;
                say("realm guest kernel", self.guest_kernel(Dialect::Realm).map(path))?;
                say("pkvm guest kernel", self.guest_kernel(Dialect::Pkvm).map(path))?;
            }
            Arch::X86_64 => {
                say("emulator", bochs::find(self).map(|bochs| bochs.version))?;
                say("boot loader", grub::find(self).map(|grub| grub.describe()))?;
                say("tdx guest kernel", self.guest_kernel(Dialect::Tdx).map(path))?;
                say("older tdx guest kernel", self.stable_tdx_kernel().map(path))?;
            }
        }
        say("busybox", initramfs::busybox(self, arch).map(path))?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_that_is_only_looked_at_stays_as_it_is() {
        let root = std::env::temp_dir().join(format!("postern-cache-{}", std::process::id()));
        let said = |arch| format!("{:#}", verify(&Cache::look(root.clone()).unwrap(), arch).unwrap_err());
        let nothing = said(None);
        for piece in ["kernel/debian-cloud-arm64", "kernel/pkvm-guest", "kernel/debian-cloud-amd64", "busybox-arm64"] {
            assert!(nothing.contains(piece), "{piece}: {nothing}");
        }
        assert!(nothing.contains("never fetched: ") && nothing.ends_with("`cargo xtask setup` gets it"), "{nothing}");
        assert!(!said(Some(Arch::X86_64)).contains("arm64"));
        assert!(!root.exists(), "nothing is made");
        fs::create_dir_all(&root).unwrap();
        said(None);
        assert_eq!(root.read_dir().unwrap().count(), 0, "nor in an empty folder");
        fs::remove_dir(&root).unwrap();
    }
}
