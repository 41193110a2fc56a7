//! `RSI_REALM_CONFIG`: fills a page of the guest's with what it is.

use super::input_error;
use crate::call::guest::{Answer, Call, remedy};
use abi::rsi;
use core::sync::atomic::Ordering::Relaxed;
use guestmem::{Refusal, Visibility};

pub fn run(call: &Call<'_>) -> Answer {
    let address = call.arguments[0];
    let Some(gfn) = call.vm.ram(address).filter(|_| address.is_multiple_of(abi::FRAME_SIZE)) else {
        return input_error(call, "REALM_CONFIG", Refusal::OutOfRange);
    };
    let written = call.postern.core.with_page(&call.vm.memory, gfn, |words| {
        for word in words {
            word.store(0, Relaxed);
        }
        words[0].store(rsi::IPA_BITS.into(), Relaxed);
        words[1].store(rsi::HASH_SHA384, Relaxed);
    });
    match written {
        Ok(()) => Answer::Values([rsi::SUCCESS, 0, 0, 0]),
        Err(refusal) => {
            remedy(refusal, address, Visibility::Private).unwrap_or_else(|| input_error(call, "REALM_CONFIG", refusal))
        }
    }
}
