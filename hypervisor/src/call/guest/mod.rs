//! Calls of guests: which dialect, and what all dialects share.

mod host_call;
mod power;
pub mod quick;

use super::{pkvm, realm};
use crate::Postern;
use crate::vcpu::{Reason, VcpuPage};
use crate::vm::{Dialect, Vm};
use abi::host::counter;
use abi::smccc;
use arch::Conduit;
use arch::machine::Vcpu;
use guestmem::{Refusal, Visibility};

pub use host_call::{finish as finish_host_call, start as start_host_call};

/// What becomes of the vCPU after a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It runs on.
    Resume,
    /// The host has to do something.
    Exit(Reason),
}

/// What a handler says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// x0 to x3.
    Values([u64; 4]),
    /// x0 to x3, then an exit to the host.
    ValuesThen([u64; 4], Reason),
    /// Nothing has changed: the instruction is executed again after the host has done what the reason says, or at once
    /// where another CPU was in the way.
    Again(Option<Reason>),
    /// An exit to the host; the vCPU does not come back to this call.
    Leave(Reason),
}

impl Answer {
    /// A status in x0, zeroes in x1 to x3 (DEN0028 section 4.1: unused result registers).
    pub const fn status(status: i64) -> Self {
        Self::Values([status as u64, 0, 0, 0])
    }
}

/// A guest's call, decoded.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// The hypervisor.
    pub postern: &'a Postern,
    /// The caller's VM.
    pub vm: &'a Vm,
    /// The caller.
    pub page: &'a VcpuPage,
    /// Function identifier, without the hint about SVE.
    pub function: u64,
    /// x1 to x17.
    pub arguments: [u64; 17],
}

/// Answers HVC #0 or SMC #0.
pub fn dispatch(postern: &Postern, vm: &Vm, page: &VcpuPage, registers: &mut Vcpu, conduit: Conduit) -> Outcome {
    postern.counters.count(counter::GUEST_CALLS);
    let x0 = registers.x(0);
    // The identifier is w0 (DEN0028 section 2.5); anything above it makes it nobody's.
    let function = if x0 >> 32 == 0 { x0 & !smccc::SVE_HINT } else { u64::MAX };
    let answer = match (vm.dialect, conduit) {
        // The calls that have to be fast need no more than three arguments.
        (Dialect::Pkvm, Conduit::Hvc | Conduit::Smc) => {
            pkvm::dispatch(postern, vm, page, function, [registers.x(1), registers.x(2), registers.x(3)])
        }
        (Dialect::Realm, Conduit::Smc) => {
            let arguments = core::array::from_fn(|n| registers.x(n + 1));
            realm::dispatch(&Call { postern, vm, page, function, arguments }, registers)
        }
        // What a realm gets for HVC from its monitor, and what Linux never does; the calls of a TD are all quick ones.
        _ => {
            registers.inject_undefined();
            return Outcome::Resume;
        }
    };
    finish(registers, conduit, answer)
}

fn finish(registers: &mut Vcpu, conduit: Conduit, answer: Answer) -> Outcome {
    let (values, reason) = match answer {
        Answer::Values(values) => (values, None),
        Answer::ValuesThen(values, reason) => (values, Some(reason)),
        Answer::Again(reason) => {
            registers.repeat_call(conduit);
            return reason.map_or(Outcome::Resume, Outcome::Exit);
        }
        Answer::Leave(reason) => {
            if reason == Reason::CpuOff {
                registers.switch_off();
            }
            registers.finish_call(conduit);
            return Outcome::Exit(reason);
        }
    };
    for (n, value) in values.into_iter().enumerate() {
        registers.set_x(n, value);
    }
    registers.finish_call(conduit);
    reason.map_or(Outcome::Resume, Outcome::Exit)
}

/// Calls that every dialect answers alike: SMCCC and PSCI.
pub fn common(postern: &Postern, vm: &Vm, page: &VcpuPage, function: u64, arguments: [u64; 3]) -> Answer {
    match function {
        smccc::VERSION => Answer::Values([smccc::VERSION_1_2, 0, 0, 0]),
        smccc::ARCH_FEATURES if matches!(arguments[0], smccc::VERSION | smccc::ARCH_FEATURES) => Answer::status(0),
        _ => power::psci(postern, vm, page, function, arguments),
    }
}

/// What the engine's refusal means when the host can help; `None` when it is the guest's own mistake.
pub fn remedy(refusal: Refusal, address: u64, visibility: Visibility) -> Option<Answer> {
    match refusal {
        Refusal::Absent => Some(Answer::Again(Some(Reason::MemoryFault(address, visibility)))),
        Refusal::Busy => Some(Answer::Again(None)),
        Refusal::NoMeta => Some(Answer::Again(Some(Reason::NeedMeta))),
        Refusal::NoPool => Some(Answer::Again(Some(Reason::NeedPool))),
        _ => None,
    }
}

/// Counts and logs a refusal of a guest's call.
pub fn refused(postern: &Postern, vm: &Vm, name: &str, refusal: Refusal) {
    postern.counters.count(counter::GUEST_REFUSALS);
    log::debug!("VM {} call {name}: {refusal:?}", vm.memory.id().get());
}
