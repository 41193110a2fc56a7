//! What has to work.

mod conversion;
mod interrupts;
mod services;
mod state;

use crate::table::{For, Test};

/// The functional tests.
pub const TESTS: &[Test] = &[
    ("lazy-pages-are-zero", For::Both, conversion::lazy_pages_are_zero),
    ("private-refused-to-host", For::Both, conversion::private_refused_to_host),
    ("share-wipes", For::Both, conversion::share_wipes),
    ("shared-both-ways", For::Both, conversion::shared_both_ways),
    ("unshare-wipes", For::Both, conversion::unshare_wipes),
    ("share-untouched-page", For::Both, conversion::share_untouched_page),
    ("convert-2m", For::Both, conversion::convert_block),
    ("convert-part-of-2m", For::Both, conversion::convert_part_of_block),
    ("pinned-page-stays-shared", For::Both, conversion::pinned_page_stays_shared),
    ("set-ram-keeps-content", For::Realm, conversion::set_ram_keeps_content),
    ("timer-interrupt", For::Both, interrupts::timer),
    ("sgi-to-self", For::Both, interrupts::sgi_to_self),
    ("device-interrupt", For::Both, interrupts::device),
    ("other-vcpus", For::Both, interrupts::other_vcpus),
    ("registers-kept-across-exits", For::Both, state::registers_kept),
    ("fp-kept-across-exits", For::Both, state::vectors_kept),
    ("clock-is-monotonic", For::Both, state::clock_is_monotonic),
    ("psci-services", For::Both, services::psci),
    ("rsi-services", For::Realm, services::rsi),
    ("rsi-state-get", For::Realm, services::rsi_state_get),
    ("rsi-host-call", For::Realm, services::rsi_host_call),
    ("pkvm-services", For::Pkvm, services::pkvm),
];
