//! Boots of x86-64 machines that lack something, or whose firmware or boot loader does something wrong: Postern has to say what it
//! is in one line, and stop; or go on, if it can do without.

use super::x86_64::{TINY, X86};
use super::{End, Flaw, Guest, Scenario};
use crate::firmware::{Boot, Drive, Firmware, Rom};
use crate::machine::{Extras, PC_HOLLOW_VMX, PC_NO_VMX};
use crate::trouble::{Tables, Trouble};

/// A boot that Postern has to refuse with one clear line.
const REFUSED: Scenario = Scenario { ring: 5, memory_mib: 128, timeout: 60, ..X86 };

/// The same, and the bundle is not to blame.
const REFUSED_CPU: Scenario = Scenario { guest: Guest::Tiny, ..REFUSED };

/// A boot with broken ACPI tables, which Postern has to refuse with this text.
const fn broken(name: &'static str, tables: Tables, text: &'static str) -> Scenario {
    Scenario {
        name,
        proves: "Postern says what is wrong with ACPI's tables, and stops",
        trouble: Trouble::Tables(tables),
        end: End::Reason(text),
        ..REFUSED_CPU
    }
}

/// All of them.
pub const ALL: &[Scenario] = &[
    Scenario {
        name: "x86-boot-no-bundle",
        proves: "Postern says that the boot loader passed no module",
        guest: Guest::Flawed(Flaw::Absent),
        end: End::Reason("cannot boot: no initrd"),
        ..REFUSED
    },
    Scenario {
        name: "x86-boot-junk-bundle",
        proves: "Postern says that the module is no archive",
        guest: Guest::Flawed(Flaw::Junk),
        end: End::Reason("cannot boot: the initrd is not a complete newc cpio archive"),
        ..REFUSED
    },
    Scenario {
        name: "x86-boot-cut-bundle",
        proves: "Postern says that the module is not complete",
        guest: Guest::Flawed(Flaw::Cut),
        end: End::Reason("cannot boot: the initrd is not a complete newc cpio archive"),
        ..REFUSED
    },
    Scenario {
        name: "x86-boot-no-host",
        proves: "Postern says that the bundle has no host kernel",
        guest: Guest::Flawed(Flaw::NoHost),
        end: End::Reason("cannot boot: the bundle has no host/kernel"),
        ..REFUSED
    },
    Scenario {
        name: "x86-boot-junk-host",
        proves: "Postern says that the host's kernel is no kernel",
        guest: Guest::Flawed(Flaw::HostJunk),
        end: End::Reason("cannot boot: host/kernel is not an x86-64 Linux bzImage"),
        ..REFUSED
    },
    Scenario {
        name: "x86-boot-little-memory",
        proves: "too little memory for the guest ends in a reason, not in a hang",
        memory_mib: 160,
        host_mib: 0,
        config: &[("memory", "536870912")],
        end: End::Reason("no memory for the guest"),
        // A Linux guest has to get so far as to ask for what is not there.
        timeout: 180,
        ..REFUSED
    },
    Scenario {
        name: "x86-boot-no-vmx",
        proves: "Postern says that the CPU has no VMX",
        guest: Guest::Tiny,
        machine: "ryzen",
        end: End::Reason("cannot boot: the CPU has no VMX"),
        ..REFUSED
    },
    Scenario {
        name: "x86-uefi-no-vmx",
        proves: "the image for real machines, just as it is made, says on serial line and screen that there is no VMX, and firmware goes on",
        firmware: Firmware::Image(Rom::Uefi, Boot::Uefi, Drive::Disk),
        guest: Guest::Shipped,
        machine: PC_NO_VMX,
        extras: Extras { screen: true, ..Extras::NONE },
        log: &["BdsDxe: failed to start", ": Aborted"],
        end: End::Reason("cannot boot: the CPU has no VMX: Postern needs an Intel CPU with VMX and EPT"),
        ..REFUSED
    },
    Scenario {
        name: "x86-uefi-tpm",
        proves: "a TPM holds what was loaded; Postern is started, and its own refusal is on the screen that firmware has set up",
        firmware: Firmware::Tpm,
        guest: Guest::Tiny,
        machine: PC_HOLLOW_VMX,
        extras: Extras { screen: true, settings: "tpm = required\nguest-cmdline = test=functional\n", ..Extras::NONE },
        log: &["measured; TPM, whose registers 8 and 9 are as the log says", "postern: starting"],
        end: End::Reason("cannot boot: the CPU lacks what Postern needs: VMX structures in write-back memory"),
        ..REFUSED
    },
    Scenario {
        name: "x86-boot-no-ept",
        proves: "Postern names all that a Core 2 lacks",
        machine: "core2_penryn_t9600",
        end: End::Reason(
            "cannot boot: the CPU lacks what Postern needs: the VMX preemption timer, \
             VMX switching of EFER and PAT, EPT, VPID, VMX unrestricted guests",
        ),
        ..REFUSED_CPU
    },
    Scenario {
        name: "x86-boot-no-unrestricted",
        proves: "Postern names all that the first Core i5 lacks",
        machine: "corei5_lynnfield_750",
        end: End::Reason(
            "cannot boot: the CPU lacks what Postern needs: XSAVE, VMX unrestricted guests, \
             EPT pages of 1 GiB",
        ),
        ..REFUSED_CPU
    },
    Scenario {
        name: "x86-boot-no-large-ept",
        proves: "Postern names the one thing that a Sandy Bridge lacks",
        machine: "corei7_sandy_bridge_2600k",
        end: End::Reason("cannot boot: the CPU lacks what Postern needs: EPT pages of 1 GiB"),
        ..REFUSED_CPU
    },
    Scenario {
        name: "x86-boot-vmx-locked",
        proves: "Postern says that firmware has locked VMX off",
        trouble: Trouble::VmxLocked,
        end: End::Reason("cannot boot: firmware has turned VMX off and locked it: turn virtualisation on in firmware"),
        ..REFUSED_CPU
    },
    Scenario {
        name: "x86-acpi-in-order",
        proves: "tables that GRUB has written are read: what the next ones show is due to their flaws",
        arguments: "test=functional",
        trouble: Trouble::Tables(Tables::InOrder),
        log: &["Postern 0.1.0 on 2 CPUs"],
        timeout: 120,
        ..TINY
    },
    Scenario {
        name: "x86-acpi-none",
        proves: "a machine without ACPI works, on one CPU",
        arguments: "test=functional",
        trouble: Trouble::Tables(Tables::Absent),
        log: &["no ACPI tables: using one CPU", "on 1 CPUs"],
        timeout: 120,
        ..TINY
    },
    broken("x86-acpi-root-sum", Tables::RootSum, "ACPI tables are damaged (root pointer)"),
    broken("x86-acpi-root-itself", Tables::RootOfItself, "ACPI tables are damaged (table of tables)"),
    broken("x86-acpi-list-sum", Tables::ListSum, "ACPI tables are damaged (table of tables)"),
    broken("x86-acpi-list-endless", Tables::ListEndless, "ACPI tables are damaged (table of tables)"),
    broken("x86-acpi-list-itself", Tables::ListOfItself, "ACPI tables are damaged (table of CPUs)"),
    broken("x86-acpi-list-outside", Tables::ListOutside, "ACPI tables are damaged (address of a table)"),
    broken("x86-acpi-madt-sum", Tables::MadtSum, "ACPI tables are damaged (a table's length or sum)"),
    broken("x86-acpi-madt-endless", Tables::MadtEndless, "ACPI tables are damaged (a table's length or sum)"),
    broken("x86-acpi-madt-entry", Tables::MadtEmptyEntry, "ACPI tables are damaged (table of CPUs)"),
    broken(
        "x86-acpi-many-cpus",
        Tables::MadtManyCpus,
        "the machine has more CPUs than this build of Postern can manage",
    ),
    broken("x86-acpi-others-only", Tables::MadtOthersOnly, "ACPI does not list the boot CPU"),
    Scenario {
        name: "x86-acpi-absent-cpu",
        proves: "Postern says that a CPU that ACPI lists does not start",
        host_cpus: 1,
        trouble: Trouble::Tables(Tables::InOrder),
        end: End::Reason("cannot boot: a CPU that ACPI lists does not start"),
        ..REFUSED_CPU
    },
    Scenario {
        name: "x86-memory-holes",
        proves: "Postern says that RAM is in more pieces than it can manage",
        trouble: Trouble::Holes(100),
        end: End::Reason("cannot boot: the machine has more pieces of memory than this build of Postern can manage"),
        ..REFUSED_CPU
    },
    Scenario {
        name: "x86-memory-some-holes",
        proves: "RAM in many pieces is used",
        arguments: "test=functional",
        trouble: Trouble::Holes(10),
        timeout: 120,
        ..TINY
    },
    Scenario {
        name: "x86-memory-low-only",
        proves: "Postern says that the module lies where the memory map has no memory",
        trouble: Trouble::Commands(&["cutmem 32M 33M", "cutmem 1M 4G"]),
        end: End::Reason("cannot boot: the boot loader passed no usable initrd: it lies outside memory"),
        ..REFUSED_CPU
    },
    Scenario {
        name: "x86-boot-apic-moved",
        proves: "Postern says that firmware has moved the local APIC",
        trouble: Trouble::Commands(&["wrmsr 0x1b 0xfef00900"]),
        end: End::Reason("cannot boot: firmware has moved the local APIC away from 0xfee00000: update the firmware"),
        ..REFUSED_CPU
    },
];
