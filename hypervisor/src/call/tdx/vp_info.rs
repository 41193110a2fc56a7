//! `TDG.VP.INFO`: what the TD is.

use super::{Answer, Call};
use abi::tdx::{ATTRIBUTES, register::*};
use arch::machine::{self, Vcpu};

#[inline(always)]
pub fn run(call: &Call<'_>, registers: &mut Vcpu) -> Answer {
    let vcpus = call.vm.config.vcpu_count;
    registers.set_x(RCX, machine::ipa_bits());
    registers.set_x(RDX, ATTRIBUTES);
    // How many there are, and how many there can be.
    registers.set_x(R8, vcpus << 32 | vcpus);
    registers.set_x(R9, call.page.index as u64);
    // No fields of the whole system.
    registers.set_x(R10, 0);
    registers.set_x(R11, 0);
    Answer::SUCCESS
}
