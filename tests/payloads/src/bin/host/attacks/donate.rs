//! Giving memory that is not the host's, or where it cannot go.

use super::scene::{Scene, TOY_MEMORY, TOY_META, Toy};
use super::{Attack, all_same, attack, status};
use crate::platform::OUTSIDE;
use abi::host::{ADDRESS, BUSY, EXISTS, INVALID, NO_META, NO_POOL, OK, OWNER};
use abi::{BLOCK_SIZE, FRAME_SIZE};
use alloc::format;
use alloc::string::String;
use payloads::hostcall;

pub const ATTACKS: &[Attack] = &[
    attack("donate-unaligned-frame", "a frame address that is not one", &[INVALID], unaligned_frame),
    attack("donate-unaligned-page", "a guest address that is not a page's", &[INVALID], unaligned_page),
    attack("donate-bad-count", "neither one page nor 2 MiB", &[INVALID], bad_count),
    attack("donate-outside-guest-ram", "guest addresses outside its RAM", &[ADDRESS], outside_ram),
    attack("donate-not-ram", "devices, holes and addresses beyond the machine", &[ADDRESS], not_ram),
    attack("donate-postern", "a frame of Postern's", &[OWNER], |scene| foreign(scene, scene.postern)),
    attack("donate-metadata", "a metadata frame", &[OWNER], |scene| foreign(scene, scene.meta)),
    attack("donate-private", "another guest's private frame", &[OWNER], |scene| foreign(scene, scene.private)),
    attack("donate-shared", "a frame that a guest shares", &[OWNER], |scene| foreign(scene, scene.shared)),
    attack("donate-run-page", "the run page of a vCPU", &[BUSY], |scene| foreign(scene, scene.run_page)),
    attack("donate-private-to-its-owner", "a private frame again, to the same guest", &[OWNER, EXISTS], to_its_owner),
    attack("donate-replace-page", "another frame for a page that has one", &[EXISTS], replace_page),
    attack("donate-alias-frame", "one frame for two pages of a guest", &[OWNER], alias_frame),
    attack("donate-frame-to-two", "one frame for two guests", &[OWNER], frame_to_two),
    attack("donate-block-unaligned", "2 MiB on a 4 KiB boundary", &[INVALID], block_unaligned),
    attack("donate-block-with-foreign-frame", "2 MiB with one frame that is gone", &[OWNER], block_with_foreign_frame),
    attack("donate-block-with-run-page", "2 MiB with one pinned frame", &[BUSY], block_with_run_page),
    attack("donate-block-over-page", "2 MiB over a page that is there", &[EXISTS], block_over_page),
    attack("donate-block-outside-ram", "2 MiB beyond the guest's RAM", &[ADDRESS], block_outside_ram),
    attack("donate-metadata-bad", "metadata that is not the host's to give", &[OWNER], bad_metadata),
    attack("donate-metadata-bad-count", "no metadata frame, or too many", &[INVALID], bad_metadata_count),
    attack("donate-metadata-foreign-tail", "the last metadata frame is gone", &[OWNER, OK], metadata_foreign_tail),
    attack(
        "donate-until-no-pool",
        "frames out of every block until records and tables run out",
        &[NO_POOL],
        until_no_pool,
    ),
    attack("donate-until-no-metadata", "pages all over until tables run out", &[NO_META], until_no_metadata),
];

fn foreign(scene: &Scene, frame: u64) -> Result<i64, String> {
    Ok(scene.toy()?.donate(frame, 0))
}

fn unaligned_frame(scene: &mut Scene) -> Result<i64, String> {
    let mut toy = scene.toy()?;
    let frame = toy.frame()?;
    all_same([1, 8, 0x800, 0xfff].map(|offset| toy.donate(frame + offset, 0)))
}

fn unaligned_page(scene: &mut Scene) -> Result<i64, String> {
    let mut toy = scene.toy()?;
    let frame = toy.frame()?;
    all_same([1, 8, 0x800, 0xfff].map(|offset| hostcall::vm_donate(toy.handle, frame, Toy::RAM + offset, 1)))
}

fn bad_count(scene: &mut Scene) -> Result<i64, String> {
    let mut toy = scene.toy()?;
    let block = toy.block()?;
    let counts = [0, 9, 511, 513, 1024, 1 << 18, 1 << 52, u64::MAX];
    all_same(counts.map(|count| hostcall::vm_donate(toy.handle, block, Toy::RAM, count)))
}

