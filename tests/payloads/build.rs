//! Hands the linker script to the linker, for the bare-metal target only.

fn main() {
    println!("cargo::rerun-if-changed=src/link.ld");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        let folder = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
        println!("cargo::rustc-link-arg-bins=-T{folder}/src/link.ld");
        // Position independent: whoever loads the image chooses the address, `_start` relocates.
        for argument in ["-pie", "--no-dynamic-linker", "-znotext", "--no-apply-dynamic-relocs"] {
            println!("cargo::rustc-link-arg-bins={argument}");
        }
    }
}
