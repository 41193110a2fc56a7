//! `RSI_VERSION`.

use crate::call::guest::{Answer, Call};
use abi::rsi;

pub fn run(call: &Call<'_>) -> Answer {
    let supported = call.arguments[0] == rsi::VERSION_1_0;
    let status = if supported { rsi::SUCCESS } else { rsi::ERROR_INPUT };
    Answer::Values([status, rsi::VERSION_1_0, rsi::VERSION_1_0, 0])
}
