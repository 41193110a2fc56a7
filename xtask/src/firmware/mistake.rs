//! Disks with one thing wrong: the application has to say what, and firmware or GRUB has to get the machine back.

use crate::arch::Arch;
use crate::image::{self, BUNDLE, Content, DEFAULT_SETTINGS, POSTERN, SETTINGS};

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// There are no settings.
    NoSettings,
    /// The third line of the settings names one that does not exist.
    Setting,
    /// There is no hypervisor.
    NoHypervisor,
    /// Only an eighth of the hypervisor is there: what an ELF program has at its end is not loaded.
    CutHypervisor,
    /// The hypervisor is for another architecture.
    OtherHypervisor,
    /// Two segments of the hypervisor, an ELF program, overlap.
    OverlappingHypervisor,
    /// There is no bundle.
    NoBundle,
    /// Half of the bundle is missing.
    CutBundle,
    /// The bundle's host kernel is none.
    JunkHost,
    /// The files are larger than memory.
    Memory,
}

/// Bytes of a file that settings of [`Mistake::Memory`] name four times.
const LARGE: usize = 48 << 20;
/// A file that is on the second disk of a menu only.
const SECOND: &str = "/second";

impl Mistake {
    /// The files of a disk with the mistake.
    pub fn made(self, contents: &[Content]) -> Vec<Content> {
        let mut contents = contents.to_vec();
        let mut edit = |name: &str, change: &dyn Fn(&mut Vec<u8>)| {
            contents.iter_mut().filter(|(path, _)| path == name).for_each(|(_, content)| change(content));
        };
        match self {
            Mistake::NoSettings => contents.retain(|(path, _)| path != SETTINGS),
            Mistake::Setting => edit(SETTINGS, &|text| *text = format!("{DEFAULT_SETTINGS}colour = blue\n").into()),
            Mistake::NoHypervisor => contents.retain(|(path, _)| path != POSTERN),
            Mistake::CutHypervisor => edit(POSTERN, &|file| file.truncate(file.len() / 8)),
            Mistake::OtherHypervisor => edit(POSTERN, &|file| *file = other(file)),
            Mistake::OverlappingHypervisor => edit(POSTERN, &|file| overlap(file)),
            Mistake::NoBundle => contents.retain(|(path, _)| path != BUNDLE),
            Mistake::CutBundle => edit(BUNDLE, &|file| file.truncate(file.len() / 2)),
            Mistake::JunkHost => {
                edit(BUNDLE, &|file| {
                    let mut archive = crate::cpio::Archive::default();
                    archive.file(abi::bundle::HOST_KERNEL, &[0x5a; 8192]);
                    *file = archive.finish();
                });
            }
            Mistake::Memory => {
                let names = ["host-kernel", "host-initrd", "guest-kernel", "guest-initrd"];
                let settings: String = names.iter().map(|name| format!("{name} = /large\n")).collect();
                edit(SETTINGS, &|text| *text = settings.clone().into());
                contents.push(("/large".into(), vec![0; LARGE]));
            }
        }
        contents
    }
}

/// The first bytes of a hypervisor for the architecture that `file` is not for.
fn other(file: &[u8]) -> Vec<u8> {
    let mut header = vec![0; 4096];
    if file.starts_with(b"\x7fELF") {
        // An arm64 `Image` of this size.
        header[16..24].copy_from_slice(&4096_u64.to_le_bytes());
        header[56..60].copy_from_slice(b"ARM\x64");
    } else {
        // A 64-bit ELF program for machine 62.
        header[..20].copy_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0");
    }
    header
}

/// Moves the second program header's addresses to the first one's (System V ABI, "Program Header": 56 bytes each, the first
/// right behind the file's header).
fn overlap(file: &mut [u8]) {
    let first = file[64 + 16..64 + 32].to_vec();
    file[64 + 56 + 16..64 + 56 + 32].copy_from_slice(&first);
}

/// GRUB's menu: this disk, then the second, then the power switch.
pub fn menu(arch: Arch) -> String {
    let first = image::started_first(arch);
    format!(
        "set default=0\nset fallback=\"1 2\"\nset timeout=1\n\
         menuentry \"First disk\" {{ chainloader /EFI/POSTERN/postern.efi }}\n\
         menuentry \"Second disk\" {{ search --no-floppy --set=root --file {SECOND}; chainloader {first} }}\n\
         menuentry \"Off\" {{ halt }}\n"
    )
}

/// The second disk of a menu: the first one's files but for its programs.
pub fn second(contents: &[Content], programs: &[Content]) -> Vec<Content> {
    let files = contents.iter().filter(|(path, _)| [SETTINGS, POSTERN, BUNDLE].contains(&path.as_str()));
    programs.iter().chain(files).cloned().chain([(SECOND.to_owned(), vec![])]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(hypervisor: &[u8]) -> Vec<Content> {
        vec![
            (POSTERN.into(), hypervisor.to_vec()),
            (SETTINGS.into(), DEFAULT_SETTINGS.into()),
            (BUNDLE.into(), vec![1; 100]),
        ]
    }

    #[test]
    fn each_mistake_is_the_one_it_is_called() {
        let good = contents(&[0; 200]);
        let count = |mistake: Mistake| mistake.made(&good).len();
        assert_eq!((count(Mistake::NoSettings), count(Mistake::NoHypervisor), count(Mistake::NoBundle)), (2, 2, 2));
        assert_eq!(Mistake::CutHypervisor.made(&good)[0].1.len(), 25);
        let settings = Mistake::Setting.made(&good).remove(1).1;
        let said = loader::config::parse(&settings).unwrap_err().to_string();
        assert_eq!(said, "line 3: there is no setting `colour`");
        let elf = Mistake::OtherHypervisor.made(&good).remove(0).1;
        assert_eq!(loader::elf::parse(&elf, 4096, loader::elf::AARCH64), Err(loader::elf::ElfError::Machine(62)));
        let image = Mistake::OtherHypervisor.made(&contents(&elf)).remove(0).1;
        assert!(loader::image::parse(&image, "x").is_ok());
    }
}
