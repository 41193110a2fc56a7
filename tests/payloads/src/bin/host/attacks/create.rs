//! Creating VMs out of what is not the host's to give, or in shapes that cannot be.

use super::scene::{Scene, Toy};
use super::{Attack, all_same, attack, status};
use crate::platform::{GICD_BASE, GICR_BASE, RAM_BASE};
use crate::{arch, frames};
use abi::host::{self, ADDRESS, INVALID, LIMIT, OK, OWNER, VmConfig};
use abi::{BLOCK_SIZE, FRAME_SIZE};
use alloc::string::String;
use alloc::vec::Vec;
use payloads::hostcall;

pub const ATTACKS: &[Attack] = &[
    attack("create-config-unaligned", "configuration not at the start of a frame", &[INVALID], config_unaligned),
    attack("create-config-not-ram", "configuration where there is no RAM", &[ADDRESS], config_not_ram),
    attack("create-config-of-postern", "configuration in Postern's memory", &[OWNER], |scene| config_at(scene.postern)),
    attack("create-config-private", "configuration in a guest's private page", &[OWNER], |scene| {
        config_at(scene.private)
    }),
    attack("create-config-metadata", "configuration in metadata", &[OWNER], |scene| config_at(scene.meta)),
    attack("create-bad-dialect", "dialects that do not exist", &[INVALID], bad_dialect),
    attack("create-bad-vcpus", "no vCPU, or too many", &[INVALID], bad_vcpus),
    attack("create-bad-ram", "RAM unaligned, empty, too large, or wrapping around", &[INVALID], bad_ram),
    attack("create-bad-controller", "interrupt controller unaligned, in RAM, or beyond", &[INVALID], bad_controller),
    attack("create-bad-metadata-count", "too little metadata, or too much", &[INVALID], bad_meta_count),
    attack("create-metadata-unaligned", "metadata not on 8 KiB", &[INVALID], meta_unaligned),
    attack("create-metadata-not-ram", "metadata where there is no RAM", &[ADDRESS], meta_not_ram),
    attack("create-metadata-of-postern", "Postern's memory as metadata", &[OWNER], |scene| {
        meta_at(scene, scene.postern)
    }),
    attack("create-metadata-private", "a guest's private page as metadata", &[OWNER], |scene| {
        meta_at(scene, scene.private)
    }),
    attack("create-metadata-shared", "a shared page as metadata", &[OWNER], |scene| meta_at(scene, scene.shared)),
    attack("create-metadata-twice", "metadata of another VM", &[OWNER], |scene| meta_at(scene, scene.meta)),
    attack("create-metadata-foreign-tail", "the last metadata frame is another VM's", &[OWNER], meta_foreign_tail),
    attack("create-too-many", "more VMs than there are slots", &[LIMIT], too_many),
];

/// Metadata frames that are enough to create a VM.
const META: u64 = host::META_FRAMES_MIN;

fn good(scene: &Scene) -> VmConfig {
    VmConfig {
        dialect: scene.dialect,
        vcpu_count: 1,
        ram_base: RAM_BASE,
        ram_size: super::scene::TOY_MEMORY,
        gicd_base: GICD_BASE,
        gicr_base: GICR_BASE,
    }
}

/// Tries to create a VM; one that comes into being goes away at once.
fn create(config: &VmConfig) -> Result<i64, String> {
    let page = frames::zeroed_frame().ok_or("out of memory")?;
    let meta = frames::contiguous(META).ok_or("out of memory")?;
    put(page, config);
    let made = hostcall::vm_create(page, meta, META);
    if let Ok(handle) = made {
        crate::teardown::destroy(handle)?;
    }
    frames::free_frame(page);
    frames::free_contiguous(meta, META);
    Ok(status(made))
}

fn put(page: u64, config: &VmConfig) {
    // SAFETY: the page is a frame that the caller holds.
    unsafe { (page as *mut VmConfig).write_volatile(*config) };
}

fn config_at(address: u64) -> Result<i64, String> {
    let meta = frames::contiguous(META).ok_or("out of memory")?;
    let made = hostcall::vm_create(address, meta, META);
    frames::free_contiguous(meta, META);
    Ok(status(made))
}

fn config_unaligned(scene: &mut Scene) -> Result<i64, String> {
    let page = frames::zeroed_frame().ok_or("out of memory")?;
    put(page, &good(scene));
    let statuses: Result<Vec<_>, _> = [1, 8, 0x800, 0xfff].into_iter().map(|offset| config_at(page + offset)).collect();
    frames::free_frame(page);
    all_same(statuses?)
}

fn config_not_ram(scene: &mut Scene) -> Result<i64, String> {
    all_same(scene.not_ram().into_iter().map(config_at).collect::<Result<Vec<_>, _>>()?)
}

fn each(scene: &Scene, changes: &[fn(&mut VmConfig)]) -> Result<i64, String> {
    let attempt = |change: &fn(&mut VmConfig)| {
        let mut config = good(scene);
        change(&mut config);
        create(&config)
    };
    all_same(changes.iter().map(attempt).collect::<Result<Vec<_>, _>>()?)
}

