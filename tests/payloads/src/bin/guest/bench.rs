//! Costs in ticks of the virtual counter; under an instruction-counting emulator a tick is an instruction.

use crate::world::{World, read, write};
use abi::{BLOCK_SIZE, FRAME_SIZE};
use payloads::gic::write64;
use payloads::mailbox::{ARGUMENT, BASE};
use payloads::{pkvm as calls, rsi as realm, say, smccc, timer};

/// Ticks of `work` for each of `count` pieces.
fn measure(count: u64, mut work: impl FnMut(u64)) -> u64 {
    let start = timer::now();
    for n in 0..count {
        work(n);
    }
    (timer::now() - start) / count
}

/// All measurements.
pub fn run(world: &World) {
    const COUNT: u64 = 256;
    let call = |function| {
        move |_| {
            core::hint::black_box(smccc::hvc(smccc::call(function, 0, 0, 0)));
        }
    };
    if world.is_realm() {
        let version = |_| {
            core::hint::black_box(realm::version(abi::rsi::VERSION_1_0));
        };
        say!("bench: realm-call {}", measure(COUNT, version));
    } else {
        say!("bench: hypercall {}", measure(COUNT, call(abi::pkvm::FEATURES)));
    }
    let pages = world.pages(COUNT, BLOCK_SIZE);
    say!("bench: first-touch {}", measure(COUNT, |n| write(pages + n * FRAME_SIZE, 1)));
    if world.is_realm() {
        let convert = |n: u64| {
            let page = pages + n * FRAME_SIZE;
            realm::ipa_state_set(page, page + FRAME_SIZE, abi::rsi::RIPAS_EMPTY, 0);
            realm::ipa_state_set(page, page + FRAME_SIZE, abi::rsi::RIPAS_RAM, 0);
        };
        say!("bench: realm-share-unshare {}", measure(COUNT, convert));
    } else {
        let convert = |n: u64| {
            calls::share(pages + n * FRAME_SIZE);
            calls::unshare(pages + n * FRAME_SIZE);
        };
        say!("bench: share-unshare {}", measure(COUNT, convert));
    }
    block(world);
    say!("bench: mmio-write {}", measure(COUNT, |n| write64(BASE + world.alias + ARGUMENT, n)));
}

/// Conversion of 2 MiB that is all there, to shared and back.
fn block(world: &World) {
    let count = BLOCK_SIZE / FRAME_SIZE;
    let start = world.pages(count, BLOCK_SIZE);
    (0..count).for_each(|n| write(start + n * FRAME_SIZE, n));
    let before = timer::now();
    let shared = world.share(start, count);
    let between = timer::now();
    let back = world.unshare(start, count);
    let after = timer::now();
    if shared.is_err() || back.is_err() || read(start) != 0 {
        say!("guest: FAIL bench: conversion of 2 MiB: {shared:?} {back:?}");
    }
    say!("bench: share-2m {}", between - before);
    say!("bench: unshare-2m {}", after - between);
}
