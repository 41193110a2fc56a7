//! A private apt: fetches Debian packages into the cache without touching the machine's own package state.
//!
//! apt verifies every index and package through the signed Release files, with the keys this machine already trusts.

use super::sources;
use crate::arch::Arch;
use crate::progress::Step;
use anyhow::{Context, Result, anyhow, bail};
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Which packages count as available and as installed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum World {
    /// Debian 13 with backports, for this machine's architecture and the guests'; nothing installed. What comes from here
    /// brings all its libraries along.
    Trixie,
    /// The release this machine runs, with what it has installed. What comes from here runs with the machine's libraries.
    Machine,
}

/// How long package lists count as fresh.
const LISTS_FRESH: Duration = Duration::from_hours(12);
/// Debian's keys; where they are absent, apt's own trust configuration decides.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A private apt for one [`World`].
pub struct Apt {
    folder: PathBuf,
    /// This machine's Debian architecture.
    pub machine: String,
}

impl Apt {
    /// Prepares the private configuration and fetches the package lists unless they are fresh.
    pub fn open(cache: &Path, world: World) -> Result<Self> {
        let machine = output("dpkg", &["--print-architecture"])
            .context("this needs a Debian machine: apt and dpkg are used to fetch what is missing")?;
        let name = if world == World::Trixie { "trixie" } else { "machine" };
        let folder = cache.join("apt").join(name);
        for sub in ["lists/partial", "archives/partial", "state"] {
            fs::create_dir_all(folder.join(sub))?;
        }
        let apt = Apt { folder, machine };
        let codename = codename()?;
        let suites: &[&str] = if world == World::Trixie { &["trixie", "trixie-backports"] } else { &[&codename] };
        let mirror = sources::mirror(&codename)?;
        let signed = if Path::new(KEYRING).exists() { format!("[signed-by={KEYRING}] ") } else { String::new() };
        let list: String = suites.iter().map(|suite| format!("deb {signed}{mirror} {suite} main\n")).collect();
        fs::write(apt.folder.join("sources.list"), list)?;
        fs::write(apt.folder.join("nothing-installed"), "")?;
        fs::write(apt.folder.join("apt.conf"), apt.configuration(world))?;
        apt.refresh()?;
        Ok(apt)
    }

    fn configuration(&self, world: World) -> String {
        let folder = self.folder.display();
        let status = match world {
            World::Trixie => format!("{folder}/nothing-installed"),
            World::Machine => "/var/lib/dpkg/status".into(),
        };
        let guests = if world == World::Trixie { Arch::ALL.map(Arch::debian).to_vec() } else { vec![] };
        let foreign: String = guests.iter().filter(|a| **a != self.machine).map(|a| format!("\"{a}\"; ")).collect();
        // The #clear lines keep hooks of the machine's configuration from running for a private update.
        format!(
            "#clear APT::Architectures;\nAPT::Architectures {{ \"{}\"; {foreign} }};\n\
             #clear APT::Update::Post-Invoke;\n#clear APT::Update::Post-Invoke-Success;\n#clear DPkg::Post-Invoke;\n\
             #clear Acquire::IndexTargets::deb::DEP-11;\n#clear Acquire::IndexTargets::deb::DEP-11-icons-small;\n\
             #clear Acquire::IndexTargets::deb::DEP-11-icons;\n#clear Acquire::IndexTargets::deb::DEP-11-icons-hidpi;\n\
             #clear Acquire::IndexTargets::deb::DEP-11-icons-large;\n\
             #clear Acquire::IndexTargets::deb::DEP-11-icons-large-hidpi;\n\
             Acquire::Languages \"none\";\nAcquire::Retries \"3\";\n\
             APT::Sandbox::User \"\";\nAPT::Install-Recommends \"false\";\nDebug::NoLocking \"true\";\n\
             Dir::Etc::sourcelist \"{folder}/sources.list\";\nDir::Etc::sourceparts \"/dev/null\";\n\
             Dir::Etc::preferences \"/dev/null\";\nDir::Etc::preferencesparts \"/dev/null\";\n\
             Dir::State \"{folder}/state\";\nDir::State::lists \"{folder}/lists\";\nDir::State::status \"{status}\";\n\
             Dir::Cache \"{folder}\";\nDir::Cache::archives \"{folder}/archives\";\n\
             Dir::Cache::pkgcache \"pkgcache.bin\";\nDir::Cache::srcpkgcache \"srcpkgcache.bin\";\n",
            self.machine
        )
    }

    fn refresh(&self) -> Result<()> {
        let stamp = self.folder.join("lists-complete");
        let sources = fs::read(self.folder.join("sources.list"))?;
        let age = fs::metadata(&stamp).and_then(|m| m.modified()).ok().and_then(|t| t.elapsed().ok());
        if age.is_some_and(|age| age < LISTS_FRESH) && fs::read(&stamp)? == sources {
            return Ok(());
        }
        let step = Step::start("package lists");
        self.get(&["update", "--error-on=any"], &self.folder, &step).context("apt cannot read the package lists")?;
        fs::write(stamp, sources)?;
        step.done("read");
        Ok(())
    }

    /// Fetches exactly the named packages (`name`, `name:arch`, `name=version`) and returns their files.
    pub fn packages(&self, names: &[&str], step: &Step) -> Result<Vec<PathBuf>> {
        let before = self.folder.join("single");
        // apt-get download writes under the final name only when a file is complete and verified.
        fs::create_dir_all(&before)?;
        clear_debs(&before)?;
        let arguments: Vec<&str> = ["download"].iter().chain(names).copied().collect();
        self.get(&arguments, &before, step).with_context(|| format!("apt cannot fetch {}", names.join(" ")))?;
        debs(&before)
    }

