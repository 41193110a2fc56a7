//! Tests that end the guest; each by its own name, and the host says how it ended.

use crate::world::World;
use payloads::{attempt, cpu, psci, say, timer};

/// Runs the terminal test `name`; `false` when there is none of that name.
pub fn run(world: &World, name: &str) -> bool {
    match name {
        "reset" => psci::system_reset(),
        "off-while-others-run" => off_while_others_run(world),
        "all-off" => all_off(),
        "jump-nowhere" => jump_nowhere(world),
        "vectors-nowhere" => vectors_nowhere(),
        "stack-in-device" => stack_in_device(world),
        "spin" => spin(),
        "aarch32" => aarch32(),
        _ => return false,
    }
    true
}

/// The last vCPU switches itself off: nothing will ever run again.
fn all_off() {
    let code = psci::cpu_off();
    say!("guest: CPU_OFF answers {code}");
}

/// Powers off while the other vCPUs spin.
fn off_while_others_run(world: &World) {
    for index in 1..world.machine.cpus.len() {
        if let Err(code) = crate::smp::start(index, |_| spin()) {
            say!("guest: FAIL CPU_ON answers {code}");
        }
    }
    timer::delay(20);
    say!("guest: pass off-while-others-run");
}

/// Code where there is no memory, and exception vectors there too.
fn jump_nowhere(world: &World) {
    cpu::mask_interrupts();
    let nowhere = world.ram.end + (1 << 30);
    // SAFETY: the guest gives itself up.
    unsafe { core::arch::asm!("msr vbar_el1, {0}", "isb", "br {0}", in(reg) nowhere, options(noreturn)) };
}

/// An exception whose vector is in a device.
fn vectors_nowhere() {
    // SAFETY: the guest gives itself up.
    unsafe { core::arch::asm!("msr vbar_el1, {0}", "isb", "udf #0", in(reg) 0x0900_0000u64, options(noreturn)) };
}

/// The exception entry stores to a device with instructions that cannot be decoded.
fn stack_in_device(world: &World) {
    // SAFETY: the guest gives itself up.
    unsafe {
        core::arch::asm!("mov sp, {0}", "udf #0", in(reg) payloads::mailbox::BASE + world.alias + 0x800, options(noreturn))
    };
}

/// Never gives the CPU back.
fn spin() {
    cpu::mask_interrupts();
    loop {
        core::hint::spin_loop();
    }
}

/// An exception return to AArch32, which the guest does not have at EL1.
fn aarch32() {
    let found = attempt!(
        "msr spsr_el1, {spsr}", "adr {t}, 98f", "msr elr_el1, {t}", "eret", "98:";
        spsr = in(reg) 0x1d3u64, t = out(reg) _,
    );
    say!("guest: illegal exception return gives {found:x?}");
}