fn outside_ram(scene: &mut Scene) -> Result<i64, String> {
    let mut toy = scene.toy()?;
    let frame = toy.frame()?;
    let end = Toy::RAM + TOY_MEMORY;
    let pages =
        [OUTSIDE[0], OUTSIDE[1], end, end + BLOCK_SIZE, 1 << 39 | Toy::RAM, 1 << 40 | Toy::RAM, 1 << 52, 1 << 63];
    all_same(
        pages
            .into_iter()
            .chain([u64::MAX - FRAME_SIZE + 1])
            .map(|page| hostcall::vm_donate(toy.handle, frame, page, 1)),
    )
}

fn not_ram(scene: &mut Scene) -> Result<i64, String> {
    let toy = scene.toy()?;
    all_same(scene.not_ram().map(|frame| toy.donate(frame, 0)))
}

fn to_its_owner(scene: &mut Scene) -> Result<i64, String> {
    let memory = scene.victim.memory.lock();
    let (page, frame) = memory.given().find(|(_, pa)| *pa == scene.private).ok_or("no such page")?;
    let status = hostcall::vm_donate(scene.victim.handle, frame, page, 1);
    if status == OK {
        return Ok(OK);
    }
    let elsewhere = page + FRAME_SIZE;
    Ok(hostcall::vm_donate(scene.victim.handle, frame, elsewhere, 1))
}

fn replace_page(scene: &mut Scene) -> Result<i64, String> {
    let mut toy = scene.toy()?;
    let (first, second) = (toy.frame()?, toy.frame()?);
    match toy.donate(first, 3) {
        OK => Ok(toy.donate(second, 3)),
        status => Err(format!("the first donation answers {status}")),
    }
}

fn alias_frame(scene: &mut Scene) -> Result<i64, String> {
    let mut toy = scene.toy()?;
    let frame = toy.frame()?;
    match toy.donate(frame, 3) {
        OK => Ok(toy.donate(frame, 4)),
        status => Err(format!("the first donation answers {status}")),
    }
}

fn frame_to_two(scene: &mut Scene) -> Result<i64, String> {
    let (mut first, second) = (scene.toy()?, scene.toy()?);
    let frame = first.frame()?;
    match first.donate(frame, 0) {
        OK => {
            let found = second.donate(frame, 0);
            drop(second);
            first.destroy()?;
            Ok(found)
        }
        status => Err(format!("the first donation answers {status}")),
    }
}

fn block_unaligned(scene: &mut Scene) -> Result<i64, String> {
    let mut toy = scene.toy()?;
    let block = toy.block()?;
    let cases =
        [(block + FRAME_SIZE, Toy::RAM), (block, Toy::RAM + FRAME_SIZE), (block + 8, Toy::RAM), (block, Toy::RAM + 8)];
    all_same(cases.map(|(frame, page)| hostcall::vm_donate(toy.handle, frame, page, 512)))
}

/// Whatever is wrong with one frame, the other 511 stay with the host.
fn block_with_foreign_frame(scene: &mut Scene) -> Result<i64, String> {
    let (mut owner, mut toy) = (scene.toy()?, scene.toy()?);
    let block = toy.block()?;
    let taken = block + 300 * FRAME_SIZE;
    if owner.donate(taken, 0) != OK {
        return Err(String::from("the first donation is refused"));
    }
    let found = hostcall::vm_donate(toy.handle, block, Toy::RAM, 512);
    for frame in (block..block + BLOCK_SIZE).step_by(FRAME_SIZE as usize).filter(|frame| *frame != taken) {
        if hostcall::frame_state(frame) != abi::host::frame::HOST {
            return Err(format!("frame {frame:#x} went away with a refused block"));
        }
    }
    owner.destroy()?;
    toy.destroy()?;
    Ok(found)
}

fn block_with_run_page(scene: &mut Scene) -> Result<i64, String> {
    let (mut owner, mut toy) = (scene.toy()?, scene.toy()?);
    let block = toy.block()?;
    match hostcall::vcpu_create(owner.handle, 0, block + 5 * FRAME_SIZE) {
        OK => {}
        status => return Err(format!("VCPU_CREATE answers {status}")),
    }
    let found = hostcall::vm_donate(toy.handle, block, Toy::RAM, 512);
    owner.destroy()?;
    toy.destroy()?;
    Ok(found)
}

fn block_over_page(scene: &mut Scene) -> Result<i64, String> {
    let mut toy = scene.toy()?;
    let (frame, block) = (toy.frame()?, toy.block()?);
    match toy.donate(frame, 511) {
        OK => Ok(hostcall::vm_donate(toy.handle, block, Toy::RAM, 512)),
        status => Err(format!("the first donation answers {status}")),
    }
}

