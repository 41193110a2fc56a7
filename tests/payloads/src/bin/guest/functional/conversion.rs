//! Private, shared and back.

use crate::world::{World, first_nonzero, read, write};
use crate::{expect, mailbox, require};
use abi::host::frame;
use abi::{BLOCK_SIZE, FRAME_SIZE};
use alloc::format;
use alloc::string::String;
use payloads::mailbox::{FAULT, command};

const SECRET: u64 = 0x5ec2_e700_5ec2_e701;
const PUBLIC: u64 = 0x0b11_c000_0b11_c001;

fn code(what: &'static str) -> impl Fn(i64) -> String {
    move |code| format!("{what} answers {code}")
}

pub fn lazy_pages_are_zero(world: &World) -> Result<(), String> {
    let start = world.pages(24, FRAME_SIZE);
    for page in (start..).step_by(FRAME_SIZE as usize).take(24) {
        require!(first_nonzero(page).is_none(), "page {page:#x} is not zero at first touch");
        write(page, page ^ SECRET);
    }
    for page in (start..).step_by(FRAME_SIZE as usize).take(24) {
        expect!("what was written", read(page), page ^ SECRET);
    }
    Ok(())
}

pub fn private_refused_to_host(world: &World) -> Result<(), String> {
    let page = world.page();
    write(page + 8, SECRET);
    expect!("state", mailbox::state(world, page), frame::PRIVATE);
    expect!("host's read", mailbox::host_read(world, page + 8), FAULT);
    expect!("host's write", mailbox::host_write(world, page + 8, PUBLIC), FAULT);
    expect!("content", read(page + 8), SECRET);
    Ok(())
}

pub fn share_wipes(world: &World) -> Result<(), String> {
    let page = world.page();
    (0..FRAME_SIZE).step_by(8).for_each(|offset| write(page + offset, SECRET));
    let shared = world.share(page, 1).map_err(code("share"))?;
    require!(first_nonzero(shared).is_none(), "private content is still there after sharing");
    expect!("host's read", mailbox::host_read(world, page), 0);
    world.unshare(page, 1).map_err(code("unshare"))
}

pub fn shared_both_ways(world: &World) -> Result<(), String> {
    let page = world.page();
    write(page, SECRET);
    let shared = world.share(page, 1).map_err(code("share"))?;
    write(shared + 16, PUBLIC);
    expect!("state", mailbox::state(world, page), frame::SHARED);
    expect!("host's read", mailbox::host_read(world, page + 16), PUBLIC);
    expect!("host's write", mailbox::host_write(world, page + 24, !PUBLIC), 0);
    expect!("guest's read", read(shared + 24), !PUBLIC);
    world.unshare(page, 1).map_err(code("unshare"))
}

pub fn unshare_wipes(world: &World) -> Result<(), String> {
    let page = world.page();
    write(page, SECRET);
    let shared = world.share(page, 1).map_err(code("share"))?;
    (0..FRAME_SIZE).step_by(8).for_each(|offset| write(shared + offset, PUBLIC));
    world.unshare(page, 1).map_err(code("unshare"))?;
    require!(first_nonzero(page).is_none(), "shared content is still there after unsharing");
    expect!("state", mailbox::state(world, page), frame::PRIVATE);
    expect!("host's read", mailbox::host_read(world, page), FAULT);
    write(page, SECRET);
    expect!("host's write", mailbox::host_write(world, page, PUBLIC), FAULT);
    expect!("content", read(page), SECRET);
    Ok(())
}

/// A page that the host has not given yet can be shared too; it arrives at its first use.
pub fn share_untouched_page(world: &World) -> Result<(), String> {
    let page = world.page();
    let shared = world.share(page, 1).map_err(code("share"))?;
    require!(first_nonzero(shared).is_none(), "not zero");
    write(shared, PUBLIC);
    expect!("host's read", mailbox::host_read(world, page), PUBLIC);
    world.unshare(page, 1).map_err(code("unshare"))?;
    require!(first_nonzero(page).is_none(), "not zero after unsharing");
    Ok(())
}

pub fn convert_block(world: &World) -> Result<(), String> {
    const PAGES: u64 = BLOCK_SIZE / FRAME_SIZE;
    let start = world.pages(PAGES, BLOCK_SIZE);
    let probes = [start, start + FRAME_SIZE, start + BLOCK_SIZE / 2, start + BLOCK_SIZE - 8];
    probes.iter().for_each(|address| write(*address, SECRET));
    let shared = world.share(start, PAGES).map_err(code("share"))?;
    for address in probes {
        let other = address - start + shared;
        expect!("shared content", read(other), 0);
        write(other, address);
        expect!("host's read", mailbox::host_read(world, address), address);
    }
    world.unshare(start, PAGES).map_err(code("unshare"))?;
    for address in probes {
        expect!("content after unsharing", read(address), 0);
        expect!("host's read after unsharing", mailbox::host_read(world, address), FAULT);
    }
    Ok(())
}

pub fn convert_part_of_block(world: &World) -> Result<(), String> {
    let start = world.pages(BLOCK_SIZE / FRAME_SIZE, BLOCK_SIZE);
    let at = |page: u64| start + page * FRAME_SIZE;
    (0..512).for_each(|page| write(at(page), SECRET + page));
    let shared = world.share(at(100), 50).map_err(code("share"))?;
    write(shared, PUBLIC);
    for page in [0, 99, 150, 511] {
        expect!("neighbour's content", read(at(page)), SECRET + page);
        expect!("host's read of a neighbour", mailbox::host_read(world, at(page)), FAULT);
    }
    for page in 100..150 {
        expect!("state", mailbox::state(world, at(page)), frame::SHARED);
    }
    world.unshare(at(100), 50).map_err(code("unshare"))?;
    for page in 0..512 {
        let wanted = if (100..150).contains(&page) { 0 } else { SECRET + page };
        expect!("content", read(at(page)), wanted);
    }
    Ok(())
}

/// A frame that the host has pinned cannot change hands; unpinned, it can.
pub fn pinned_page_stays_shared(world: &World) -> Result<(), String> {
    let page = world.page();
    write(page, SECRET);
    let shared = world.share(page, 1).map_err(code("share"))?;
    write(shared, PUBLIC);
    expect!("pin", mailbox::ask(world, command::PIN, page, 0), 0);
    require!(world.unshare(page, 1).is_err(), "a pinned page was taken back");
    expect!("state", mailbox::state(world, page), frame::SHARED);
    expect!("unpin", mailbox::ask(world, command::UNPIN, page, 0), 0);
    require!(mailbox::ask(world, command::UNPIN, page, 0) as i64 != 0, "unpinned below zero");
    world.unshare(page, 1).map_err(code("unshare"))?;
    expect!("content", read(page), 0);
    Ok(())
}
