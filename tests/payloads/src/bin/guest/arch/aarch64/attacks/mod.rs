//! What a hostile guest tries. Each test passes when the refusal is the documented one, or, where the architecture
//! leaves a choice, when nothing happens; then the host has Postern check its books.

mod addresses;
mod calls;
mod cpu;
mod devices;
mod pkvm;
mod power;
mod rsi;

use crate::table::{For, Test};

/// The attacks.
pub const TESTS: &[Test] = &[
    ("access-beyond-ram", For::Both, addresses::beyond_ram),
    ("access-beyond-address-space", For::Both, addresses::beyond_address_space),
    ("stage1-points-everywhere", For::Both, addresses::everywhere),
    ("access-empty", For::Realm, addresses::empty),
    ("execute-shared", For::Realm, addresses::execute_shared),
    ("execute-device", For::Both, addresses::execute_device),
    ("tables-in-shared-memory", For::Both, addresses::tables_in_shared_memory),
    ("rsi-ranges", For::Realm, rsi::ranges),
    ("rsi-wraparound", For::Realm, rsi::wraparound),
    ("rsi-huge-range", For::Realm, rsi::huge_range),
    ("rsi-bad-state", For::Realm, rsi::bad_state),
    ("rsi-config-bad-page", For::Realm, rsi::config_bad_page),
    ("rsi-host-call-bad-address", For::Realm, rsi::host_call_bad_address),
    ("rsi-token-without-init", For::Realm, rsi::token_without_init),
    ("rsi-measurement-bad-index", For::Realm, rsi::measurement_bad_index),
    ("rsi-unknown-functions", For::Realm, rsi::unknown_functions),
    ("hvc-in-realm", For::Realm, calls::hvc_in_realm),
    ("pkvm-share-bad-address", For::Pkvm, pkvm::share_bad_address),
    ("pkvm-share-device", For::Pkvm, pkvm::share_device),
    ("pkvm-share-twice", For::Pkvm, pkvm::share_twice),
    ("pkvm-unshare-not-shared", For::Pkvm, pkvm::unshare_not_shared),
    ("pkvm-reserved-arguments", For::Pkvm, pkvm::reserved_arguments),
    ("pkvm-guard-ram", For::Pkvm, pkvm::guard_ram),
    ("other-dialect", For::Both, calls::other_dialect),
    ("host-calls-from-guest", For::Both, calls::host_calls),
    ("unknown-calls", For::Both, calls::unknown),
    ("smc-immediate", For::Both, calls::smc_immediate),
    ("cpu-on-bad-entry", For::Both, power::cpu_on_bad_entry),
    ("cpu-on-bad-target", For::Both, power::cpu_on_bad_target),
    ("psci-garbage", For::Both, power::garbage),
    ("cpu-on-race", For::Both, power::cpu_on_race),
    ("el2-registers", For::Both, cpu::el2_registers),
    ("pmu-registers", For::Both, cpu::pmu_registers),
    ("debug-registers", For::Both, cpu::debug_registers),
    ("physical-timer", For::Both, cpu::physical_timer),
    ("sve-is-not-there", For::Both, cpu::no_sve),
    ("set-way-operations", For::Both, cpu::set_way),
    ("invalidation-storm", For::Both, cpu::invalidation_storm),
    ("wfi-storm", For::Both, cpu::wfi_storm),
    ("id-registers-sane", For::Both, cpu::id_registers),
    ("gic-garbage", For::Both, devices::gic_garbage),
    ("gic-sysregs", For::Both, devices::gic_sysregs),
    ("sgi-flood", For::Both, devices::sgi_flood),
    ("device-odd-instructions", For::Both, devices::odd_instructions),
    ("device-odd-sizes", For::Both, devices::odd_sizes),
];
