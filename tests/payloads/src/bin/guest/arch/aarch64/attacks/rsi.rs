//! Malformed RSI calls. The expected statuses are those of Arm DEN0137.

use crate::world::{World, read, write};
use crate::{expect, require};
use abi::FRAME_SIZE;
use abi::rsi as ids;
use alloc::format;
use alloc::string::String;
use payloads::{rsi as realm, smccc};

const HALF: u64 = 1 << (ids::IPA_BITS - 1);

fn refused(base: u64, top: u64, state: u64) -> Result<(), String> {
    let [status, ..] = realm::ipa_state_set(base, top, state, 0);
    require!(status != ids::SUCCESS, "IPA_STATE_SET {base:#x} to {top:#x}, state {state}, is accepted");
    expect!(format!("IPA_STATE_SET {base:#x} to {top:#x}, state {state}"), status, ids::ERROR_INPUT);
    Ok(())
}

pub fn ranges(world: &World) -> Result<(), String> {
    let page = world.page();
    write(page, 7);
    for state in [ids::RIPAS_EMPTY, ids::RIPAS_RAM] {
        refused(page + 1, page + FRAME_SIZE, state)?;
        refused(page, page + FRAME_SIZE - 1, state)?;
        refused(page, page, state)?;
        refused(page + FRAME_SIZE, page, state)?;
        refused(page | HALF, (page | HALF) + FRAME_SIZE, state)?;
        refused(HALF - FRAME_SIZE, HALF + FRAME_SIZE, state)?;
        refused(2 * HALF, 2 * HALF + FRAME_SIZE, state)?;
    }
    expect!("content", read(page), 7);
    Ok(())
}

pub fn wraparound(world: &World) -> Result<(), String> {
    let last = u64::MAX - FRAME_SIZE + 1;
    for (base, top) in
        [(last, 0), (last, FRAME_SIZE), (world.ram.start, last), (last, u64::MAX), (1 << 63, (1 << 63) + 1)]
    {
        refused(base, top, ids::RIPAS_RAM)?;
        refused(base, top, ids::RIPAS_EMPTY)?;
    }
    for (start, end) in [(last, 0), (0, u64::MAX), (1, FRAME_SIZE), (FRAME_SIZE, FRAME_SIZE), (HALF, HALF + FRAME_SIZE)]
    {
        expect!(format!("STATE_GET {start:#x} to {end:#x}"), realm::ipa_state_get(start, end)[0], ids::ERROR_INPUT);
    }
    Ok(())
}

/// The whole protected half is more than RAM: what is not RAM cannot become it, and no single call may take long.
pub fn huge_range(world: &World) -> Result<(), String> {
    let [status, next, response, _] = realm::ipa_state_set(world.ram.end, HALF, ids::RIPAS_RAM, 0);
    let progress = status == ids::SUCCESS && response == ids::ACCEPT && next > world.ram.end;
    require!(!progress, "memory beyond RAM became RAM up to {next:#x}");
    let [status, next, response, _] = realm::ipa_state_set(0x0900_0000, 0x0900_1000, ids::RIPAS_RAM, 0);
    let progress = status == ids::SUCCESS && response == ids::ACCEPT && next > 0x0900_0000;
    require!(!progress, "a device became RAM");
    let [status, _, state, _] = realm::ipa_state_get(0x0900_0000, 0x0900_1000);
    require!(status == ids::SUCCESS && state == ids::RIPAS_EMPTY, "the device is now {state}");
    Ok(())
}

pub fn bad_state(world: &World) -> Result<(), String> {
    let page = world.page();
    [2, 3, 4, 255, u64::MAX].into_iter().try_for_each(|state| refused(page, page + FRAME_SIZE, state))
}

/// A raw write to a guest-supplied address would be a way to write anywhere.
pub fn config_bad_page(world: &World) -> Result<(), String> {
    let page = world.page();
    let shared = world.share(page, 1).map_err(|code| format!("share answers {code}"))?;
    let bad = [
        page,
        shared,
        world.ram.start + 8,
        world.ram.end,
        world.ram.start - FRAME_SIZE,
        0,
        0x0900_0000,
        HALF,
        2 * HALF,
        u64::MAX,
        u64::MAX - FRAME_SIZE + 1,
        1 << 63,
    ];
    for address in bad {
        expect!(format!("REALM_CONFIG at {address:#x}"), realm::realm_config(address), ids::ERROR_INPUT);
    }
    expect!("the shared page", read(shared), 0);
    world.unshare(page, 1).map_err(|code| format!("unshare answers {code}"))
}

pub fn host_call_bad_address(world: &World) -> Result<(), String> {
    let page = world.page();
    let shared = world.share(page, 1).map_err(|code| format!("share answers {code}"))?;
    for address in [page, shared, world.ram.start + 8, world.ram.end, 0, 0x0900_0000, u64::MAX - 255, u64::MAX] {
        expect!(format!("HOST_CALL at {address:#x}"), realm::host_call(address), ids::ERROR_INPUT);
    }
    world.unshare(page, 1).map_err(|code| format!("unshare answers {code}"))
}

pub fn token_without_init(world: &World) -> Result<(), String> {
    for address in [world.ram.end, u64::MAX, world.ram.start] {
        let [status, ..] = smccc::smc(smccc::call(ids::ATTESTATION_TOKEN_CONTINUE, address, u64::MAX, u64::MAX));
        require!(status != ids::SUCCESS, "a token is given at {address:#x} without a challenge");
    }
    Ok(())
}

pub fn measurement_bad_index(_: &World) -> Result<(), String> {
    for index in [5, 64, u64::MAX] {
        let [status, ..] = smccc::smc(smccc::call(ids::MEASUREMENT_READ, index, 0, 0));
        require!(status != ids::SUCCESS, "measurement {index} can be read");
    }
    for (index, size) in [(0, 64), (1, 65), (1, u64::MAX), (5, 1), (u64::MAX, 1)] {
        let [status, ..] = smccc::smc(smccc::call(ids::MEASUREMENT_EXTEND, index, size, 0));
        require!(status != ids::SUCCESS, "measurement {index} can be extended by {size} bytes");
    }
    Ok(())
}

pub fn unknown_functions(_: &World) -> Result<(), String> {
    for function in (0xc400_019a..=ids::LAST).chain([0x8400_0190, 0x8400_0197]) {
        let [status, ..] = smccc::smc([function, 1, 2, 3, 4, 5, 6]);
        require!(status != ids::SUCCESS, "RSI function {function:#x} is accepted");
    }
    Ok(())
}
