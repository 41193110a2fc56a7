//! Realm Services Interface calls (Arm DEN0137), for guests.

use super::smccc::{self, Answer, call};
use abi::rsi;

/// `RSI_VERSION` with the version asked for.
pub fn version(wanted: u64) -> Answer {
    smccc::smc(call(rsi::VERSION, wanted, 0, 0))
}

/// `RSI_REALM_CONFIG` into the page at `address`: the status.
pub fn realm_config(address: u64) -> u64 {
    smccc::smc(call(rsi::REALM_CONFIG, address, 0, 0))[0]
}

/// One `RSI_IPA_STATE_SET`: status, new base, response.
pub fn ipa_state_set(base: u64, top: u64, state: u64, flags: u64) -> Answer {
    smccc::smc([rsi::IPA_STATE_SET, base, top, state, flags, 0, 0])
}

/// `RSI_IPA_STATE_SET` until the whole range is done.
///
/// # Errors
/// The status that was not success, or `u64::MAX` when there was no progress.
pub fn set_state(base: u64, top: u64, state: u64) -> Result<(), u64> {
    let mut at = base;
    while at < top {
        let [status, next, response, _] = ipa_state_set(at, top, state, 0);
        if status != rsi::SUCCESS {
            return Err(status);
        }
        if response != rsi::ACCEPT || next <= at || next > top {
            return Err(u64::MAX);
        }
        at = next;
    }
    Ok(())
}

/// `RSI_IPA_STATE_GET`: status, end of the run, state.
pub fn ipa_state_get(start: u64, end: u64) -> Answer {
    smccc::smc(call(rsi::IPA_STATE_GET, start, end, 0))
}

/// `RSI_HOST_CALL` with the structure at `address`: the status.
pub fn host_call(address: u64) -> u64 {
    smccc::smc(call(rsi::HOST_CALL, address, 0, 0))[0]
}
