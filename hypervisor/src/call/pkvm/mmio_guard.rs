//! `MMIO_GUARD`: the guest declares a device window. Postern treats every address outside RAM as a device, so there is
//! nothing to remember; what must be refused is RAM.

use crate::call::guest::Answer;
use crate::vm::Vm;
use abi::pkvm::INVALID_PARAMETER;

pub fn run(vm: &Vm, [address, ..]: [u64; 3]) -> Answer {
    let device = address.is_multiple_of(abi::FRAME_SIZE) && address < 1 << arch::machine::ipa_bits();
    Answer::status(if device && vm.ram(address).is_none() { 0 } else { INVALID_PARAMETER })
}
