//! What x86-64 has to show, in Bochs. It emulates one instruction after the other, some 50 million each second: the Linux guests
//! do more than one thing in each boot, and all but one skip the ciphers' self-tests.

use super::{End, Guest, PANIC_ON_PURPOSE, PLAIN, Scenario};
use crate::arch::Dialect;
use crate::firmware::{Boot, Drive, Firmware, Mistake, Rom};
use crate::machine::{Extras, PC, PC_APICV, PC_NO_VMX};
use crate::trouble::{Tables, Trouble};

/// What any scenario here has.
pub const X86: Scenario = Scenario { dialect: Dialect::Tdx, machine: PC, firmware: Firmware::GrubBios, ..PLAIN };

// Linux runs on one CPU only: with more of them, Bochs 3.0 saves a wrong RIP now and then when a VM exit follows right upon an
// exception (docs/caveats.md). Guests with several vCPUs take turns there. The tiny guests take few exceptions, and have two.

/// What makes it a CPU that delivers interrupts to guests itself. Bochs 3.0 delivers one to a guest with RFLAGS.IF = 0 when
/// one of the host's comes at that moment (docs/caveats.md), so the host has none while the guest runs.
const APICV: Scenario = Scenario { machine: PC_APICV, config: &[("ticks", "0")], ..X86 };

/// What is typed into a guest's shell.
const TYPED: &str = "sh /scripts/work; sh /scripts/report; echo $((6 * 7))-works\n";

/// A Debian guest with a shell on its console: works, reads its report, answers, and is left. It does not test its ciphers,
/// which goes on in the background and takes Debian 7 as long as all the rest.
const LINUX: Scenario = Scenario {
    host_cpus: 1,
    arguments: "cryptomgr.notests",
    dialogue: &[("/ # ", TYPED), ("42-works", "exit\n")],
    console: &[
        "tdx: Guest detected",
        "Memory Encryption Features active: Intel TDX",
        "software IO TLB: mapped",
        "work: done on 1 cpu",
        "report: provider tdx_guest",
        "42-works",
    ],
    log: &["host: guest ended: Off"],
    timeout: 300,
    ..X86
};

/// The same with two vCPUs, and without anybody at the console.
const LINUX_SMP: Scenario = Scenario {
    cpus: 2,
    arguments: "cryptomgr.notests postern.script=work",
    dialogue: &[],
    console: &[
        "tdx: Guest detected",
        "Memory Encryption Features active: Intel TDX",
        "software IO TLB: mapped",
        "smp: Brought up 1 node, 2 CPUs",
        "work: done on 2 cpu",
        "postern-guest: status 0",
    ],
    timeout: 400,
    ..LINUX
};

/// The usual CPU, but for x2APIC mode.
const NO_X2APIC: &str = "corei3_cnl, exclude_features=\"x2apic\"";

/// A session that Postern's own death ends.
const CRASH: Scenario =
    Scenario { ring: 5, mode: "crash", console: &[], at_least: &[], never: &["POSTERN-END"], timeout: 60, ..TINY };

/// The tiny guest, whose tests all pass.
pub const TINY: Scenario = Scenario {
    guest: Guest::Tiny,
    memory_mib: 128,
    console: &[", 0 failed"],
    at_least: &[("guest: done, ", 1)],
    ..X86
};

/// A boot from a hybrid image.
const ISO: Scenario =
    Scenario { host_cpus: 1, arguments: "test=functional", log: &["host: guest ended"], timeout: 180, ..TINY };

