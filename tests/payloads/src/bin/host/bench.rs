//! `mode=bench`: what things cost. The guest counts its own side; the host adds what only Postern knows. Under an
//! instruction-counting emulator a tick of the counter is an instruction.

use crate::bundle::Bundle;
use crate::launch::{self, Software};
use crate::vm::Shape;
use crate::{frames, run, schedule, teardown};
use abi::FRAME_SIZE;
use abi::host::{counter, dialect};
use alloc::format;
use alloc::string::String;
use payloads::{Boot, hostcall, say};

/// Guests that measure: dialect, whether memory comes in 2 MiB, and the guest's test.
const GUESTS: [(u64, bool, &str); 3] =
    [(dialect::PKVM, false, "bench"), (dialect::REALM, false, "bench"), (dialect::REALM, true, "bench-blocks")];

/// All measurements.
///
/// # Errors
/// A sentence for the session's last line.
pub fn run(bundle: &Bundle, boot: &Boot) -> Result<(), String> {
    for (dialect, blocks, test) in GUESTS {
        let shape = Shape { dialect, vcpus: 1, memory: 64 << 20, blocks };
        let arguments = format!("test={test}");
        let software = Software { kernel: bundle.tiny_guest()?, initrd: None, arguments: &arguments, seed: 1 };
        let vm = launch::launch(&shape, &software, run::console_line(boot))?;
        let end = schedule::run(&vm);
        teardown::teardown(&vm)?;
        if let Some(reason) = end.reason() {
            return Err(reason);
        }
        if vm.console.lock().failures() != 0 {
            return Err(String::from("a measurement failed in the guest"));
        }
    }
    let out = frames::zeroed_frame().ok_or("the host is out of memory")?;
    hostcall::counters(out);
    let value = |index: usize| frames::read(out + index as u64 * 8);
    say!("bench: longest-interrupts-off {}", value(counter::LONGEST_TICKS));
    say!("bench: longest-cause {:#x}", value(counter::LONGEST_CAUSE));
    say!("bench: memory-set-aside-kib {}", value(counter::POSTERN_FRAMES) * FRAME_SIZE / 1024);
    say!("bench: pool-free-kib {}", value(counter::POOL_FREE) * FRAME_SIZE / 1024);
    frames::free_frame(out);
    Ok(())
}
