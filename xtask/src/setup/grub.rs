//! GRUB and what makes a CD of it: the boot loader of the x86-64 machine.

use super::Cache;
use super::private::Private;
use crate::trouble::GRUB_MODULES;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What GRUB needs to read a CD and boot Postern; nothing else goes into its image.
const MODULES: [&str; 5] = ["iso9660", "biosdisk", "multiboot2", "linux", "halt"];

/// Modes of a screen that it tries when the BIOS has started it; where there is none of them it leaves the BIOS' text. Without
/// this it would take any that there is, and GRUB 2.12 writes beyond the room for its information, into its own code, when a mode
/// has a palette (Bochs' rfb display has no others).
pub const SCREEN_MODES: &str = "1280x1024x32,1024x768x32,800x600x32,640x480x32";

/// What it needs to look into the volume on a CD or on a disk that was one.
const HYBRID_MODULES: [&str; 6] = ["iso9660", "biosdisk", "part_msdos", "loopback", "fat", "multiboot2"];

/// The time that a CD is from, in Unix' seconds, and its files, as xorriso reads it: the first that FAT knows.
const EPOCH: &str = "315532800";
const FILES_FROM: &str = "1980010100000000";

/// What it needs in UEFI to read a disk, show a menu and start the application.
const EFI_MODULES: [&str; 11] = [
    "part_gpt",
    "part_msdos",
    "fat",
    "search",
    "search_fs_file",
    "configfile",
    "normal",
    "chain",
    "echo",
    "test",
    "halt",
];

/// What GRUB boots from a CD.
pub struct Menu<'a> {
    /// A Multiboot2 kernel, or Linux.
    pub kernel: &'a Path,
    /// Modules, or Linux' initrd.
    pub modules: &'a [&'a Path],
    /// Linux' command line; a kernel without one is a Multiboot2 kernel.
    pub linux: Option<&'a str>,
    /// Switch the machine off instead, once everything is in memory.
    pub load_only: bool,
    /// Commands before that.
    pub script: &'a [String],
}

/// A CD that is a disk as well.
pub struct Hybrid<'a> {
    /// For files on the way to it.
    pub folder: &'a Path,
    /// What is on it.
    pub tree: &'a Path,
    /// Path on it of the FAT volume that UEFI boots.
    pub volume: &'a str,
    /// What GRUB does when the BIOS boots it; nothing when it is not for the BIOS.
    pub script: Option<&'a str>,
}

/// The tools.
#[derive(Clone, Debug)]
pub struct Grub(Private);

/// Finds the private tools, fetched if need be. What a machine has installed is not used: the image is made of GRUB's own
/// modules, which have to match the program.
pub fn find(cache: &Cache) -> Result<Grub> {
    // GRUB's modules for the BIOS exist for amd64 only, whatever machine makes the image.
    let packages = ["grub-common", "xorriso"];
    Ok(Grub(Private::find(cache, "grub", "boot loader", &packages, &["grub-pc-bin:amd64"])?))
}

impl Grub {
    /// One line for the user.
    pub fn describe(&self) -> String {
        format!("GRUB, {}", self.0.usr("lib/grub/i386-pc").display())
    }

    /// Makes the CD `iso` in `folder`, from which GRUB boots at once.
    pub fn cd(&self, folder: &Path, menu: &Menu, iso: &Path) -> Result<()> {
        let tree = folder.join("cd/boot");
        fs::create_dir_all(&tree)?;
        place(menu.kernel, &tree.join("kernel"))?;
        // These few commands are all that GRUB's rescue parser has to know.
        let (start, module_command) = match menu.linux {
            Some(line) => (format!("linux /boot/kernel {line}"), "initrd"),
            None => ("multiboot2 /boot/kernel".into(), "module2"),
        };
        let mut script = format!("set root=cd\n{start}\n");
        for (index, module) in menu.modules.iter().enumerate() {
            place(module, &tree.join(format!("module{index}")))?;
            script.push_str(&format!("{module_command} /boot/module{index}\n"));
        }
        if menu.linux.is_none() {
            script.push_str(&format!("set gfxpayload={SCREEN_MODES}\n"));
        }
        menu.script.iter().for_each(|line| script.push_str(&format!("{line}\n")));
        script.push_str(if menu.load_only { "halt\n" } else { "boot\n" });
        let config = folder.join("grub.cfg");
        fs::write(&config, script)?;
        let mut image = self.0.command("grub-mkimage");
        image.args(["-O", "i386-pc-eltorito", "-p", "/boot/grub", "-d"]).arg(self.0.usr("lib/grub/i386-pc"));
        image.arg("-c").arg(&config).arg("-o").arg(tree.join("eltorito.img")).args(MODULES);
        if !menu.script.is_empty() {
            image.args(GRUB_MODULES);
        }
        finish(&mut image, "grub-mkimage")?;
        let mut cd = self.0.command("xorriso");
        cd.args(["-as", "mkisofs", "-quiet", "-R", "-b", "boot/eltorito.img", "-no-emul-boot"]);
        cd.args(["-boot-load-size", "4", "-boot-info-table", "-o"]).arg(iso).arg(folder.join("cd"));
        finish(&mut cd, "xorriso")
    }

