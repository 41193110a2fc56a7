//! Pins: the host's hold on frames that a guest shares.

use super::scene::Scene;
use super::{Attack, all_same, attack};
use abi::host::{ADDRESS, BUSY, INVALID, LIMIT, OK, OWNER};
use alloc::format;
use alloc::string::String;
use payloads::hostcall;

pub const ATTACKS: &[Attack] = &[
    attack("pin-private", "a pin on a private frame", &[OWNER], |scene| Ok(hostcall::pin(scene.private))),
    attack("pin-metadata", "a pin on a metadata frame", &[OWNER], |scene| Ok(hostcall::pin(scene.meta))),
    attack("pin-postern", "a pin on Postern's memory", &[OWNER], |scene| Ok(hostcall::pin(scene.postern))),
    attack("pin-own-frame", "a pin on a frame that no guest shares", &[OWNER], own_frame),
    attack("pin-unaligned", "a pin on part of a frame", &[INVALID], |scene| Ok(hostcall::pin(scene.shared + 8))),
    attack("pin-not-ram", "pins where there is no RAM", &[ADDRESS], not_ram),
    attack("pin-overflow", "more pins than can be counted", &[LIMIT], overflow),
    attack("unpin-below-zero", "more unpins than pins", &[OWNER], below_zero),
    attack("unpin-run-page", "the hold that Postern has on a run page", &[OWNER, BUSY], unpin_run_page),
];

fn own_frame(_: &mut Scene) -> Result<i64, String> {
    let frame = crate::frames::frame().ok_or("out of memory")?;
    let status = hostcall::pin(frame);
    crate::frames::free_frame(frame);
    Ok(status)
}

fn not_ram(scene: &mut Scene) -> Result<i64, String> {
    all_same(scene.not_ram().into_iter().flat_map(|frame| [hostcall::pin(frame), hostcall::unpin(frame)]))
}

/// The count must neither wrap nor be stuck: every pin can be undone, and not one more.
fn overflow(scene: &mut Scene) -> Result<i64, String> {
    let mut pins = 0u64;
    let refusal = loop {
        match hostcall::pin(scene.shared) {
            OK => pins += 1,
            status => break status,
        }
        if pins > 1 << 16 {
            return Err(String::from("there is no limit"));
        }
    };
    let counted = hostcall::frame_info(scene.shared).values[1];
    if counted != pins {
        return Err(format!("{pins} pins, but {counted} are counted"));
    }
    for n in 0..pins {
        match hostcall::unpin(scene.shared) {
            OK => {}
            status => return Err(format!("unpin {n} of {pins} answers {status}")),
        }
    }
    if hostcall::unpin(scene.shared) == OK {
        return Err(String::from("one unpin too many is accepted"));
    }
    Ok(refusal)
}

fn below_zero(scene: &mut Scene) -> Result<i64, String> {
    let first = hostcall::unpin(scene.shared);
    match (hostcall::pin(scene.shared), hostcall::unpin(scene.shared)) {
        (OK, OK) => all_same([first, hostcall::unpin(scene.shared)]),
        other => Err(format!("pin and unpin answer {other:?}")),
    }
}

/// If the host could drop Postern's own pin, it could give the page away and have Postern write a guest's memory.
fn unpin_run_page(scene: &mut Scene) -> Result<i64, String> {
    let statuses = [hostcall::unpin(scene.run_page), hostcall::unpin(scene.run_page)];
    if scene.toy()?.donate(scene.run_page, 0) == OK {
        return Err(String::from("the run page could be given away"));
    }
    all_same(statuses)
}
