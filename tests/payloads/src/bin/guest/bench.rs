//! Costs in ticks of the virtual counter; under an instruction-counting emulator a tick is an instruction.

use crate::dialect;
use crate::world::{Dialect, World, read, write};
use abi::{BLOCK_SIZE, FRAME_SIZE};
use payloads::device::write64;
use payloads::mailbox::{ARGUMENT, BASE};
use payloads::{say, timer};

/// Ticks of `work` for each of `count` pieces.
fn measure(count: u64, mut work: impl FnMut(u64)) -> u64 {
    let start = timer::now();
    for n in 0..count {
        work(n);
    }
    (timer::now() - start) / count
}

/// What a dialect's measurements are called; those of a pKVM guest have no name of their own.
fn prefix(world: &World) -> &'static str {
    match world.dialect {
        Dialect::Realm => "realm-",
        Dialect::Tdx => "tdx-",
        _ => "",
    }
}

/// The measurements on single pages.
pub fn run(world: &World) {
    const COUNT: u64 = 256;
    let name = prefix(world);
    say!("bench: {name}hypercall {}", measure(COUNT, |_| dialect::cheapest_call(world)));
    if let Some((trap, instruction)) = dialect::TRAP {
        say!("bench: {name}{trap} {}", measure(COUNT, |_| instruction()));
    }
    for (event, cause) in dialect::EVENTS {
        say!("bench: {name}{event} {}", measure(COUNT, |_| cause()));
    }
    let pages = world.pages(COUNT, BLOCK_SIZE);
    say!("bench: {name}first-touch {}", measure(COUNT, |n| write(pages + n * FRAME_SIZE, 1)));
    say!("bench: {name}share-unshare {}", measure(COUNT, |n| share_unshare(world, pages + n * FRAME_SIZE)));
    say!("bench: {name}mmio-write {}", measure(COUNT, |n| write64(BASE + world.alias + ARGUMENT, n)));
    say!("bench: {name}timer-read {}", measure(COUNT, |_| core::hint::black_box(())));
}

/// First touches when the host gives the pages around as well.
pub fn pages(world: &World) {
    const COUNT: u64 = 256;
    let name = prefix(world);
    let pages = world.pages(COUNT, BLOCK_SIZE);
    say!("bench: {name}first-touch-around {}", measure(COUNT, |n| write(pages + n * FRAME_SIZE, 1)));
}

/// One page of a kind that is there already, opened and closed.
fn share_unshare(world: &World, page: u64) {
    assert!(dialect::share_unshare(world, page), "a conversion was refused");
}

/// Conversion of 2 MiB that came as one block, to shared and back; and its first touch.
pub fn blocks(world: &World) {
    let (name, count) = (prefix(world), BLOCK_SIZE / FRAME_SIZE);
    let start = world.pages(count, BLOCK_SIZE);
    say!("bench: {name}first-touch-2m {}", measure(1, |_| write(start, 1)));
    let before = timer::now();
    let shared = world.share(start, count);
    let between = timer::now();
    let back = world.unshare(start, count);
    let after = timer::now();
    if shared.is_err() || back.is_err() || read(start) != 0 {
        say!("guest: FAIL bench: conversion of 2 MiB: {shared:?} {back:?}");
    }
    say!("bench: {name}share-2m {}", between - before);
    say!("bench: {name}unshare-2m {}", after - between);
}
