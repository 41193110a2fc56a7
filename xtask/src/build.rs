//! Builds the bare-metal programs and turns each into the flat image that boots.

use crate::arch::Arch;
use crate::paths;
use crate::progress::Step;
use crate::setup::toolchain::Toolchain;
use anyhow::{Context, Result, bail};
use elf::ElfBytes;
use elf::abi::PT_LOAD;
use elf::endian::LittleEndian;
use std::fs;
use std::io::{BufRead, BufReader, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Largest flat image taken for sane.
const IMAGE_MAX: u64 = 64 << 20;

/// What a hypervisor is built for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// Emulated machines: with the call that crashes it, for bundles that ask for that.
    Tests,
    /// Real machines: without.
    Machines,
}

/// A hypervisor.
pub struct Hypervisor {
    /// What boots: an arm64 `Image`, or a Multiboot2 kernel for x86-64.
    pub image: PathBuf,
    /// The same as the linker made it, an ELF program.
    pub program: PathBuf,
}

/// The payloads of one architecture.
pub struct Payloads(PathBuf);

impl Payloads {
    /// A payload by the name of its program.
    pub fn get(&self, name: &str) -> Result<PathBuf> {
        let file = self.0.join(format!("{name}.bin"));
        if !file.exists() {
            bail!("there is no payload `{name}` in tests/payloads/src/bin");
        }
        Ok(file)
    }
}

/// The images of one build, all for one architecture.
pub struct Images {
    /// The hypervisor, an arm64 `Image` or a Multiboot2 kernel for x86-64, with what tests need.
    pub postern: PathBuf,
    /// The payloads.
    pub payloads: Payloads,
}

/// Builds the hypervisor that tests use, and all payloads.
pub fn all(toolchain: &Toolchain) -> Result<Images> {
    let step = Step::start("build");
    let postern = hypervisor(toolchain, Purpose::Tests, &step)?.image;
    Ok(Images { postern, payloads: all_payloads(toolchain, &step)? })
}

/// Builds the hypervisor for real machines, without what is only there for tests.
pub fn for_machines(toolchain: &Toolchain) -> Result<Hypervisor> {
    hypervisor(toolchain, Purpose::Machines, &Step::start("build"))
}

/// Builds all payloads.
pub fn payloads(toolchain: &Toolchain) -> Result<Payloads> {
    all_payloads(toolchain, &Step::start("build"))
}

fn hypervisor(toolchain: &Toolchain, purpose: Purpose, step: &Step) -> Result<Hypervisor> {
    let mut folder = folder(toolchain);
    let mut arguments = vec!["--package", "hypervisor", "--bin", "postern"];
    if purpose == Purpose::Machines {
        folder.push("image");
        arguments.push("--no-default-features");
    }
    fs::create_dir_all(&folder)?;
    // Cargo leaves both kinds under the same name: nobody builds the other one before this one is copied.
    let lock = fs::File::create(paths::bare().join("hypervisor.lock"))?;
    lock.lock()?;
    cargo(toolchain, &arguments, step)?;
    let program = copy(&release(toolchain).join("postern"), &folder.join("postern"))?;
    let image = match toolchain.arch() {
        Arch::Aarch64 => flatten(&program, &folder.join("postern.bin"))?,
        // GRUB reads the program headers itself.
        Arch::X86_64 => program.clone(),
    };
    Ok(Hypervisor { image, program })
}

fn all_payloads(toolchain: &Toolchain, step: &Step) -> Result<Payloads> {
    cargo(toolchain, &["--package", "payloads", "--bins"], step)?;
    let folder = folder(toolchain);
    for program in payload_names()? {
        flatten(&release(toolchain).join(&program), &folder.join(format!("{program}.bin")))?;
    }
    Ok(Payloads(folder))
}

/// Folder of an architecture's images.
fn folder(toolchain: &Toolchain) -> PathBuf {
    paths::bare().join(toolchain.arch().name())
}

/// Where cargo leaves bare-metal programs.
fn release(toolchain: &Toolchain) -> PathBuf {
    paths::bare().join(toolchain.arch().target()).join("release")
}

/// Builds the UEFI application.
pub fn application(toolchain: &Toolchain) -> Result<PathBuf> {
    let step = Step::start("build");
    cargo(toolchain, &["--package", "postern-uefi"], &step)?;
    Ok(paths::bare().join(toolchain.arch().uefi_target()).join("release/postern-uefi.efi"))
}

