//! Calls that write into host memory, or that only answer.

use super::scene::Scene;
use super::{Attack, all_same, attack, status};
use abi::host::{self, ADDRESS, INVALID, OK, OWNER, frame};
use alloc::format;
use alloc::string::String;
use payloads::hostcall;

pub const ATTACKS: &[Attack] = &[
    attack("info-into-foreign-frame", "answers written to memory that is not the host's", &[OWNER], into_foreign),
    attack("info-into-device", "answers written to devices and holes", &[ADDRESS], into_not_ram),
    attack("info-unaligned", "answers written across frames", &[INVALID], unaligned),
    attack("frame-info-anything", "states of addresses of every kind", &[OK], frame_info),
    attack("log-read-far", "log text from positions that do not exist", &[OK], log_far),
    attack("audit-bad-cursor", "an audit from a cursor that Postern did not give", &[OK], audit_cursor),
    attack("console-garbage", "console text of impossible lengths", &[INVALID, OK], console),
    attack("topup-foreign", "a pool topped up with frames that are not the host's", &[OWNER], topup_foreign),
    attack("topup-not-ram", "a pool topped up with devices and holes", &[ADDRESS], topup_not_ram),
    attack("topup-bad-count", "a pool topped up with no frame, or too many", &[INVALID], topup_count),
    attack("version-arguments", "rubbish in registers that a call does not use", &[OK], version_arguments),
];

fn three(scene: &Scene, out: u64) -> [i64; 3] {
    [hostcall::vm_info(scene.victim.handle, out), hostcall::counters(out), hostcall::log_read(out, 0).status]
}

fn into_foreign(scene: &mut Scene) -> Result<i64, String> {
    all_same([scene.private, scene.meta, scene.postern].into_iter().flat_map(|out| three(scene, out)))
}

fn into_not_ram(scene: &mut Scene) -> Result<i64, String> {
    all_same(scene.not_ram().into_iter().flat_map(|out| three(scene, out)))
}

fn unaligned(scene: &mut Scene) -> Result<i64, String> {
    let out = crate::frames::zeroed_frame().ok_or("out of memory")?;
    let found = all_same([1, 8, 0xff8, 0xfff].into_iter().flat_map(|offset| three(scene, out + offset)));
    crate::frames::free_frame(out);
    found
}

fn frame_info(scene: &mut Scene) -> Result<i64, String> {
    let known = [
        (scene.private, frame::PRIVATE),
        (scene.shared, frame::SHARED),
        (scene.meta, frame::META),
        (scene.postern, frame::POSTERN),
        (scene.run_page, frame::HOST),
    ];
    for (pa, wanted) in known {
        let state = hostcall::frame_state(pa);
        if state != wanted {
            return Err(format!("{pa:#x} is said to be {state}"));
        }
    }
    for pa in scene.not_ram() {
        let state = hostcall::frame_info(pa).value().unwrap_or(frame::ABSENT);
        if state != frame::ABSENT {
            return Err(format!("{pa:#x} is said to be {state}"));
        }
    }
    Ok(OK)
}

fn log_far(_: &mut Scene) -> Result<i64, String> {
    let out = crate::frames::zeroed_frame().ok_or("out of memory")?;
    for position in [0, 1, 1 << 20, 1 << 40, 1 << 63, u64::MAX] {
        let reply = hostcall::log_read(out, position);
        if reply.status == OK && reply.values[1] > abi::FRAME_SIZE {
            return Err(format!("{} bytes in a frame", reply.values[1]));
        }
    }
    crate::frames::free_frame(out);
    Ok(OK)
}

fn audit_cursor(_: &mut Scene) -> Result<i64, String> {
    for cursor in [1, 0xfff, 1 << 20, 1 << 40, 1 << 63, u64::MAX] {
        let reply = hostcall::raw(host::AUDIT, [cursor, 0, 0, 0, 0, 0]);
        if (reply.status == OK || reply.status == host::MORE) && reply.values[1] != 0 {
            return Err(format!("{} violations from cursor {cursor:#x}", reply.values[1]));
        }
    }
    Ok(OK)
}

fn console(_: &mut Scene) -> Result<i64, String> {
    let lengths = [41, 64, 1 << 16, 1 << 32, 1 << 63, u64::MAX];
    all_same(lengths.map(|length| hostcall::raw(host::CONSOLE_WRITE, [length, 0, 0, 0, 0, 0]).status))
}

fn topup_foreign(scene: &mut Scene) -> Result<i64, String> {
    let frames = [scene.private, scene.shared, scene.meta, scene.postern];
    all_same(frames.map(|pa| status(hostcall::pool_topup(pa, 1))))
}

fn topup_not_ram(scene: &mut Scene) -> Result<i64, String> {
    all_same(scene.not_ram().map(|pa| status(hostcall::pool_topup(pa, 1))))
}

fn topup_count(_: &mut Scene) -> Result<i64, String> {
    let start = crate::frames::contiguous(64).ok_or("out of memory")?;
    let counts = [0, host::FRAMES_PER_CALL + 1, 1 << 20, 1 << 52, u64::MAX];
    let found = all_same(counts.map(|count| status(hostcall::pool_topup(start, count))));
    crate::frames::free_contiguous(start, 64);
    found
}

fn version_arguments(_: &mut Scene) -> Result<i64, String> {
    Ok(hostcall::raw(host::VERSION, [u64::MAX; 6]).status)
}
