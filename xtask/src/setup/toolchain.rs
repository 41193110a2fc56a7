//! `core` and `alloc` for the bare-metal target: installed, installable, or from source.

use super::{Cache, on_path, remove};
use crate::arch::Arch;
use crate::progress::Step;
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// `core` for an architecture, and where it comes from.
pub struct Toolchain {
    arch: Arch,
    target: &'static str,
    core: Core,
}

enum Core {
    /// The active toolchain has the target.
    Installed,
    /// Built by cargo from the standard library's source in this folder.
    Source(PathBuf),
}

impl Toolchain {
    /// One line for the user.
    pub fn describe(&self) -> String {
        match &self.core {
            Core::Installed => format!("{} of the active toolchain", self.target),
            Core::Source(path) => format!("built from {}", path.display()),
        }
    }

    /// The architecture it builds for.
    pub fn arch(&self) -> Arch {
        self.arch
    }

    /// Adds to a cargo command what this toolchain needs.
    pub fn apply(&self, cargo: &mut Command) {
        cargo.args(["--target", self.target]);
        if let Core::Source(library) = &self.core {
            // Building the standard library is an unstable feature of the pinned, stable toolchain.
            cargo.env("RUSTC_BOOTSTRAP", "1").env("__CARGO_TESTS_ONLY_SRC_ROOT", library);
            cargo.args(["-Zbuild-std=core,alloc,compiler_builtins", "-Zbuild-std-features=compiler-builtins-mem"]);
        }
    }
}

/// Finds `core` for an architecture, or gets it.
pub fn find(cache: &Cache, arch: Arch) -> Result<Toolchain> {
    find_target(cache, arch, arch.target())
}

/// Finds `core` for one of an architecture's targets, or gets it.
pub fn find_target(cache: &Cache, arch: Arch, target: &'static str) -> Result<Toolchain> {
    if installed(target) || !cache.looks_only && rustup_adds(target) {
        return Ok(Toolchain { arch, target, core: Core::Installed });
    }
    let release = release()?;
    let why = || {
        format!(
            "Rust {release} has no `core` for {target}, and its source cannot be had either; \
             `rustup target add {target}` would settle it"
        )
    };
    Ok(Toolchain { arch, target, core: Core::Source(source(cache, &release).with_context(why)?) })
}

fn rustc() -> Command {
    let mut command = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    command.current_dir(crate::paths::root()).stdin(Stdio::null());
    command
}

/// Does the active sysroot hold a `core` for the target?
fn installed(target: &str) -> bool {
    let Ok(out) = rustc().args(["--print", "target-libdir", "--target", target]).output() else { return false };
    let folder = PathBuf::from(String::from_utf8_lossy(&out.stdout).trim());
    let mut files = folder.read_dir().into_iter().flatten().flatten();
    out.status.success() && files.any(|f| f.file_name().to_string_lossy().starts_with("libcore-"))
}

/// Asks rustup for the target, unless the user forbids it to install things.
fn rustup_adds(target: &str) -> bool {
    if std::env::var("RUSTUP_AUTO_INSTALL").is_ok_and(|v| v == "0") || on_path("rustup").is_none() {
        return false;
    }
    let step = Step::start("rustup target");
    let mut command = Command::new("rustup");
    command.args(["target", "add", target]).current_dir(crate::paths::root());
    let added = command.stdin(Stdio::null()).output().is_ok_and(|out| out.status.success());
    step.done(if added { "added" } else { "not to be had; trying the library's source" });
    added && installed(target)
}

fn release() -> Result<String> {
    let out = rustc().arg("-vV").output().context("rustc does not start; install Rust with rustup")?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    match text.lines().find_map(|l| l.strip_prefix("release: ")) {
        Some(release) if out.status.success() => Ok(release.to_owned()),
        _ => bail!("rustc does not tell its version: {}", String::from_utf8_lossy(&out.stderr).trim()),
    }
}

/// The standard library's source of exactly this release, from Debian's `rust-src`.
fn source(cache: &Cache, release: &str) -> Result<PathBuf> {
    let name = format!("rust-src-{release}");
    let folder = cache.piece(&name, "library", |staging| {
        let apt = cache.trixie()?;
        let step = Step::start("Rust library source");
        let unpacked = super::beside(staging);
        remove(&unpacked)?;
        let origin = cache.unpacked(&apt, &[&format!("rust-src={release}*")], &unpacked, &step)?;
        // The package holds the compiler as well; only the library is of use.
        let library = unpacked.join(format!("usr/src/rustc-{release}/library"));
        std::fs::create_dir_all(staging)?;
        std::fs::rename(&library, staging.join("library"))?;
        for file in ["Cargo.lock", "Cargo.toml"] {
            let _ = std::fs::rename(unpacked.join(format!("usr/src/rustc-{release}")).join(file), staging.join(file));
        }
        remove(&unpacked)?;
        step.done(&origin);
        Ok(origin)
    })?;
    let library = folder.join("library");
    if !Path::new(&library).join("core/Cargo.toml").exists() {
        bail!("{} holds no library/core", folder.display());
    }
    Ok(library)
}