fn block_outside_ram(scene: &mut Scene) -> Result<i64, String> {
    let mut toy = scene.toy()?;
    let block = toy.block()?;
    let pages = [Toy::RAM + TOY_MEMORY, OUTSIDE[1], OUTSIDE[0], 1 << 39 | Toy::RAM, 1 << 63, u64::MAX - BLOCK_SIZE + 1];
    all_same(pages.map(|page| hostcall::vm_donate(toy.handle, block, page, 512)))
}

fn bad_metadata(scene: &mut Scene) -> Result<i64, String> {
    let toy = scene.toy()?;
    let frames = [scene.postern, scene.meta, scene.private, scene.shared];
    all_same(frames.map(|frame| status(hostcall::vm_donate_meta(toy.handle, frame, 1))))
}

fn bad_metadata_count(scene: &mut Scene) -> Result<i64, String> {
    let mut toy = scene.toy()?;
    let block = toy.block()?;
    let counts = [0, abi::host::FRAMES_PER_CALL + 1, 1 << 20, 1 << 52, u64::MAX];
    all_same(counts.map(|count| status(hostcall::vm_donate_meta(toy.handle, block, count))))
}

/// The good frames may be kept, and then are said to be; the bad one stays where it was.
fn metadata_foreign_tail(scene: &mut Scene) -> Result<i64, String> {
    let (mut owner, mut toy) = (scene.toy()?, scene.toy()?);
    let block = toy.block()?;
    let count = abi::host::FRAMES_PER_CALL;
    let tail = block + (count - 1) * FRAME_SIZE;
    if owner.donate(tail, 0) != OK {
        return Err(String::from("the first donation is refused"));
    }
    let taken = hostcall::vm_donate_meta(toy.handle, block, count);
    let metas = (block..block + BLOCK_SIZE).step_by(FRAME_SIZE as usize);
    let kept = metas.filter(|frame| hostcall::frame_state(*frame) == abi::host::frame::META).count() as u64;
    if taken.unwrap_or(0) != kept {
        return Err(format!("answers {taken:?}, but {kept} frames are metadata"));
    }
    owner.destroy()?;
    toy.destroy()?;
    Ok(status(taken))
}

/// One page in every 2 MiB needs a table each. What runs out can be filled up, and then it goes on.
fn until_no_metadata(scene: &mut Scene) -> Result<i64, String> {
    let shape = crate::vm::Shape { memory: 256 << 20, ..scene.toy_shape() };
    let mut memory = crate::launch::create(&shape, TOY_META).map_err(|code| format!("create: {code}"))?;
    let handle = memory.handle();
    let mut found = OK;
    let mut frames = alloc::vec::Vec::new();
    for page in (Toy::RAM..Toy::RAM + shape.memory).step_by(BLOCK_SIZE as usize) {
        let frame = crate::frames::frame().ok_or("out of memory")?;
        frames.push(frame);
        let mut status = hostcall::vm_donate(handle, frame, page, 1);
        if status == NO_META {
            found = status;
            if memory.add_meta(abi::host::FRAMES_PER_CALL) != OK {
                return Err(String::from("more metadata is refused"));
            }
            status = hostcall::vm_donate(handle, frame, page, 1);
        }
        if status != OK {
            return Err(format!("a donation answers {status}"));
        }
    }
    crate::teardown::destroy(handle)?;
    memory.release();
    frames.into_iter().try_for_each(|frame| {
        crate::teardown::check_returned(frame)?;
        crate::frames::free_frame(frame);
        Ok::<_, String>(())
    })?;
    Ok(found)
}

/// One frame out of every 2 MiB of the host's splits them all, which takes records and tables out of Postern's pool. When
/// that is used up the call is refused and nothing has changed; topped up, it goes on; and all comes together again.
fn until_no_pool(scene: &mut Scene) -> Result<i64, String> {
    let mut toy = scene.toy()?;
    let mut found = OK;
    for page in 0..TOY_MEMORY / FRAME_SIZE {
        let Some(block) = crate::frames::block() else { break };
        toy.keep_block(block);
        let mut status = toy.donate(block + 7 * FRAME_SIZE, page);
        if status == NO_POOL && found == OK {
            found = status;
            if hostcall::frame_state(block + 7 * FRAME_SIZE) != abi::host::frame::HOST {
                return Err(String::from("a refused frame is gone"));
            }
            if crate::memory::add_pool() != OK {
                return Err(String::from("the pool cannot be topped up"));
            }
            status = toy.donate(block + 7 * FRAME_SIZE, page);
        }
        match status {
            OK => {}
            NO_POOL => break,
            status => return Err(format!("a donation answers {status}")),
        }
    }
    toy.destroy()?;
    Ok(found)
}
