//! The local APIC: its modes, and the page of its registers in xAPIC mode.

use super::{all_alive, last, refused, try_rdmsr, try_wrmsr};
use crate::attacks::scene::Scene;
use crate::remote;
use abi::host::OK;
use alloc::format;
use alloc::string::String;
use payloads::apic::{self, ENABLED, PAGE, X2APIC};
use payloads::{attempt, cpu, exception, interrupt, percpu, timer};

/// Registers by their place in the page.
const ID: u64 = 0x20;
const VERSION: u64 = 0x30;
const TASK_PRIORITY: u64 = 0x80;
const COMMAND: u64 = 0x300;
const DESTINATION: u64 = 0x310;
const DIVISOR: u64 = 0x3e0;

/// What IA32_APIC_BASE holds but for the mode.
fn rest() -> u64 {
    cpu::rdmsr(apic::BASE) & !X2APIC
}

fn set_mode(mode: u64) -> Result<(), String> {
    try_wrmsr(apic::BASE, rest() | mode).map_err(|abort| format!("mode {mode:#x}: {abort}"))?;
    let found = cpu::rdmsr(apic::BASE) & X2APIC;
    if found == mode { Ok(()) } else { Err(format!("mode {mode:#x} reads {found:#x}")) }
}

pub fn base(_: &mut Scene) -> Result<i64, String> {
    let base = cpu::rdmsr(apic::BASE);
    let not_on = base & !X2APIC | X2APIC & !ENABLED;
    for value in [not_on, base ^ 0x1000, base ^ 1 << 8, base ^ 1 << 9, base | 1 << 52, u64::MAX, 0] {
        refused("a write to IA32_APIC_BASE", try_wrmsr(apic::BASE, value))?;
    }
    try_wrmsr(apic::BASE, base).map_err(|abort| format!("the value it has: {abort}"))?;
    let locked = cpu::rdmsr(0xbd) == 1 && cpu::rdmsr(0x10a) & 1 << 21 != 0;
    if locked == apic::is_mapped() { Err(format!("locked: {locked}")) } else { Ok(OK) }
}

pub fn modes(_: &mut Scene) -> Result<i64, String> {
    if !apic::is_mapped() {
        refused("x2APIC mode to off", try_wrmsr(apic::BASE, rest()))?;
        refused("x2APIC mode to xAPIC mode", try_wrmsr(apic::BASE, rest() | ENABLED))?;
        refused("the page in x2APIC mode", exception::try_read32(PAGE + VERSION).map(drop))?;
        refused("the page in x2APIC mode", exception::try_write32(PAGE + COMMAND, apic::command::NMI as u32))?;
        return Ok(OK);
    }
    for _ in 0..20 {
        set_mode(0)?;
        refused("off to x2APIC mode", try_wrmsr(apic::BASE, rest() | X2APIC))?;
        refused("the page of an APIC that is off", exception::try_read32(PAGE + VERSION).map(drop))?;
        refused("a command of one", try_wrmsr(apic::register::COMMAND, 0x77 << 32 | 0x4500))?;
        refused("one that is off, moved", try_wrmsr(apic::BASE, rest() ^ 0x1000))?;
        set_mode(ENABLED)?;
        refused("one that is on, moved", try_wrmsr(apic::BASE, (rest() | ENABLED) ^ 0x1000))?;
        refused("an x2APIC command", try_wrmsr(apic::register::COMMAND, 0x4500))?;
        if apic::has_x2apic() {
            refused("an x2APIC register", try_rdmsr(apic::register::ID).map(drop))?;
        } else {
            // The emulator has no register for nobody, and lets it be read.
            refused("a mode that is not there", try_wrmsr(apic::BASE, rest() | X2APIC))?;
        }
        interrupt::init_cpu();
    }
    all_alive().map(|()| OK)
}

fn write(at: u64, value: u32) -> Result<(), String> {
    exception::try_write32(PAGE + at, value).map_err(|abort| format!("a write at {at:#x}: {abort}"))
}

fn read(at: u64) -> Result<u32, String> {
    exception::try_read32(PAGE + at).map_err(|abort| format!("a read at {at:#x}: {abort}"))
}

fn command(target: u64, command: u32) -> Result<(), String> {
    write(DESTINATION, (target as u32) << 24)?;
    write(COMMAND, command)
}

pub fn page(_: &mut Scene) -> Result<i64, String> {
    let nmis =
        || (0..remote::cpus()).map(|index| percpu::of(index).counted(exception::vector::NMI as u32)).sum::<u32>();
    let before = nmis();
    if !apic::is_mapped() {
        return Ok(OK);
    }
    remote::park_one();
    let outcome = odd_accesses().and_then(|()| registers()).and_then(|()| commands());
    interrupt::init_cpu();
    if let Some(last) = last() {
        // Out of whatever the commands have started it in.
        apic::send(apic::command::INIT, percpu::affinity(last));
        timer::delay(2);
        payloads::forget_cpu(last);
        remote::unpark()?;
    }
    outcome?;
    all_alive()?;
    if nmis() == before { Err(String::from("not one NMI arrived")) } else { Ok(OK) }
}

