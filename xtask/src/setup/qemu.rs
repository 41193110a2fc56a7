//! QEMU, the emulator of arm64 machines and of PCs without VMX: the user's own when it is new enough, else Debian's in a
//! private folder.

use super::private::Private;
use super::{Cache, on_path};
use crate::arch::Arch;
use anyhow::{Context, Result, bail};
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// The second UART of `virt` came with 9.1; 9.2 is the first stable line that was seen to work.
const OLDEST: (u32, u32) = (9, 2);

/// How to start QEMU.
#[derive(Clone, Debug)]
pub struct Qemu {
    /// What it says of itself.
    pub version: String,
    program: PathBuf,
    arguments: Vec<String>,
}

impl Qemu {
    /// A command that starts it, without any machine options.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments);
        command
    }

    fn new(program: PathBuf, arguments: Vec<String>) -> Result<Self> {
        let mut qemu = Qemu { version: String::new(), program, arguments };
        let out = qemu.command().arg("--version").stdin(Stdio::null()).output();
        let out = out.with_context(|| format!("{} does not start", qemu.program.display()))?;
        let text = String::from_utf8_lossy(&out.stdout);
        match text.lines().next().filter(|_| out.status.success()) {
            Some(line) => qemu.version = line.to_owned(),
            None => bail!(
                "{} does not run: {}",
                qemu.program.display(),
                String::from_utf8_lossy(&out.stderr).lines().next().unwrap_or("no reason given")
            ),
        }
        Ok(qemu)
    }

    fn new_enough(&self) -> bool {
        number(&self.version).is_some_and(|version| version >= OLDEST)
    }
}

/// Finds an emulator: for arm64 `POSTERN_QEMU`, one on the PATH, the private one (fetched if need be).
pub fn find(cache: &Cache, arch: Arch) -> Result<Qemu> {
    let named = std::env::var_os("POSTERN_QEMU").filter(|_| arch == Arch::Aarch64);
    if let Some(program) = named {
        let qemu = Qemu::new(program.into(), vec![]).context("POSTERN_QEMU")?;
        if !qemu.new_enough() {
            bail!("POSTERN_QEMU is {}; at least {}.{} is needed", qemu.version, OLDEST.0, OLDEST.1);
        }
        return Ok(qemu);
    }
    let program = format!("qemu-system-{}", arch.name());
    let own = on_path(&program).and_then(|program| Qemu::new(program, vec![]).ok());
    if let Some(qemu) = own.filter(Qemu::new_enough) {
        return Ok(qemu);
    }
    private(cache, arch, &program).with_context(|| {
        format!("no {program} {}.{} or newer on the PATH, and none can be fetched", OLDEST.0, OLDEST.1)
    })
}

fn private(cache: &Cache, arch: Arch, program: &str) -> Result<Qemu> {
    let tree = match arch {
        Arch::Aarch64 => Private::find(cache, "qemu", "arm64 emulator", &["qemu-system-arm"], &[]),
        Arch::X86_64 => Private::find(cache, "qemu-x86", "x86-64 emulator without VMX", &["qemu-system-x86"], &[]),
    }?;
    let (loader, mut arguments) = tree.start(program);
    // SeaBIOS is a package of its own.
    for folder in ["share/qemu", "share/seabios"] {
        arguments.extend(["-L".into(), tree.usr(folder).display().to_string()]);
    }
    Qemu::new(loader, arguments)
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
