//! What the guest's CPU holds survives every exit.

use crate::world::World;
use crate::{expect, require};
use alloc::string::String;
use payloads::mailbox::{BASE, RESULT};
use payloads::registers::{self, General, Vector};
use payloads::{cpu, percpu, timer};

/// Everything but what the access itself needs keeps its value.
pub fn registers_kept(world: &World) -> Result<(), String> {
    for round in 0..50 {
        let mut input: General = registers::pattern(round);
        let kept = registers::prepare_load(&mut input, BASE + world.alias + RESULT);
        let output = registers::around_load(&input);
        for &n in kept {
            expect!(alloc::format!("{} after an MMIO exit", registers::name(n)), output[n], input[n]);
        }
        cpu::mask_interrupts();
        timer::fire_at(timer::now() + timer::ticks(1));
        let output = registers::around_wait(&input);
        cpu::unmask_interrupts();
        for n in 0..input.len() {
            expect!(alloc::format!("{} after waiting", registers::name(n)), output[n], input[n]);
        }
    }
    Ok(())
}

pub fn vectors_kept(world: &World) -> Result<(), String> {
    for round in 0..50 {
        let pattern: Vector = registers::pattern(round + 100);
        registers::load_vectors(&pattern);
        payloads::device::read64(BASE + world.alias + RESULT);
        let before = percpu::this().counted(timer::INTID);
        timer::fire_at(timer::now() + timer::ticks(1));
        cpu::sleep_until(|| percpu::this().counted(timer::INTID) != before);
        let found = registers::store_vectors();
        for n in 0..pattern.len() {
            expect!(alloc::format!("half {} of vector {}", n % 2, n / 2), found[n], pattern[n]);
        }
    }
    Ok(())
}

/// Where the last fault was, which a handler that is interrupted has yet to ask.
pub fn fault_address_kept(world: &World) -> Result<(), String> {
    for round in 1..50u64 {
        let address = round << 40 | 0xfeed_0000;
        cpu::set_fault_address(address);
        payloads::device::read64(BASE + world.alias + RESULT);
        expect!("the fault address after an MMIO exit", cpu::fault_address(), address);
        let before = percpu::this().counted(timer::INTID);
        timer::fire_at(timer::now() + timer::ticks(1));
        cpu::sleep_until(|| percpu::this().counted(timer::INTID) != before);
        expect!("the fault address after waiting", cpu::fault_address(), address);
    }
    Ok(())
}

pub fn clock_is_monotonic(world: &World) -> Result<(), String> {
    let mut last = timer::now();
    for _ in 0..500 {
        payloads::device::read64(BASE + world.alias + RESULT);
        let now = timer::now();
        require!(now > last && now - last < timer::frequency(), "the clock went from {last} to {now}");
        last = now;
    }
    Ok(())
}
