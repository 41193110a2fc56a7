//! A tiny guest kernel for all dialects. Its kernel command line says what it does: `test=<name>`, where the name is one
//! test, or `functional`, `attacks`, `bench`, `soak`, or `idle`. It reports lines `guest: pass <name>` and
//! `guest: FAIL <name>: <why>` on its console and powers off.
#![no_std]
#![no_main]
// Reason: bare-metal program that pokes registers and memory on purpose; every block says why it is sound.
#![allow(unsafe_code)]

extern crate alloc;

mod arch;
mod bench;
mod functional;
mod mailbox;
mod smp;
mod soak;
mod table;
mod terminal;
mod world;

use arch::dialect;
use payloads::{Boot, config, cpu, power, say};
use world::World;

payloads::entry!(main, 1 << 20);

fn main(boot: Boot) -> ! {
    let world = World::new(boot);
    cpu::unmask_interrupts();
    let name = config::argument(world.machine.arguments, "test").unwrap_or("functional");
    say!("guest: up, {} dialect, {} vCPUs, test={name}", world.dialect.name(), world.machine.cpus.len());
    match name {
        "bench" => bench::run(&world),
        "bench-pages" => bench::pages(&world),
        "bench-blocks" => bench::blocks(&world),
        "soak" => soak::run(&world),
        "idle" => idle(),
        _ if terminal::run(&world, name) => {}
        _ => table::run(&world, name),
    }
    power::off()
}

/// Waits for whatever the host does.
fn idle() -> ! {
    cpu::sleep_until(|| false);
    unreachable!("it waits for ever")
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    let place = info.location().map_or(("?", 0), |place| (place.file(), place.line()));
    payloads::console::write_last_line(format_args!(
        "guest: FAIL panic: {} at {}:{}",
        info.message(),
        place.0,
        place.1
    ));
    power::off()
}