fn bad_dialect(scene: &mut Scene) -> Result<i64, String> {
    each(scene, &[|config| config.dialect = 0, |config| config.dialect = 4, |config| config.dialect = u64::MAX])
}

fn bad_vcpus(scene: &mut Scene) -> Result<i64, String> {
    each(
        scene,
        &[
            |config| config.vcpu_count = 0,
            |config| config.vcpu_count = host::VCPUS_MAX as u64 + 1,
            |config| config.vcpu_count = 1 << 32 | 1,
            |config| config.vcpu_count = u64::MAX,
        ],
    )
}

fn bad_ram(scene: &mut Scene) -> Result<i64, String> {
    each(
        scene,
        &[
            |config| config.ram_base += FRAME_SIZE,
            |config| config.ram_base += 1,
            |config| config.ram_size = 0,
            |config| config.ram_size += FRAME_SIZE,
            |config| config.ram_size = host::GUEST_RAM_MAX + BLOCK_SIZE,
            |config| config.ram_size = !(BLOCK_SIZE - 1),
            |config| config.ram_base = !(BLOCK_SIZE - 1),
            |config| config.ram_base = (1 << 39) - BLOCK_SIZE,
            |config| config.ram_base = 1 << 40,
            |config| config.ram_base = 1 << 63,
        ],
    )
}

fn bad_controller(scene: &mut Scene) -> Result<i64, String> {
    each(scene, arch::machine::BAD_CONTROLLERS)
}

fn meta_call(scene: &Scene, meta: u64, count: u64) -> Result<i64, String> {
    let page = frames::zeroed_frame().ok_or("out of memory")?;
    put(page, &good(scene));
    let made = hostcall::vm_create(page, meta, count);
    if let Ok(handle) = made {
        crate::teardown::destroy(handle)?;
    }
    frames::free_frame(page);
    Ok(status(made))
}

fn bad_meta_count(scene: &mut Scene) -> Result<i64, String> {
    let meta = frames::contiguous(64).ok_or("out of memory")?;
    let counts = [0, 1, host::META_FRAMES_MIN - 1, host::FRAMES_PER_CALL + 1, 1 << 20, 1 << 52, u64::MAX];
    let statuses: Result<Vec<_>, _> = counts.into_iter().map(|count| meta_call(scene, meta, count)).collect();
    frames::free_contiguous(meta, 64);
    all_same(statuses?)
}

fn meta_unaligned(scene: &mut Scene) -> Result<i64, String> {
    let meta = frames::contiguous(16).ok_or("out of memory")?;
    let starts = [meta + FRAME_SIZE, meta + 1, meta + 0x800];
    let statuses: Result<Vec<_>, _> = starts.into_iter().map(|start| meta_call(scene, start, META)).collect();
    frames::free_contiguous(meta, 16);
    all_same(statuses?)
}

fn meta_not_ram(scene: &mut Scene) -> Result<i64, String> {
    let addresses = scene.not_ram().map(|address| address & !(2 * FRAME_SIZE - 1));
    all_same(addresses.into_iter().map(|address| meta_call(scene, address, META)).collect::<Result<Vec<_>, _>>()?)
}

fn meta_at(scene: &Scene, address: u64) -> Result<i64, String> {
    meta_call(scene, address & !(2 * FRAME_SIZE - 1), META)
}

/// All frames are good but the last: nothing of it may stay with Postern.
fn meta_foreign_tail(scene: &mut Scene) -> Result<i64, String> {
    let mut toy = scene.toy()?;
    let block = toy.block()?;
    let tail = block + (META - 1) * FRAME_SIZE;
    if toy.donate(tail, 0) != OK {
        return Err(String::from("the toy did not take a frame"));
    }
    let found = meta_call(scene, block, META)?;
    for frame in (block..tail).step_by(FRAME_SIZE as usize) {
        if hostcall::frame_state(frame) != host::frame::HOST {
            return Err(alloc::format!("frame {frame:#x} did not come back"));
        }
    }
    Ok(found)
}

/// Fills all slots, sees the refusal, frees them, and can create again.
fn too_many(scene: &mut Scene) -> Result<i64, String> {
    let mut toys = Vec::<Toy>::new();
    let found = loop {
        let page = frames::zeroed_frame().ok_or("out of memory")?;
        let meta = frames::contiguous(META).ok_or("out of memory")?;
        put(page, &good(scene));
        let made = hostcall::vm_create(page, meta, META);
        if let Ok(handle) = made {
            crate::teardown::destroy(handle)?;
        }
        frames::free_frame(page);
        frames::free_contiguous(meta, META);
        if made.is_err() || toys.len() > host::VMS_MAX {
            break status(made);
        }
        toys.push(scene.toy()?);
    };
    drop(toys);
    scene.toy()?.destroy()?;
    Ok(found)
}
