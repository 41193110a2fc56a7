//! Architectures that Postern runs on, and the guest ABIs of each.

use crate::machine;

/// An architecture of machine, hypervisor and guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Arch {
    /// arm64 with EL2.
    Aarch64,
    /// x86-64 with VMX and EPT.
    #[value(name = "x86_64")]
    X86_64,
}

impl Arch {
    /// All of them.
    pub const ALL: [Arch; 2] = [Arch::Aarch64, Arch::X86_64];

    /// Name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Arch::Aarch64 => "aarch64",
            Arch::X86_64 => "x86_64",
        }
    }

    /// Debian's name.
    pub fn debian(self) -> &'static str {
        match self {
            Arch::Aarch64 => "arm64",
            Arch::X86_64 => "amd64",
        }
    }

    /// Target of everything that runs on the emulated machine. The hypervisor and its test programs use no FP or SIMD
    /// registers on either.
    pub fn target(self) -> &'static str {
        match self {
            Arch::Aarch64 => "aarch64-unknown-none-softfloat",
            Arch::X86_64 => "x86_64-unknown-none",
        }
    }

    /// Target of the UEFI application.
    pub fn uefi_target(self) -> &'static str {
        match self {
            Arch::Aarch64 => "aarch64-unknown-uefi",
            Arch::X86_64 => "x86_64-unknown-uefi",
        }
    }

    /// The emulated machine unless a scenario wants another: QEMU's machine type, or Bochs' model of CPU.
    pub fn machine(self) -> &'static str {
        match self {
            Arch::Aarch64 => machine::VIRT,
            Arch::X86_64 => machine::PC,
        }
    }

    /// CPUs of the emulated machine when Linux runs: Bochs 3.0 with more than one of them now and then resumes a guest with a
    /// wrong RIP (docs/caveats.md).
    pub fn cpus(self) -> u32 {
        match self {
            Arch::Aarch64 => 2,
            Arch::X86_64 => 1,
        }
    }

    /// Guest ABI unless the user names one.
    pub fn default_dialect(self) -> Dialect {
        match self {
            Arch::Aarch64 => Dialect::Realm,
            Arch::X86_64 => Dialect::Tdx,
        }
    }
}

/// Guest ABIs that have a default kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Dialect {
    /// Arm CCA's Realm Services Interface: any Linux since 6.13.
    Realm,
    /// pKVM's hypercalls: Linux built with ARM_PKVM_GUEST.
    Pkvm,
    /// Intel TDX's TDCALL: any x86-64 Linux built with INTEL_TDX_GUEST, such as Debian's.
    Tdx,
}

impl Dialect {
    /// Name on the command line and in the bundle's configuration.
    pub fn name(self) -> &'static str {
        match self {
            Dialect::Realm => "realm",
            Dialect::Pkvm => "pkvm",
            Dialect::Tdx => "tdx",
        }
    }

    /// The architecture whose guests speak it.
    pub fn arch(self) -> Arch {
        match self {
            Dialect::Realm | Dialect::Pkvm => Arch::Aarch64,
            Dialect::Tdx => Arch::X86_64,
        }
    }
}
