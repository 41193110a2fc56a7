//! What holds of every image: it can be made again, to the last bit, nothing in it is both written and executed, and nothing
//! in it is for tests.

use super::iso::{self, Bios};
use super::{BUNDLE, Content, DEFAULT_SETTINGS, MENU, POSTERN, SETTINGS, default_menu, disk, programs};
use crate::arch::Arch;
use crate::build;
use crate::bundle::Bundle;
use crate::firmware::Boot;
use crate::paths::Scratch;
use crate::progress::Step;
use crate::scenarios::PANIC_ON_PURPOSE;
use crate::setup::{self, Cache};
use anyhow::{Context, Error, Result, bail};
use loader::{config, elf};
use sha2::{Digest, Sha256};
use std::fs;
use std::time::Duration;

/// Longer than the coarsest clock of a file system here ticks: FAT's two seconds.
const LATER: Duration = Duration::from_millis(2100);
/// IMAGE_SCN_MEM_EXECUTE and _WRITE, and IMAGE_DLLCHARACTERISTICS_NX_COMPAT (Microsoft PE Format, "Section Flags" and "DLL
/// Characteristics").
const EXECUTE: u32 = 0x2000_0000;
const WRITE: u32 = 0x8000_0000;
const NX_COMPAT: u16 = 0x100;
/// IMAGE_FILE_MACHINE_ARM64 ("Machine Types").
const ARM64: u16 = 0xaa64;
/// Offset and value of the word by which upstream GRUB before 2.12 knows a program that its `linux` starts (Linux
/// `Documentation/arch/arm64/booting.rst`, "Call the kernel image").
const LINUX_MAGIC_AT: usize = 56;
const LINUX_MAGIC: u32 = u32::from_le_bytes(*b"ARM\x64");

/// The digest of an image, and what image it is.
type Made = (String, String);

/// Makes every kind of image of both architectures twice, in two folders, and looks at the programs in them; how many.
pub fn repeat(step: &Step) -> Result<u64> {
    let mut first = Vec::new();
    for arch in Arch::ALL {
        step.note(arch.name());
        first.extend(make_all(arch)?);
    }
    std::thread::sleep(LATER);
    for (arch, half) in Arch::ALL.iter().zip(first.chunks(first.len() / Arch::ALL.len())) {
        for ((name, one), (_, two)) in half.iter().zip(make_all(*arch)?) {
            if *one != two {
                bail!("{name} is another image when it is made again: SHA-256 {one}, then {two}");
            }
        }
    }
    Ok(first.len() as u64)
}

/// The images of an architecture, from its programs on.
fn make_all(arch: Arch) -> Result<Vec<Made>> {
    let folder = Scratch::new()?;
    let (toolchain, grub) = {
        let cache = Cache::open()?;
        (setup::toolchain::find(&cache, arch)?, setup::grub::find(&cache)?)
    };
    let postern = build::for_machines(&toolchain)?;
    hypervisor(&fs::read(&postern.program)?).with_context(|| format!("{} Postern", arch.name()))?;
    let bundle = Bundle { host: build::payloads(&toolchain)?.get("host")?, ..Bundle::default() };
    let bundle = bundle.write(&format!("check-{}", arch.name()))?;
    let mut made = Vec::new();
    let mut note = |what: &str, content: &[u8]| {
        let digest = Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect();
        made.push((format!("the {} {what}", arch.name()), digest));
    };
    for (boot, name) in [(Boot::Uefi, "disk"), (Boot::GrubUefi, "disk with GRUB")] {
        let mut contents = programs(arch, boot, None, &folder.0)?;
        contents.iter().filter(|(path, _)| boot == Boot::Uefi || path.contains("POSTERN")).try_for_each(application)?;
        contents.push((MENU.into(), default_menu(arch, 0).into()));
        contents.push((POSTERN.into(), fs::read(&postern.image)?));
        contents.push((BUNDLE.into(), fs::read(&bundle)?));
        contents.push((SETTINGS.into(), DEFAULT_SETTINGS.into()));
        note(name, &disk(&contents)?);
        if boot == Boot::Uefi {
            let settings = config::parse(DEFAULT_SETTINGS.as_bytes()).map_err(|error| Error::msg(error.to_string()))?;
            let bios = (arch == Arch::X86_64).then(|| Bios::of(&settings)).transpose().map_err(Error::msg)?;
            let out = folder.0.join("image.iso");
            iso::make(&grub, &folder.0, &contents, bios.as_ref(), &out)?;
            note("hybrid image", &fs::read(out)?);
        }
    }
    Ok(made)
}

