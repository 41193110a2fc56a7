//! The emulator scenarios as data: one boot each, a hard timeout, and what must be seen. Ring 4 shows that things work,
//! ring 5 that attacks and mistakes are refused.

mod arm64;
mod x86_64;
mod x86_64_boots;

use crate::arch::{Arch, Dialect};
use crate::firmware::Firmware;
use crate::machine::Extras;
use crate::trouble::Trouble;

/// What runs as the guest.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Guest {
    /// Nothing boots but a plain Debian kernel on the bare machine, without Postern.
    Bare,
    /// The default Linux of the dialect, with the test initramfs.
    Linux,
    /// The same with the older of Debian's two kernels for x86-64.
    OlderLinux,
    /// The tiny Rust guest.
    Tiny,
    /// A file that is not a kernel.
    Garbage,
    /// The default Linux of the dialect in the bundle of an image for real machines.
    Shipped,
    /// None, because the bundle that Postern boots with is flawed.
    Flawed(Flaw),
}

/// What is wrong with a bundle.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// There is none.
    Absent,
    /// It is not an archive.
    Junk,
    /// It ends in the middle of a file.
    Cut,
    /// It has no host kernel.
    NoHost,
    /// Its host kernel is not an `Image`.
    HostJunk,
}

/// How a scenario has to end.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// `POSTERN-END: ok`.
    Ok,
    /// `POSTERN-END:` with a reason that contains this.
    Reason(&'static str),
    /// The guest's kernel panics with a text that contains this.
    Panic(&'static str),
    /// Postern crashes, and its record contains this.
    Crash(&'static str),
    /// The emulator ends by itself, without Postern's marker.
    PowerOff,
}

/// One boot.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// Name for `--only`.
    pub name: &'static str,
    /// What it shows, with the tags of `docs/requirements.md`.
    pub proves: &'static str,
    /// 4 or 5.
    pub ring: u8,
    /// The guest.
    pub guest: Guest,
    /// Its ABI.
    pub dialect: Dialect,
    /// Its vCPUs.
    pub cpus: u32,
    /// Its memory in MiB.
    pub memory_mib: u64,
    /// Physical CPUs.
    pub host_cpus: u32,
    /// QEMU's machine type (arm64), or the model of CPU: Bochs', or QEMU's where there is to be no VMX.
    pub machine: &'static str,
    /// What boots it.
    pub firmware: Firmware,
    /// What is wrong with it; only where GRUB boots it.
    pub trouble: Trouble,
    /// What the machine has beside the usual.
    pub extras: Extras,
    /// Memory of the machine beyond the guest's, in MiB.
    pub host_mib: u64,
    /// `mode` of the test host.
    pub mode: &'static str,
    /// More settings for the test host.
    pub config: &'static [(&'static str, &'static str)],
    /// Words added to the guest's command line.
    pub arguments: &'static str,
    /// Dialogue on the guest's console: when the first text appears, the second is typed.
    pub dialogue: &'static [(&'static str, &'static str)],
    /// Texts that must appear on the guest's console.
    pub console: &'static [&'static str],
    /// Texts that must appear in the log.
    pub log: &'static [&'static str],
    /// Texts after which a number of at least this must appear, in either.
    pub at_least: &'static [(&'static str, u64)],
    /// Texts that must appear in neither.
    pub never: &'static [&'static str],
    /// How it ends.
    pub end: End,
    /// Seconds after which it has failed.
    pub timeout: u64,
}

/// What the hypervisor says when a bundle makes it panic; the one for real machines does not know these words.
pub const PANIC_ON_PURPOSE: &str = "a panic on purpose";

/// What a scenario has unless it says otherwise.
pub const PLAIN: Scenario = Scenario {
    name: "",
    proves: "",
    ring: 4,
    guest: Guest::Linux,
    dialect: Dialect::Realm,
    cpus: 1,
    memory_mib: 512,
    host_cpus: 2,
    machine: crate::machine::VIRT,
    firmware: Firmware::Direct,
    trouble: Trouble::Nothing,
    extras: Extras::NONE,
    host_mib: crate::run::HOST_MIB,
    mode: "run",
    config: &[],
    arguments: "",
    dialogue: &[],
    console: &[],
    log: &[],
    at_least: &[],
    never: &[
        "guest: FAIL",
        "attack: FAIL",
        "work: FAIL",
        "WARNING: CPU",
        "BUG: ",
        "Oops",
        "soft lockup",
        "rcu_sched detected stall",
    ],
    end: End::Ok,
    timeout: 120,
};

impl Scenario {
    /// The architecture of machine and guest.
    pub fn arch(&self) -> Arch {
        self.dialect.arch()
    }
}

/// All scenarios.
pub fn all() -> impl Iterator<Item = &'static Scenario> {
    arm64::ALL.iter().chain(x86_64::ALL).chain(x86_64_boots::ALL)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::firmware::Rom;
    use crate::machine::is_qemu_pc;

    #[test]
    fn the_table_is_well_formed() {
        for (index, scenario) in all().enumerate() {
            let name = scenario.name;
            assert!(!name.is_empty() && all().take(index).all(|other| other.name != name), "{name} is unique");
            let machine_fits = (scenario.machine.starts_with("virt")) == (scenario.arch() == Arch::Aarch64);
            assert!(machine_fits, "{name} has a machine of its architecture");
            assert_eq!(name.starts_with("x86-"), scenario.arch() == Arch::X86_64, "{name} says its architecture");
            let x86 = scenario.arch() == Arch::X86_64;
            let boots = match scenario.firmware {
                Firmware::Image(rom, ..) => x86 || rom == Rom::Uefi,
                Firmware::SecureBoot => !x86,
                Firmware::Tpm => !x86 || is_qemu_pc(scenario.machine),
                Firmware::Mistakes(_) | Firmware::Menu => true,
                named => Firmware::of(scenario.arch()).contains(&named),
            };
            assert!(boots, "{name} boots as its architecture can");
            let image = matches!(scenario.firmware, Firmware::Image(..));
            assert!(image || scenario.guest != Guest::Shipped, "{name} has an image to take its guest from");
            assert!(!scenario.proves.is_empty(), "{name} says what it shows");
            assert!(matches!(scenario.ring, 4 | 5), "{name} has a ring");
            let grub = scenario.firmware == Firmware::GrubBios;
            assert!(grub || scenario.trouble == Trouble::Nothing, "{name} has the boot loader that makes its trouble");
            assert!(scenario.timeout > 0 && scenario.timeout <= 600, "{name} has a hard timeout");
            let texts = scenario.console.len() + scenario.log.len() + scenario.at_least.len();
            let expects = scenario.end != End::Ok || texts > 0;
            assert!(expects, "{name} expects something that cannot come about by itself");
        }
    }
}
