//! The tdx dialect: decode, one call into the engine, encode ([`abi::tdx`]).
//!
//! Results are in registers that differ from leaf to leaf, and all others keep what they hold. So handlers write their
//! results themselves, and answer with what is left: the status in RAX, and whether the host has something to do.

mod fields;
mod mem_page_accept;
mod mr_report;
mod mr_rtmr_extend;
mod vm_rd;
mod vm_wr;
mod vmcall;
mod vp_info;
mod vp_veinfo_get;

use super::guest::{self, Outcome};
use crate::Postern;
use crate::vcpu::{Reason, VcpuPage};
use crate::vm::Vm;
use abi::host::counter;
use abi::tdx::{VERSION_SHIFT, leaf, register::*, status};
use arch::machine::Vcpu;
use arch::{Conduit, MmioAccess};
use core::sync::atomic::AtomicU64;
use guestmem::{Refusal, Visibility};

/// A guest's call.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// The hypervisor.
    pub postern: &'a Postern,
    /// The caller's VM.
    pub vm: &'a Vm,
    /// The caller.
    pub page: &'a VcpuPage,
}

/// What a handler says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// RAX; the vCPU runs on.
    Status(u64),
    /// RAX, then an exit to the host.
    StatusThen(u64, Reason),
    /// 0 in RAX, then a device access, which ends the instruction when the host has answered it.
    Device(MmioAccess, Reason),
    /// Nothing has changed: the instruction is executed again after the host has done what the reason says, or at once
    /// where another CPU was in the way.
    Again(Option<Reason>),
}

impl Answer {
    /// Done.
    pub const SUCCESS: Self = Self::Status(status::SUCCESS);

    /// The operand in this register is malformed.
    pub const fn invalid(register: usize) -> Self {
        Self::Status(status::OPERAND_INVALID | register as u64)
    }
}

/// Answers TDCALL.
pub fn dispatch(postern: &Postern, vm: &Vm, page: &VcpuPage, registers: &mut Vcpu) -> Outcome {
    let call = Call { postern, vm, page };
    let rax = registers.x(RAX);
    let (number, version) = (rax & 0xffff, rax >> VERSION_SHIFT);
    let answer = match (number, version) {
        (leaf::VP_VMCALL, 0) => vmcall::dispatch(&call, registers),
        (leaf::VP_INFO, 0) => vp_info::run(&call, registers),
        (leaf::MR_RTMR_EXTEND, 0) => mr_rtmr_extend::run(&call, registers),
        (leaf::VP_VEINFO_GET, 0) => vp_veinfo_get::run(registers),
        (leaf::MR_REPORT, 0) => mr_report::run(&call, registers),
        (leaf::MEM_PAGE_ACCEPT, 0) => mem_page_accept::run(&call, registers),
        (leaf::VM_RD, 0..=0xff) => vm_rd::run(&call, registers, version),
        (leaf::VM_WR, 0) => vm_wr::run(&call, registers),
        _ => Answer::invalid(RAX),
    };
    finish(&call, registers, number, answer)
}

fn finish(call: &Call<'_>, registers: &mut Vcpu, number: u64, answer: Answer) -> Outcome {
    let (status, reason) = match answer {
        Answer::Status(status) => (status, None),
        Answer::StatusThen(status, reason) => (status, Some(reason)),
        Answer::Device(access, reason) => {
            registers.set_x(RAX, status::SUCCESS);
            registers.finish_access(access);
            return Outcome::Exit(reason);
        }
        Answer::Again(reason) => {
            registers.repeat_call(Conduit::Tdcall);
            return reason.map_or(Outcome::Resume, Outcome::Exit);
        }
    };
    if status & status::ERROR != 0 {
        refused(call, format_args!("TDCALL {number}: {status:#x}"));
    }
    registers.set_x(RAX, status);
    registers.finish_call(Conduit::Tdcall);
    reason.map_or(Outcome::Resume, Outcome::Exit)
}

/// Counts and logs a refusal.
fn refused(call: &Call<'_>, what: core::fmt::Arguments<'_>) {
    call.postern.counters.count(counter::GUEST_REFUSALS);
    log::debug!("VM {} {what}", call.vm.memory.id().get());
}

/// What the engine's refusal means when the host can help; `None` when it is the guest's own mistake.
fn remedy(refusal: Refusal, address: u64, visibility: Visibility) -> Option<Answer> {
    match guest::remedy(refusal, address & !(abi::FRAME_SIZE - 1), visibility) {
        Some(guest::Answer::Again(reason)) => Some(Answer::Again(reason)),
        _ => None,
    }
}

/// Lets `f` access the page around an address of the guest's, in the half that the address says; `operand` is where it
/// came from. `f` must be short.
fn with_page<R>(
    call: &Call<'_>,
    address: u64,
    operand: usize,
    f: impl FnOnce(&[AtomicU64; 512]) -> R,
) -> Result<R, Answer> {
    let alias = call.vm.dialect.alias();
    let gfn = call.vm.ram(address & !alias).ok_or(Answer::invalid(operand))?;
    let (core, memory) = (&call.postern.core, &call.vm.memory);
    let (visibility, accessed) = if address & alias == 0 {
        (Visibility::Private, core.with_page(memory, gfn, f))
    } else {
        (Visibility::Shared, core.with_shared_page(memory, gfn, f))
    };
    accessed.map_err(|refusal| remedy(refusal, gfn.addr(), visibility).unwrap_or(Answer::invalid(operand)))
}

/// Index of the 64-bit word at an address in its page.
const fn word_of(address: u64) -> usize {
    (address % abi::FRAME_SIZE / 8) as usize
}
