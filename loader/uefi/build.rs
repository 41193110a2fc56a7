//! Has the linker leave the time of day out of the program, so that the same source makes the same bytes, and gives an arm64
//! program the header that boot loaders know Linux by.

use std::path::Path;
use std::{env, fs};

/// Bytes of the header for DOS, which ends with the address of the other one.
const DOS_HEADER: usize = 64;
/// Where Linux has its magic (Linux `Documentation/arch/arm64/booting.rst`, "Call the kernel image"): DOS keeps that free.
const MAGIC_AT: usize = 56;

fn main() {
    let target = |what: &str| env::var(format!("CARGO_CFG_TARGET_{what}")).unwrap_or_default();
    if target("OS") == "uefi" {
        println!("cargo:rustc-link-arg-bins=/Brepro");
        if target("ARCH") == "aarch64" {
            let mut header = [0; DOS_HEADER];
            header[..2].copy_from_slice(b"MZ");
            header[MAGIC_AT..MAGIC_AT + 4].copy_from_slice(b"ARM\x64");
            let file = Path::new(&env::var_os("OUT_DIR").expect("cargo says where")).join("header");
            fs::write(&file, header).expect("cargo's folder can be written");
            println!("cargo:rustc-link-arg-bins=/STUB:{}", file.display());
        }
    }
    println!("cargo:rerun-if-changed=build.rs");
}
