//! Conversions without end, on all vCPUs at once, with audits in between.

use crate::mailbox;
use crate::smp;
use crate::world::{World, first_nonzero, read, write};
use abi::FRAME_SIZE;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use payloads::mailbox::command;
use payloads::{config, say};

/// Pages that each vCPU converts in turn.
const PAGES: u64 = 16;
/// Conversions between two audits, over all vCPUs.
const BATCH: u64 = 5000;

static WORLD: AtomicPtr<World> = AtomicPtr::new(core::ptr::null_mut());
static BASE: AtomicU64 = AtomicU64::new(0);
/// Rounds that may be worked on.
static GOAL: AtomicU64 = AtomicU64::new(0);
/// Sum of the rounds that the other vCPUs have done.
static DONE: AtomicU64 = AtomicU64::new(0);
static FAILURES: AtomicU64 = AtomicU64::new(0);

/// `conversions=N` of the command line, 100,000 unless told, over all vCPUs.
pub fn run(world: &World) {
    let total = config::argument(world.machine.arguments, "conversions").and_then(config::number).unwrap_or(100_000);
    let vcpus = world.machine.cpus.len() as u64;
    BASE.store(world.pages(PAGES * vcpus, FRAME_SIZE), Ordering::Release);
    WORLD.store(core::ptr::from_ref(world).cast_mut(), Ordering::Release);
    for index in 1..world.machine.cpus.len() {
        if let Err(code) = smp::start(index, other) {
            say!("guest: FAIL soak: CPU_ON answers {code}");
            return;
        }
        // `start` passes the job through one place: wait until this vCPU has taken it.
        while DONE.load(Ordering::Acquire) >> 32 < index as u64 {
            core::hint::spin_loop();
        }
    }
    let per_round = BATCH / vcpus / 2;
    let rounds = total.div_ceil(per_round * 2 * vcpus);
    for round in 1..=rounds {
        GOAL.store(round << 32 | per_round, Ordering::Release);
        work(world, 0, per_round, round);
        while DONE.load(Ordering::Acquire) & 0xffff_ffff < round * (vcpus - 1) {
            core::hint::spin_loop();
        }
        // Everybody waits: the books must be right now.
        let violations = mailbox::ask(world, command::AUDIT, 0, 0);
        if violations != 0 {
            say!("guest: FAIL soak: audit finds {violations:#x} violations in round {round}");
            return;
        }
    }
    GOAL.store(u64::MAX, Ordering::Release);
    let failures = FAILURES.load(Ordering::Acquire);
    let done = rounds * per_round * 2 * vcpus;
    if failures == 0 && done >= total {
        say!("guest: pass soak: {done} conversions on {vcpus} vCPUs, {rounds} audits");
    } else {
        say!("guest: FAIL soak: {failures} failures in {done} conversions");
    }
}

fn other(index: usize) {
    // SAFETY: `run` stored the address of the world, which lives until the guest powers off.
    let world = unsafe { &*WORLD.load(Ordering::Acquire) };
    DONE.fetch_add(1 << 32, Ordering::AcqRel);
    let mut round = 0;
    loop {
        let goal = GOAL.load(Ordering::Acquire);
        if goal == u64::MAX {
            return;
        }
        if goal >> 32 > round {
            round += 1;
            work(world, index as u64, goal & 0xffff_ffff, round);
            DONE.fetch_add(1, Ordering::AcqRel);
        }
        core::hint::spin_loop();
    }
}

/// `count` times: share, look, write, unshare, look.
fn work(world: &World, index: u64, count: u64, round: u64) {
    let base = BASE.load(Ordering::Acquire) + index * PAGES * FRAME_SIZE;
    for n in 0..count {
        let page = base + n % PAGES * FRAME_SIZE;
        let mark = round << 32 | n << 8 | index | 1 << 63;
        write(page + 8, mark);
        if one(world, page, mark).is_err() {
            FAILURES.fetch_add(1, Ordering::AcqRel);
        }
    }
}

fn one(world: &World, page: u64, mark: u64) -> Result<(), ()> {
    let shared = world.share(page, 1).map_err(drop)?;
    let leaked = read(shared + 8) != 0;
    write(shared + 16, mark);
    world.unshare(page, 1).map_err(drop)?;
    let kept = if mark & 0xff00 == 0 { first_nonzero(page).is_some() } else { read(page + 16) != 0 };
    if leaked || kept { Err(()) } else { Ok(()) }
}
