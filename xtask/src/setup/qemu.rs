//! The emulator: the user's own QEMU when it is new enough, else Debian's in a private folder.
//!
//! The private copy brings all its libraries, so it runs through its own dynamic loader and works on any Debian.

use super::{Cache, on_path};
use crate::progress::Step;
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const PROGRAM: &str = "qemu-system-aarch64";
/// The second UART of `virt` came with 9.1; 9.2 is the first stable line that was seen to work.
const OLDEST: (u32, u32) = (9, 2);

/// How to start QEMU.
#[derive(Clone, Debug)]
pub struct Emulator {
    /// What it says of itself.
    pub version: String,
    program: PathBuf,
    arguments: Vec<String>,
}

impl Emulator {
    /// A command that starts it, without any machine options.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments);
        command
    }

    fn new(program: PathBuf, arguments: Vec<String>) -> Result<Self> {
        let mut emulator = Emulator { version: String::new(), program, arguments };
        let out = emulator.command().arg("--version").stdin(Stdio::null()).output();
        let out = out.with_context(|| format!("{} does not start", emulator.program.display()))?;
        let text = String::from_utf8_lossy(&out.stdout);
        match text.lines().next().filter(|_| out.status.success()) {
            Some(line) => emulator.version = line.to_owned(),
            None => bail!(
                "{} does not run: {}",
                emulator.program.display(),
                String::from_utf8_lossy(&out.stderr).lines().next().unwrap_or("no reason given")
            ),
        }
        Ok(emulator)
    }

    fn new_enough(&self) -> bool {
        number(&self.version).is_some_and(|version| version >= OLDEST)
    }
}

/// Finds an emulator: `POSTERN_QEMU`, one on the PATH, the private one (fetched if need be).
pub fn find(cache: &Cache) -> Result<Emulator> {
    if let Some(program) = std::env::var_os("POSTERN_QEMU") {
        let emulator = Emulator::new(program.into(), vec![]).context("POSTERN_QEMU")?;
        if !emulator.new_enough() {
            bail!("POSTERN_QEMU is {}; at least {}.{} is needed", emulator.version, OLDEST.0, OLDEST.1);
        }
        return Ok(emulator);
    }
    let own = on_path(PROGRAM).and_then(|program| Emulator::new(program, vec![]).ok());
    if let Some(emulator) = own.filter(Emulator::new_enough) {
        return Ok(emulator);
    }
    private(cache).with_context(|| {
        format!("no {PROGRAM} {}.{} or newer on the PATH, and none can be fetched", OLDEST.0, OLDEST.1)
    })
}

fn private(cache: &Cache) -> Result<Emulator> {
    let folder = cache.piece("qemu", "trixie closure 1", |staging| {
        let apt = cache.trixie()?;
        let step = Step::start("emulator");
        let files = apt.closure(&["qemu-system-arm"], &step)?;
        std::fs::create_dir_all(staging)?;
        super::apt::unpack(&files, staging, &step)?;
        for unused in ["usr/share/doc", "usr/share/locale", "usr/share/man", "usr/share/info", "etc", "var"] {
            super::remove(&staging.join(unused))?;
        }
        apt.clean()?;
        let main = files.iter().find(|f| super::apt::identity(f).starts_with("qemu-system-arm "));
        let origin = format!("{} and {} libraries", super::apt::identity(main.unwrap_or(&files[0])), files.len() - 1);
        step.done(&origin);
        Ok(origin)
    })?;
    let loader = loader(&folder).context("the private QEMU has no dynamic loader; `cargo xtask setup --refresh`")?;
    let libraries = loader.parent().expect("a file").display().to_string();
    let text = |path: PathBuf| path.display().to_string();
    let arguments = vec![
        "--library-path".into(),
        libraries,
        text(folder.join("usr/bin").join(PROGRAM)),
        "-L".into(),
        text(folder.join("usr/share/qemu")),
    ];
    Emulator::new(loader, arguments)
}

/// `usr/lib/<triplet>/ld-linux-*.so.*`.
fn loader(folder: &Path) -> Option<PathBuf> {
    let libraries = folder.join("usr/lib").read_dir().ok()?.flatten().map(|e| e.path());
    let is_loader = |path: &PathBuf| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("ld-linux"));
    libraries.filter(|p| p.is_dir()).find_map(|p| p.read_dir().ok()?.flatten().map(|e| e.path()).find(is_loader))
}

/// Major and minor number out of `QEMU emulator version 10.0.13 (...)`.
fn number(line: &str) -> Option<(u32, u32)> {
    let version = line.split("version ").nth(1)?.split_whitespace().next()?;
    let mut parts = version.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_versions() {
        assert_eq!(number("QEMU emulator version 10.0.13 (Debian 1:10.0.13+ds-0+deb13u1)"), Some((10, 0)));
        assert_eq!(number("QEMU emulator version 7.2.17 (Debian)"), Some((7, 2)));
        assert_eq!(number("something else"), None);
        assert!(number("QEMU emulator version 7.2.17").unwrap() < OLDEST);
    }
}
