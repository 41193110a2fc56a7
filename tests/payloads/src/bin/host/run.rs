//! `mode=run`: one guest from the bundle, to its end.

use crate::bundle::Bundle;
use crate::launch::{self, Software};
use crate::memory::Give;
use crate::platform::DIALECTS;
use crate::vm::Shape;
use crate::{schedule, teardown};
use alloc::format;
use alloc::string::String;
use core::sync::atomic::Ordering;
use payloads::{Boot, say, timer};

/// The guest that `config` describes: `dialect`, `cpus`, `memory` (bytes), `give` (`page`,
/// `pages` or `blocks`: how much a fault is served with).
///
/// # Errors
/// A sentence for the user.
pub fn shape(bundle: &Bundle) -> Result<Shape, String> {
    let config = &bundle.config;
    let wanted = config.get("dialect").unwrap_or(DIALECTS[0].0);
    let found = DIALECTS.iter().find(|(name, _)| *name == wanted);
    let &(_, dialect) = found.ok_or_else(|| format!("unknown dialect {wanted} in the bundle's config"))?;
    let wanted = config.get("give").unwrap_or("blocks");
    let give = Give::named(wanted).ok_or_else(|| format!("unknown give={wanted} in the bundle's config"))?;
    Ok(Shape {
        dialect,
        vcpus: config.number("cpus", 1),
        memory: config.number("memory", 512 << 20) & !(abi::BLOCK_SIZE - 1),
        give,
    })
}

/// The guest software of the bundle.
///
/// # Errors
/// A sentence for the user.
pub fn software(bundle: &Bundle) -> Result<Software<'static>, String> {
    Ok(Software {
        kernel: bundle.file(abi::bundle::GUEST_KERNEL)?,
        initrd: bundle.optional(abi::bundle::GUEST_INITRD),
        arguments: bundle.text(abi::bundle::GUEST_CMDLINE),
        seed: bundle.config.number("seed", 0),
    })
}

/// The physical UART for the guest's console: the machine's second one.
pub fn console_line(boot: &Boot) -> u64 {
    boot.machine.uarts.get(1).copied().unwrap_or(0)
}

/// Runs the guest, then takes everything back and checks it. `config` says besides when it has to be over (`limit_ms`), and
/// whether the host's timer ends turns, or Postern alone (`ticks`, 0 for the latter).
///
/// # Errors
/// A sentence for the session's last line.
pub fn run(bundle: &Bundle, boot: &Boot) -> Result<(), String> {
    let shape = shape(bundle)?;
    let vm = launch::launch(&shape, &software(bundle)?, console_line(boot))?;
    say!("host: guest {:#x} launched: {} vCPUs, {} MiB", vm.handle, shape.vcpus, shape.memory >> 20);
    if let Some(limit) = bundle.config.get("limit_ms").and_then(payloads::config::number) {
        vm.time_limit.store(timer::now() + timer::ticks(limit), Ordering::Relaxed);
    }
    vm.ticks.store(bundle.config.number("ticks", 1) != 0, Ordering::Relaxed);
    let start = timer::now();
    let end = schedule::run(&vm);
    say!("host: guest ran for {} ticks", timer::now() - start);
    say!("host: guest ended: {end:?}");
    let returned = teardown::teardown(&vm);
    end.reason().map_or(returned, Err)?;
    match vm.console.lock().failures() {
        0 => Ok(()),
        failures => Err(format!("the guest reports {failures} failures")),
    }
}
