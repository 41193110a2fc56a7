//! Loads, stores and jumps to memory that is not the host's: an external abort for each, and nothing changes.

use super::scene::Scene;
use super::{Attack, attack};
use abi::FRAME_SIZE;
use abi::host::{OK, counter, frame};
use alloc::format;
use alloc::string::String;
use payloads::exception::{Abort, try_execute, try_odd_accesses, try_read, try_read32, try_write};
use payloads::hostcall;

pub const ATTACKS: &[Attack] = &[
    attack("read-private", "a read of every private page of the victim", &[OK], read_private),
    attack("write-private", "a write to every private page of the victim", &[OK], write_private),
    attack("execute-private", "a jump into a private page", &[OK], execute_private),
    attack("read-metadata", "a read of guest tables and vCPU state", &[OK], read_metadata),
    attack("write-metadata", "a write to guest tables and vCPU state", &[OK], write_metadata),
    attack("read-postern", "a read of each frame of Postern's", &[OK], read_postern),
    attack("write-postern", "a write to each frame of Postern's", &[OK], write_postern),
    attack("execute-postern", "a jump into Postern", &[OK], execute_postern),
    attack("access-odd-instructions", "pairs, exclusives, atomics and cache operations on private memory", &[OK], odd),
    attack("access-across-boundary", "an access half in one's own and half in a private page", &[OK], across),
    attack("stage1-table-in-private", "a private page as the host's own page table", &[OK], table_in_private),
    attack(
        "shared-page-is-not-executable",
        "code in a page that a guest shares is the host's own risk",
        &[OK],
        shared_rw,
    ),
    attack("aborts-are-counted", "aborts that nobody counts", &[OK], counted),
];

fn external(what: &str, address: u64, found: Result<(), Abort>) -> Result<(), String> {
    match found {
        Err(abort) if abort.is_refused_at(address) => Ok(()),
        Err(abort) => Err(format!("{what} {address:#x}: {abort}")),
        Ok(()) => Err(format!("{what} {address:#x} is carried out")),
    }
}

fn each_private(scene: &Scene, touch: impl Fn(u64) -> Result<(), String>) -> Result<i64, String> {
    let memory = scene.victim.memory.lock();
    for (_, pa) in memory.given().filter(|(_, pa)| hostcall::frame_state(*pa) == frame::PRIVATE) {
        touch(pa)?;
    }
    Ok(OK)
}

fn read_private(scene: &mut Scene) -> Result<i64, String> {
    each_private(scene, |pa| external("a read of", pa + 8, try_read(pa + 8).map(drop)))
}

fn write_private(scene: &mut Scene) -> Result<i64, String> {
    each_private(scene, |pa| external("a write to", pa + 8, try_write(pa + 8, 0xbad)))
}

fn execute_private(scene: &mut Scene) -> Result<i64, String> {
    external("a jump to", scene.private, try_execute(scene.private)).map(|()| OK)
}

fn each_meta(scene: &Scene, touch: impl Fn(u64) -> Result<(), String>) -> Result<i64, String> {
    scene.victim.memory.lock().meta().try_for_each(touch).map(|()| OK)
}

fn read_metadata(scene: &mut Scene) -> Result<i64, String> {
    each_meta(scene, |pa| external("a read of", pa, try_read(pa).map(drop)))
}

fn write_metadata(scene: &mut Scene) -> Result<i64, String> {
    each_meta(scene, |pa| external("a write to", pa, try_write(pa, 0xbad)))
}

fn each_postern(scene: &Scene, touch: impl Fn(u64) -> Result<(), String>) -> Result<i64, String> {
    let mut count = 0u64;
    for pa in scene.ram.clone().step_by(FRAME_SIZE as usize) {
        if hostcall::frame_state(pa) == frame::POSTERN {
            touch(pa)?;
            count += 1;
        }
    }
    if count == 0 { Err(String::from("Postern has no memory in sight")) } else { Ok(OK) }
}

fn read_postern(scene: &mut Scene) -> Result<i64, String> {
    each_postern(scene, |pa| external("a read of", pa, try_read(pa).map(drop)))
}

fn write_postern(scene: &mut Scene) -> Result<i64, String> {
    each_postern(scene, |pa| external("a write to", pa, try_write(pa, 0xbad)))
}

fn execute_postern(scene: &mut Scene) -> Result<i64, String> {
    external("a jump to", scene.postern, try_execute(scene.postern)).map(|()| OK)
}

fn odd(scene: &mut Scene) -> Result<i64, String> {
    for p in [scene.private, scene.postern, scene.meta] {
        for (n, found) in try_odd_accesses(p).into_iter().enumerate() {
            if found.is_ok() {
                return Err(format!("instruction {n} at {p:#x} is carried out"));
            }
        }
    }
    Ok(OK)
}

fn across(scene: &mut Scene) -> Result<i64, String> {
    let mut toy = scene.toy()?;
    let block = toy.block()?;
    let given = block + 5 * FRAME_SIZE;
    match toy.donate(given, 0) {
        OK => {}
        status => return Err(format!("donate answers {status}")),
    }
    for address in [given - 4, given + FRAME_SIZE - 4] {
        if try_read(address).is_ok() || try_write(address, u64::MAX).is_ok() {
            return Err(format!("the access at {address:#x} is carried out"));
        }
    }
    // The neighbours are the host's, and still work.
    for address in [given - 8, given + FRAME_SIZE] {
        try_read(address).map_err(|abort| format!("a neighbour: {abort}"))?;
    }
    toy.destroy()?;
    Ok(OK)
}

fn table_in_private(scene: &mut Scene) -> Result<i64, String> {
    for table in [scene.private, scene.postern, scene.meta] {
        match payloads::mmu::try_table(table) {
            Ok(value) => return Err(format!("a walk through {table:#x} gives {value:#x}")),
            Err(abort) if abort.is_refused_walk() => {}
            Err(abort) => return Err(format!("{abort}")),
        }
    }
    Ok(OK)
}

fn shared_rw(scene: &mut Scene) -> Result<i64, String> {
    let value = try_read(scene.shared).map_err(|abort| format!("a shared page: {abort}"))?;
    try_write(scene.shared, value).map_err(|abort| format!("a shared page: {abort}"))?;
    try_read32(scene.shared + 4).map_err(|abort| format!("a shared page: {abort}"))?;
    Ok(OK)
}

/// Each abort is counted, so that whoever looks after the machine can see it.
fn counted(scene: &mut Scene) -> Result<i64, String> {
    let out = crate::frames::zeroed_frame().ok_or("out of memory")?;
    let aborts = || {
        hostcall::counters(out);
        crate::frames::read(out + counter::HOST_ABORTS as u64 * 8)
    };
    let before = aborts();
    let _ = try_read(scene.private);
    let _ = try_write(scene.private, 1);
    let after = aborts();
    crate::frames::free_frame(out);
    if after == before + 2 { Ok(OK) } else { Err(format!("{before} aborts before, {after} after two")) }
}
