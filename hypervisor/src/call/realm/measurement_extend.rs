//! `RSI_MEASUREMENT_EXTEND`: adds up to 64 bytes to one of the guest's own registers.

use super::input_error;
use crate::call::guest::{Answer, Call};
use abi::rsi;
use guestmem::Refusal;

pub fn run(call: &Call<'_>) -> Answer {
    let [index, size, words @ ..] = call.arguments;
    let mut data = [0; 64];
    for (bytes, word) in data.chunks_exact_mut(8).zip(words) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    let slot = index.checked_sub(1).and_then(|slot| usize::try_from(slot).ok());
    let data = usize::try_from(size).ok().and_then(|size| data.get(..size));
    let (Some(slot), Some(data)) = (slot, data) else {
        return input_error(call, "MEASUREMENT_EXTEND", Refusal::OutOfRange);
    };
    let Some(mut registers) = call.vm.extensible.try_lock() else { return Answer::Again(None) };
    if registers.extend(slot, data) {
        Answer::Values([rsi::SUCCESS, 0, 0, 0])
    } else {
        input_error(call, "MEASUREMENT_EXTEND", Refusal::OutOfRange)
    }
}
