//! Calls that are not for this guest.

use crate::require;
use crate::world::World;
use abi::{host, pkvm as pkvm_ids, rsi as rsi_ids, smccc as smccc_ids};
use alloc::string::String;
use payloads::smccc::{self, call, try_hvc};

const NOT_SUPPORTED: u64 = smccc_ids::NOT_SUPPORTED as u64;

/// The realm ABI has no HVC: it is undefined.
pub fn hvc_in_realm(_: &World) -> Result<(), String> {
    for function in [0, smccc_ids::VERSION, smccc_ids::VENDOR_UID, pkvm_ids::MEM_SHARE, host::VERSION, u64::MAX] {
        let found = try_hvc([function, 0, 0, 0]);
        require!(found.is_err_and(|abort| abort.is_undefined()), "HVC {function:#x} gives {found:x?}");
    }
    Ok(())
}

/// A guest is offered one ABI, never both.
pub fn other_dialect(world: &World) -> Result<(), String> {
    let page = world.page();
    if world.is_realm() {
        for function in [smccc_ids::VENDOR_UID, pkvm_ids::FEATURES, pkvm_ids::HYP_MEMINFO, pkvm_ids::MEM_SHARE] {
            let [answer, ..] = smccc::smc(call(function, page, 0, 0));
            require!(answer == NOT_SUPPORTED, "SMC {function:#x} answers {answer:#x} in a realm");
        }
        return Ok(());
    }
    for function in [rsi_ids::VERSION, rsi_ids::REALM_CONFIG, rsi_ids::IPA_STATE_SET, rsi_ids::HOST_CALL] {
        let [answer, ..] = smccc::hvc(call(function, page, page + 4096, 0));
        require!(answer == NOT_SUPPORTED, "HVC {function:#x} answers {answer:#x} in a pKVM guest");
    }
    Ok(())
}

/// The host's calls are the host's.
pub fn host_calls(world: &World) -> Result<(), String> {
    for number in host::BASE..host::END {
        let arguments = [number, world.ram.start, 1, world.ram.start, 1, 1, 1];
        if world.is_realm() {
            let [answer, ..] = smccc::smc(arguments);
            require!(answer == NOT_SUPPORTED, "SMC {number:#x} answers {answer:#x}");
        } else {
            let [answer, ..] = smccc::hvc(arguments);
            require!(answer == NOT_SUPPORTED, "HVC {number:#x} answers {answer:#x}");
        }
    }
    Ok(())
}

/// Function identifiers of every owner, with and without the hint and 64-bit bits, and with rubbish above bit 31.
pub fn unknown(world: &World) -> Result<(), String> {
    for owner in 0..64u64 {
        for function in [0x77u64, 0x0fff, 0xfeee] {
            for flags in [0u64, 1 << 31, 3 << 30, 3 << 30 | 1 << 16] {
                let identifier = flags | owner << 24 | function;
                let arguments = [identifier, u64::MAX, 1, 2, 3, 4, 5];
                let [answer, ..] = if world.is_realm() { smccc::smc(arguments) } else { smccc::hvc(arguments) };
                require!(answer != 0, "call {identifier:#x} succeeds");
            }
        }
    }
    Ok(())
}

/// Only immediate zero is a call (DEN0028 section 2.9): undefined or not supported, and never carried out.
pub fn smc_immediate(_: &World) -> Result<(), String> {
    let mut x0 = abi::psci::VERSION;
    let found = payloads::attempt!(
        "smc #1";
        inout("x0") x0, out("x1") _, out("x2") _, out("x3") _, out("x4") _, out("x5") _, out("x6") _, out("x7") _,
        out("x8") _, out("x9") _, out("x10") _, out("x11") _, out("x12") _, out("x13") _, out("x14") _, out("x15") _,
        out("x16") _, out("x17") _,
    );
    require!(found.is_err() || x0 == NOT_SUPPORTED, "SMC #1 answers {x0:#x}");
    Ok(())
}
