//! `TDG.VP.VMCALL`: what a TD asks of its VMM, which here is Postern, or the host by way of an exit.

mod cpuid;
mod get_quote;
mod get_tdvmcall_info;
mod hlt;
mod io;
pub mod map_gpa;
mod mmio;
mod rdmsr;
mod report_fatal_error;
mod setup_event_notify;
mod wrmsr;

use super::{Answer, Call, refused};
use crate::vcpu::Reason;
use abi::tdx::{register::*, status, vmcall};
use arch::MmioAccess;
use arch::machine::Vcpu;

/// The registers that the guest shows for one call. The others read as zero and keep what they hold.
pub struct Shown<'a> {
    mask: u64,
    registers: &'a mut Vcpu,
}

impl Shown<'_> {
    /// A register's value.
    pub fn get(&self, n: usize) -> u64 {
        if self.shows(n) { self.registers.x(n) } else { 0 }
    }

    /// Sets a register.
    pub fn set(&mut self, n: usize, value: u64) {
        if self.shows(n) {
            self.registers.set_x(n, value);
        }
    }

    fn shows(&self, n: usize) -> bool {
        self.mask >> n & 1 == 1
    }

    /// Done.
    pub fn success(&mut self) -> Answer {
        self.set(R10, vmcall::SUCCESS);
        Answer::SUCCESS
    }

    /// Done, then an exit to the host.
    pub fn success_then(&mut self, call: &Call<'_>, reason: Reason) -> Answer {
        call.leave(reason);
        self.success()
    }

    /// Done when the host has answered; what is read goes to R11.
    pub fn device(&mut self, call: &Call<'_>, size: u32, value: Option<u64>, reason: Reason) -> Answer {
        call.leave(reason);
        self.set(R10, vmcall::SUCCESS);
        self.registers.set_x(RAX, status::SUCCESS);
        let rt = if self.shows(R11) { R11 } else { NOWHERE };
        self.registers.finish_access(MmioAccess { size, value, rt, sign_extend: false, wide: true });
        Answer::Device
    }

    /// Not done: the status in R10.
    pub fn refuse(&mut self, call: &Call<'_>, code: u64) -> Answer {
        refused(call, format_args!("TDVMCALL {:#x}: {code:#x}", self.get(R11)));
        self.set(R10, code);
        Answer::SUCCESS
    }

    /// Not done: the status in R10 and in R11 the address from which on it is not.
    pub fn refuse_at(&mut self, call: &Call<'_>, code: u64, address: u64) -> Answer {
        let answer = self.refuse(call, code);
        self.set(R11, address);
        answer
    }
}

/// The register of an [`MmioAccess`] that discards what is read.
const NOWHERE: usize = 31;

/// Answers TDVMCALL.
pub fn dispatch(call: &Call<'_>, registers: &mut Vcpu) -> Answer {
    let mask = registers.x(RCX);
    if mask & vmcall::FORBIDDEN != 0 {
        return Answer::invalid(RCX);
    }
    let mut shown = Shown { mask, registers };
    // Anything but zero is a VMM's own; Postern has none.
    if shown.get(R10) != 0 {
        return shown.refuse(call, vmcall::SUBFUNC_UNSUPPORTED);
    }
    let shown = &mut shown;
    match shown.get(R11) {
        vmcall::CPUID => cpuid::run(call, shown),
        vmcall::HLT => hlt::run(call, shown),
        vmcall::IO => io::run(call, shown),
        vmcall::RDMSR => rdmsr::run(call, shown),
        vmcall::WRMSR => wrmsr::run(call, shown),
        vmcall::MMIO => mmio::run(call, shown),
        vmcall::GET_INFO => get_tdvmcall_info::run(call, shown),
        vmcall::MAP_GPA => map_gpa::run(call, shown),
        vmcall::GET_QUOTE => get_quote::run(call, shown),
        vmcall::REPORT_FATAL_ERROR => report_fatal_error::run(call, shown),
        vmcall::SETUP_EVENT_NOTIFY => setup_event_notify::run(call, shown),
        _ => shown.refuse(call, vmcall::SUBFUNC_UNSUPPORTED),
    }
}
