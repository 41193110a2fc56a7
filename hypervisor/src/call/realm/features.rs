//! `RSI_FEATURES`: no optional feature.

use crate::call::guest::{Answer, Call};
use abi::rsi;

pub fn run(_: &Call<'_>) -> Answer {
    Answer::Values([rsi::SUCCESS, 0, 0, 0])
}
