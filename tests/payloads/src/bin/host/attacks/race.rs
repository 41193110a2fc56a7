//! Two CPUs at once.

use super::scene::{Scene, Toy};
use super::{Attack, attack};
use crate::{exits, frames, remote, teardown};
use abi::FRAME_SIZE;
use abi::host::{self, BUSY, OK};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use payloads::{hostcall, timer};

pub const ATTACKS: &[Attack] = &[
    attack("race-run-twice", "one vCPU run by two CPUs", &[BUSY], run_twice),
    attack("race-run-and-destroy", "a VM destroyed while it runs", &[OK], run_and_destroy),
    attack("race-run-and-reclaim", "a VM reclaimed while it runs", &[OK], run_and_reclaim),
    attack("race-donate-page", "two frames for one page from two CPUs", &[OK], donate_page),
    attack("race-donate-frame", "one frame for two VMs from two CPUs", &[OK], donate_frame),
    attack("race-reclaim", "one VM reclaimed by two CPUs", &[OK], reclaim),
    attack("race-run-page", "a run page rewritten while the vCPU runs", &[OK], run_page),
    attack("race-create-config", "a configuration changed while it is read", &[OK], create_config),
    attack("race-touch-while-donating", "reads of a frame while it is given away", &[OK], touch_while_donating),
    attack("race-stale-translation", "reads of a frame that has been given away", &[OK], stale_translations),
];

/// Whether there is a second CPU; without one there is nothing to race.
fn alone() -> bool {
    remote::cpus() < 2
}

/// Runs the victim's vCPU on the other CPU until `stop`; the last status that was an error, if any.
fn run_on_other(vm: &Arc<crate::vm::Vm>, stop: &Arc<AtomicBool>, started: &Arc<AtomicBool>) -> Arc<AtomicI64> {
    let last = Arc::new(AtomicI64::new(OK));
    let (vm, stop, started, result) = (Arc::clone(vm), Arc::clone(stop), Arc::clone(started), Arc::clone(&last));
    remote::run_on(1, move || {
        while !stop.load(Ordering::Acquire) {
            timer::fire_at(timer::now() + timer::ticks(5));
            started.store(true, Ordering::Release);
            let reply = hostcall::vcpu_run(vm.handle, 0);
            remote::service_interrupts();
            if reply.status == OK {
                exits::handle(&vm, &vm.vcpus[0], OK, reply.values[0]);
            } else {
                result.store(reply.status, Ordering::Release);
            }
        }
        timer::stop();
    });
    last
}

fn run_twice(scene: &mut Scene) -> Result<i64, String> {
    if alone() {
        return Ok(BUSY);
    }
    let (stop, started) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    run_on_other(&scene.victim, &stop, &started);
    let mut found = OK;
    let end = timer::now() + timer::ticks(3000);
    while found == OK && timer::now() < end {
        if started.load(Ordering::Acquire) {
            timer::fire_at(timer::now() + timer::ticks(1));
            let reply = hostcall::vcpu_run(scene.victim.handle, 0);
            remote::service_interrupts();
            found = reply.status;
            if found == OK {
                exits::handle(&scene.victim, &scene.victim.vcpus[0], OK, reply.values[0]);
            }
        }
    }
    stop.store(true, Ordering::Release);
    remote::wait(1);
    Ok(found)
}

/// Ends a VM that another CPU runs; `hasty` reclaims without waiting for the other CPU to notice.
fn end_while_running(scene: &mut Scene, hasty: bool) -> Result<i64, String> {
    if alone() {
        return Ok(OK);
    }
    let vm = scene.another_victim()?;
    let (stop, started) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let last = run_on_other(&vm, &stop, &started);
    while !started.load(Ordering::Acquire) {
        core::hint::spin_loop();
    }
    timer::delay(3);
    let shared = teardown::shared_frames(&vm);
    let patience = timer::now() + timer::ticks(5000);
    for call in [hostcall::vm_destroy as fn(u64) -> i64, hostcall::vm_reclaim] {
        loop {
            match call(vm.handle) {
                OK => break,
                BUSY if timer::now() < patience => {
                    if !hasty {
                        hostcall::vcpu_kick(vm.handle, 0);
                        remote::wake(1);
                        timer::delay(1);
                    }
                }
                status => return Err(format!("answers {status}")),
            }
        }
    }
    timer::delay(20);
    stop.store(true, Ordering::Release);
    remote::wait(1);
    if last.load(Ordering::Acquire) == OK {
        return Err(String::from("the dead VM still runs"));
    }
    teardown::check_memory(&vm, &shared)?;
    vm.memory.lock().release();
    frames::free_frame(vm.vcpus[0].page);
    Ok(OK)
}

