//! The `postern` program: the last unsafe steps of boot, and what a program without an operating system needs.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod bare;

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("postern runs on a bare machine: `cargo xtask run` builds it for one and starts it");
    std::process::exit(2);
}
