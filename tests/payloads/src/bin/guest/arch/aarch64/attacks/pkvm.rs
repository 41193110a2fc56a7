//! Malformed pKVM calls: every refusal is INVALID_PARAMETER.

use crate::mailbox;
use crate::world::{World, read, write};
use crate::{expect, require};
use abi::host::frame;
use abi::{FRAME_SIZE, pkvm as ids};
use alloc::format;
use alloc::string::String;
use payloads::pkvm as calls;

pub fn share_bad_address(world: &World) -> Result<(), String> {
    let page = world.page();
    write(page, 7);
    let bad = [
        page + 1,
        page + 8,
        world.ram.end,
        world.ram.start - FRAME_SIZE,
        0,
        1 << 39,
        1 << 40,
        1 << 52,
        1 << 63,
        u64::MAX - FRAME_SIZE + 1,
        u64::MAX,
    ];
    for address in bad {
        expect!(format!("MEM_SHARE of {address:#x}"), calls::share(address), ids::INVALID_PARAMETER);
        expect!(format!("MEM_UNSHARE of {address:#x}"), calls::unshare(address), ids::INVALID_PARAMETER);
    }
    expect!("state", mailbox::state(world, page), frame::PRIVATE);
    expect!("content", read(page), 7);
    Ok(())
}

pub fn share_device(world: &World) -> Result<(), String> {
    for address in [0x0900_0000, 0x0800_0000, 0x080a_0000, payloads::mailbox::BASE] {
        expect!(format!("MEM_SHARE of {address:#x}"), calls::share(address), ids::INVALID_PARAMETER);
    }
    require!(mailbox::state(world, world.ram.start) == frame::PRIVATE, "the mailbox does not answer any more");
    Ok(())
}

pub fn share_twice(world: &World) -> Result<(), String> {
    let page = world.page();
    expect!("first MEM_SHARE", calls::share(page), 0);
    write(page, 9);
    expect!("second MEM_SHARE", calls::share(page), ids::INVALID_PARAMETER);
    expect!("content", read(page), 9);
    expect!("MEM_UNSHARE", calls::unshare(page), 0);
    Ok(())
}

pub fn unshare_not_shared(world: &World) -> Result<(), String> {
    let (touched, untouched) = (world.page(), world.page());
    write(touched, 9);
    expect!("MEM_UNSHARE of a private page", calls::unshare(touched), ids::INVALID_PARAMETER);
    expect!("MEM_UNSHARE of an untouched page", calls::unshare(untouched), ids::INVALID_PARAMETER);
    expect!("content", read(touched), 9);
    Ok(())
}

pub fn reserved_arguments(world: &World) -> Result<(), String> {
    let page = world.page();
    for (a, b) in [(1, 0), (0, 1), (u64::MAX, u64::MAX)] {
        for function in [ids::MEM_SHARE, ids::MEM_UNSHARE] {
            expect!("code", calls::raw(function, page, a, b)[0] as i64, ids::INVALID_PARAMETER);
        }
        expect!("HYP_MEMINFO", calls::raw(ids::HYP_MEMINFO, 0, a, b)[0] as i64, ids::INVALID_PARAMETER);
    }
    Ok(())
}

/// RAM is no device: declaring it one must not open it.
pub fn guard_ram(world: &World) -> Result<(), String> {
    let page = world.page();
    write(page, 5);
    require!(calls::mmio_guard(page) != 0, "RAM became a device window");
    require!(calls::mmio_guard(page + 1) != 0, "an unaligned address became a device window");
    require!(calls::mmio_guard(u64::MAX) != 0, "the last byte became a device window");
    expect!("content", read(page), 5);
    expect!("state", mailbox::state(world, page), frame::PRIVATE);
    Ok(())
}
