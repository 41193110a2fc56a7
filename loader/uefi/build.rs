//! Has the linker leave the time of day out of the program, so that the same source makes the same bytes.

fn main() {
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "uefi") {
        println!("cargo:rustc-link-arg-bins=/Brepro");
    }
    println!("cargo:rerun-if-changed=build.rs");
}
