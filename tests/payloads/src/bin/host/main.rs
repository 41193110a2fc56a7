//! The test host: what Postern boots in the emulator tests. It reads `config` from the bundle, does what its
//! `mode` says, and ends the session with one line, `POSTERN-END: ok` or the reason.
#![no_std]
#![no_main]
// Reason: bare-metal program; it reads and writes frames it gives away, and every block says why it is sound.
#![allow(unsafe_code)]

extern crate alloc;

mod arch;
mod attacks;
mod bench;
mod bundle;
mod console;
mod demo;
mod endings;
mod exits;
mod frames;
mod gibs;
mod launch;
mod mailbox;
mod memory;
mod record;
mod remote;
mod run;
mod schedule;
mod screen;
mod siblings;
mod soak;
mod teardown;
mod vm;

use alloc::string::String;
use arch::platform;
use bundle::Bundle;
use core::fmt::Write;
use payloads::{Boot, hostcall, interrupt, power, say};

payloads::entry!(main, 24 << 20);

fn main(boot: Boot) -> ! {
    start_log(&boot);
    let machine = &boot.machine;
    let bundle = Bundle::new(machine.initrd.clone());
    arch::prepare(&bundle);
    interrupt::init(machine, 0);
    interrupt::init_cpu();
    frames::init(&boot);
    remote::start(machine.cpus.len());
    let free = frames::free_bytes() >> 20;
    say!("host: {} CPUs, {free} MiB free, image at {:#x}", remote::cpus(), boot.image.start);
    record::show(&boot);
    if bundle.config.get("screen").is_some() {
        screen::show(&boot);
    }
    let mode = bundle.config.get("mode").unwrap_or("run");
    let outcome = match mode {
        _ if !hostcall::present() => Err(String::from("no hypervisor answers the test host")),
        "run" => run::run(&bundle, &boot),
        "soak" => soak::run(&bundle, &boot),
        "gibs" => gibs::run(&bundle, &boot),
        "endings" => endings::run(&bundle, &boot),
        "demo" => demo::run(&bundle, &boot),
        "crash" => crash(),
        "bench" => bench::run(&bundle, &boot),
        "hostile" => attacks::run(&bundle, &boot),
        other => Err(alloc::format!("unknown mode {other} in the bundle's config")),
    };
    end(outcome)
}

/// `mode=crash`: Postern dies of what the bundle says; the session's last word is its own.
fn crash() -> Result<(), String> {
    let status = hostcall::raw(abi::host::CRASH_TEST, [0; 6]).status;
    Err(alloc::format!("Postern survives its end with status {status}"))
}

fn start_log(boot: &Boot) {
    if hostcall::present() {
        payloads::console::use_log();
    } else if let Some(&uart) = boot.machine.uarts.first() {
        payloads::uart::init(uart);
        payloads::console::use_uart(uart);
    }
}

/// Prints the line that ends the session and powers the machine off.
fn end(outcome: Result<(), String>) -> ! {
    match outcome {
        Ok(()) => say!("{}ok", abi::bundle::END_MARKER),
        Err(reason) => say!("{}{reason}", abi::bundle::END_MARKER),
    }
    power::off()
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    let mut reason = String::new();
    let _ = write!(reason, "{}", info.message());
    if let Some(place) = info.location() {
        let _ = write!(reason, " at {}:{}", place.file(), place.line());
    }
    payloads::console::write_last_line(format_args!("{}the test host failed: {reason}", abi::bundle::END_MARKER));
    power::off()
}
