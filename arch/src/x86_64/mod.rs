//! x86-64: VMX with EPT and unrestricted guests, multiboot2.
//!
//! Modules without instructions are pure and are compiled and tested on every machine.

pub mod acpi_check;
pub mod acpi_power;
pub mod cpuid;
pub mod decode;
pub mod exits;
pub mod frequency;
pub mod host_policy;
pub mod host_ports;
pub mod icr;
pub mod inject;
pub mod mitigate;
pub mod msr;
pub mod pages;
pub mod stage2;
pub mod vapic;
pub mod vmcs;
pub mod vmx_check;
pub mod walk;
pub mod xapic;

/// Modules that are made of this architecture's instructions, which is why unsafe code is allowed in them.
macro_rules! hardware {
    ($($(#[$doc:meta])* $visibility:vis $name:ident;)*) => {
        $(#[cfg(all(target_arch = "x86_64", target_os = "none"))] #[allow(unsafe_code)] $(#[$doc])* $visibility mod $name;)*
    };
}

hardware! {
    acpi;
    apic;
    apicv;
    pub boot;
    cache;
    controls;
    crash;
    deliver;
    descriptors;
    emulate;
    entry;
    features;
    fetch;
    host;
    host_apic;
    host_vmcs;
    pub machine;
    mmu;
    percpu;
    power;
    section;
    pub serial;
    start;
    pub timer;
    tlb;
    pub vcpu;
    vectors;
    vmx;
    world;
}
