//! `RSI_IPA_STATE_GET`: what a range is, as far as it is the same. All that is not RAM is EMPTY: devices and holes.

use super::input_error;
use crate::call::guest::{Answer, Call};
use abi::rsi;
use guestmem::{Gfn, Refusal, Visibility};

pub fn run(call: &Call<'_>) -> Answer {
    let [start, end, ..] = call.arguments;
    let aligned = (start | end).is_multiple_of(abi::FRAME_SIZE);
    if !aligned || end <= start || end > call.vm.alias {
        return input_error(call, "IPA_STATE_GET", Refusal::OutOfRange);
    }
    let config = &call.vm.config;
    let ram_end = config.ram_base + config.ram_size;
    let (top, ripas) = if start < config.ram_base {
        (end.min(config.ram_base), rsi::RIPAS_EMPTY)
    } else if start >= ram_end {
        (end, rsi::RIPAS_EMPTY)
    } else {
        let (first, last) = (Gfn::from_addr(start), Gfn::from_addr(end.min(ram_end)));
        let (visibility, run_end) = call.postern.core.visibility_run(&call.vm.memory, first, last);
        let ripas = if visibility == Visibility::Private { rsi::RIPAS_RAM } else { rsi::RIPAS_EMPTY };
        (run_end.addr(), ripas)
    };
    Answer::Values([rsi::SUCCESS, top, ripas, 0])
}
