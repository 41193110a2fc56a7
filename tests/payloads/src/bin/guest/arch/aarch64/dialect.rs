//! The guest ABIs of arm64: Arm CCA and pKVM.

use crate::world::{Dialect, World};
use abi::{FRAME_SIZE, pkvm, rsi, smccc as ids};
use payloads::{psci, rsi as realm, smccc};

/// Asks the hypervisor, in the way that Linux does.
pub fn detect() -> Dialect {
    if psci::by_smc() {
        let [status, ..] = realm::version(rsi::VERSION_1_0);
        return if status == rsi::SUCCESS { Dialect::Realm } else { Dialect::Bare };
    }
    let uid = smccc::hvc(smccc::call(ids::VENDOR_UID, 0, 0, 0));
    if uid.map(|word| word & 0xffff_ffff) == pkvm::KVM_UID { Dialect::Pkvm } else { Dialect::Bare }
}

/// What to add to an address to reach its shared alias: zero where there is none.
pub fn alias(dialect: Dialect) -> u64 {
    if dialect == Dialect::Realm { 1 << (rsi::IPA_BITS - 1) } else { 0 }
}

/// Opens pages to the host, or closes them.
///
/// # Errors
/// The dialect's code.
pub fn convert(world: &World, start: u64, count: u64, share: bool) -> Result<(), i64> {
    if world.is_realm() {
        let state = if share { rsi::RIPAS_EMPTY } else { rsi::RIPAS_RAM };
        return realm::set_state(start, start + count * FRAME_SIZE, state).map_err(|status| status as i64);
    }
    let call = if share { payloads::pkvm::share } else { payloads::pkvm::unshare };
    for n in 0..count {
        match call(start + n * FRAME_SIZE) {
            0 => {}
            code => return Err(code),
        }
    }
    Ok(())
}

/// The cheapest call that there is.
pub fn cheapest_call(world: &World) {
    if world.is_realm() {
        core::hint::black_box(realm::version(rsi::VERSION_1_0));
    } else {
        core::hint::black_box(smccc::hvc(smccc::call(pkvm::FEATURES, 0, 0, 0)));
    }
}

/// One page of a kind that is there already, opened and closed with as few instructions as it takes: whether that worked.
pub fn share_unshare(world: &World, page: u64) -> bool {
    if world.is_realm() {
        let to = |state| realm::ipa_state_set(page, page + FRAME_SIZE, state, 0)[0] == rsi::SUCCESS;
        to(rsi::RIPAS_EMPTY) & to(rsi::RIPAS_RAM)
    } else {
        payloads::pkvm::share(page) == 0 && payloads::pkvm::unshare(page) == 0
    }
}

/// An instruction that the hypervisor answers by itself, and its name: there is none that programs use often.
pub const TRAP: Option<(&str, fn())> = None;

/// Interrupts that come at once, taken and ended, and their names: not measured here.
pub const EVENTS: &[(&str, fn())] = &[];
