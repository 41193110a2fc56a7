//! vCPUs: numbers, run pages, interrupts.

use super::scene::Scene;
use super::{Attack, all_same, attack, status};
use abi::host::{ADDRESS, EXISTS, INVALID, LIMIT, NO_SUCH, OK, OWNER, STATE};
use alloc::format;
use alloc::string::String;
use payloads::hostcall;

pub const ATTACKS: &[Attack] = &[
    attack("vcpu-index-too-large", "vCPUs that the VM does not have", &[INVALID, LIMIT, NO_SUCH], index_too_large),
    attack("vcpu-twice", "one vCPU twice", &[EXISTS], twice),
    attack("vcpu-run-page-unaligned", "a run page that is not a page", &[INVALID], page_unaligned),
    attack("vcpu-run-page-not-ram", "a run page in a device or a hole", &[ADDRESS], page_not_ram),
    attack("vcpu-run-page-foreign", "a run page that is not the host's", &[OWNER], page_foreign),
    attack("vcpu-run-page-twice", "one run page for two vCPUs", &[OK], page_twice),
    attack("run-before-seal", "a run of a VM that is not sealed", &[STATE], before_seal),
    attack("run-missing-vcpu", "a run of a vCPU that was not created", &[NO_SUCH], missing),
    attack("irq-private", "software and private interrupts", &[INVALID], irq_private),
    attack("irq-huge", "interrupts that do not exist", &[INVALID], irq_huge),
    attack("irq-flood", "a hundred thousand interrupts", &[OK], irq_flood),
    attack("kick-missing-vcpu", "a kick of a vCPU that does not exist", &[NO_SUCH], kick_missing),
];

fn index_too_large(scene: &mut Scene) -> Result<i64, String> {
    let mut toy = scene.toy()?;
    let page = toy.frame()?;
    all_same([2, 7, 8, 64, 1 << 16, 1 << 32, u64::MAX].map(|index| hostcall::vcpu_create(toy.handle, index, page)))
}

fn twice(scene: &mut Scene) -> Result<i64, String> {
    let mut toy = scene.toy()?;
    let (first, second) = (toy.frame()?, toy.frame()?);
    match hostcall::vcpu_create(toy.handle, 0, first) {
        OK => all_same([first, second].map(|page| hostcall::vcpu_create(toy.handle, 0, page))),
        status => Err(format!("the first vCPU answers {status}")),
    }
}

fn page_unaligned(scene: &mut Scene) -> Result<i64, String> {
    let mut toy = scene.toy()?;
    let page = toy.frame()?;
    all_same([1, 8, 0xfff].map(|offset| hostcall::vcpu_create(toy.handle, 0, page + offset)))
}

fn page_not_ram(scene: &mut Scene) -> Result<i64, String> {
    let toy = scene.toy()?;
    all_same(scene.not_ram().map(|page| hostcall::vcpu_create(toy.handle, 0, page)))
}

fn page_foreign(scene: &mut Scene) -> Result<i64, String> {
    let toy = scene.toy()?;
    let pages = [scene.postern, scene.meta, scene.private];
    all_same(pages.map(|page| hostcall::vcpu_create(toy.handle, 0, page)))
}

/// The host harms itself only; but the page must stay pinned until both are gone.
fn page_twice(scene: &mut Scene) -> Result<i64, String> {
    let (mut first, mut second) = (scene.toy()?, scene.toy()?);
    let page = first.frame()?;
    let statuses = [hostcall::vcpu_create(first.handle, 0, page), hostcall::vcpu_create(second.handle, 0, page)];
    if statuses[0] != OK {
        return Err(format!("the first vCPU answers {}", statuses[0]));
    }
    if statuses[1] != OK {
        return Ok(OK);
    }
    second.destroy()?;
    let donated = second_chance(scene, page)?;
    if donated == OK {
        return Err(String::from("the run page of the other vCPU could be given away"));
    }
    first.destroy()?;
    Ok(OK)
}

fn second_chance(scene: &Scene, page: u64) -> Result<i64, String> {
    Ok(scene.toy()?.donate(page, 0))
}

fn before_seal(scene: &mut Scene) -> Result<i64, String> {
    let mut toy = scene.toy()?;
    let page = toy.frame()?;
    match hostcall::vcpu_create(toy.handle, 0, page) {
        OK => Ok(hostcall::vcpu_run(toy.handle, 0).status),
        status => Err(format!("VCPU_CREATE answers {status}")),
    }
}

fn missing(scene: &mut Scene) -> Result<i64, String> {
    all_same([1, 8, 1 << 32, u64::MAX].map(|index| hostcall::vcpu_run(scene.victim.handle, index).status))
}

fn irq_private(scene: &mut Scene) -> Result<i64, String> {
    let handle = scene.victim.handle;
    all_same((0..32).flat_map(|intid| [true, false].map(|level| status(hostcall::vm_irq(handle, intid, level)))))
}

fn irq_huge(scene: &mut Scene) -> Result<i64, String> {
    let handle = scene.victim.handle;
    let huge = [1020, 1023, 4096, 8192, 1 << 31, u32::MAX].map(|intid| status(hostcall::vm_irq(handle, intid, true)));
    let wide = hostcall::raw(abi::host::VM_IRQ, [handle, 1 << 32 | 33, 1, 0, 0, 0]).status;
    all_same(huge.into_iter().chain([wide]))
}

/// Levels up and down, as fast as it goes; the guest has them all disabled.
fn irq_flood(scene: &mut Scene) -> Result<i64, String> {
    let handle = scene.victim.handle;
    all_same((0..100_000u32).map(|n| status(hostcall::vm_irq(handle, 34 + n % 30, n & 32 == 0))))
}

fn kick_missing(scene: &mut Scene) -> Result<i64, String> {
    all_same([1, 8, 1 << 32, u64::MAX].map(|index| hostcall::vcpu_kick(scene.victim.handle, index).status))
}