fn cargo(toolchain: &Toolchain, arguments: &[&str], step: &Step) -> Result<()> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let colour = if std::io::stderr().is_terminal() { "--color=always" } else { "--color=never" };
    cargo.arg("build").args(["--release", colour]).args(arguments);
    cargo.arg("--target-dir").arg(paths::bare()).current_dir(paths::root());
    toolchain.apply(&mut cargo);
    let mut child = cargo.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().context("cargo does not start")?;
    let mut report = String::new();
    for line in BufReader::new(child.stderr.take().expect("piped")).lines().map_while(Result::ok) {
        let text = plain(&line);
        step.note(&text);
        if !text.starts_with("Compiling ") {
            report.push_str(&line);
            report.push('\n');
        }
    }
    if !child.wait()?.success() {
        step.println(&report);
        bail!("the bare-metal build failed: cargo build {}", arguments.join(" "));
    }
    Ok(())
}

/// A line without its colour codes.
fn plain(line: &str) -> String {
    let mut text = String::new();
    let mut in_code = false;
    for c in line.trim().chars() {
        match c {
            '\x1b' => in_code = true,
            'm' if in_code => in_code = false,
            _ if in_code => {}
            c => text.push(c),
        }
    }
    text
}

/// Programs of the payloads package: files or folders in `src/bin`.
fn payload_names() -> Result<Vec<String>> {
    let folder = paths::root().join("tests/payloads/src/bin");
    let files = folder.read_dir().with_context(|| format!("{} cannot be read", folder.display()))?;
    let mut names: Vec<String> =
        files.flatten().filter_map(|e| Some(e.path().file_stem()?.to_str()?.to_owned())).collect();
    names.sort();
    Ok(names)
}

/// A program as the linker made it.
fn copy(program: &Path, image: &Path) -> Result<PathBuf> {
    let bytes = fs::read(program).with_context(|| format!("the build made no {}", program.display()))?;
    crate::bundle::write_if_changed(image, &bytes)?;
    Ok(image.to_owned())
}

/// Writes what a loader would have in memory after loading `program`: its segments, from the lowest address on.
fn flatten(program: &Path, image: &Path) -> Result<PathBuf> {
    let bytes = fs::read(program).with_context(|| format!("the build made no {}", program.display()))?;
    let flat = segments(&bytes).with_context(|| format!("{} is no program that can boot", program.display()))?;
    crate::bundle::write_if_changed(image, &flat)?;
    Ok(image.to_owned())
}

fn segments(bytes: &[u8]) -> Result<Vec<u8>> {
    let file = ElfBytes::<LittleEndian>::minimal_parse(bytes)?;
    let headers = file.segments().context("no program headers")?;
    let loads: Vec<_> = headers.iter().filter(|h| h.p_type == PT_LOAD && h.p_filesz > 0).collect();
    let base = loads.iter().map(|h| h.p_paddr).min().context("nothing to load")?;
    let mut flat = Vec::new();
    for load in loads {
        let (start, size) = (load.p_paddr - base, load.p_filesz);
        if start.saturating_add(size) > IMAGE_MAX {
            bail!("its segments lie more than {} MiB apart", IMAGE_MAX >> 20);
        }
        let end = (start + size) as usize;
        flat.resize(flat.len().max(end), 0);
        flat[start as usize..end].copy_from_slice(file.segment_data(&load)?);
    }
    Ok(flat)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ELF file with two segments, 0x1000 apart, of four bytes each.
    fn program(second: u64) -> Vec<u8> {
        let mut b = vec![0_u8; 64 + 2 * 56];
        b[..8].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1, 1, 0]);
        b[16] = 2; // ET_EXEC
        b[18] = 183; // EM_AARCH64
        b[20] = 1;
        b[32] = 64; // e_phoff
        b[52] = 64; // e_ehsize
        b[54] = 56; // e_phentsize
        b[56] = 2; // e_phnum
        for (index, address) in [0x4000_0000_u64, second].into_iter().enumerate() {
            let at = 64 + 56 * index;
            let offset = b.len() as u64;
            b[at] = 1; // PT_LOAD
            b[at + 8..at + 16].copy_from_slice(&offset.to_le_bytes());
            b[at + 24..at + 32].copy_from_slice(&address.to_le_bytes());
            b[at + 32..at + 40].copy_from_slice(&4_u64.to_le_bytes());
            b.extend_from_slice(&[1, 2, 3, index as u8]);
        }
        b
    }

    #[test]
    fn segments_keep_their_distance() {
        let flat = segments(&program(0x4000_1000)).unwrap();
        assert_eq!(flat.len(), 0x1004);
        assert_eq!((&flat[..4], &flat[0x1000..]), (&[1, 2, 3, 0][..], &[1, 2, 3, 1][..]));
        assert!(flat[4..0x1000].iter().all(|b| *b == 0));
    }

    #[test]
    fn absurd_programs_are_refused() {
        assert!(segments(&program(0x8000_0000_0000)).is_err());
        assert!(segments(b"not an ELF file at all").is_err());
        assert!(segments(&program(0x4000_1000)[..100]).is_err());
    }

    #[test]
    fn colour_codes_disappear() {
        assert_eq!(plain("   \x1b[1m\x1b[32mCompiling\x1b[0m x"), "Compiling x");
    }
}
