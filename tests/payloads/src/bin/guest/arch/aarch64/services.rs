//! The calls that Linux makes, with the answers it needs.

use crate::world::{World, read, write};
use crate::{expect, require};
use abi::{FRAME_SIZE, pkvm as ids, psci as psci_ids, rsi as rsi_ids, smccc as smccc_ids};
use alloc::format;
use alloc::string::String;
use payloads::{pkvm as calls, psci as conduit, rsi as realm, smccc};

/// What a page of the guest's holds.
const KEPT: u64 = 0x5ec2_e700_5ec2_e701;

pub fn psci(_: &World) -> Result<(), String> {
    expect!("PSCI_VERSION", conduit::psci(psci_ids::VERSION, 0, 0, 0) as u64, psci_ids::VERSION_1_1);
    let feature = |function| conduit::psci(psci_ids::FEATURES, function, 0, 0);
    for function in [psci_ids::CPU_ON, psci_ids::CPU_OFF, psci_ids::AFFINITY_INFO, psci_ids::SYSTEM_OFF] {
        expect!("PSCI_FEATURES", feature(function), 0);
    }
    expect!("SMCCC in PSCI_FEATURES", feature(smccc_ids::VERSION), 0);
    require!(conduit::psci(smccc_ids::VERSION, 0, 0, 0) >= 0x1_0001, "SMCCC is too old");
    let hinted = conduit::psci(psci_ids::VERSION | smccc_ids::SVE_HINT, 0, 0, 0);
    expect!("PSCI_VERSION with the SVE hint", hinted as u64, psci_ids::VERSION_1_1);
    require!(feature(0x8400_00ff) == psci_ids::NOT_SUPPORTED, "an unknown function is a feature");
    Ok(())
}

pub fn rsi(world: &World) -> Result<(), String> {
    let [status, lower, higher, _] = realm::version(rsi_ids::VERSION_1_0);
    expect!("RSI_VERSION", status, rsi_ids::SUCCESS);
    require!(lower >> 16 == 1 && higher >> 16 == 1, "RSI {lower:#x} to {higher:#x}");
    expect!("RSI 99", realm::version(99 << 16)[0], rsi_ids::ERROR_INPUT);
    let page = world.page();
    (0..FRAME_SIZE).step_by(8).for_each(|offset| write(page + offset, u64::MAX));
    expect!("REALM_CONFIG", realm::realm_config(page), rsi_ids::SUCCESS);
    expect!("width of addresses", read(page), u64::from(rsi_ids::IPA_BITS));
    expect!("hash algorithm", read(page + 8), rsi_ids::HASH_SHA384);
    expect!("the rest of the page", read(page + 0x800), 0);
    Ok(())
}

pub fn rsi_state_get(world: &World) -> Result<(), String> {
    let half = 1 << (rsi_ids::IPA_BITS - 1);
    let [status, end, state, _] = realm::ipa_state_get(world.ram.start, world.ram.end);
    require!(status == 0 && state == rsi_ids::RIPAS_RAM && end > world.ram.start, "RAM is {state} up to {end:#x}");
    for (start, limit) in [(0x0900_0000, 0x0900_1000), (0x0800_0000, 0x0801_0000), (world.ram.end, half)] {
        let [status, end, state, _] = realm::ipa_state_get(start, limit);
        require!(status == 0 && state == rsi_ids::RIPAS_EMPTY && end > start, "{start:#x} is {state} up to {end:#x}");
    }
    let page = world.page();
    realm::set_state(page, page + FRAME_SIZE, rsi_ids::RIPAS_EMPTY).map_err(|code| alloc::format!("set: {code}"))?;
    let [status, end, state, _] = realm::ipa_state_get(page, page + 2 * FRAME_SIZE);
    require!(status == 0 && state == rsi_ids::RIPAS_EMPTY, "a shared page is {state}");
    expect!("end of the shared page", end, page + FRAME_SIZE);
    realm::set_state(page, page + FRAME_SIZE, rsi_ids::RIPAS_RAM).map_err(|code| alloc::format!("set: {code}"))
}

/// The test host answers with sum, exclusive or and immediate.
pub fn rsi_host_call(world: &World) -> Result<(), String> {
    let structure = world.page();
    let registers = structure + 8;
    write(structure, 77);
    write(registers, 1000);
    write(registers + 8, 24);
    write(registers + 16, 0);
    write(registers + 24, 0x3333);
    expect!("HOST_CALL", realm::host_call(structure), rsi_ids::SUCCESS);
    expect!("sum", read(registers), 1024);
    expect!("exclusive or", read(registers + 8), 1000 ^ 24);
    expect!("immediate", read(registers + 16), 77);
    expect!("an untouched register", read(registers + 24), 0x3333);
    Ok(())
}

pub fn pkvm(world: &World) -> Result<(), String> {
    let uid = smccc::hvc(smccc::call(smccc_ids::VENDOR_UID, 0, 0, 0));
    expect!("UID", uid[0], ids::KVM_UID[0]);
    let features = calls::raw(ids::FEATURES, 0, 0, 0);
    expect!("FEATURES", features[0], ids::FEATURE_BITS);
    expect!("HYP_MEMINFO", calls::granule(), FRAME_SIZE as i64);
    expect!("HYP_MEMINFO with an argument", calls::raw(ids::HYP_MEMINFO, 1, 0, 0)[0] as i64, ids::INVALID_PARAMETER);
    let uart = world.machine.uarts.first().copied().unwrap_or(0);
    expect!("MMIO_GUARD", calls::mmio_guard(uart), 0);
    expect!("MMIO_GUARD again", calls::mmio_guard(uart), 0);
    Ok(())
}

/// Linux sets all its RAM to RAM at boot, the running kernel included.
pub fn set_ram_keeps_content(world: &World) -> Result<(), String> {
    let page = world.page();
    write(page, KEPT);
    realm::set_state(world.ram.start, world.ram.end, rsi_ids::RIPAS_RAM)
        .map_err(|status| format!("IPA_STATE_SET answers {status}"))?;
    expect!("content", read(page), KEPT);
    Ok(())
}
