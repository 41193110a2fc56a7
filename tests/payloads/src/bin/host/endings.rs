//! `mode=endings`: guests that end in every way there is, one after the other. The host has to see each end for what it
//! is, and get everything back.

use crate::bundle::Bundle;
use crate::launch::{self, Software};
use crate::platform;
use crate::siblings::{self, By};
use crate::vm::End;
use crate::{arch, run, schedule, teardown};
use abi::run::exit;
use alloc::format;
use alloc::string::String;
use core::sync::atomic::Ordering;
use payloads::{Boot, hostcall, say, timer};

/// Time that each guest gets, in milliseconds of guest time.
const LIMIT_MS: u64 = 1500;

/// A test of the tiny guest, and the ends that are right for it.
pub type Ending = (&'static str, &'static [fn(&End) -> bool]);

/// Tests of the tiny guest and the ends that are right. A guest that loops or sleeps for ever harms nobody: it ends when
/// the host loses patience.
const ENDINGS: &[Ending] = &[
    ("reset", &[|end| *end == End::Reset]),
    ("off-while-others-run", &[|end| *end == End::Off]),
    ("all-off", &[|end| *end == End::Late, |end| *end == End::Off]),
    ("jump-nowhere", &[|end| matches!(end, End::Failed(_)), |end| *end == End::Late]),
    ("vectors-nowhere", &[|end| matches!(end, End::Failed(_)), |end| *end == End::Late]),
    ("stack-in-device", &[|end| matches!(end, End::Failed(_)), |end| *end == End::Late]),
    ("spin", &[|end| *end == End::Late]),
];

/// Runs them all, or the one that `test` names.
///
/// # Errors
/// A sentence for the session's last line.
pub fn run(bundle: &Bundle, boot: &Boot) -> Result<(), String> {
    let wanted = bundle.config.get("test").unwrap_or("all");
    let mut failed = 0;
    for (name, ends) in ENDINGS.iter().chain(arch::ENDINGS).filter(|(name, _)| wanted == "all" || wanted == *name) {
        match one(bundle, boot, name, ends) {
            Ok(end) => say!("ending: pass {name} ({end:?})"),
            Err(reason) => {
                say!("ending: FAIL {name}: {reason}");
                failed += 1;
            }
        }
    }
    let siblings = [("siblings-stop-off", By::Itself), ("siblings-stop-destroyed", By::Host)];
    for (name, by) in siblings.iter().filter(|(name, _)| wanted == "all" || wanted == *name) {
        match siblings::stop(bundle, boot, *by) {
            Ok(()) => say!("ending: pass {name}"),
            Err(reason) => {
                say!("ending: FAIL {name}: {reason}");
                failed += 1;
            }
        }
    }
    if failed == 0 { Ok(()) } else { Err(format!("{failed} guests did not end as they should")) }
}

fn one(bundle: &Bundle, boot: &Boot, name: &str, ends: &[fn(&End) -> bool]) -> Result<End, String> {
    let mut shape = run::shape(bundle)?;
    shape.vcpus = 2;
    shape.memory = 32 << 20;
    let arguments = format!("test={name}");
    let software = Software { kernel: bundle.tiny_guest()?, initrd: None, arguments: &arguments, seed: 1 };
    let vm = launch::launch(&shape, &software, run::console_line(boot))?;
    vm.time_limit.store(timer::now() + timer::ticks(LIMIT_MS), Ordering::Relaxed);
    let end = schedule::run(&vm);
    // Whatever the end was, it is final: another run says so again, or is refused.
    // One that was only given up would run on, and nothing would stop it.
    if end != End::Late && (platform::OFF_IS_FINAL || matches!(end, End::Failed(_))) {
        let again = hostcall::vcpu_run(vm.handle, 0).value();
        if !matches!(again, Err(_) | Ok(exit::SYSTEM_OFF | exit::SYSTEM_RESET | exit::FAILED)) {
            return Err(format!("after {end:?} another run gives {again:?}"));
        }
    }
    teardown::teardown(&vm)?;
    if ends.iter().any(|right| right(&end)) { Ok(end) } else { Err(format!("it ended with {end:?}")) }
}
