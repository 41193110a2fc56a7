//! What arm64 has to show, in QEMU.

use super::{End, Flaw, Guest, PANIC_ON_PURPOSE, PLAIN, Scenario};
use crate::arch::Dialect;
use crate::firmware::{Boot, Drive, Firmware, Mistake, Rom};
use crate::machine::Extras;

/// A boot that Postern has to refuse with one clear line.
const REFUSED: Scenario = Scenario { ring: 5, memory_mib: 128, timeout: 30, ..PLAIN };

/// A session that Postern's own death ends.
const CRASH: Scenario =
    Scenario { ring: 5, mode: "crash", console: &[], at_least: &[], never: &["POSTERN-END"], timeout: 30, ..TINY };

const TINY: Scenario = Scenario {
    guest: Guest::Tiny,
    memory_mib: 128,
    console: &[", 0 failed"],
    at_least: &[("guest: done, ", 1)],
    ..PLAIN
};

/// All scenarios.
pub const ALL: &[Scenario] = &[
    Scenario {
        name: "emulator",
        proves: "the emulator, Debian's kernel and the test initramfs work by themselves",
        guest: Guest::Bare,
        arguments: "postern.script=smoke",
        log: &["postern-guest: up", "postern-guest: status 0"],
        end: End::PowerOff,
        ..PLAIN
    },
    Scenario {
        name: "realm-linux",
        proves: "A6 B1 C1: unmodified Debian runs as a realm, shares its swiotlb pool, works and powers off",
        arguments: "postern.script=work",
        console: &["RME: Using RSI version", "postern-guest: up", "work: done on 1 cpu", "postern-guest: status 0"],
        ..PLAIN
    },
    Scenario {
        name: "uefi-realm-linux",
        proves: "the image for real machines, just as it is made: UEFI, the application, Postern, and Debian as a realm",
        firmware: Firmware::Image(Rom::Uefi, Boot::Uefi, Drive::Disk),
        guest: Guest::Shipped,
        dialogue: &[("/ # ", "sh /scripts/work; exit\n")],
        console: &["RME: Using RSI version", "work: done on 1 cpu"],
        log: &[
            "postern: UEFI application",
            "postern: settings ",
            "postern: boot took ",
            " ms: files ",
            ", leaving firmware ",
            "host: the record of the boot has 4 measurements and no seed",
            "host: measured into 9: device-tree",
            "host: guest ended",
        ],
        timeout: 120,
        ..PLAIN
    },
    Scenario {
        name: "grub-uefi-realm-linux",
        proves: "the same with GRUB's menu between firmware and application",
        firmware: Firmware::GrubUefi,
        arguments: "postern.script=work",
        console: &["work: done on 1 cpu", "postern-guest: status 0"],
        log: &["Booting `Postern'", "postern: UEFI application"],
        timeout: 120,
        ..PLAIN
    },
    Scenario {
        name: "grub-uefi-linux",
        proves: "GRUB's `linux` command takes the application for a kernel: it finds its volume, and ignores an initrd",
        firmware: Firmware::GrubUefiLinux,
        log: &["Booting `Postern as Linux'", "postern: UEFI application", "host: guest ended"],
        ..TINY
    },
    Scenario {
        name: "uefi-iso-cd",
        proves: "the hybrid image boots as a CD",
        firmware: Firmware::Image(Rom::Uefi, Boot::Uefi, Drive::Cd),
        log: &["postern: UEFI application", "host: guest ended"],
        ..TINY
    },
    Scenario {
        name: "uefi-iso-disk",
        proves: "the hybrid image boots as a disk",
        firmware: Firmware::Image(Rom::Uefi, Boot::Uefi, Drive::HybridDisk),
        log: &["postern: UEFI application", "host: guest ended"],
        ..TINY
    },
    Scenario {
        name: "uefi-screen",
        proves: "Postern's lines of boot are on the screen that firmware has set up, and then it is the host's",
        firmware: Firmware::Uefi,
        extras: Extras { screen: true, ..Extras::NONE },
        arguments: "test=functional",
        cpus: 2,
        ..TINY
    },
    Scenario {
        name: "realm-uefi-acpi",
        proves: "a machine that firmware describes by ACPI alone boots, and a realm runs on two vCPUs and two physical ones",
        firmware: Firmware::Uefi,
        extras: Extras { acpi: true, ..Extras::NONE },
        arguments: "test=functional",
        cpus: 2,
        // ACPI's tables know one UART: the guest's verdict is in the log.
        console: &[],
        log: &["postern: firmware has no device tree", "Postern 0.1.0 on 2 CPUs", "host: guest ended", ", 0 failed"],
        ..TINY
    },
    Scenario {
        name: "uefi-no-tpm",
        proves: "settings that require a TPM are not met by a machine without one",
        firmware: Firmware::Uefi,
        guest: Guest::Tiny,
        extras: Extras { settings: "tpm = required\n", ..Extras::NONE },
        end: End::Reason("cannot boot: the settings say `tpm = required`, and firmware offers no TPM 2.0"),
        ..REFUSED
    },
    Scenario {
        name: "uefi-tpm",
        proves: "a TPM holds what was loaded, by its registers 8 and 9, which are asked for when the machine is gone",
        firmware: Firmware::Tpm,
        extras: Extras { settings: "tpm = required\nguest-cmdline = test=functional\n", ..Extras::NONE },
        log: &["measured; TPM, whose registers 8 and 9 are as the log says", "has 5 measurements"],
        cpus: 2,
        ..TINY
    },
    Scenario {
        name: "realm-linux-4cpu",
        proves: "the same on four vCPUs and two physical ones",
        cpus: 4,
        arguments: "postern.script=work",
        console: &["RME: Using RSI version", "work: done on 4 cpu", "postern-guest: status 0"],
        timeout: 180,
        ..PLAIN
    },
    Scenario {
        name: "log-level",
        proves: "the bundle's log level sends refusals to the console, and where the boot's time went is said",
        mode: "hostile",
        config: &[("test", "info-unaligned"), ("postern.log-level", "debug")],
        arguments: "test=idle",
        console: &[],
        log: &["postern: boot took ", " ms: early boot ", ", self check ", "postern: host call VM_INFO: "],
        at_least: &[],
        ..TINY
    },
    Scenario {
        name: "realm-shell",
        proves: "the guest's console carries a dialogue with a shell",
        dialogue: &[("/ # ", "echo $((6 * 7))-works\n"), ("42-works", "exit\n")],
        console: &["postern-guest: up", "42-works"],
        ..PLAIN
    },
    Scenario {
        name: "early-input",
        proves: "what is piped into the console before the guest is up waits until its shell reads it",
        // An empty question is answered at once: long before Linux has set up its serial port.
        dialogue: &[("", "echo $((6 * 7))-was-early\nexit\n")],
        console: &["42-was-early"],
        ..PLAIN
    },
    Scenario {
        name: "pkvm-linux",
        proves: "A6 B1 C1: Linux built with ARM_PKVM_GUEST runs as a pkvm guest, works and powers off",
        dialect: Dialect::Pkvm,
        arguments: "postern.script=work",
        console: &["postern-guest: up", "work: done on 1 cpu", "postern-guest: status 0"],
        ..PLAIN
    },
    Scenario {
        name: "pkvm-linux-4cpu",
        proves: "the same on four vCPUs and two physical ones",
        dialect: Dialect::Pkvm,
        cpus: 4,
        arguments: "postern.script=work",
        console: &["work: done on 4 cpu", "postern-guest: status 0"],
        timeout: 180,
        ..PLAIN
    },
    Scenario {
        name: "small-pages",
        proves: "C6: the host may give memory in 4 KiB pages only",
        config: &[("give", "page")],
        memory_mib: 256,
        arguments: "postern.script=smoke",
        console: &["postern-guest: status 0"],
        timeout: 180,
        ..PLAIN
    },
    Scenario {
        name: "functional-realm",
        proves: "A3 A4 A6 B1 C3 C4 C6: conversions, wiping, timer, SGIs and FP state of a realm, on two vCPUs",
        cpus: 2,
        arguments: "test=functional",
        ..TINY
    },
    Scenario {
        name: "functional-pkvm",
        proves: "A3 A4 A6 B1 C3 C4 C6: the same for a pkvm guest",
        dialect: Dialect::Pkvm,
        cpus: 2,
        arguments: "test=functional",
        ..TINY
    },
    Scenario {
        name: "soak",
        proves: "C5 C9 D2: 100,000 conversions on two CPUs, with audits",
        mode: "soak",
        dialect: Dialect::Pkvm,
        cpus: 2,
        arguments: "test=soak",
        console: &[],
        at_least: &[("guest: pass soak: ", 100_000)],
        timeout: 300,
        ..TINY
    },
    Scenario {
        name: "gibs",
        proves: "C6: a GiB of the host's is one leaf, apart while a guest has part of it, and no CPU of the host notices",
        mode: "gibs",
        dialect: Dialect::Pkvm,
        console: &[],
        host_mib: 2048 - 128,
        at_least: &[("guest: pass soak: ", 1000), ("host: 200 times apart and together, ", 0)],
        ..TINY
    },
    Scenario {
        name: "hostile-host",
        proves: "A1 A2 A3 B3 B7 C1 C12 D5 D6: every attack of the host is refused with its documented code",
        ring: 5,
        mode: "hostile",
        config: &[("test", "all")],
        arguments: "test=idle",
        console: &[],
        log: &[", 0 failed"],
        at_least: &[("attack: done, ", 40)],
        timeout: 180,
        ..TINY
    },
    Scenario {
        name: "hostile-realm",
        proves: "B7 C11: a hostile realm harms nobody but itself",
        ring: 5,
        cpus: 2,
        arguments: "test=attacks",
        at_least: &[("guest: done, ", 20)],
        ..TINY
    },
    Scenario {
        name: "hostile-pkvm",
        proves: "B7 C11: a hostile pkvm guest harms nobody but itself",
        ring: 5,
        dialect: Dialect::Pkvm,
        cpus: 2,
        arguments: "test=attacks",
        at_least: &[("guest: done, ", 20)],
        ..TINY
    },
    Scenario {
        name: "guest-panic",
        proves: "a guest kernel that panics ends the run with its reason, and its memory comes back",
        ring: 5,
        arguments: "rdinit=/nowhere root=/dev/nothing panic=1",
        end: End::Panic("VFS: Unable to mount root fs"),
        ..PLAIN
    },
    Scenario {
        name: "guest-reset",
        proves: "a guest that resets is reported as such",
        ring: 5,
        arguments: "postern.script=reset",
        end: End::Reason("guest reset"),
        ..PLAIN
    },
    Scenario {
        name: "guest-garbage",
        proves: "a file that is no kernel is refused by the test host",
        ring: 5,
        guest: Guest::Garbage,
        end: End::Reason("kernel"),
        ..PLAIN
    },
    Scenario {
        name: "endings",
        proves: "guests that end badly, one after the other, and a guest's other vCPUs stop although the host does nothing",
        ring: 5,
        mode: "endings",
        cpus: 2,
        console: &[],
        log: &["ending: pass siblings-stop-off", "ending: pass siblings-stop-destroyed"],
        at_least: &[],
        never: &["ending: FAIL", "guest: FAIL"],
        timeout: 90,
        ..TINY
    },
    Scenario {
        name: "crash-panic",
        proves: "a panic of Postern's ends in the crash record and stops the machine",
        config: &[("postern.crash", "panic")],
        end: End::Crash(PANIC_ON_PURPOSE),
        ..CRASH
    },
    Scenario {
        name: "crash-abort",
        proves: "so does an access to an address that Postern has no translation for",
        config: &[("postern.crash", "abort")],
        // Data abort from EL2 itself, translation fault at level 0, a read (Arm ARM, ESR_EL2).
        end: End::Crash("ESR 0x96000004 (class 0x25)"),
        ..CRASH
    },
    Scenario {
        name: "crash-stack",
        proves: "so does a stack that grows into its guard page",
        config: &[("postern.crash", "stack")],
        // The same from a write, at level 3: the guard page.
        end: End::Crash("ESR 0x96000047 (class 0x25)"),
        ..CRASH
    },
    Scenario {
        name: "boot-no-bundle",
        proves: "Postern says that it has no bundle",
        guest: Guest::Flawed(Flaw::Absent),
        end: End::Reason("cannot boot: no initrd"),
        ..REFUSED
    },
    Scenario {
        name: "boot-junk-bundle",
        proves: "Postern says that the bundle is no archive",
        guest: Guest::Flawed(Flaw::Junk),
        end: End::Reason("cannot boot: the initrd is not a complete newc cpio archive"),
        ..REFUSED
    },
    Scenario {
        name: "boot-cut-bundle",
        proves: "Postern says that the bundle is not complete",
        guest: Guest::Flawed(Flaw::Cut),
        end: End::Reason("cannot boot: the initrd is not a complete newc cpio archive"),
        ..REFUSED
    },
    Scenario {
        name: "boot-no-host",
        proves: "Postern says that the bundle has no host kernel",
        guest: Guest::Flawed(Flaw::NoHost),
        end: End::Reason("cannot boot: the bundle has no host/kernel"),
        ..REFUSED
    },
    Scenario {
        name: "boot-junk-host",
        proves: "Postern says that the host's kernel is no kernel",
        guest: Guest::Flawed(Flaw::HostJunk),
        end: End::Reason("cannot boot: host/kernel is not an arm64 Linux Image"),
        ..REFUSED
    },
    Scenario {
        name: "boot-little-memory",
        proves: "too little memory for the guest ends in a reason, not in a hang",
        memory_mib: 120,
        host_mib: 0,
        config: &[("memory", "536870912")],
        arguments: "postern.script=work",
        end: End::Reason("no memory for the guest"),
        ..REFUSED
    },
    Scenario {
        name: "uefi-mistakes",
        proves: "the UEFI application says what is wrong with a disk, and firmware goes on to boot the next one",
        ring: 5,
        firmware: Firmware::Mistakes(&[
            Mistake::NoSettings,
            Mistake::Setting,
            Mistake::NoHypervisor,
            Mistake::CutHypervisor,
            Mistake::OtherHypervisor,
            Mistake::NoBundle,
            Mistake::CutBundle,
            Mistake::JunkHost,
            Mistake::Memory,
        ]),
        memory_mib: 64,
        host_mib: 128,
        arguments: "test=functional",
        log: &[
            "cannot boot: \\EFI\\POSTERN\\postern.conf is not there",
            "postern.conf: line 3: there is no setting `colour`",
            "cannot boot: \\EFI\\POSTERN\\postern is not there",
            "bytes: copy it again",
            "cannot boot: \\EFI\\POSTERN\\postern is an ELF program",
            "cannot boot: \\EFI\\POSTERN\\bundle.cpio is not there",
            "cannot boot: the initrd is not a complete newc cpio archive",
            "cannot boot: host/kernel is not an arm64 Linux Image",
            "cannot boot: too little memory for the bundle",
            "host: guest ended",
        ],
        timeout: 240,
        ..TINY
    },
    Scenario {
        name: "grub-uefi-next-entry",
        proves: "after a message GRUB's menu is there again, and its next entry boots",
        ring: 5,
        firmware: Firmware::Menu,
        arguments: "test=functional",
        log: &[
            "Booting `First disk'",
            "line 3: there is no setting `colour`",
            "Falling back to `Second disk'",
            "host: guest ended",
        ],
        ..TINY
    },
    Scenario {
        name: "grub-uefi-no-el2",
        proves: "the UEFI application says that firmware runs at EL1, and GRUB goes on",
        firmware: Firmware::Menu,
        guest: Guest::Tiny,
        machine: "virt,gic-version=3",
        log: &["Falling back to `Second disk'", "Falling back to `Off'"],
        end: End::Reason("cannot boot: firmware runs at EL1"),
        timeout: 60,
        ..REFUSED
    },
    Scenario {
        name: "uefi-secure-boot",
        proves: "Secure Boot, and firmware that keeps data from being executed, start the signed application and no other",
        ring: 5,
        firmware: Firmware::SecureBoot,
        arguments: "test=functional",
        log: &["Access Denied", "postern: UEFI application", "host: guest ended"],
        never: &["guest: FAIL", "this-was-started"],
        ..TINY
    },
    Scenario {
        name: "boot-no-el2",
        proves: "Postern says that it was not started at EL2",
        guest: Guest::Tiny,
        machine: "virt,gic-version=3",
        end: End::Reason("cannot boot"),
        ..REFUSED
    },
    Scenario {
        name: "boot-gicv2",
        proves: "Postern says that it needs a GICv3",
        guest: Guest::Tiny,
        machine: "virt,virtualization=on,gic-version=2",
        end: End::Reason("cannot boot"),
        ..REFUSED
    },
];
