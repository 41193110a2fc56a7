//! Programs of Debian 13 in a private folder of the cache.
//!
//! They bring all their libraries, so each runs through its own dynamic loader and works on any Debian, without root and
//! without being installed.

use super::Cache;
use super::apt::{self, Apt};
use crate::progress::Step;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What no program reads at run time here.
const UNUSED: [&str; 7] =
    ["usr/share/doc", "usr/share/locale", "usr/share/man", "usr/share/info", "usr/share/icons", "etc", "var"];

/// An unpacked closure of packages.
#[derive(Clone, Debug)]
pub struct Private {
    folder: PathBuf,
    loader: PathBuf,
}

impl Private {
    /// The closure of `packages` as the piece `name`, fetched if need be. `more` are files of another architecture that
    /// come without what they depend on.
    pub fn find(cache: &Cache, name: &str, title: &str, packages: &[&str], more: &[&str]) -> Result<Self> {
        let folder = cache.piece(name, "trixie closure 1", |staging| {
            let apt = cache.trixie()?;
            let step = Step::start(title);
            let origin = fetch(&apt, packages, more, staging, &step)?;
            step.done(&origin);
            Ok(origin)
        })?;
        let loader = loader(&folder)
            .with_context(|| format!("{} has no dynamic loader; `cargo xtask setup --refresh`", folder.display()))?;
        Ok(Private { folder, loader })
    }

    /// A file or folder by its path from `/usr` on.
    pub fn usr(&self, path: &str) -> PathBuf {
        self.folder.join("usr").join(path)
    }

    /// Folder of the libraries (`/usr/lib/<triplet>`).
    pub fn libraries(&self) -> &Path {
        self.loader.parent().expect("a file in a folder")
    }

    /// Program and first arguments that start `/usr/bin/<name>`.
    pub fn start(&self, name: &str) -> (PathBuf, Vec<String>) {
        let text = |path: &Path| path.display().to_string();
        // Some keep libraries of their own in a folder of their name.
        let folders = format!("{}:{}", text(self.libraries()), text(&self.libraries().join(name)));
        let arguments = vec!["--library-path".into(), folders, text(&self.usr("bin").join(name))];
        (self.loader.clone(), arguments)
    }

    /// A command that starts `/usr/bin/<name>`.
    pub fn command(&self, name: &str) -> Command {
        let (program, arguments) = self.start(name);
        let mut command = Command::new(program);
        command.args(arguments);
        command
    }
}

fn fetch(apt: &Apt, packages: &[&str], more: &[&str], staging: &Path, step: &Step) -> Result<String> {
    // The closure is all that lies in the folder of archives, so nothing may be left there from before.
    apt.clean()?;
    let mut files = apt.closure(packages, step)?;
    if !more.is_empty() {
        files.extend(apt.packages(more, step)?);
    }
    std::fs::create_dir_all(staging)?;
    apt::unpack(&files, staging, step)?;
    for unused in UNUSED {
        super::remove(&staging.join(unused))?;
    }
    apt.clean()?;
    let named = |file: &&PathBuf| apt::identity(file).split(' ').next() == Some(packages[0]);
    let main = apt::identity(files.iter().find(named).unwrap_or(&files[0]));
    Ok(format!("{main} and {} libraries", files.len() - 1))
}

/// `usr/lib/<triplet>/ld-linux-*.so.*`.
fn loader(folder: &Path) -> Option<PathBuf> {
    let libraries = folder.join("usr/lib").read_dir().ok()?.flatten().map(|e| e.path());
    let is_loader = |path: &PathBuf| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("ld-linux"));
    libraries.filter(|p| p.is_dir()).find_map(|p| p.read_dir().ok()?.flatten().map(|e| e.path()).find(is_loader))
}