    /// Fetches the named packages and all that they need and this [`World`] has not installed.
    pub fn closure(&self, names: &[&str], step: &Step) -> Result<Vec<PathBuf>> {
        let archives = self.folder.join("archives");
        let arguments: Vec<&str> = ["install", "--yes", "--download-only"].iter().chain(names).copied().collect();
        self.get(&arguments, &self.folder, step).with_context(|| format!("apt cannot fetch {}", names.join(" ")))?;
        debs(&archives)
    }

    /// Deletes fetched packages once they have been unpacked.
    pub fn clean(&self) -> Result<()> {
        clear_debs(&self.folder.join("archives"))?;
        clear_debs(&self.folder.join("single"))
    }

    /// Control stanzas of all known versions of a package, newest first.
    pub fn show(&self, name: &str) -> Result<Vec<String>> {
        let config = self.folder.join("apt.conf");
        let text = output("apt-cache", &["-c", &config.to_string_lossy(), "show", name])
            .with_context(|| format!("apt knows no package {name}"))?;
        Ok(text.split("\n\n").filter(|s| !s.trim().is_empty()).map(str::to_owned).collect())
    }

    /// Names of all known packages that start with `prefix`.
    pub fn names(&self, prefix: &str) -> Result<Vec<String>> {
        let config = self.folder.join("apt.conf");
        let text = output("apt-cache", &["-c", &config.to_string_lossy(), "pkgnames", prefix])?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// Runs apt-get and shows its download progress.
    fn get(&self, arguments: &[&str], folder: &Path, step: &Step) -> Result<()> {
        let mut child = Command::new("apt-get")
            .arg("-c")
            .arg(self.folder.join("apt.conf"))
            .args(["-qq", "-o", "APT::Status-Fd=1"])
            .args(arguments)
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("apt-get does not start")?;
        let mut stderr = child.stderr.take().expect("piped");
        let errors = std::thread::spawn(move || {
            let mut text = String::new();
            let _ = stderr.read_to_string(&mut text);
            text
        });
        for line in BufReader::new(child.stdout.take().expect("piped")).lines().map_while(Result::ok) {
            // dlstatus:<n>:<percent>:<text>
            if let Some((percent, text)) =
                line.strip_prefix("dlstatus:").and_then(|l| l.splitn(3, ':').skip(1).collect_two())
            {
                step.advance((percent.parse::<f64>().unwrap_or(0.0) * 10.0) as u64, 1000);
                step.note(text);
            }
        }
        let status = child.wait()?;
        let errors = errors.join().unwrap_or_default();
        if status.success() {
            return Ok(());
        }
        let reason =
            errors.lines().find(|l| l.starts_with("E:")).or(errors.lines().next()).unwrap_or("no reason given");
        bail!("{} (is the network there? try again: what has been fetched is kept)", reason.trim_start_matches("E: "))
    }
}

trait CollectTwo<'a> {
    fn collect_two(self) -> Option<(&'a str, &'a str)>;
}

impl<'a, I: Iterator<Item = &'a str>> CollectTwo<'a> for I {
    fn collect_two(mut self) -> Option<(&'a str, &'a str)> {
        Some((self.next()?, self.next()?))
    }
}

/// Unpacks packages into a folder, without running anything of theirs.
pub fn unpack(packages: &[PathBuf], into: &Path, step: &Step) -> Result<()> {
    for (index, package) in packages.iter().enumerate() {
        step.advance(index as u64, packages.len() as u64);
        step.note(&package.file_name().unwrap_or_default().to_string_lossy());
        let status = Command::new("dpkg-deb").arg("-x").arg(package).arg(into).stdin(Stdio::null()).status()?;
        if !status.success() {
            bail!("{} cannot be unpacked into {} (is the disk full?)", package.display(), into.display());
        }
    }
    Ok(())
}

/// `name version` of a package file, from its name.
pub fn identity(package: &Path) -> String {
    let name = package.file_name().unwrap_or_default().to_string_lossy().replace("%3a", ":");
    name.split('_').take(2).collect::<Vec<_>>().join(" ")
}

fn debs(folder: &Path) -> Result<Vec<PathBuf>> {
    let is_deb = |path: &PathBuf| path.extension().is_some_and(|e| e == "deb");
    let mut files: Vec<PathBuf> = folder.read_dir()?.flatten().map(|e| e.path()).filter(is_deb).collect();
    files.sort();
    Ok(files)
}

fn clear_debs(folder: &Path) -> Result<()> {
    if folder.exists() {
        for file in debs(folder)? {
            fs::remove_file(file)?;
        }
    }
    Ok(())
}

fn codename() -> Result<String> {
    let text = fs::read_to_string("/etc/os-release").context("/etc/os-release cannot be read")?;
    let value = text.lines().find_map(|l| l.strip_prefix("VERSION_CODENAME="));
    Ok(value.map_or_else(|| "sid".into(), |v| v.trim_matches('"').to_owned()))
}

fn output(program: &str, arguments: &[&str]) -> Result<String> {
    let out = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{program} does not start"))?;
    if !out.status.success() {
        return Err(anyhow!("{program}: {}", String::from_utf8_lossy(&out.stderr).lines().next().unwrap_or("failed")));
    }
    Ok(String::from_utf8_lossy(&out.stdout).trim_end().to_owned())
}