fn run_and_destroy(scene: &mut Scene) -> Result<i64, String> {
    end_while_running(scene, false)
}

fn run_and_reclaim(scene: &mut Scene) -> Result<i64, String> {
    end_while_running(scene, true)
}

/// Lets CPU 1 and this one make a call at the same moment; both statuses.
fn both(first: impl Fn() -> i64 + Send + 'static, second: impl Fn() -> i64) -> (i64, i64) {
    let gate = Arc::new(AtomicU64::new(0));
    let result = Arc::new(AtomicI64::new(0));
    let (other_gate, other_result) = (Arc::clone(&gate), Arc::clone(&result));
    remote::run_on(1, move || {
        other_gate.fetch_add(1, Ordering::AcqRel);
        while other_gate.load(Ordering::Acquire) < 2 {
            core::hint::spin_loop();
        }
        other_result.store(first(), Ordering::Release);
    });
    while gate.load(Ordering::Acquire) < 1 {
        core::hint::spin_loop();
    }
    gate.fetch_add(1, Ordering::AcqRel);
    let mine = second();
    remote::wait(1);
    (result.load(Ordering::Acquire), mine)
}

fn one_of_two(what: &str, statuses: (i64, i64)) -> Result<(), String> {
    match statuses {
        (OK, status) | (status, OK) if status != OK => Ok(()),
        other => Err(format!("{what}: {other:?}")),
    }
}

fn donate_page(scene: &mut Scene) -> Result<i64, String> {
    if alone() {
        return Ok(OK);
    }
    let mut toy = scene.toy()?;
    for page in 0..200 {
        let (first, second) = (toy.frame()?, toy.frame()?);
        let (handle, address) = (toy.handle, Toy::RAM + page * FRAME_SIZE);
        let statuses = both(
            move || hostcall::vm_donate(handle, first, address, 1),
            || hostcall::vm_donate(handle, second, address, 1),
        );
        one_of_two("two frames for one page", statuses)?;
    }
    toy.destroy()?;
    Ok(OK)
}

fn donate_frame(scene: &mut Scene) -> Result<i64, String> {
    if alone() {
        return Ok(OK);
    }
    let (mut one, mut two) = (scene.toy()?, scene.toy()?);
    for page in 0..200 {
        let frame = one.frame()?;
        let (first, second, address) = (one.handle, two.handle, Toy::RAM + page * FRAME_SIZE);
        let statuses = both(
            move || hostcall::vm_donate(first, frame, address, 1),
            || hostcall::vm_donate(second, frame, address, 1),
        );
        one_of_two("one frame for two guests", statuses)?;
    }
    two.destroy()?;
    one.destroy()?;
    Ok(OK)
}

/// Both keep at it until the VM is gone: one of them ends it, the other finds it gone.
fn reclaim(scene: &mut Scene) -> Result<i64, String> {
    if alone() {
        return Ok(OK);
    }
    let mut toy = scene.toy()?;
    for page in 0..64 {
        let frame = toy.frame()?;
        if toy.donate(frame, page) != OK {
            return Err(String::from("a donation is refused"));
        }
    }
    let handle = toy.handle;
    if hostcall::vm_destroy(handle) != OK {
        return Err(String::from("destroy is refused"));
    }
    let until_gone = move || {
        for _ in 0..1_000_000 {
            match hostcall::raw(host::VM_RECLAIM, [handle, 0, 0, 0, 0, 0]).status {
                BUSY | host::MORE => {}
                status => return status,
            }
        }
        BUSY
    };
    let statuses = both(until_gone, until_gone);
    toy.set_gone();
    match statuses {
        (OK, host::NO_SUCH) | (host::NO_SUCH, OK) => Ok(OK),
        other => Err(format!("answers {other:?}")),
    }
}

fn run_page(scene: &mut Scene) -> Result<i64, String> {
    if alone() {
        return Ok(OK);
    }
    let page = scene.run_page;
    let stop = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&stop);
    remote::run_on(1, move || {
        let mut value = 1u64;
        while !seen.load(Ordering::Acquire) {
            value = value.rotate_left(1) ^ 0x1234_5678_9abc_def0;
            (0..64).for_each(|word| frames::write(page + word * 8, value));
        }
    });
    let mut found = OK;
    for _ in 0..100 {
        timer::fire_at(timer::now() + timer::ticks(1));
        let reply = hostcall::vcpu_run(scene.victim.handle, 0);
        remote::service_interrupts();
        if reply.status != OK {
            found = reply.status;
        }
    }
    timer::stop();
    stop.store(true, Ordering::Release);
    remote::wait(1);
    (0..512).for_each(|word| frames::write(page + word * 8, 0));
    Ok(found)
}

