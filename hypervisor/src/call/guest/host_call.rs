//! RSI_HOST_CALL: a realm's private channel to the VMM (DEN0137). The structure is 256 bytes: an immediate, then 31
//! registers that go out and come back.

use super::Answer;
use crate::Postern;
use crate::vcpu::{Reason, VcpuPage};
use crate::vm::Vm;
use abi::{rsi, run};
use arch::machine::Vcpu;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use guestmem::{Gfn, Machine, Visibility};

/// Registers in the structure.
const REGISTERS: usize = 31;

/// Puts the structure at `address` into the run page.
pub fn start(postern: &Postern, vm: &Vm, page: &VcpuPage, address: u64) -> Answer {
    let input_error = Answer::Values([rsi::ERROR_INPUT, 0, 0, 0]);
    let Some(gfn) = vm.ram(address).filter(|_| address.is_multiple_of(rsi::HOST_CALL_SIZE)) else {
        return input_error;
    };
    let first = (address % abi::FRAME_SIZE / 8) as usize;
    let copied = postern.core.with_page(&vm.memory, gfn, |words| {
        core::array::from_fn::<u64, { 1 + REGISTERS }, _>(|n| words[first + n].load(Relaxed))
    });
    match copied {
        Ok([immediate, values @ ..]) => {
            let out = postern.core.machine.words(page.run_page);
            // The immediate is 16 bits in a 32-bit field.
            out[run::CALL_IMMEDIATE].store(immediate & 0xffff, Relaxed);
            for (to, value) in out[run::CALL_REGISTERS..].iter().zip(values) {
                to.store(value, Relaxed);
            }
            page.host_call.store(address + 1, Release);
            Answer::ValuesThen([rsi::SUCCESS, 0, 0, 0], Reason::HostCall)
        }
        Err(refusal) => super::remedy(refusal, gfn.addr(), Visibility::Private).unwrap_or(input_error),
    }
}

/// Brings the host's answers back, before the vCPU runs on; a reason when that cannot be done yet.
pub fn finish(postern: &Postern, vm: &Vm, page: &VcpuPage, registers: &mut Vcpu) -> Option<Reason> {
    let address = page.host_call.load(Acquire).checked_sub(1)?;
    let first = (address % abi::FRAME_SIZE / 8) as usize;
    let answers = &postern.core.machine.words(page.run_page)[run::CALL_REGISTERS..][..REGISTERS];
    let gfn = Gfn::from_addr(address);
    let copied = postern.core.with_page(&vm.memory, gfn, |words| {
        for (to, answer) in words[first + 1..].iter().zip(answers) {
            to.store(answer.load(Relaxed), Relaxed);
        }
    });
    match copied.map_err(|refusal| super::remedy(refusal, gfn.addr(), Visibility::Private)) {
        // Another CPU works on that page: the host comes again.
        Err(Some(Answer::Again(reason))) => return Some(reason.unwrap_or(Reason::Interrupt)),
        // The guest has given the page away meanwhile: its answers are lost, which it is told.
        Err(_) => registers.set_x(0, rsi::ERROR_INPUT),
        Ok(()) => {}
    }
    page.host_call.store(0, Release);
    None
}
