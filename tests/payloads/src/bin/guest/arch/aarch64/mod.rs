//! Guests on arm64: realms and pKVM guests.

pub mod attacks;
pub mod device;
pub mod dialect;
mod services;

use crate::table::{For, Test};
use crate::world::World;
use payloads::say;

/// The functional tests that only this architecture has.
pub const FUNCTIONAL: &[Test] = &[
    ("set-ram-keeps-content", For::Realm, services::set_ram_keeps_content),
    ("psci-services", For::Both, services::psci),
    ("rsi-services", For::Realm, services::rsi),
    ("rsi-state-get", For::Realm, services::rsi_state_get),
    ("rsi-host-call", For::Realm, services::rsi_host_call),
    ("pkvm-services", For::Pkvm, services::pkvm),
];

/// Runs the terminal test `name`; `false` when there is none of that name here.
pub fn end(_: &World, name: &str) -> bool {
    let known = name == "aarch32";
    if known {
        aarch32();
    }
    known
}

/// An exception return to AArch32, which the guest does not have at EL1.
fn aarch32() {
    let found = payloads::attempt!(
        "msr spsr_el1, {spsr}", "adr {t}, 98f", "msr elr_el1, {t}", "eret", "98:";
        spsr = in(reg) 0x1d3u64, t = out(reg) _,
    );
    say!("guest: illegal exception return gives {found:x?}");
}
