//! The tdx dialect: decode, one call into the engine, encode ([`abi::tdx`]).
//!
//! Results are in registers that differ from leaf to leaf, and all others keep what they hold. So handlers write their
//! results themselves, say themselves what the host has to do ([`Call::leave`]), and answer with what is left: the status in
//! RAX.
//!
//! What a guest calls by the thousand, for one page at a time, is recognised in the loop that runs it ([`quick`]). It nearly always
//! succeeds there. What does not has changed nothing, and goes the long way as all else does.

mod fields;
mod mem_page_accept;
mod mr_report;
mod mr_rtmr_extend;
mod vm_rd;
mod vm_wr;
mod vmcall;
mod vp_info;
mod vp_veinfo_get;

use super::guest;
use abi::host::counter;
use abi::tdx::{VERSION_SHIFT, leaf, register::*, status};
use arch::Conduit;
use arch::machine::Vcpu;
use core::sync::atomic::AtomicU64;
use guestmem::{Refusal, Visibility};

pub use super::guest::quick::Calls as Call;

/// What a handler says; fits two registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// RAX: the instruction is done.
    Status(u64),
    /// Nothing has changed: the instruction is executed again after the host has done what it has to, or at once where another
    /// CPU was in the way.
    Again,
    /// RAX is there already, and the vCPU past the instruction, which ends when the host has answered a device access.
    Device,
}

impl Answer {
    /// Done.
    pub const SUCCESS: Self = Self::Status(status::SUCCESS);

    /// The operand in this register is malformed.
    pub const fn invalid(register: usize) -> Self {
        Self::Status(status::OPERAND_INVALID | register as u64)
    }
}

/// Answers TDCALL where that is quick; false, and nothing done, where it is not.
#[inline(always)]
pub fn quick(call: &Call<'_>, registers: &mut Vcpu) -> bool {
    let done = match registers.x(RAX) {
        leaf::VP_VMCALL => vmcall::map_gpa::quick(call, registers),
        leaf::MEM_PAGE_ACCEPT => mem_page_accept::quick(call, registers),
        _ => false,
    };
    if done {
        registers.set_x(RAX, status::SUCCESS);
        registers.finish_call(Conduit::Tdcall);
    }
    done
}

/// Answers TDCALL.
#[inline(never)]
pub fn dispatch(call: &Call<'_>, registers: &mut Vcpu) {
    let rax = registers.x(RAX);
    let answer = match rax {
        // The lowest 16 bits are the leaf, and those above its version: 0.
        leaf::VP_VMCALL => vmcall::dispatch(call, registers),
        leaf::VP_INFO => vp_info::run(call, registers),
        leaf::MR_RTMR_EXTEND => mr_rtmr_extend::run(call, registers),
        leaf::VP_VEINFO_GET => vp_veinfo_get::run(registers),
        leaf::MR_REPORT => mr_report::run(call, registers),
        leaf::MEM_PAGE_ACCEPT => mem_page_accept::run(call, registers),
        leaf::VM_WR => vm_wr::run(call, registers),
        _ => match (rax & 0xffff, rax >> VERSION_SHIFT) {
            (leaf::VM_RD, version @ 0..=0xff) => vm_rd::run(call, registers, version),
            _ => Answer::invalid(RAX),
        },
    };
    match answer {
        Answer::Status(status) => {
            if status & status::ERROR != 0 {
                refused(call, format_args!("TDCALL {}: {status:#x}", rax & 0xffff));
            }
            registers.set_x(RAX, status);
            registers.finish_call(Conduit::Tdcall);
        }
        Answer::Again => registers.repeat_call(Conduit::Tdcall),
        Answer::Device => {}
    }
}

/// Counts and logs a refusal.
#[cold]
#[inline(never)]
fn refused(call: &Call<'_>, what: core::fmt::Arguments<'_>) {
    call.postern.counters.count(counter::GUEST_REFUSALS);
    log::debug!("VM {} {what}", call.vm.memory.id().get());
}

/// What the engine's refusal means when the host can help, which it is told; `None` when it is the guest's own mistake.
#[cold]
#[inline(never)]
fn remedy(call: &Call<'_>, refusal: Refusal, address: u64, visibility: Visibility) -> Option<Answer> {
    match guest::remedy(refusal, address & !(abi::FRAME_SIZE - 1), visibility) {
        Some(guest::Answer::Again(reason)) => {
            reason.inspect(|reason| call.leave(*reason));
            Some(Answer::Again)
        }
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
    let alias = call.vm.alias;
    let gfn = call.vm.ram(address & !alias).ok_or(Answer::invalid(operand))?;
    let (core, memory) = (&call.postern.core, &call.vm.memory);
    let (visibility, accessed) = if address & alias == 0 {
        (Visibility::Private, core.with_page(memory, gfn, f))
    } else {
        (Visibility::Shared, core.with_shared_page(memory, gfn, f))
    };
    accessed.map_err(|refusal| remedy(call, refusal, gfn.addr(), visibility).unwrap_or(Answer::invalid(operand)))
}

/// Index of the 64-bit word at an address in its page.
const fn word_of(address: u64) -> usize {
    (address % abi::FRAME_SIZE / 8) as usize
}
