//! The architecture's half. Each folder has the same names for what both have, so that programs need not know where they
//! run; what only one has (`gic`, `psci`, `tdcall`...) is for its own tests.

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "aarch64")]
pub use aarch64::*;

#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "x86_64")]
pub use x86_64::*;