/// All that is no load or store of 32 bits at a multiple of 16.
fn odd_accesses() -> Result<(), String> {
    let at = PAGE + COMMAND;
    // A start-up message for everybody else, if it came through.
    let value = 0xc_4608u64;
    refused("a store of 8 bytes", attempt!("mov [{a}], {v}"; a = in(reg) at, v = in(reg) value,))?;
    refused("a store of 2 bytes", attempt!("mov [{a}], {v:x}"; a = in(reg) at, v = in(reg) value,))?;
    refused("a store of a byte", attempt!("mov [{a} + 1], {v}"; a = in(reg) at, v = in(reg_byte) 0x46u8,))?;
    refused("a store of 16 bytes", attempt!("movups [{a}], xmm0"; a = in(reg) at,))?;
    refused("an addition", attempt!("add [{a}], {v:e}"; a = in(reg) at, v = in(reg) value,))?;
    refused(
        "a locked exchange-and-add",
        attempt!("lock xadd [{a}], {v:e}"; a = in(reg) at, v = inout(reg) value => _,),
    )?;
    refused("a store by STOS", attempt!("stosd"; inout("rdi") at => _, in("eax") value as u32,))?;
    refused("a store in the middle", exception::try_write32(at + 1, value as u32))?;
    refused("a store in between", exception::try_write32(at + 4, value as u32))?;
    refused("a store over the edge", exception::try_write32(at - 2, (value << 16) as u32))?;
    refused("a store behind the page", exception::try_write32(PAGE + 0x1000, value as u32))?;
    refused("a store to where interrupts go", exception::try_write32(PAGE + 0x1_0000, value as u32))?;
    refused("a load of 8 bytes", exception::try_read(at).map(drop))?;
    refused("a test", attempt!("test dword ptr [{a}], 0x1000"; a = in(reg) at,))?;
    refused("a jump", exception::try_execute(PAGE))
}

fn registers() -> Result<(), String> {
    let id = read(ID)?;
    write(ID, !id)?;
    write(VERSION, 0)?;
    write(0x3f0, u32::MAX)?;
    write(0xff0, u32::MAX)?;
    write(DESTINATION, u32::MAX)?;
    write(TASK_PRIORITY, 0x20)?;
    let mut old = 0x30u32;
    attempt!("xchg [{a}], {v:e}"; a = in(reg) PAGE + TASK_PRIORITY, v = inout(reg) old,)
        .map_err(|abort| format!("an exchange: {abort}"))?;
    attempt!("mov dword ptr [{a}], 0xb"; a = in(reg) PAGE + DIVISOR,)
        .map_err(|abort| format!("a constant: {abort}"))?;
    let found = [read(ID)?, read(DESTINATION)?, old, read(TASK_PRIORITY)?, read(DIVISOR)?];
    write(TASK_PRIORITY, 0)?;
    write(DIVISOR, 0)?;
    if found == [id, 0xff00_0000, 0x20, 0x30, 0xb] { Ok(()) } else { Err(format!("registers read {found:x?}")) }
}

/// Every mode of delivery to everybody there is and is not. The last CPU is parked: what starts it, starts it in memory that
/// is all zeroes or firmware's, where whatever runs faults or spins.
fn commands() -> Result<(), String> {
    const INIT: u32 = apic::command::INIT as u32;
    const STARTUP: u32 = apic::command::STARTUP as u32;
    const SMI: u32 = 2 << 8 | 1 << 14;
    let others = 3 << 18;
    let ids = (0..remote::cpus()).map(percpu::affinity).chain([0x77, 0xff]);
    for (target, round) in ids.flat_map(|target| (0..50u32).map(move |round| (target, round))) {
        command(target, SMI)?;
        command(target, SMI | others)?;
        command(target, 3 << 8 | 0x30)?;
        command(target, 7 << 8)?;
        command(target, INIT | 1 << 11)?;
        command(target, STARTUP | 1 << 11 | 0x90 | round & 7)?;
        // Oneself by shorthand; with reserved bits.
        command(0, INIT | 1 << 18)?;
        command(0, STARTUP | 2 << 18)?;
        command(0x77, INIT | 0xfff3_3000)?;
        // A running CPU is not started, and this one runs.
        command(percpu::affinity(0), STARTUP | 0x90 | round & 7)?;
        command(0, STARTUP | others | 0x90 | round & 7)?;
        command(0, INIT | others)?;
    }
    (0..20).try_for_each(|_| command(percpu::affinity(0), apic::command::NMI as u32))
}
