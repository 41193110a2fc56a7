//! Postern: what the hypervisor does with the machine below it and the ownership core beside it.
//!
//! `call/` answers calls, one file for each; `vm` and `vcpu` hold what is called upon; `refuse` says no; `boot` gets from
//! the hand-off to a running host. Everything is a method of [`Postern`], so that tests can have many.
#![cfg_attr(target_os = "none", no_std)]

pub mod boot;
pub mod call;
pub mod counters;
pub mod crash;
#[cfg(feature = "crash-test")]
pub mod crash_test;
pub mod log;
pub mod measure;
pub mod phases;
mod place;
pub mod postern;
pub mod refuse;
pub mod settings;
pub mod vcpu;
pub mod vm;

pub use postern::Postern;
pub use refuse::Refused;
