//! Timer, software and device interrupts.

use crate::world::World;
use crate::{expect, require, smp};
use alloc::string::String;
use core::sync::atomic::{AtomicU64, Ordering};
use payloads::{cpu, interrupt, percpu, power, timer};

/// How long to wait for something that must come.
const PATIENCE_MS: u64 = 2000;

/// Waits until `condition` holds; `false` when it does not come true.
pub fn eventually(condition: impl Fn() -> bool) -> bool {
    let end = timer::now() + timer::ticks(PATIENCE_MS);
    while !condition() {
        if timer::now() > end {
            return false;
        }
        core::hint::spin_loop();
    }
    true
}

pub fn timer(_: &World) -> Result<(), String> {
    let area = percpu::this();
    for round in 0..20 {
        let before = area.counted(timer::INTID);
        let deadline = timer::now() + timer::ticks(1);
        timer::fire_at(deadline);
        if round % 2 == 0 {
            cpu::sleep_until(|| area.counted(timer::INTID) != before);
        } else {
            require!(eventually(|| area.counted(timer::INTID) != before), "no timer interrupt");
        }
        require!(timer::now() >= deadline, "the timer came early");
        expect!("timer interrupts", area.counted(timer::INTID), before + 1);
    }
    Ok(())
}

pub fn sgi_to_self(_: &World) -> Result<(), String> {
    let area = percpu::this();
    for intid in interrupt::SOFTWARE {
        let before = area.counted(intid);
        interrupt::send(intid, percpu::index());
        require!(eventually(|| area.counted(intid) == before + 1), "interrupt {intid} did not come");
    }
    Ok(())
}

/// The interrupt that a vCPU answers with.
const ANSWER: u32 = interrupt::SOFTWARE.start + 2;
static ANSWERS: AtomicU64 = AtomicU64::new(0);

fn answer(index: usize) {
    // Woken by the first SGI; answers with one of its own.
    cpu::sleep_until(|| percpu::this().counted(interrupt::WAKE) != 0);
    ANSWERS.fetch_add(1 << (8 * index), Ordering::AcqRel);
    interrupt::send(ANSWER, 0);
}

/// Starts every other vCPU, wakes each from WFI with an SGI, is woken by its answer, and sees it off again.
pub fn other_vcpus(world: &World) -> Result<(), String> {
    let count = world.machine.cpus.len();
    let area = percpu::this();
    for index in 1..count {
        require!(power::is_off(index), "vCPU {index} is on already");
        smp::start(index, answer).map_err(|code| alloc::format!("starting it answers {code}"))?;
        timer::delay(2);
        require!(power::refuses_second_start(index), "started twice");
        let before = area.counted(ANSWER);
        interrupt::send(interrupt::WAKE, index);
        require!(eventually(|| area.counted(ANSWER) != before), "vCPU {index} does not answer");
        require!(eventually(|| power::is_off(index)), "vCPU {index} does not go off");
    }
    expect!("answers", ANSWERS.swap(0, Ordering::AcqRel).count_ones() as usize, count - 1);
    Ok(())
}
