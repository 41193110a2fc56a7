//! `RSI_MEASUREMENT_READ`: register 0 is the launch measurement, 1 to 4 are the guest's own.

use super::input_error;
use crate::call::guest::{Answer, Call};
use abi::rsi;
use arch::machine::Vcpu;
use guestmem::Refusal;

pub fn run(call: &Call<'_>, registers: &mut Vcpu) -> Answer {
    let digest = match call.arguments[0] {
        0 => call.vm.launch.try_lock().map(|launch| Some(*launch.digest())),
        index => {
            let index = usize::try_from(index - 1).unwrap_or(usize::MAX);
            call.vm.extensible.try_lock().map(|registers| registers.get(index))
        }
    };
    // Another CPU has the lock for a moment.
    let Some(digest) = digest else { return Answer::Again(None) };
    let Some(digest) = digest else { return input_error(call, "MEASUREMENT_READ", Refusal::OutOfRange) };
    let mut words = [0; 8];
    for (word, bytes) in words.iter_mut().zip(digest.chunks_exact(8)) {
        *word = u64::from_le_bytes(bytes.try_into().unwrap_or_default());
    }
    for (n, word) in words.iter().enumerate().skip(3) {
        registers.set_x(n + 1, *word);
    }
    Answer::Values([rsi::SUCCESS, words[0], words[1], words[2]])
}