/// No segment of the hypervisor is both written and executed (it takes these for its own page tables), and no bundle can crash
/// it.
fn hypervisor(bytes: &[u8]) -> Result<()> {
    let machine = u16::from_le_bytes([bytes[18], bytes[19]]);
    let program = elf::parse(&bytes[..bytes.len().min(elf::HEADERS_MAX)], bytes.len() as u64, machine);
    let program = program.map_err(|error| Error::msg(error.to_string()))?;
    if let Some(segment) = program.segments.iter().find(|segment| segment.write && segment.execute) {
        bail!("the segment at {:#x} is written and executed", segment.memory.start);
    }
    if bytes.windows(PANIC_ON_PURPOSE.len()).any(|window| window == PANIC_ON_PURPOSE.as_bytes()) {
        bail!("it has the call that crashes it for tests (the feature `crash-test`)");
    }
    Ok(())
}

/// No section of the application is both written and executed, and it says that firmware may rely on that; and on arm64, that
/// it is started like Linux.
fn application((path, bytes): &Content) -> Result<()> {
    let faults = faults(bytes).with_context(|| format!("{path} is no PE program"))?;
    match faults.first() {
        Some(fault) => bail!("{path}: {fault}"),
        None => Ok(()),
    }
}

/// What is wrong with a PE program's memory and its headers (Microsoft PE Format); `None` for what is none.
fn faults(bytes: &[u8]) -> Option<Vec<String>> {
    let half = |at: usize| Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
    let word = |at: usize| Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
    let header = word(0x3c)? as usize;
    // Signature, then the file's header of 20 bytes, then the optional header of a 64-bit program.
    if word(header)? != 0x4550 || half(header + 24)? != 0x20b {
        return None;
    }
    let optional = header + 24;
    let mut faults = Vec::new();
    if half(header + 4)? == ARM64 && word(LINUX_MAGIC_AT)? != LINUX_MAGIC {
        faults.push("it has no magic number of a kernel".to_owned());
    }
    if half(optional + 70)? & NX_COMPAT == 0 {
        faults.push("it does not say that its data need not be executed".to_owned());
    }
    if word(optional + 32)? % abi::FRAME_SIZE as u32 != 0 {
        faults.push("its sections share pages".to_owned());
    }
    let sections = optional + half(header + 20)? as usize;
    for index in 0..half(header + 6)? as usize {
        let section = sections + index * 40;
        let flags = word(section + 36)?;
        if flags & (EXECUTE | WRITE) == EXECUTE | WRITE {
            let name = String::from_utf8_lossy(bytes.get(section..section + 8)?).into_owned();
            faults.push(format!("the section {} is written and executed", name.trim_end_matches('\0')));
        }
    }
    Some(faults)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program with one section.
    fn program(flags: u32, characteristics: u16, alignment: u32) -> Vec<u8> {
        let mut bytes = vec![0; 512];
        bytes[0x3c] = 64;
        bytes[64..68].copy_from_slice(b"PE\0\0");
        bytes[70] = 1;
        bytes[84] = 112;
        bytes[88..90].copy_from_slice(&0x20b_u16.to_le_bytes());
        bytes[120..124].copy_from_slice(&alignment.to_le_bytes());
        bytes[158..160].copy_from_slice(&characteristics.to_le_bytes());
        bytes[200..205].copy_from_slice(b".text");
        bytes[236..240].copy_from_slice(&flags.to_le_bytes());
        bytes
    }

    #[test]
    fn memory_that_is_written_and_executed_is_found() {
        assert_eq!(faults(&program(EXECUTE, NX_COMPAT, 4096)), Some(vec![]));
        assert_eq!(faults(&program(WRITE, NX_COMPAT, 4096)), Some(vec![]));
        let bad = faults(&program(EXECUTE | WRITE, NX_COMPAT, 4096)).unwrap();
        assert_eq!(bad, ["the section .text is written and executed"]);
        assert_eq!(faults(&program(EXECUTE, 0, 512)).unwrap().len(), 2);
        assert_eq!(faults(b"MZ"), None);
        let mut arm64 = program(EXECUTE, NX_COMPAT, 4096);
        arm64[68..70].copy_from_slice(&ARM64.to_le_bytes());
        assert_eq!(faults(&arm64).unwrap(), ["it has no magic number of a kernel"]);
        arm64[56..60].copy_from_slice(b"ARM\x64");
        assert_eq!(faults(&arm64), Some(vec![]));
        let whole = program(EXECUTE, NX_COMPAT, 4096);
        for length in 0..whole.len() {
            let _ = faults(&whole[..length]);
        }
    }
}