    /// Makes the image `out`, the same for the same content.
    pub fn hybrid(&self, hybrid: &Hybrid<'_>, out: &Path) -> Result<()> {
        let mut image = self.0.command("xorriso");
        image.env("SOURCE_DATE_EPOCH", EPOCH).env("TZ", "UTC");
        image.args(["-as", "mkisofs", "-quiet", "-r", "-volid", "POSTERN", "--set_all_file_dates", FILES_FROM]);
        if let Some(script) = hybrid.script {
            let boot = hybrid.tree.join("boot/grub");
            fs::create_dir_all(&boot)?;
            let config = hybrid.folder.join("grub-hybrid.cfg");
            fs::write(&config, script)?;
            let mut core = self.0.command("grub-mkimage");
            core.args(["-O", "i386-pc-eltorito", "-p", "/boot/grub", "-d"]).arg(self.0.usr("lib/grub/i386-pc"));
            core.arg("-c").arg(&config).arg("-o").arg(boot.join("eltorito.img")).args(HYBRID_MODULES);
            finish(&mut core, "grub-mkimage")?;
            image.args(["-b", "boot/grub/eltorito.img", "-no-emul-boot", "-boot-load-size", "4", "-boot-info-table"]);
            image.arg("--grub2-boot-info").arg("--grub2-mbr").arg(self.0.usr("lib/grub/i386-pc/boot_hybrid.img"));
            image.arg("-eltorito-alt-boot");
        }
        // A size of one means up to the end (UEFI Specification 2.10, section 13.3.2.1): the field has 16 bits.
        image.args(["-e", hybrid.volume, "-no-emul-boot", "-boot-load-size", "1"]);
        image.args(["-efi-boot-part", "--efi-boot-image", "--protective-msdos-label"]);
        image.arg("-o").arg(out).arg(hybrid.tree);
        finish(&mut image, "xorriso")
    }

    /// Makes GRUB's program for UEFI in `folder`: it finds its menu, `/boot/grub/grub.cfg`, on the volume with Postern's
    /// settings, of several on the one it came from, and has what a menu needs to start Postern.
    pub fn efi(&self, folder: &Path, modules: &Path) -> Result<PathBuf> {
        let name = modules.file_name().unwrap_or_default().to_string_lossy();
        let name = name.trim_start_matches("grub-");
        let script = folder.join("grub-efi-early.cfg");
        fs::write(
            &script,
            "search --no-floppy --set=root --hint=$root --file /EFI/POSTERN/postern.conf\nset prefix=($root)/boot/grub\n\
             configfile /boot/grub/grub.cfg\n",
        )?;
        let out = folder.join(format!("grub-{name}.efi"));
        let mut image = self.0.command("grub-mkimage");
        image.args(["-O", name, "-p", "/boot/grub", "-d"]).arg(modules).arg("-c").arg(&script).arg("-o").arg(&out);
        image.args(EFI_MODULES);
        // What starts Postern without the application there, and the application as a kernel here.
        let start: &[&str] = if name == "x86_64-efi" { &["multiboot2", "efi_gop"] } else { &["linux"] };
        image.args(start);
        finish(&mut image, "grub-mkimage")?;
        Ok(out)
    }
}

/// Puts a file where xorriso reads it; a hard link where that works, since bundles are large.
fn place(file: &Path, at: &Path) -> Result<()> {
    if fs::hard_link(file, at).is_ok() {
        return Ok(());
    }
    fs::copy(file, at).with_context(|| format!("{} cannot be copied", file.display()))?;
    Ok(())
}

fn finish(command: &mut Command, name: &str) -> Result<()> {
    let out = command.stdin(Stdio::null()).output().with_context(|| format!("{name} does not start"))?;
    if !out.status.success() {
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        bail!("{name}: {}", text.lines().last().unwrap_or("no reason given"));
    }
    Ok(())
}
