//! arm64: EL2 without the Virtualization Host Extensions, GICv3, PSCI through SMC.
//!
//! `stage2`, `syndrome` and `vgic` are pure and are compiled and tested on every machine.

pub mod stage2;
pub mod syndrome;
pub mod vgic;

/// Modules that are made of this architecture's instructions, which is why unsafe code is allowed in them.
macro_rules! hardware {
    ($($(#[$doc:meta])* $visibility:vis $name:ident;)*) => {
        $(#[cfg(all(target_arch = "aarch64", target_os = "none"))] #[allow(unsafe_code)] $(#[$doc])* $visibility mod $name;)*
    };
}

hardware! {
    pub boot;
    pub cache;
    crash;
    entry;
    features;
    fwcfg;
    gic;
    host;
    idregs;
    inject;
    pub machine;
    mmu;
    percpu;
    psci;
    section;
    pub serial;
    sysreg;
    pub timer;
    tlb;
    pub vcpu;
    vectors;
    world;
}
