//! Where things are: the source tree, the build folder.

use std::path::PathBuf;

/// Top folder of the workspace.
pub fn root() -> PathBuf {
    let here = std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    here.parent().expect("xtask has a parent folder").to_owned()
}

/// Cargo's build folder: `CARGO_TARGET_DIR`, else `target` in the workspace.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// Build folder of the bare-metal programs and everything packed from them.
pub fn bare() -> PathBuf {
    target().join("bare")
}
