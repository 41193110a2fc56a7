//! `core` and `alloc` for the bare-metal target: installed, installable, or from source.

use super::{Cache, on_path, remove};
use crate::progress::Step;
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Target of everything that runs on the emulated machine: EL2 and its test programs use no FP or SIMD registers.
pub const TARGET: &str = "aarch64-unknown-none-softfloat";

/// Where `core` comes from.
pub enum Toolchain {
    /// The active toolchain has the target.
    Installed,
    /// Built by cargo from the standard library's source in this folder.
    Source(PathBuf),
}

impl Toolchain {
    /// One line for the user.
    pub fn describe(&self) -> String {
        match self {
            Toolchain::Installed => format!("{TARGET} of the active toolchain"),
            Toolchain::Source(path) => format!("built from {}", path.display()),
        }
    }

    /// Adds to a cargo command what this toolchain needs.
    pub fn apply(&self, cargo: &mut Command) {
        cargo.args(["--target", TARGET]);
        if let Toolchain::Source(library) = self {
            // Building the standard library is an unstable feature of the pinned, stable toolchain.
            cargo.env("RUSTC_BOOTSTRAP", "1").env("__CARGO_TESTS_ONLY_SRC_ROOT", library);
            cargo.args(["-Zbuild-std=core,alloc,compiler_builtins", "-Zbuild-std-features=compiler-builtins-mem"]);
        }
    }
}

/// Finds `core` for [`TARGET`], or gets it.
pub fn find(cache: &Cache) -> Result<Toolchain> {
    if installed() || rustup_adds() {
        return Ok(Toolchain::Installed);
    }
    let release = release()?;
    let why = || {
        format!(
            "Rust {release} has no `core` for {TARGET}, and its source cannot be had either; \
             `rustup target add {TARGET}` would settle it"
        )
    };
    Ok(Toolchain::Source(source(cache, &release).with_context(why)?))
}

fn rustc() -> Command {
    let mut command = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    command.current_dir(crate::paths::root()).stdin(Stdio::null());
    command
}

/// Does the active sysroot hold a `core` for the target?
fn installed() -> bool {
    let Ok(out) = rustc().args(["--print", "target-libdir", "--target", TARGET]).output() else { return false };
    let folder = PathBuf::from(String::from_utf8_lossy(&out.stdout).trim());
    let mut files = folder.read_dir().into_iter().flatten().flatten();
    out.status.success() && files.any(|f| f.file_name().to_string_lossy().starts_with("libcore-"))
}

/// Asks rustup for the target, unless the user forbids it to install things.
fn rustup_adds() -> bool {
    if std::env::var("RUSTUP_AUTO_INSTALL").is_ok_and(|v| v == "0") || on_path("rustup").is_none() {
        return false;
    }
    let step = Step::start("rustup target");
    let mut command = Command::new("rustup");
    command.args(["target", "add", TARGET]).current_dir(crate::paths::root());
    let added = command.stdin(Stdio::null()).output().is_ok_and(|out| out.status.success());
    step.done(if added { "added" } else { "not to be had; trying the library's source" });
    added && installed()
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
