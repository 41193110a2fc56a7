//! The launch image: nothing is added after sealing, and nothing that is not the host's before.

use super::scene::{Scene, Toy};
use super::{Attack, all_same, attack};
use crate::frames;
use crate::platform::OUTSIDE;
use abi::FRAME_SIZE;
use abi::host::{ADDRESS, EXISTS, INVALID, OK, OWNER, STATE};
use alloc::format;
use alloc::string::String;
use payloads::hostcall;

pub const ATTACKS: &[Attack] = &[
    attack("load-after-seal", "content after the measurement is closed", &[STATE], after_seal),
    attack("load-into-running-guest", "content for a guest that has run", &[STATE], into_victim),
    attack("load-unaligned", "addresses that are not pages", &[INVALID], unaligned),
    attack("load-outside-guest-ram", "guest addresses outside its RAM", &[ADDRESS], outside_ram),
    attack("load-not-ram", "content out of devices and holes", &[ADDRESS], not_ram),
    attack("load-foreign-frame", "content out of frames that are not the host's", &[OWNER], foreign),
    attack("load-page-twice", "two frames for one page", &[EXISTS], page_twice),
    attack("load-frame-twice", "one frame for two pages", &[OWNER], frame_twice),
    attack("load-measures-content", "two images that differ in one byte measure the same", &[OK], measures_content),
    attack("seal-twice", "a second seal", &[STATE], seal_twice),
    attack("seal-entry-outside-ram", "an entry point outside the guest's RAM", &[ADDRESS], entry_outside_ram),
];

fn after_seal(scene: &mut Scene) -> Result<i64, String> {
    let mut toy = scene.toy()?;
    let frame = toy.frame()?;
    toy.add_vcpu()?;
    match toy.seal() {
        OK => Ok(hostcall::vm_load(toy.handle, frame, Toy::RAM)),
        status => Err(format!("seal answers {status}")),
    }
}

fn into_victim(scene: &mut Scene) -> Result<i64, String> {
    let frame = frames::zeroed_frame().ok_or("out of memory")?;
    let status = hostcall::vm_load(scene.victim.handle, frame, Toy::RAM + (30 << 20));
    if status != OK {
        frames::free_frame(frame);
    }
    Ok(status)
}

fn unaligned(scene: &mut Scene) -> Result<i64, String> {
    let mut toy = scene.toy()?;
    let frame = toy.frame()?;
    let cases = [(frame + 1, Toy::RAM), (frame + 0x800, Toy::RAM), (frame, Toy::RAM + 1), (frame, Toy::RAM + 0xff8)];
    all_same(cases.map(|(frame, page)| hostcall::vm_load(toy.handle, frame, page)))
}

fn outside_ram(scene: &mut Scene) -> Result<i64, String> {
    let mut toy = scene.toy()?;
    let frame = toy.frame()?;
    let pages =
        [OUTSIDE[0], OUTSIDE[1], Toy::RAM + super::scene::TOY_MEMORY, 1 << 39 | Toy::RAM, u64::MAX - FRAME_SIZE + 1];
    all_same(pages.map(|page| hostcall::vm_load(toy.handle, frame, page)))
}

fn not_ram(scene: &mut Scene) -> Result<i64, String> {
    let toy = scene.toy()?;
    all_same(scene.not_ram().map(|frame| hostcall::vm_load(toy.handle, frame, Toy::RAM)))
}

fn foreign(scene: &mut Scene) -> Result<i64, String> {
    let toy = scene.toy()?;
    let frames = [scene.postern, scene.meta, scene.private, scene.shared];
    all_same(frames.map(|frame| hostcall::vm_load(toy.handle, frame, Toy::RAM)))
}

fn page_twice(scene: &mut Scene) -> Result<i64, String> {
    let mut toy = scene.toy()?;
    let (first, second) = (toy.frame()?, toy.frame()?);
    match hostcall::vm_load(toy.handle, first, Toy::RAM) {
        OK => Ok(hostcall::vm_load(toy.handle, second, Toy::RAM)),
        status => Err(format!("the first load answers {status}")),
    }
}

fn frame_twice(scene: &mut Scene) -> Result<i64, String> {
    let mut toy = scene.toy()?;
    let frame = toy.frame()?;
    match hostcall::vm_load(toy.handle, frame, Toy::RAM) {
        OK => Ok(hostcall::vm_load(toy.handle, frame, Toy::RAM + FRAME_SIZE)),
        status => Err(format!("the first load answers {status}")),
    }
}

/// Measurement of a toy with one loaded page that holds `value`.
fn measurement(scene: &Scene, value: u64, page: u64) -> Result<[u64; 6], String> {
    let mut toy = scene.toy()?;
    let (frame, out) = (toy.frame()?, toy.frame()?);
    toy.add_vcpu()?;
    frames::write(frame + 0x123 * 8, value);
    let statuses = [
        hostcall::vm_load(toy.handle, frame, Toy::RAM + page * FRAME_SIZE),
        toy.seal(),
        hostcall::vm_info(toy.handle, out),
    ];
    if statuses != [OK; 3] {
        return Err(format!("load, seal and info answer {statuses:?}"));
    }
    // SAFETY: Postern has just written the structure there.
    Ok(unsafe { (out as *const abi::host::VmInfo).read_volatile() }.measurement)
}

/// Same input, same measurement; another byte or another place, another one.
fn measures_content(scene: &mut Scene) -> Result<i64, String> {
    let base = measurement(scene, 1, 0)?;
    let same = measurement(scene, 1, 0)? == base;
    let other_byte = measurement(scene, 1 << 56 | 1, 0)? != base;
    let other_place = measurement(scene, 1, 1)? != base;
    if same && other_byte && other_place && base != [0; 6] {
        return Ok(OK);
    }
    Err(format!("same {same}, other byte {other_byte}, other place {other_place}"))
}

fn seal_twice(scene: &mut Scene) -> Result<i64, String> {
    let mut toy = scene.toy()?;
    toy.add_vcpu()?;
    match toy.seal() {
        OK => all_same([toy.seal(), hostcall::vm_seal(scene.victim.handle, Toy::RAM, 0)]),
        status => Err(format!("the first seal answers {status}")),
    }
}

fn entry_outside_ram(scene: &mut Scene) -> Result<i64, String> {
    let mut toy = scene.toy()?;
    toy.add_vcpu()?;
    let entries =
        [OUTSIDE[0], OUTSIDE[1] - 4, Toy::RAM + super::scene::TOY_MEMORY, 1 << 39 | Toy::RAM, 1 << 52, u64::MAX - 3];
    all_same(entries.map(|entry| hostcall::vm_seal(toy.handle, entry, 0)))
}
