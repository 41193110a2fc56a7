//! The x86-64 emulator: the user's own Bochs when it is new enough, else Debian's in a private folder.
//!
//! QEMU without KVM has no VMX; Bochs emulates it with EPT, VPID and unrestricted guest.

use super::private::Private;
use super::{Cache, on_path};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Older ones come with a debugger that waits for commands, and emulate less of VMX.
const OLDEST: (u32, u32) = (3, 0);
/// A model with VMX, EPT and x2APIC, and without AMX, whose state makes Linux stumble here; and without virtual-interrupt
/// delivery, which this Bochs gets wrong (docs/caveats.md).
pub const MODEL: &str = "corei3_cnl";
/// One that has that as well.
pub const MODEL_APICV: &str = "corei7_icelake_u";

/// How to start Bochs, and the firmware it boots.
#[derive(Clone, Debug)]
pub struct Bochs {
    /// What it says of itself.
    pub version: String,
    /// The system's BIOS.
    pub bios: PathBuf,
    /// The display's BIOS.
    pub vga_bios: PathBuf,
    program: PathBuf,
    arguments: Vec<String>,
    /// Folder of its devices and displays, where it does not know that itself.
    plugins: Option<PathBuf>,
}

impl Bochs {
    /// A command that starts it, without any machine options.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments);
        if let Some(folder) = &self.plugins {
            command.env("LTDL_LIBRARY_PATH", folder);
        }
        command
    }

    /// Asks the program for its version and its CPU models.
    fn ask(&mut self) -> Result<()> {
        let out = self.command().args(["--help", "cpu"]).stdin(Stdio::null()).output();
        let out = out.with_context(|| format!("{} does not start", self.program.display()))?;
        // The list of models goes to one stream, the banner to the other.
        let text = format!("{}\n{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        self.version = version(&text).with_context(|| format!("{} is no Bochs that runs", self.program.display()))?;
        if number(&self.version).is_none_or(|number| number < OLDEST) {
            bail!("it is {}; at least {}.{} is needed", self.version, OLDEST.0, OLDEST.1);
        }
        for model in [MODEL, MODEL_APICV] {
            if !text.lines().any(|line| line.trim() == model) {
                bail!("this {} was built without the CPU model {model}", self.version);
            }
        }
        Ok(())
    }

    /// Looks for the firmware's files.
    fn complete(self) -> Result<Self> {
        for file in [&self.bios, &self.vga_bios] {
            if !file.is_file() {
                bail!("there is no {}", file.display());
            }
        }
        Ok(self)
    }
}

/// Finds an emulator: `POSTERN_BOCHS`, one on the PATH, the private one (fetched if need be).
pub fn find(cache: &Cache) -> Result<Bochs> {
    if let Some(program) = std::env::var_os("POSTERN_BOCHS") {
        return own(program.into()).context("POSTERN_BOCHS");
    }
    if let Some(bochs) = on_path("bochs").and_then(|program| own(program).ok()) {
        return Ok(bochs);
    }
    private(cache)
        .with_context(|| format!("no Bochs {}.{} or newer on the PATH, and none can be fetched", OLDEST.0, OLDEST.1))
}

/// The user's own, with the firmware where Debian and Bochs' own installation have it.
fn own(program: PathBuf) -> Result<Bochs> {
    let beside = program.parent().and_then(Path::parent).map(|folder| folder.join("share"));
    let [bios, vga_bios] = [PathBuf::new(), PathBuf::new()];
    let mut bochs = Bochs { version: String::new(), bios, vga_bios, program, arguments: vec![], plugins: None };
    bochs.ask()?;
    let mut shares: Vec<PathBuf> = std::env::var_os("BXSHARE").map(PathBuf::from).into_iter().collect();
    for share in beside.into_iter().chain(["/usr/share".into()]) {
        shares.extend([share.join("bochs"), share.join("vgabios")]);
    }
    let find = |names: &[&str]| {
        let files = shares.iter().flat_map(|share| names.iter().map(|name| share.join(name)));
        let found = files.into_iter().find(|file| file.is_file());
        found.with_context(|| format!("no {} is to be found: set BXSHARE to the folder that has it", names[0]))
    };
    bochs.bios = find(&["BIOS-bochs-latest"])?;
    bochs.vga_bios = find(&["VGABIOS-lgpl-latest.bin", "VGABIOS-lgpl-latest", "vgabios.bin"])?;
    bochs.complete()
}

fn private(cache: &Cache) -> Result<Bochs> {
    // The terminal's display is the package with the fewest dependencies that Bochs is content with.
    let packages = ["bochs", "bochs-term", "bochsbios", "vgabios"];
    let tree = Private::find(cache, "bochs", "x86-64 emulator", &packages, &[])?;
    let (program, arguments) = tree.start("bochs-bin");
    let mut bochs = Bochs {
        version: String::new(),
        bios: tree.usr("share/bochs/BIOS-bochs-latest"),
        vga_bios: tree.usr("share/vgabios/vgabios.bin"),
        program,
        arguments,
        plugins: Some(tree.libraries().join("bochs/plugins")),
    };
    bochs.ask()?;
    bochs.complete()
}

/// `Bochs x86 Emulator 3.0` out of the banner.
fn version(text: &str) -> Option<String> {
    text.lines().map(str::trim).find(|line| line.starts_with("Bochs x86 Emulator ")).map(str::to_owned)
}

fn number(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.rsplit(' ').next()?.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_versions() {
        let banner = "=====\n                        Bochs x86 Emulator 3.0\n    Built from GitHub snapshot\n";
        assert_eq!(version(banner).as_deref(), Some("Bochs x86 Emulator 3.0"));
        assert_eq!(number("Bochs x86 Emulator 3.0"), Some((3, 0)));
        assert!(number("Bochs x86 Emulator 2.7").unwrap() < OLDEST);
        assert_eq!(version("bochs: not found"), None);
        assert_eq!(number("Bochs x86 Emulator"), None);
    }
}
