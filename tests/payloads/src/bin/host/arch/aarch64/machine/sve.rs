//! The host's SVE registers around runs of a guest that uses FP and SIMD, at every vector length.

use crate::attacks::leak;
use crate::attacks::scene::Scene;
use abi::host::OK;
use alloc::format;
use alloc::string::String;
use payloads::sve::{self, State};

/// Runs of the victim at each length: it uses its registers in every second one at least.
const RUNS: u64 = 6;

pub fn kept(scene: &mut Scene) -> Result<i64, String> {
    if !sve::is_present() {
        return Ok(OK);
    }
    let mut last = 0;
    for wanted in 1..=16 {
        let bytes = sve::set_length(wanted);
        if bytes == last {
            continue;
        }
        last = bytes;
        for round in 0..RUNS {
            let mine = State::pattern(wanted * 100 + round, bytes);
            mine.load();
            leak::run_victim(scene, round + 1);
            if let Some(what) = State::store().difference(&mine) {
                return Err(format!("{what} changed with vectors of {bytes} bytes in run {round}"));
            }
        }
    }
    // Vectors of 16 bytes show nothing: they are the SIMD registers.
    if last > 16 { Ok(OK) } else { Err(String::from("this machine's vectors are too short to tell")) }
}
