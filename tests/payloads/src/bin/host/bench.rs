//! `mode=bench`: what things cost. The guest counts its own side; the host adds what only Postern knows. Under an
//! instruction-counting emulator a tick of the counter is an instruction.

use crate::bundle::Bundle;
use crate::launch::{self, Software};
use crate::memory::Give;
use crate::platform::{BENCH, DIALECTS, RAM_BASE};
use crate::vm::Shape;
use crate::{frames, run, schedule, teardown};
use abi::FRAME_SIZE;
use abi::host::counter;
use alloc::format;
use alloc::string::String;
use payloads::{Boot, hostcall, say, timer};

/// All measurements.
///
/// # Errors
/// A sentence for the session's last line.
pub fn run(bundle: &Bundle, boot: &Boot) -> Result<(), String> {
    for &(dialect, give, test) in BENCH {
        let shape = Shape { dialect, vcpus: 1, memory: 64 << 20, give };
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
    host_calls()?;
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

/// Ticks of `work` for each of `count` pieces.
fn measure(count: u64, mut work: impl FnMut(u64)) -> u64 {
    let start = timer::now();
    (0..count).for_each(&mut work);
    (timer::now() - start) / count
}

/// What the host's own calls cost it.
fn host_calls() -> Result<(), String> {
    const COUNT: u64 = 128;
    let shape = Shape { dialect: DIALECTS[0].1, vcpus: 1, memory: 64 << 20, give: Give::Page };
    let mut memory = launch::create(&shape, 64).map_err(|status| format!("VM_CREATE answers {status}"))?;
    let handle = memory.handle();
    let given = frames::block().ok_or("the host is out of memory")?;
    let page = |n: u64| RAM_BASE + n * FRAME_SIZE;
    let mut wrong = 0;
    say!("bench: host-version {}", measure(COUNT, |_| wrong += hostcall::version().status));
    let load = measure(COUNT, |n| wrong += hostcall::vm_load(handle, given + n * FRAME_SIZE, page(n)));
    say!("bench: host-load-page {load}");
    let rest = COUNT..2 * COUNT;
    let donate = measure(COUNT, |n| {
        let n = rest.start + n;
        wrong += hostcall::vm_donate(handle, given + n * FRAME_SIZE, page(n), 1);
    });
    say!("bench: host-donate-page {donate}");
    let populate = measure(COUNT, |n| wrong += memory.populate(page(2 * COUNT + n)).err().unwrap_or(0));
    say!("bench: host-populate-page {populate}");
    teardown::destroy(handle)?;
    if wrong == 0 { Ok(()) } else { Err(String::from("a host call was refused")) }
}
