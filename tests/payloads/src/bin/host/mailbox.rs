//! A device for test guests: through it a guest asks its host to do something from outside, such as reading a page.
//!
//! Registers of eight bytes: two arguments, a command (its write does the work), the result.

use crate::demo;
use crate::vm::{Vcpu, Vm};
use abi::run;
use payloads::cpu;
use payloads::exception;
use payloads::hostcall;
use payloads::mailbox::{ARGUMENT, COMMAND, FAULT, LOWER, NOTHING, RESULT, VALUE, command};

pub use payloads::mailbox::BASE;

use core::sync::atomic::{AtomicU64, Ordering};

static ARGUMENTS: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];
const RESULT_SLOT: usize = 2;

/// Serves an access to the registers.
pub fn access(vm: &Vm, offset: u64, write: Option<u64>) -> u64 {
    let slot = |index: usize| &ARGUMENTS[index];
    // The host has faults of its own, so to speak: the guest may not notice.
    cpu::set_fault_address(offset);
    match (offset, write) {
        (ARGUMENT, Some(value)) => slot(0).store(value, Ordering::Relaxed),
        (VALUE, Some(value)) => slot(1).store(value, Ordering::Relaxed),
        (COMMAND, Some(value)) => {
            let (argument, operand) = (slot(0).load(Ordering::Relaxed), slot(1).load(Ordering::Relaxed));
            slot(RESULT_SLOT).store(execute(vm, value, argument, operand), Ordering::Relaxed);
        }
        (LOWER, Some(value)) => vm.interrupt(value as u32, false),
        (RESULT, None) => return slot(RESULT_SLOT).load(Ordering::Relaxed),
        _ => {}
    }
    0
}

fn execute(vm: &Vm, number: u64, argument: u64, operand: u64) -> u64 {
    let frame = vm.memory.lock().frame_of(argument);
    match (number, frame) {
        (command::READ, Some(pa)) => exception::try_read(pa).unwrap_or(FAULT),
        (command::WRITE, Some(pa)) => exception::try_write(pa, operand).map_or(FAULT, |()| 0),
        (command::STATE, Some(pa)) => hostcall::frame_state(pa),
        (command::PIN, Some(pa)) => hostcall::pin(pa) as u64,
        (command::UNPIN, Some(pa)) => hostcall::unpin(pa) as u64,
        (command::INTERRUPT, _) => {
            vm.interrupt(argument as u32, operand != 0);
            0
        }
        (command::READY, _) => {
            vm.set_ready();
            0
        }
        (command::AUDIT, _) => hostcall::audit().unwrap_or(FAULT),
        (command::DEMO_SHARED..=command::DEMO_RESIDUE, _) => demo::step(vm, number, argument, operand),
        _ => NOTHING,
    }
}

/// Answers an RSI_HOST_CALL: the first three registers come back as their sum, their exclusive or and the immediate.
pub fn host_call(_vm: &Vm, vcpu: &Vcpu) {
    let register = |n: usize| vcpu.word(run::CALL_REGISTERS + n);
    let (sum, xor) = (register(0).wrapping_add(register(1)), register(0) ^ register(1));
    let immediate = vcpu.word(run::CALL_IMMEDIATE);
    for (n, value) in [sum, xor, immediate].into_iter().enumerate() {
        vcpu.set_word(run::CALL_REGISTERS + n, value);
    }
}
