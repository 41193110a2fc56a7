//! Addresses that are not the guest's.

use crate::world::{World, read, write};
use crate::{expect, require};
use abi::{FRAME_SIZE, rsi as ids};
use alloc::format;
use alloc::string::String;
use payloads::exception::{try_execute, try_read, try_read32, try_write};
use payloads::{cpu, mmu, psci, rsi as realm};

/// `RET`.
const RETURN: u32 = 0xd65f_03c0;

/// Behind the end of RAM there is nothing: a realm gets an external abort (RIPAS EMPTY), a pKVM guest may also get what
/// the host says of a device there, which is zero.
pub fn beyond_ram(world: &World) -> Result<(), String> {
    for address in [world.ram.end, world.ram.end + (1 << 30), 0x10_0000, world.ram.start - 8] {
        nothing_there(world, address)?;
        require!(!world.is_realm() || try_write(address, 1).is_err(), "a write to {address:#x} is accepted");
    }
    Ok(())
}

fn nothing_there(world: &World, address: u64) -> Result<(), String> {
    match try_read(address) {
        Err(abort) if abort.is_refused() => Ok(()),
        Ok(0) if !world.is_realm() => Ok(()),
        other => Err(format!("a read of {address:#x} gives {other:x?}")),
    }
}

/// Addresses that stage 2 does not even translate: the guest's stage 1 or an abort has to stop them.
pub fn beyond_address_space(_: &World) -> Result<(), String> {
    for gib in [1 << 10, 1 << 12, 1 << 17] {
        mmu::map_window(gib << 30);
        let found = try_read(mmu::WINDOW);
        require!(found.is_err(), "a read at {gib:#x} GiB gives {found:x?}");
    }
    mmu::map_window(0);
    Ok(())
}

/// One read in each GiB of the address space: it may abort or give what is there, but never stop the guest.
pub fn everywhere(world: &World) -> Result<(), String> {
    let mut aborts = 0u64;
    for gib in 0..1u64 << 10 {
        let address = (gib << 30) + 0x3000_0000;
        if !world.ram.contains(&(address & !world.alias)) {
            aborts += u64::from(try_read32(address).is_err());
        }
    }
    require!(!world.is_realm() || aborts >= 500, "only {aborts} reads abort");
    Ok(())
}

pub fn empty(world: &World) -> Result<(), String> {
    let page = world.page();
    write(page, 1);
    world.share(page, 1).map_err(|code| format!("share answers {code}"))?;
    for found in [try_read(page).err(), try_write(page, 1).err(), try_execute(page).err()] {
        require!(found.is_some_and(|abort| abort.is_refused()), "an access to an EMPTY page gives {found:x?}");
    }
    world.unshare(page, 1).map_err(|code| format!("unshare answers {code}"))?;
    expect!("content", read(page), 0);
    Ok(())
}

/// The host could change shared code under the guest's feet: realms never execute it.
pub fn execute_shared(world: &World) -> Result<(), String> {
    let page = world.page();
    let shared = world.share(page, 1).map_err(|code| format!("share answers {code}"))?;
    write(shared, u64::from(RETURN) << 32 | u64::from(RETURN));
    cpu::synchronise_code();
    let found = try_execute(shared).err();
    world.unshare(page, 1).map_err(|code| format!("unshare answers {code}"))?;
    require!(found.is_some_and(|abort| abort.is_refused()), "executing a shared page gives {found:x?}");
    Ok(())
}

/// Devices are mapped executable on purpose.
pub fn execute_device(world: &World) -> Result<(), String> {
    let device = payloads::mailbox::BASE + world.alias;
    mmu::map_window(device & !((1 << 30) - 1));
    let found = try_execute(mmu::WINDOW + (device & ((1 << 30) - 1)));
    mmu::map_window(0);
    require!(found.is_err(), "device registers were executed");
    Ok(())
}

/// Stage-1 tables in shared memory are the guest's own folly, and must hurt nobody else.
pub fn tables_in_shared_memory(world: &World) -> Result<(), String> {
    let page = world.page();
    let shared = world.share(page, 1).map_err(|code| format!("share answers {code}"))?;
    let found = mmu::try_table(shared);
    world.unshare(page, 1).map_err(|code| format!("unshare answers {code}"))?;
    require!(found.is_err(), "an empty table translates");
    let found = mmu::try_table(world.ram.end + (1 << 32));
    require!(found.is_err(), "a table where there is no memory translates");
    require!(psci::psci(abi::psci::VERSION, 0, 0, 0) > 0, "the hypervisor does not answer any more");
    if world.is_realm() {
        let [status, _, state, _] = realm::ipa_state_get(page, page + FRAME_SIZE);
        require!(status == ids::SUCCESS && state == ids::RIPAS_RAM, "the page is {state}");
    }
    Ok(())
}
