//! Postern's UEFI application: reads its settings, loads and measures what they name, and starts Postern.
//!
//! It speaks to Postern as any boot loader does, so Postern has one way in for each architecture. Until boot services are
//! left, whatever is wrong is said on the screen and the serial console, and the firmware's boot menu comes back.
#![cfg_attr(target_os = "uefi", no_std, no_main)]

#[cfg(target_os = "uefi")]
extern crate alloc;

#[cfg(target_os = "uefi")]
#[cfg_attr(target_arch = "aarch64", path = "aarch64.rs")]
#[cfg_attr(target_arch = "x86_64", path = "x86_64.rs")]
mod machine;

#[cfg(target_os = "uefi")]
mod boot;
#[cfg(target_os = "uefi")]
mod files;
#[cfg(target_os = "uefi")]
mod firmware;
#[cfg(target_os = "uefi")]
mod heap;
#[cfg(target_os = "uefi")]
mod measure;
#[cfg(target_os = "uefi")]
mod memory;

#[cfg(target_os = "uefi")]
#[uefi::entry]
fn main() -> uefi::Status {
    boot::main()
}

#[cfg(not(target_os = "uefi"))]
fn main() {
    eprintln!("this is a UEFI application: `cargo xtask image` builds it for firmware");
    std::process::exit(2);
}
