//! `mode=demo`: the story of a protected guest, told while it happens. Lines `demo: step: text` are for people,
//! `demo-ok: name` says that something was really observed, `map: phase start end state` is who owned physical memory.

use crate::bundle::Bundle;
use crate::launch::{self, Software};
use crate::memory::Give;
use crate::vm::{End, Shape, Vm};
use crate::{frames, run, schedule, teardown};
use abi::FRAME_SIZE;
use abi::host::{VmInfo, frame};
use alloc::format;
use alloc::string::String;
use core::ops::Range;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use payloads::exception::{try_read, try_write};
use payloads::mailbox::{ANSWER, GREETING, command};
use payloads::{Boot, hostcall, say};

/// What the guest's init writes when it has come up.
const UP: &str = "postern-guest: up";

/// What has to be observed, in the order of the story.
const MILESTONES: [&str; 9] = [
    "guest-up",
    "host-refused-read",
    "host-refused-write",
    "shared-both-read",
    "unshared-wiped",
    "refused-again",
    "power-off",
    "reclaimed",
    "audit-clean",
];

/// Bit n: milestone n was observed.
static OBSERVED: AtomicU32 = AtomicU32::new(0);
/// All RAM, for the map that is drawn in the middle of the story.
static RAM: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

fn observed(name: &str) {
    if let Some(n) = MILESTONES.iter().position(|milestone| *milestone == name) {
        OBSERVED.fetch_or(1 << n, Ordering::AcqRel);
        say!("demo-ok: {name}");
    }
}

/// Tells the story.
///
/// # Errors
/// A sentence on what was not observed.
pub fn run(bundle: &Bundle, boot: &Boot) -> Result<(), String> {
    let ram = all_ram(boot);
    RAM[0].store(ram.start, Ordering::Relaxed);
    RAM[1].store(ram.end, Ordering::Relaxed);
    say!("demo: before: all memory but Postern's own is the host's");
    map("before");
    let shape = run::shape(bundle)?;
    let guest = launch::launch(&shape, &run::software(bundle)?, run::console_line(boot))?;
    say!("demo: launch: the host gave a guest its kernel and disk; Postern measured them: {}", measurement(&guest)?);
    guest.console.lock().watch(UP);
    schedule::run(&guest);
    if guest.ended() {
        return Err(guest.end().reason().unwrap_or_else(|| String::from("the guest powered off before it was up")));
    }
    observed("guest-up");
    say!("demo: up: an unmodified Linux runs in memory that the host cannot reach");
    poke(&guest)?;
    second_guest(bundle, shape.dialect)?;
    say!("demo: resume: back to Linux, which never noticed");
    guest.unpause();
    let end = schedule::run(&guest);
    if end != End::Off {
        return Err(end.reason().unwrap_or_default());
    }
    observed("power-off");
    say!("demo: power-off: the guest is done; its memory is still closed to the host until it is wiped");
    teardown::teardown(&guest)?;
    observed("reclaimed");
    say!("demo: reclaim: every frame is back, wiped but for what the guest had opened to the host itself");
    match hostcall::audit() {
        Ok(0) => observed("audit-clean"),
        other => return Err(format!("audit: {other:?}")),
    }
    map("after");
    let missing = (0..MILESTONES.len()).find(|n| OBSERVED.load(Ordering::Acquire) & 1 << n == 0);
    missing.map_or(Ok(()), |n| Err(format!("the demo did not observe {}", MILESTONES[n])))
}

/// The host helps itself to a page of the guest, or tries to.
fn poke(guest: &Vm) -> Result<(), String> {
    let memory = guest.memory.lock();
    let private = memory.given().find(|(_, pa)| hostcall::frame_state(*pa) == frame::PRIVATE);
    let (page, pa) = private.ok_or("the guest has no private page")?;
    say!("demo: attack: the host reads the guest's page {page:#x}, which is in its frame {pa:#x}");
    match try_read(pa) {
        Err(abort) if abort.is_refused() => observed("host-refused-read"),
        other => return Err(format!("the host's read gives {other:x?}")),
    }
    say!("demo: attack: the host gets an exception instead of data; now it writes");
    match try_write(pa, 0xbad) {
        Err(abort) if abort.is_refused() => observed("host-refused-write"),
        other => return Err(format!("the host's write gives {other:x?}")),
    }
    say!("demo: attack: refused as well, counted, and the host lives on");
    Ok(())
}

