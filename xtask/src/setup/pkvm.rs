//! The guest kernel of the `pkvm` dialect: Debian's Linux source, built once with `pkvm-guest-kernel.config`.
//!
//! Stock kernels leave ARM_PKVM_GUEST out. The compiler and the other tools are the user's own where all are there, else
//! Debian's, unpacked into the cache and run from there with this machine's libraries.

use super::apt::{self, Apt, World};
use super::{Cache, kernel, on_path, remove};
use crate::progress::Step;
use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Lines that a whole build prints, for the progress bar.
const BUILD_LINES: u64 = 1500;
const CROSS_COMPILER: &str = "gcc-aarch64-linux-gnu";
const BINUTILS: &str = "binutils-aarch64-linux-gnu";
/// Programs that the build calls, and Debian's packages that hold them.
const PROGRAMS: [(&str, &str); 8] = [
    ("aarch64-linux-gnu-gcc", CROSS_COMPILER),
    ("make", "make"),
    ("bc", "bc"),
    ("bison", "bison"),
    ("flex", "flex"),
    ("xz", "xz-utils"),
    ("perl", "perl"),
    ("gcc", "gcc"),
];

/// The kernel as a raw arm64 `Image`.
pub fn kernel(cache: &Cache) -> Result<PathBuf> {
    let config = crate::paths::root().join("xtask/pkvm-guest-kernel.config");
    let digest = Sha256::digest(fs::read(&config)?);
    let recipe = format!("config {:02x}{:02x}{:02x}{:02x}", digest[0], digest[1], digest[2], digest[3]);
    cache.piece("kernel/pkvm-guest", &recipe, |staging| {
        let tools = Tools::find(cache)?;
        let workshop = cache.workshop("pkvm")?;
        let (source, origin) = source(cache, &tools, &workshop)?;
        let image = build(&tools, &source, &workshop.join("out"), &config)?;
        fs::copy(image, staging)?;
        remove(&workshop)?;
        Ok(format!("{origin} with pkvm-guest-kernel.config"))
    })
}

/// Unpacks the kernel source, unless an interrupted build left it.
fn source(cache: &Cache, tools: &Tools, workshop: &Path) -> Result<(PathBuf, String)> {
    let marker = workshop.join("source-complete");
    if let Ok(text) = fs::read_to_string(&marker)
        && let Some((folder, origin)) = text.split_once('\n')
        && workshop.join(folder).is_dir()
    {
        return Ok((workshop.join(folder), origin.to_owned()));
    }
    let apt = cache.trixie()?;
    let package = package(cache, &apt)?;
    let step = Step::start("Linux source");
    let packed = workshop.join("packed");
    remove(&packed)?;
    let origin = cache.unpacked(&apt, &[&package], &packed, &step)?;
    let archive = packed.join(format!("usr/src/{package}.tar.xz"));
    remove(&workshop.join(&package))?;
    step.note("unpacking (1.8 GB)");
    let status = tools.command("tar").arg("-xf").arg(&archive).arg("-C").arg(workshop).stdin(Stdio::null()).status()?;
    if !status.success() {
        bail!("{package} cannot be unpacked (are 3 GB free in {}?)", workshop.display());
    }
    remove(&packed)?;
    fs::write(marker, format!("{package}\n{origin}"))?;
    step.done(&origin);
    Ok((workshop.join(package), origin))
}

/// The source of the same series as Debian's guest kernel when there is one, else the newest 7.x.
fn package(cache: &Cache, apt: &Apt) -> Result<String> {
    let names = apt.names("linux-source-7.")?;
    let debian = cache.manifest.borrow().entries().iter().find_map(|e| kernel::series(&e.origin));
    if let Some(same) = debian.map(|series| format!("linux-source-{series}")).filter(|name| names.contains(name)) {
        return Ok(same);
    }
    let minor = |name: &String| name.strip_prefix("linux-source-7.").and_then(|m| m.parse::<u32>().ok());
    let newest = names.into_iter().filter(|n| minor(n).is_some()).max_by_key(minor);
    newest.context("trixie-backports offers no linux-source-7.x")
}

