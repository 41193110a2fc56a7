//! Addresses that are not the guest's.

use crate::world::{World, read, write};
use crate::{expect, require};
use abi::FRAME_SIZE;
use alloc::format;
use alloc::string::String;
use payloads::exception::{try_execute, try_read, try_write, vector};
use payloads::{mmu, tdcall};

/// `RET`.
const RETURN: u8 = 0xc3;

/// Behind the end of RAM there is nothing.
pub fn beyond_ram(world: &World) -> Result<(), String> {
    for address in [world.ram.end, world.ram.end + (1 << 20), 0xfec0_0000, 0xfee0_0000, 0xffff_fff0, 64 << 30] {
        for found in [try_read(address).err(), try_write(address, 1).err(), try_execute(address).err()] {
            require!(found.is_some_and(|abort| abort.is_refused()), "{address:#x} gives {found:x?}");
        }
    }
    Ok(())
}

/// Physical addresses with bits from the shared one on, one after the other.
pub fn beyond_address_space(_: &World) -> Result<(), String> {
    for bit in 38..52 {
        for address in [1 << bit, 1 << bit | 3 << 30] {
            mmu::map_window(address);
            let found = try_read(mmu::WINDOW);
            // Shared RAM below the first GiB may be read only where the guest has shared it, which is not here.
            require!(found.is_err(), "a read at {address:#x} gives {found:x?}");
        }
    }
    mmu::map_window(0);
    require!(try_read(mmu::WINDOW).is_ok(), "the guest's own memory cannot be read any more");
    Ok(())
}

/// Reserved bits are the CPU's business: a page fault, never a way around EPT.
pub fn reserved_bits(_: &World) -> Result<(), String> {
    const LARGE: u64 = 0xe7;
    for bit in tdcall::width()..52 {
        mmu::map_window_raw(1 << bit | LARGE);
        let found = try_read(mmu::WINDOW);
        let fault = found.is_err_and(|abort| abort.vector() == vector::PAGE || abort.is_refused());
        require!(fault, "address bit {bit} in a page table gives {found:x?}");
    }
    for bit in 13..30 {
        mmu::map_window_raw(1 << bit | LARGE);
        let found = try_read(mmu::WINDOW);
        require!(
            found.is_err_and(|abort| abort.vector() == vector::PAGE),
            "bit {bit} of a 1 GiB page gives {found:x?}"
        );
    }
    mmu::map_window(0);
    Ok(())
}

/// Page tables in shared memory, in devices and nowhere.
pub fn tables_everywhere(world: &World) -> Result<(), String> {
    let page = world.page();
    world.share(page, 1).map_err(|code| format!("share answers {code:#x}"))?;
    let shared = tdcall::shared_bit();
    for table in [world.ram.end, 0xfec0_0000, 64 << 30, 0xfec0_0000 | shared, world.ram.end | shared, page] {
        let found = mmu::try_table(table);
        require!(found.is_err(), "a walk through {table:#x} gives {found:x?}");
    }
    // In shared memory it is the guest's own folly: whatever happens, it happens to the guest.
    core::hint::black_box(mmu::try_table(page | shared).is_ok());
    world.unshare(page, 1).map_err(|code| format!("unshare answers {code:#x}"))
}

/// A page that was shared is gone from the private half.
pub fn private_alias(world: &World) -> Result<(), String> {
    let page = world.page();
    write(page, 1);
    let shared = world.share(page, 1).map_err(|code| format!("share answers {code:#x}"))?;
    write(shared, 2);
    for found in [try_read(page).err(), try_write(page, 1).err(), try_execute(page).err()] {
        require!(found.is_some_and(|abort| abort.is_refused()), "the private address gives {found:x?}");
    }
    expect!("shared content", read(shared), 2);
    world.unshare(page, 1).map_err(|code| format!("unshare answers {code:#x}"))
}

/// And the other way round.
pub fn shared_alias(world: &World) -> Result<(), String> {
    let page = world.page();
    write(page, 1);
    let alias = page + world.alias;
    for found in [try_read(alias).err(), try_write(alias, 2).err(), try_execute(alias).err()] {
        require!(found.is_some_and(|abort| abort.is_refused()), "the shared address gives {found:x?}");
    }
    expect!("private content", read(page), 1);
    Ok(())
}

/// Code that the host can change is not executed.
pub fn execute_shared(world: &World) -> Result<(), String> {
    let page = world.pages(2, FRAME_SIZE);
    write(page, RETURN.into());
    try_execute(page).map_err(|abort| format!("code in a private page: {abort}"))?;
    let shared = world.share(page, 1).map_err(|code| format!("share answers {code:#x}"))?;
    write(shared, RETURN.into());
    let found = try_execute(shared);
    require!(found.is_err_and(|abort| abort.is_refused()), "code in a shared page gives {found:x?}");
    world.unshare(page, 1).map_err(|code| format!("unshare answers {code:#x}"))
}
