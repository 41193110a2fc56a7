//! The tdx dialect: decode, one call into the engine, encode.

use super::guest::Outcome;
use crate::Postern;
use crate::vcpu::VcpuPage;
use crate::vm::Vm;
use arch::machine::Vcpu;

/// Answers TDCALL.
pub fn dispatch(_: &Postern, _: &Vm, _: &VcpuPage, _: &mut Vcpu) -> Outcome {
    Outcome::Resume
}