/// A second guest, while the first one waits, opens one page and closes it again.
fn second_guest(bundle: &Bundle, dialect: u64) -> Result<(), String> {
    say!("demo: second: a second guest, of a few KiB, shows how a page is opened and closed");
    let shape = Shape { dialect, vcpus: 1, memory: 32 << 20, give: Give::Blocks };
    let software = Software { kernel: bundle.tiny_guest()?, initrd: None, arguments: "test=demo", seed: 1 };
    let vm = launch::launch(&shape, &software, 0)?;
    let end = schedule::run(&vm);
    let failures = vm.console.lock().failures();
    teardown::teardown(&vm)?;
    match end.reason() {
        None if failures == 0 => Ok(()),
        reason => Err(reason.unwrap_or_else(|| String::from("the second guest reports a failure"))),
    }
}

/// What the second guest asks for at each step.
pub fn step(vm: &Vm, number: u64, page: u64, value: u64) -> u64 {
    let Some(pa) = vm.memory.lock().frame_of(page) else { return 0 };
    match number {
        command::DEMO_SHARED => {
            say!("demo: share: the guest opened its page {page:#x} and wrote a greeting");
            let greeting = try_read(pa);
            if greeting == Ok(GREETING) && hostcall::frame_state(pa) == frame::SHARED {
                say!("demo: share: the host reads \"{}\" and answers", text(GREETING));
                let _ = try_write(pa + 8, ANSWER);
            }
            map("during");
        }
        command::DEMO_ANSWER if value == ANSWER => {
            say!("demo: share: the guest reads \"{}\": both sides see the same page", text(ANSWER));
            observed("shared-both-read");
        }
        command::DEMO_RESIDUE if value == 0 => {
            say!("demo: unshare: the guest closed the page again: it is all zeroes, nothing of the host's is left");
            observed("unshared-wiped");
        }
        command::DEMO_UNSHARED => {
            let (read, write) = (try_read(pa), try_write(pa, 0xbad));
            if [read.err(), write.err()].iter().all(|found| found.is_some_and(|abort| abort.is_refused())) {
                say!("demo: unshare: the host tries again to read and to write it, and is refused again");
                observed("refused-again");
            }
        }
        _ => say!("demo: step {number} went wrong: {value:#x}"),
    }
    0
}

fn text(word: u64) -> String {
    word.to_le_bytes().iter().map(|byte| char::from(*byte)).collect()
}

/// The first bytes of the launch measurement.
fn measurement(vm: &Vm) -> Result<String, String> {
    let out = frames::zeroed_frame().ok_or("the host is out of memory")?;
    let status = hostcall::vm_info(vm.handle, out);
    // SAFETY: Postern has written the structure there, or the frame is zero.
    let info = unsafe { (out as *const VmInfo).read_volatile() };
    frames::free_frame(out);
    if status != abi::host::OK {
        return Err(format!("VM_INFO answers {status}"));
    }
    let bytes = info.measurement[0].to_le_bytes();
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>() + "...")
}

/// Everything between the first and the last frame that the device tree lists, and what Postern hides next to it.
fn all_ram(boot: &Boot) -> Range<u64> {
    let memory = &boot.machine.memory;
    let mut start = memory.iter().map(|range| range.start).min().unwrap_or(0) & !(FRAME_SIZE - 1);
    let mut end = memory.iter().map(|range| range.end).max().unwrap_or(0);
    while start > 0 && hostcall::frame_state(start - FRAME_SIZE) == frame::POSTERN {
        start -= FRAME_SIZE;
    }
    while hostcall::frame_state(end) == frame::POSTERN {
        end += FRAME_SIZE;
    }
    start..end
}

/// Who owns physical memory now, as runs of equal state.
fn map(phase: &str) {
    let (start, end) = (RAM[0].load(Ordering::Relaxed), RAM[1].load(Ordering::Relaxed));
    let mut run = (start, hostcall::frame_state(start));
    for pa in (start..=end).step_by(FRAME_SIZE as usize) {
        let state = if pa == end { u64::MAX } else { hostcall::frame_state(pa) };
        if state != run.1 {
            say!("map: {phase} {:#x} {pa:#x} {}", run.0, state_name(run.1));
            run = (pa, state);
        }
    }
}

fn state_name(state: u64) -> &'static str {
    match state {
        frame::HOST => "host",
        frame::POSTERN => "postern",
        frame::META => "meta",
        frame::PRIVATE => "private",
        frame::SHARED => "shared",
        frame::MOVING => "moving",
        frame::POISONED => "poisoned",
        _ => "absent",
    }
}
