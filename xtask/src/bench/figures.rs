//! What is measured, what it should be, and what others need.

use super::amount;
use crate::arch::Arch;

/// Whether a figure should be small or large.
#[derive(Clone, Copy)]
pub enum Target {
    /// This or less.
    AtMost(f64),
    /// This or more.
    AtLeast(f64),
    /// There is no target.
    None,
}

impl Target {
    /// Whether a value is good enough.
    pub fn is_met(self, value: f64) -> bool {
        match self {
            Target::AtMost(limit) => value <= limit,
            Target::AtLeast(limit) => value >= limit,
            Target::None => true,
        }
    }

    /// For the table.
    pub fn text(self, unit: &str) -> String {
        match self {
            Target::AtMost(limit) => format!("<= {}", amount(limit, unit)),
            Target::AtLeast(limit) => format!(">= {}", amount(limit, unit)),
            Target::None => "-".into(),
        }
    }
}

/// A figure that is printed.
pub struct Figure {
    /// What the test host, or `cargo xtask bench` itself, calls it.
    pub name: &'static str,
    /// What the table calls it.
    pub text: &'static str,
    /// Empty for instructions.
    pub unit: &'static str,
    /// What it should be.
    pub target: Target,
    /// What others need.
    pub peer: &'static str,
}

impl Figure {
    const fn new(name: &'static str, text: &'static str, target: Target, peer: &'static str) -> Self {
        Figure { name, text, unit: "", target, peer }
    }

    const fn in_unit(self, unit: &'static str) -> Self {
        Figure { unit, ..self }
    }
}

/// The figures of an architecture's emulator.
pub fn emulated(arch: Arch) -> &'static [Figure] {
    match arch {
        Arch::Aarch64 => ARM64,
        Arch::X86_64 => X86_64,
    }
}

/// Peers are mainline pKVM and plain KVM of Debian 7.2 in the same emulator, counted the same way.
const ARM64: &[Figure] = &[
    Figure::new(
        "hypercall",
        "hypercall round trip (vendor-hyp FEATURES)",
        Target::AtMost(120.0),
        "pKVM 186, Xen 430, KVM 9,800",
    ),
    Figure::new(
        "share-unshare",
        "share + unshare of 4 KiB, both wipes included",
        Target::AtMost(1200.0),
        "pKVM 5,856 (wipes neither)",
    ),
    Figure::new(
        "first-touch-around",
        "first touch of a 4 KiB page, the host gives 8 at a time",
        Target::AtMost(1500.0),
        "",
    ),
    Figure::new(
        "first-touch",
        "first touch of a 4 KiB page, the host gives just that",
        Target::AtMost(1500.0),
        "pKVM 8,211, KVM 6,264 (Linux host)",
    ),
    Figure::new(
        "mmio-write",
        "MMIO write served by the test host",
        Target::None,
        "pKVM 7,723, KVM 25,000 (user space)",
    ),
    Figure::new("realm-hypercall", "realm: RSI call round trip", Target::None, ""),
    Figure::new("realm-share-unshare", "realm: share + unshare of 4 KiB, both wipes included", Target::None, ""),
    Figure::new(
        "realm-share-2m",
        "realm: share of 2 MiB in one call, wipe included",
        Target::None,
        "pKVM: 512 hypercalls",
    ),
    Figure::new(
        "realm-unshare-2m",
        "realm: unshare of 2 MiB in one call, wipe included",
        Target::None,
        "pKVM: 512 hypercalls",
    ),
    Figure::new(
        "longest-interrupts-off",
        "longest section with interrupts off",
        Target::AtMost(20_000.0),
        "not published",
    ),
    Figure::new(
        "memory-set-aside-kib",
        "memory set aside on a 2 GiB machine",
        Target::AtMost((6 << 10) as f64),
        "pKVM 18,432 KiB",
    )
    .in_unit("KiB"),
];

/// The peer is KVM of Debian 6.12 in the same emulator, counted the same way.
const X86_64: &[Figure] = &[
    Figure::new("host-version", "host: VMCALL round trip", Target::AtMost(300.0), "KVM 1,280"),
    Figure::new("tdx-cpuid", "guest: CPUID round trip", Target::AtMost(300.0), "KVM 1,174"),
    Figure::new("tdx-self-ipi", "guest: interrupt to oneself, taken and ended", Target::None, ""),
    Figure::new("tdx-self-ipi-software", "the same on a CPU without APICv", Target::None, ""),
    Figure::new("tdx-timer", "guest: timer set to now, taken and ended", Target::None, ""),
    Figure::new("tdx-timer-software", "the same on a CPU without APICv", Target::None, ""),
    Figure::new("tdx-hypercall", "guest: TDCALL round trip (VP.INFO)", Target::None, ""),
    Figure::new(
        "tdx-first-touch-around",
        "first touch of a 4 KiB page, the host gives 8 at a time",
        Target::AtMost(1500.0),
        "",
    ),
    Figure::new(
        "tdx-first-touch",
        "first touch of a 4 KiB page, the host gives just that",
        Target::AtMost(1500.0),
        "KVM 7,915 (Linux host)",
    ),
    Figure::new("tdx-convert", "MapGPA twice and ACCEPT of 4 KiB, besides two wipes", Target::AtMost(1500.0), ""),
    Figure::new("tdx-share-2m", "MapGPA shared of 2 MiB, wipe included", Target::None, ""),
    Figure::new("tdx-unshare-2m", "MapGPA private and ACCEPT of 2 MiB, wipe included", Target::None, ""),
    Figure::new("tdx-mmio-write", "MMIO write served by the test host", Target::None, "KVM 7,680 (port, user space)"),
    Figure::new("longest-interrupts-off", "longest section with interrupts off", Target::AtMost(20_000.0), ""),
    Figure::new(
        "memory-set-aside-kib",
        "memory set aside on a 2 GiB machine",
        Target::AtMost((6 << 10) as f64),
        "pKVM 18,432 KiB",
    )
    .in_unit("KiB"),
];

/// Only measured with `--long`.
pub const BOOT: &[Figure] = &[Figure::new(
    "guest-boot",
    "Debian 7 as a guest against the bare machine",
    Target::AtMost(1.10),
    "the bare machine has more devices",
)
.in_unit("x")];

/// The figures of this machine itself.
pub const NATIVE: &[Figure] = &[
    Figure::new("native-wiping", "native: wiping in 2 MiB conversions against memset", Target::AtLeast(90.0), "")
        .in_unit("%"),
    Figure::new("native-pages-per-second", "native: conversions of 4 KiB per second, one thread", Target::None, ""),
    Figure::new(
        "native-scaling-4k",
        "native: 4 KiB conversions on 2 threads against 1",
        Target::AtLeast(1.9),
        "global lock 1.00 x",
    )
    .in_unit("x"),
    Figure::new(
        "native-scaling-2m",
        "native: 2 MiB conversions on 2 threads against 1",
        Target::AtLeast(1.9),
        "global lock 1.00 x",
    )
    .in_unit("x"),
];