/// All scenarios.
pub const ALL: &[Scenario] = &[
    Scenario {
        name: "x86-emulator",
        proves: "the emulator, Debian's kernel and the test initramfs work by themselves",
        guest: Guest::Bare,
        arguments: "cryptomgr.notests postern.script=smoke",
        host_cpus: 1,
        log: &["postern-guest: up", "postern-guest: status 0"],
        end: End::PowerOff,
        timeout: 240,
        ..X86
    },
    Scenario {
        name: "x86-linux",
        proves: "A6 B1 C1: unmodified Debian 7 runs as a TDX guest, works, reads its report, has a shell and powers off",
        // Linux shows the measurements in files since 6.16.
        console: &[
            "tdx: Guest detected",
            "Memory Encryption Features active: Intel TDX",
            "software IO TLB: mapped",
            "work: done on 1 cpu",
            "report: mrtd",
            "report: rtmr3",
            "report: provider tdx_guest",
            "42-works",
        ],
        ..LINUX
    },
    Scenario {
        name: "x86-linux-2cpu",
        proves: "the same kernel works on two vCPUs whose interrupts the CPU delivers",
        machine: APICV.machine,
        config: APICV.config,
        log: &["delivered by the CPU (APICv)", "host: guest ended: Off"],
        ..LINUX_SMP
    },
    Scenario {
        name: "x86-linux-6.12",
        proves: "A6 B1 C1: unmodified Debian 6.12 does as well, and reads what was typed before its driver looked for the device",
        guest: Guest::OlderLinux,
        dialogue: &[("Linux version", TYPED), ("42-works", "exit\n")],
        ..LINUX
    },
    Scenario {
        name: "x86-linux-6.12-2cpu",
        proves: "the older kernel works on two vCPUs",
        guest: Guest::OlderLinux,
        ..LINUX_SMP
    },
    Scenario {
        name: "x86-functional",
        proves: "A3 A4 A6 B1 C3 C4 C6: conversions, wiping, timer, IPIs, FP state and TDX services, on two vCPUs",
        cpus: 2,
        arguments: "test=functional",
        log: &["delivered in software"],
        timeout: 120,
        ..TINY
    },
    Scenario {
        name: "x86-apicv",
        proves: "the same where the CPU delivers a guest's interrupts, and has to be kept from speculating",
        cpus: 2,
        arguments: "test=functional",
        machine: APICV.machine,
        config: APICV.config,
        log: &["delivered by the CPU (APICv)", "against speculation: IBRS, STIBP, the first return, IBPB"],
        timeout: 120,
        ..TINY
    },
    Scenario {
        name: "x86-small-pages",
        proves: "C6: the same on one vCPU, and the host gives memory in 4 KiB pages only",
        host_cpus: 1,
        config: &[("give", "page")],
        arguments: "test=functional",
        timeout: 120,
        ..TINY
    },
    Scenario {
        name: "x86-uefi",
        proves: "UEFI firmware starts the application, the application Postern, and a TDX guest runs",
        firmware: Firmware::Uefi,
        arguments: "test=functional",
        log: &[
            "postern: UEFI application",
            " ms: files ",
            "host: the record of the boot has 3 measurements and no seed",
            "host: guest ended",
        ],
        timeout: 180,
        ..TINY
    },
    Scenario {
        name: "x86-screen",
        proves: "Postern's lines of boot are on the screen that GRUB has set up at its wish, and the host is told of it",
        extras: Extras { screen: true, ..Extras::NONE },
        config: &[("screen", "yes")],
        // It is over once the host has said what it sees.
        guest: Guest::Garbage,
        end: End::Reason("kernel"),
        timeout: 60,
        ..X86
    },
    Scenario {
        name: "x86-grub-uefi-linux",
        proves: "the image for real machines, just as it is made: UEFI, GRUB, the application, Postern, and Debian as a TDX guest",
        firmware: Firmware::Image(Rom::Uefi, Boot::GrubUefi, Drive::Disk),
        // Its command line leaves the ciphers' self-tests in, which use the vector registers a lot.
        guest: Guest::Shipped,
        dialogue: &[("/ # ", "sh /scripts/work; exit\n")],
        console: &["tdx: Guest detected", "work: done on 1 cpu"],
        log: &["Booting `Postern'", "postern: UEFI application", "host: guest ended: Off"],
        ..LINUX
    },
    Scenario {
        name: "x86-grub-uefi-multiboot2",
        proves: "GRUB in UEFI starts Postern by Multiboot2, without the application",
        firmware: Firmware::GrubUefiMultiboot2,
        arguments: "test=functional",
        log: &["Booting `Postern by Multiboot2'", "host: guest ended"],
        timeout: 180,
        never: &["guest: FAIL", "postern: UEFI application"],
        ..TINY
    },
    Scenario {
        name: "x86-iso-bios-cd",
        proves: "the hybrid image boots as a CD from the BIOS",
        firmware: Firmware::Image(Rom::Bios, Boot::Uefi, Drive::Cd),
        ..ISO
    },
    Scenario {
        name: "x86-iso-bios-disk",
        proves: "the hybrid image boots as a disk from the BIOS",
        firmware: Firmware::Image(Rom::Bios, Boot::Uefi, Drive::HybridDisk),
        ..ISO
    },
    Scenario {
        name: "x86-iso-uefi-cd",
        proves: "the hybrid image boots as a CD from UEFI",
        firmware: Firmware::Image(Rom::Uefi, Boot::Uefi, Drive::Cd),
        log: &["postern: UEFI application", "host: guest ended"],
        ..ISO
    },
    Scenario {
        name: "x86-iso-uefi-disk",
        proves: "the hybrid image boots as a disk from UEFI",
        firmware: Firmware::Image(Rom::Uefi, Boot::Uefi, Drive::HybridDisk),
        log: &["postern: UEFI application", "host: guest ended"],
        ..ISO
    },
    Scenario {
        name: "x86-soak",
        proves: "C5 C9 D2: 100,000 conversions on two CPUs, with audits",
        mode: "soak",
        cpus: 2,
        arguments: "test=soak",
        console: &[],
        at_least: &[("guest: pass soak: ", 100_000)],
        timeout: 300,
        ..TINY
    },
    Scenario {
        name: "x86-gibs",
        proves: "C6: a GiB of the host's is one leaf, apart while a guest has part of it, and no CPU of the host notices",
        mode: "gibs",
        console: &[],
        // The first GiB has holes, and ACPI's tables are at the end.
        host_mib: 2048,
        at_least: &[("guest: pass soak: ", 1000), ("host: 200 times apart and together, ", 0)],
        timeout: 300,
        ..TINY
    },
    Scenario {
        name: "x86-hostile-host",
        proves: "A1 A2 A3 B3 B7 C1 C12 D5 D6: every attack of the host is refused with its documented code",
        ring: 5,
        mode: "hostile",
        config: &[("test", "all")],
        arguments: "test=idle",
        console: &[],
        log: &[", 0 failed"],
        at_least: &[("attack: done, ", 40)],
        timeout: 300,
        ..TINY
    },
    Scenario {
        name: "x86-hostile-guest",
        proves: "B7 C11: a hostile TDX guest harms nobody but itself",
        ring: 5,
        cpus: 2,
        arguments: "test=attacks",
        at_least: &[("guest: done, ", 20)],
        timeout: 120,
        ..TINY
    },
    Scenario {
        name: "x86-hostile-guest-1cpu",
        proves: "B7 C11: neither on one CPU, where no interrupt may come right behind STI",
        ring: 5,
        cpus: 2,
        host_cpus: 1,
        arguments: "test=attacks",
        at_least: &[("guest: done, ", 20)],
        never: &["guest: FAIL", "came right behind STI"],
        timeout: 120,
        ..TINY
    },
    Scenario {
        name: "x86-guest-panic",
        proves: "a guest kernel that panics ends the run with its reason",
        ring: 5,
        host_cpus: 1,
        arguments: "cryptomgr.notests rdinit=/nowhere root=/dev/nothing panic=1",
        end: End::Panic("VFS: Unable to mount root fs"),
        timeout: 240,
        ..X86
    },
    Scenario {
        name: "x86-guest-garbage",
        proves: "a file that is no kernel is refused by the test host",
        ring: 5,
        guest: Guest::Garbage,
        end: End::Reason("kernel"),
        timeout: 60,
        ..X86
    },
    Scenario {
        name: "x86-endings",
        proves: "guests that end badly, one after the other, and a guest's other vCPUs stop although the host does nothing",
        ring: 5,
        mode: "endings",
        cpus: 2,
        console: &[],
        log: &[
            "ending: pass reset",
            "ending: pass triple-fault",
            "ending: pass fatal-error",
            "ending: pass siblings-stop-off",
            "ending: pass siblings-stop-destroyed",
        ],
        at_least: &[],
        never: &["ending: FAIL", "guest: FAIL"],
        timeout: 240,
        ..TINY
    },
    Scenario {
        name: "x86-crash-panic",
        proves: "a panic of Postern's ends in the crash record and stops the machine",
        config: &[("postern.crash", "panic")],
        end: End::Crash(PANIC_ON_PURPOSE),
        ..CRASH
    },
    Scenario {
        name: "x86-crash-abort",
        proves: "so does an access to an address that Postern has no translation for",
        config: &[("postern.crash", "abort")],
        // A CPU with what Intel added against Spectre. The value is Postern's, although the host has another.
        machine: PC_APICV,
        log: &["SPEC_CTRL 0x3"],
        // No address of the 48 bits that the CPU translates: a general protection fault.
        end: End::Crash("exception in Postern: vector 13 (#GP)"),
        ..CRASH
    },
    Scenario {
        name: "x86-crash-stack",
        proves: "so does a stack that grows into its guard page",
        config: &[("postern.crash", "stack")],
        // A write of the supervisor's to a page that is not present: the guard page.
        end: End::Crash("exception in Postern: vector 14 (#PF), error code 0x2"),
        ..CRASH
    },
    Scenario {
        name: "x86-xapic",
        proves: "a machine without x2APIC mode works, on two CPUs",
        machine: NO_X2APIC,
        cpus: 2,
        arguments: "test=functional",
        timeout: 120,
        ..TINY
    },
    Scenario {
        name: "x86-xapic-by-choice",
        proves: "a host that prefers the mapped APIC has it on all of its CPUs",
        cpus: 2,
        config: &[("apic", "mapped")],
        arguments: "test=functional",
        timeout: 120,
        ..TINY
    },
    Scenario {
        name: "x86-xapic-hostile",
        proves: "the mapped APIC takes no CPU out of its VM, whatever is written to it",
        ring: 5,
        mode: "hostile",
        config: &[
            ("apic", "mapped"),
            (
                "test",
                "apic-base,apic-modes,apic-page,startup-messages,init-and-startup,startup-in-private,command-garbage,\
             nmi-to-all,init-storm,race-touch-while-donating",
            ),
        ],
        arguments: "test=idle",
        console: &[],
        at_least: &[("attack: done, ", 10)],
        timeout: 120,
        ..TINY
    },
    Scenario {
        name: "x86-power-hostile",
        proves: "neither a suspend nor the reset that ACPI names gets past Postern",
        ring: 5,
        mode: "hostile",
        trouble: Trouble::Tables(Tables::InOrder),
        config: &[("test", "suspend-by-acpi,reset-by-acpi,reset-by-port")],
        arguments: "test=idle",
        console: &[],
        log: &["attack: pass suspend-by-acpi", "attack: pass reset-by-acpi"],
        at_least: &[("attack: done, ", 3)],
        timeout: 120,
        ..TINY
    },
    Scenario {
        name: "x86-power-off",
        proves: "a host that switches off by ACPI's register is switched off by Postern, with all CPUs and its guest",
        ring: 5,
        mode: "hostile",
        config: &[("test", "off-by-acpi")],
        arguments: "test=idle",
        console: &[],
        at_least: &[],
        log: &["the host switches the machine off"],
        never: &["attack: FAIL", "POSTERN-END"],
        end: End::PowerOff,
        timeout: 60,
        ..TINY
    },
    Scenario {
        name: "x86-uefi-mistakes",
        proves: "the UEFI application says what is wrong with Postern's file, and firmware goes on to boot the next disk",
        ring: 5,
        firmware: Firmware::Mistakes(&[
            Mistake::CutHypervisor,
            Mistake::OtherHypervisor,
            Mistake::OverlappingHypervisor,
        ]),
        host_cpus: 1,
        arguments: "test=functional",
        log: &["it is cut short", "it is no 64-bit ELF program", "two segments of it overlap", "host: guest ended"],
        timeout: 240,
        ..TINY
    },
    Scenario {
        name: "x86-grub-uefi-no-vmx",
        proves: "the UEFI application says that the CPU has no VMX, and GRUB goes on",
        firmware: Firmware::Menu,
        ring: 5,
        machine: PC_NO_VMX,
        console: &[],
        at_least: &[],
        log: &["Falling back to `Second disk'", "Falling back to `Off'"],
        end: End::Reason("cannot boot: the CPU has no VMX"),
        timeout: 60,
        ..TINY
    },
];