/// The configuration is good or absurd, depending on the moment: the VM is made as one or refused as the other.
fn create_config(scene: &mut Scene) -> Result<i64, String> {
    if alone() {
        return Ok(OK);
    }
    let page = frames::zeroed_frame().ok_or("out of memory")?;
    let meta = frames::contiguous(host::META_FRAMES_MIN).ok_or("out of memory")?;
    let good =
        [scene.dialect, 1, Toy::RAM, super::scene::TOY_MEMORY, crate::platform::GICD_BASE, crate::platform::GICR_BASE];
    let write_config =
        move |words: [u64; 6]| (0..).step_by(8).zip(words).for_each(|(at, word)| frames::write(page + at, word));
    write_config(good);
    let stop = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&stop);
    remote::run_on(1, move || {
        while !seen.load(Ordering::Acquire) {
            write_config([good[0], u64::MAX, u64::MAX, u64::MAX, 0, 0]);
            write_config(good);
        }
    });
    let mut problem = None;
    for _ in 0..300 {
        match hostcall::vm_create(page, meta, host::META_FRAMES_MIN) {
            Ok(handle) => problem = teardown::destroy(handle).err(),
            Err(host::INVALID | host::BUSY) => {}
            Err(status) => problem = Some(format!("VM_CREATE answers {status}")),
        }
        if problem.is_some() {
            break;
        }
    }
    stop.store(true, Ordering::Release);
    remote::wait(1);
    frames::free_frame(page);
    frames::free_contiguous(meta, host::META_FRAMES_MIN);
    problem.map_or(Ok(OK), Err)
}

/// While a frame goes to a guest and comes back, another CPU reads it all the time: it sees what the host wrote, zero, or
/// an abort, and never what the guest's image held.
fn touch_while_donating(scene: &mut Scene) -> Result<i64, String> {
    const MINE: u64 = 0x1111_2222_3333_4444;
    if alone() {
        return Ok(OK);
    }
    let frame = frames::zeroed_frame().ok_or("out of memory")?;
    let stop = Arc::new(AtomicBool::new(false));
    let strange = Arc::new(AtomicU64::new(0));
    let (seen, found) = (Arc::clone(&stop), Arc::clone(&strange));
    remote::run_on(1, move || {
        while !seen.load(Ordering::Acquire) {
            match payloads::exception::try_read(frame + 64) {
                Ok(0 | MINE) => {}
                Err(abort) if abort.is_refused() => {}
                Ok(value) => found.store(value, Ordering::Release),
                Err(abort) => found.store(abort.code(), Ordering::Release),
            }
        }
    });
    let mut problem = None;
    for _ in 0..30 {
        frames::write(frame + 64, MINE);
        let toy = scene.toy()?;
        let donated = toy.donate(frame, 0);
        if donated != OK {
            problem = Some(format!("donate answers {donated}"));
            break;
        }
    }
    stop.store(true, Ordering::Release);
    remote::wait(1);
    frames::free_frame(frame);
    let strange = strange.load(Ordering::Acquire);
    if strange != 0 {
        return Err(format!("the other CPU saw {strange:#x}"));
    }
    problem.map_or(Ok(OK), Err)
}

/// Another CPU reads a frame all the time, without ever leaving for Postern. Once the frame's donation has been answered, its
/// next read is refused: no translation outlives it in that CPU's TLB.
fn stale_translations(scene: &mut Scene) -> Result<i64, String> {
    if alone() {
        return Ok(OK);
    }
    let frame = frames::zeroed_frame().ok_or("out of memory")?;
    for round in 0..20 {
        let donated = Arc::new(AtomicBool::new(false));
        let late = Arc::new(AtomicU64::new(0));
        let (seen, reads) = (Arc::clone(&donated), Arc::clone(&late));
        remote::run_on(1, move || {
            payloads::cpu::mask_interrupts();
            for _ in 0..5_000_000 {
                let over = seen.load(Ordering::Acquire);
                match payloads::exception::try_read(frame) {
                    Ok(_) if over => {
                        reads.store(1, Ordering::Release);
                        break;
                    }
                    Ok(_) => {}
                    Err(_) => break,
                }
            }
            payloads::cpu::unmask_interrupts();
        });
        timer::delay(1);
        let mut toy = scene.toy()?;
        let status = toy.donate(frame, 0);
        donated.store(true, Ordering::Release);
        remote::wait(1);
        toy.destroy()?;
        if status != OK {
            return Err(format!("donate answers {status}"));
        }
        if late.load(Ordering::Acquire) != 0 {
            return Err(format!("round {round}: the other CPU still reads the frame"));
        }
    }
    frames::free_frame(frame);
    Ok(OK)
}
