//! Tells the linker how the image is laid out when it is built for a bare machine.

use std::env;
use std::path::Path;

fn main() {
    let variable = |name| env::var(name).unwrap_or_default();
    if variable("CARGO_CFG_TARGET_OS") != "none" {
        return;
    }
    let folder = Path::new(&variable("CARGO_MANIFEST_DIR")).join("../arch/src").join(variable("CARGO_CFG_TARGET_ARCH"));
    let script = folder.join("image.ld");
    println!("cargo:rerun-if-changed={}", script.display());
    for argument in ["-pie", "--no-dynamic-linker", "-znotext", "--no-rosegment"] {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
    println!("cargo:rustc-link-arg-bins=-T{}", script.display());
}
