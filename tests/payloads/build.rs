//! Hands the linker script to the linker, for the bare-metal target only.

fn main() {
    let variable = |name| std::env::var(name).unwrap_or_default();
    if variable("CARGO_CFG_TARGET_OS") == "none" {
        let (folder, architecture) = (variable("CARGO_MANIFEST_DIR"), variable("CARGO_CFG_TARGET_ARCH"));
        let script = format!("{folder}/src/arch/{architecture}/link.ld");
        println!("cargo::rerun-if-changed={script}");
        println!("cargo::rustc-link-arg-bins=-T{script}");
        // Position independent: whoever loads the image chooses the address, `_start` relocates.
        for argument in ["-pie", "--no-dynamic-linker", "-znotext", "--no-apply-dynamic-relocs"] {
            println!("cargo::rustc-link-arg-bins={argument}");
        }
    }
}
