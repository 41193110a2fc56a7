//! `mode=soak`: conversions by a guest on all its vCPUs at once, with audits while it pauses.

use crate::bundle::Bundle;
use crate::launch::{self, Software};
use crate::{run, schedule, teardown};
use alloc::format;
use alloc::string::String;
use payloads::{Boot, say};

/// `conversions` of the config, 100,000 unless told, on `cpus` vCPUs, 2 unless told.
///
/// # Errors
/// A sentence for the session's last line.
pub fn run(bundle: &Bundle, boot: &Boot) -> Result<(), String> {
    let mut shape = run::shape(bundle)?;
    shape.vcpus = bundle.config.number("cpus", 2);
    shape.memory = 64 << 20;
    let arguments = format!("test=soak conversions={}", bundle.config.number("conversions", 100_000));
    let software = Software { kernel: bundle.tiny_guest()?, initrd: None, arguments: &arguments, seed: 1 };
    let vm = launch::launch(&shape, &software, run::console_line(boot))?;
    let end = schedule::run(&vm);
    say!("host: guest ended: {end:?}");
    teardown::teardown(&vm)?;
    match (end.reason(), vm.console.lock().failures()) {
        (Some(reason), _) => Err(reason),
        (None, 0) => Ok(()),
        (None, _) => Err(String::from("the guest reports a failure")),
    }
}
