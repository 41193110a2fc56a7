//! The realm dialect: decode, one call into the engine, encode ([`abi::rsi`]).

mod features;
mod ipa_state_get;
mod ipa_state_set;
mod measurement_extend;
mod measurement_read;
mod realm_config;
mod version;

use super::guest::{Answer, Call, common, start_host_call};
use crate::Postern;
use crate::vm::Vm;
use abi::{rsi, smccc};
use arch::machine::Vcpu;
use guestmem::Refusal;

/// Answers a realm. Only the measurement calls have more than four results, and write them themselves.
pub fn dispatch(call: &Call<'_>, registers: &mut Vcpu) -> Answer {
    match call.function {
        rsi::VERSION => version::run(call),
        rsi::FEATURES => features::run(call),
        rsi::REALM_CONFIG => realm_config::run(call),
        rsi::IPA_STATE_SET => ipa_state_set::run(call),
        rsi::IPA_STATE_GET => ipa_state_get::run(call),
        rsi::HOST_CALL => start_host_call(call.postern, call.vm, call.page, call.arguments[0]),
        rsi::MEASUREMENT_READ => measurement_read::run(call, registers),
        rsi::MEASUREMENT_EXTEND => measurement_extend::run(call),
        _ => {
            let [a, b, c, ..] = call.arguments;
            common(call.postern, call.vm, call.page, call.function, [a, b, c])
        }
    }
}

/// The call worth answering at once, when it succeeds.
#[inline(always)]
pub fn quick(postern: &Postern, vm: &Vm, function: u64, arguments: [u64; 3]) -> Option<[u64; 4]> {
    match function & !smccc::SVE_HINT {
        rsi::IPA_STATE_SET => ipa_state_set::quick(postern, vm, arguments),
        _ => None,
    }
}

/// `ERROR_INPUT`, counted and logged with the reason.
fn input_error(call: &Call<'_>, name: &str, refusal: Refusal) -> Answer {
    super::guest::refused(call.postern, call.vm, name, refusal);
    Answer::Values([rsi::ERROR_INPUT, 0, 0, 0])
}