fn build(tools: &Tools, source: &Path, out: &Path, config: &Path) -> Result<PathBuf> {
    let step = Step::start("pKVM guest kernel");
    step.note("configuring");
    fs::create_dir_all(out)?;
    let make = || {
        let mut make = tools.command("make");
        make.arg("-C").arg(source).arg(format!("O={}", out.display())).env("KCONFIG_ALLCONFIG", config);
        make.args(["ARCH=arm64", "CROSS_COMPILE=aarch64-linux-gnu-"]);
        // Equal sources give equal images.
        make.env("KBUILD_BUILD_TIMESTAMP", "2026-01-01").env("KBUILD_BUILD_USER", "postern");
        make.env("KBUILD_BUILD_HOST", "postern");
        for inherited in ["MAKEFLAGS", "MFLAGS", "MAKELEVEL"] {
            make.env_remove(inherited);
        }
        make
    };
    run(make().arg("allnoconfig"), &step, |_| {})?;
    let jobs = std::thread::available_parallelism().map_or(1, |n| n.get());
    let mut lines = 0;
    run(make().arg(format!("-j{jobs}")).arg("Image"), &step, |line| {
        lines += 1;
        step.advance(lines, BUILD_LINES);
        step.note(line.trim());
    })?;
    let image = out.join("arch/arm64/boot/Image");
    if !image.exists() {
        bail!("the kernel build made no {}", image.display());
    }
    step.done("built");
    Ok(image)
}

/// Runs a build command; when it fails, shows the end of its output.
fn run(command: &mut Command, step: &Step, mut line_seen: impl FnMut(&str)) -> Result<()> {
    // The shell joins the two output streams in their order.
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let stderr = child.stderr.take().expect("piped");
    let errors = std::thread::spawn(move || {
        let mut last = VecDeque::new();
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            last.push_back(line);
            if last.len() > 12 {
                last.pop_front();
            }
        }
        last
    });
    for line in BufReader::new(child.stdout.take().expect("piped")).lines().map_while(Result::ok) {
        line_seen(&line);
    }
    let status = child.wait()?;
    if status.success() {
        return Ok(());
    }
    for line in errors.join().unwrap_or_default() {
        step.println(&line);
    }
    bail!(
        "the guest kernel does not build (`make` ended with {status}); run the same command again to go on from there"
    )
}

/// The programs of the build.
struct Tools {
    /// Folder with Debian's programs and libraries, where they are not the user's own.
    private: Option<PathBuf>,
}

impl Tools {
    fn find(cache: &Cache) -> Result<Self> {
        let missing: Vec<_> = PROGRAMS.iter().filter(|(program, _)| on_path(program).is_none()).collect();
        if missing.is_empty() {
            return Ok(Tools { private: None });
        }
        let packages: Vec<&str> = missing.iter().map(|(_, package)| *package).collect();
        if packages.contains(&"gcc") {
            bail!("no C compiler for this machine, which the kernel build needs: `apt-get install gcc libc6-dev`");
        }
        let private = cache.piece("kernel-tools", &packages.join(" "), |staging| {
            let apt = Apt::open(&cache.root, World::Machine)?;
            let step = Step::start("kernel build tools");
            let mut files = apt.closure(&packages, &step)?;
            // The compiler looks for its assembler beside itself, even where the machine has one: with the one the other.
            let is_binutils = |file: &PathBuf| apt::identity(file).starts_with(BINUTILS);
            if packages.contains(&CROSS_COMPILER) && !files.iter().any(is_binutils) {
                files.extend(apt.packages(&[BINUTILS], &step)?);
            }
            fs::create_dir_all(staging)?;
            // The C library itself stays the machine's: another one would not fit its dynamic loader.
            let fits = |file: &PathBuf| !apt::identity(file).starts_with("libc6 ");
            let files: Vec<PathBuf> = files.into_iter().filter(fits).collect();
            apt::unpack(&files, staging, &step)?;
            apt.clean()?;
            step.done(&packages.join(", "));
            Ok(files.iter().map(|f| apt::identity(f)).collect::<Vec<_>>().join(", "))
        });
        let private = private.with_context(|| {
            format!("the pKVM guest kernel needs build tools; `apt-get install {}` would settle it", packages.join(" "))
        })?;
        Ok(Tools { private: Some(private) })
    }

    fn command(&self, program: &str) -> Command {
        let Some(folder) = &self.private else { return Command::new(program) };
        let bin = folder.join("usr/bin");
        let own = bin.join(program);
        let mut command = Command::new(if own.exists() { own } else { program.into() });
        let triplet = format!("{}-linux-gnu", std::env::consts::ARCH);
        let libraries = [folder.join("usr/lib").join(&triplet), folder.join("lib").join(&triplet)];
        command.env("LD_LIBRARY_PATH", joined(libraries.into(), "LD_LIBRARY_PATH"));
        command.env("PATH", joined(vec![bin.clone()], "PATH"));
        // These two look for their own files at fixed places.
        if bin.join("bison").exists() {
            command.env("BISON_PKGDATADIR", folder.join("usr/share/bison"));
        }
        if bin.join("m4").exists() {
            command.env("M4", bin.join("m4"));
        }
        command
    }
}

/// A search path of `folders`, then what the variable held.
fn joined(mut folders: Vec<PathBuf>, variable: &str) -> std::ffi::OsString {
    folders.extend(std::env::var_os(variable).iter().flat_map(std::env::split_paths));
    std::env::join_paths(folders).expect("no path here holds a colon")
}
