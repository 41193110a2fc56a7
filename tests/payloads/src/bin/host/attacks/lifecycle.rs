//! Handles, and calls at the wrong time of a VM's life.

use super::scene::{Scene, Toy};
use super::{Attack, all_same, attack, status};
use abi::host::{BUSY, NO_SUCH, OK, STATE};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use payloads::hostcall;

pub const ATTACKS: &[Attack] = &[
    attack("handle-invented", "handles that were never given out", &[NO_SUCH], invented),
    attack("handle-stale", "every call with the handle of a VM that is gone", &[NO_SUCH], stale),
    attack("reclaim-living", "reclaim of a VM that was not destroyed", &[STATE], reclaim_living),
    attack("destroy-twice", "a second destroy", &[OK, STATE], destroy_twice),
    attack("destroyed-vm-is-frozen", "calls on a VM that is dying", &[STATE], destroyed),
    attack("reclaim-gives-back-clean", "content of a dead guest in returned frames", &[OK], gives_back_clean),
    attack("reclaim-twice", "a second reclaim", &[NO_SUCH], reclaim_twice),
    attack("slot-is-reused-safely", "an old handle for a new VM in the same slot", &[NO_SUCH], slot_reuse),
    attack("vm-churn", "two hundred VMs, one after the other", &[OK], churn),
    attack(
        "frame-info-after-destroy",
        "access to a destroyed VM's frames before they are wiped",
        &[OK],
        before_reclaim,
    ),
];

/// Every call that takes a handle, with arguments that are fine otherwise.
fn all_calls(handle: u64, frame: u64) -> Vec<i64> {
    Vec::from([
        status(hostcall::vm_donate_meta(handle, frame, 1)),
        hostcall::vm_donate(handle, frame, Toy::RAM, 1),
        hostcall::vm_load(handle, frame, Toy::RAM),
        hostcall::vm_seal(handle, Toy::RAM, 0),
        hostcall::vcpu_create(handle, 0, frame),
        hostcall::vcpu_run(handle, 0).status,
        status(hostcall::vm_irq(handle, 33, true)),
        hostcall::vcpu_kick(handle, 0).status,
        hostcall::vm_destroy(handle),
        hostcall::vm_reclaim(handle),
        hostcall::vm_info(handle, frame),
    ])
}

fn invented(scene: &mut Scene) -> Result<i64, String> {
    let mut toy = scene.toy()?;
    let frame = toy.frame()?;
    let real = toy.handle;
    let handles = [0, 1, 31, 32, 0xffff, real + 1, real ^ 1 << 63, real ^ 1 << 32, real | 0xffff, u64::MAX];
    // The victim's handle may be the toy's plus one.
    let handles = handles.into_iter().filter(|handle| *handle != scene.victim.handle);
    all_same(handles.flat_map(|handle| all_calls(handle, frame)))
}

fn stale(scene: &mut Scene) -> Result<i64, String> {
    let mut toy = scene.toy()?;
    let frame = toy.frame()?;
    toy.destroy()?;
    all_same(all_calls(toy.handle, frame))
}

fn reclaim_living(scene: &mut Scene) -> Result<i64, String> {
    let toy = scene.toy()?;
    all_same([hostcall::vm_reclaim(toy.handle), hostcall::vm_reclaim(scene.victim.handle)])
}

fn destroy_twice(scene: &mut Scene) -> Result<i64, String> {
    let toy = scene.toy()?;
    match hostcall::vm_destroy(toy.handle) {
        OK => Ok(hostcall::vm_destroy(toy.handle)),
        status => Err(format!("the first destroy answers {status}")),
    }
}

fn destroyed(scene: &mut Scene) -> Result<i64, String> {
    let mut toy = scene.toy()?;
    let frame = toy.frame()?;
    toy.add_vcpu()?;
    let prepared = [toy.seal(), hostcall::vm_destroy(toy.handle)];
    if prepared != [OK; 2] {
        return Err(format!("preparation answers {prepared:?}"));
    }
    all_same([
        toy.donate(frame, 0),
        hostcall::vm_load(toy.handle, frame, Toy::RAM),
        toy.seal(),
        hostcall::vcpu_run(toy.handle, 0).status,
        hostcall::vcpu_create(toy.handle, 1, frame),
        status(hostcall::vm_donate_meta(toy.handle, frame, 1)),
        status(hostcall::vm_irq(toy.handle, 33, true)),
    ])
}

fn gives_back_clean(scene: &mut Scene) -> Result<i64, String> {
    let mut toy = scene.toy()?;
    for page in 0..16 {
        let frame = toy.frame()?;
        (0..512).for_each(|n| crate::frames::write(frame + n * 8, 0x5ec2_e700_5ec2_e700 | n));
        match hostcall::vm_load(toy.handle, frame, Toy::RAM + page * abi::FRAME_SIZE) {
            OK => {}
            status => return Err(format!("load answers {status}")),
        }
    }
    toy.destroy().map(|()| OK)
}

fn reclaim_twice(scene: &mut Scene) -> Result<i64, String> {
    let mut toy = scene.toy()?;
    toy.destroy()?;
    Ok(hostcall::vm_reclaim(toy.handle))
}

fn slot_reuse(scene: &mut Scene) -> Result<i64, String> {
    let mut old = scene.toy()?;
    old.destroy()?;
    let mut new = scene.toy()?;
    if new.handle == old.handle {
        return Err(format!("the handle {:#x} was given out again", new.handle));
    }
    let frame = new.frame()?;
    all_same(all_calls(old.handle, frame))
}

fn churn(scene: &mut Scene) -> Result<i64, String> {
    for _ in 0..200 {
        let mut toy = scene.toy()?;
        let frame = toy.frame()?;
        match toy.donate(frame, 7) {
            OK => toy.destroy()?,
            BUSY => return Ok(BUSY),
            status => return Err(format!("donate answers {status}")),
        }
    }
    Ok(OK)
}

/// Destroyed is not yet wiped: the frames stay out of reach until reclaim has gone over them.
fn before_reclaim(scene: &mut Scene) -> Result<i64, String> {
    let mut toy = scene.toy()?;
    let frame = toy.frame()?;
    crate::frames::write(frame, 0x5ec2_e700);
    let prepared = [hostcall::vm_load(toy.handle, frame, Toy::RAM), hostcall::vm_destroy(toy.handle)];
    if prepared != [OK; 2] {
        return Err(format!("preparation answers {prepared:?}"));
    }
    match payloads::exception::try_read(frame) {
        Ok(value) => return Err(format!("a destroyed guest's frame reads {value:#x}")),
        Err(abort) if !abort.is_refused() => return Err(format!("{abort}")),
        Err(_) => {}
    }
    let status = hostcall::vm_reclaim(toy.handle);
    toy.set_gone();
    super::super::teardown::check_returned(frame)?;
    Ok(status)
}
