//! Tests that end the guest; each by its own name, and the host says how it ended.

use crate::world::{World, read, write};
use crate::{arch, mailbox};
use payloads::mailbox::{BASE, GREETING, RESULT, VICTIM_SEED, command};
use payloads::registers::{self, General, Vector};
use payloads::{cpu, doom, interrupt, power, say, timer};

/// What the victim writes into the page that it shares.
const SHARED_MARK: u64 = 0x0b11_c000_0b11_c001;
/// What the guest of the demonstration keeps to itself.
const SECRET: u64 = 0x5ec2_e700_5ec2_e701;

/// Runs the terminal test `name`; `false` when there is none of that name.
pub fn run(world: &World, name: &str) -> bool {
    match name {
        "reset" => power::reset(),
        "off-while-others-run" => {
            others_spin(world);
            say!("guest: pass off-while-others-run");
        }
        "all-off" => all_off(),
        "jump-nowhere" => jump_nowhere(world),
        "vectors-nowhere" => doom::vectors(BASE + world.alias),
        "stack-in-device" => doom::stack(BASE + world.alias + 0x800),
        "spin" => spin(),
        "victim" => victim(world),
        "demo" => demo(world),
        _ => return arch::end(world, name),
    }
    true
}

/// The last vCPU switches itself off: nothing will ever run again.
fn all_off() {
    power::cpu_off();
    say!("guest: the last vCPU was not switched off");
}

/// Has all other vCPUs spin.
pub fn others_spin(world: &World) {
    for index in 1..world.machine.cpus.len() {
        if let Err(code) = crate::smp::start(index, |_| spin()) {
            say!("guest: FAIL CPU_ON answers {code}");
        }
    }
    timer::delay(20);
}

/// Code where there is no memory, and exception vectors there too.
fn jump_nowhere(world: &World) {
    cpu::mask_interrupts();
    doom::jump(world.ram.end + (1 << 30))
}

/// Holds private and shared pages and exits again and again, all registers full of a pattern.
fn victim(world: &World) {
    let (private, shared) = (world.page(), world.page());
    (0..512).for_each(|n| write(private + n * 8, VICTIM_SEED ^ n << 32));
    match world.share(shared, 1) {
        Ok(address) => write(address, SHARED_MARK),
        Err(code) => say!("guest: FAIL victim: share answers {code}"),
    }
    cpu::mask_interrupts();
    let general: General = registers::pattern(VICTIM_SEED);
    let vectors: Vector = registers::pattern(VICTIM_SEED + 1);
    registers::load_vectors(&vectors);
    mailbox::ask(world, command::READY, 0, 0);
    loop {
        timer::fire_at(timer::now() + timer::ticks(1));
        registers::around_wait(&general);
        interrupt::service();
        let mut load = general;
        registers::prepare_load(&mut load, BASE + world.alias + RESULT);
        cpu::set_fault_address(VICTIM_SEED);
        registers::around_load(&load);
        if registers::store_vectors() != vectors {
            say!("guest: FAIL victim: the FP registers changed");
        }
    }
}

/// One page: opened to the host, written and read by both sides, and closed again.
fn demo(world: &World) {
    let page = world.page();
    write(page, SECRET);
    let shared = match world.share(page, 1) {
        Ok(shared) => shared,
        Err(code) => return say!("guest: FAIL demo: share answers {code}"),
    };
    write(shared, GREETING);
    mailbox::ask(world, command::DEMO_SHARED, page, 0);
    mailbox::ask(world, command::DEMO_ANSWER, page, read(shared + 8));
    if let Err(code) = world.unshare(page, 1) {
        return say!("guest: FAIL demo: unshare answers {code}");
    }
    let residue = (0..512).filter(|n| read(page + n * 8) != 0).count();
    mailbox::ask(world, command::DEMO_RESIDUE, page, residue as u64);
    write(page, SECRET);
    mailbox::ask(world, command::DEMO_UNSHARED, page, 0);
    if read(page) != SECRET {
        say!("guest: FAIL demo: the secret has changed");
    }
}

/// Never gives the CPU back.
fn spin() {
    cpu::mask_interrupts();
    loop {
        core::hint::spin_loop();
    }
}
