//! What has to work.

mod conversion;
mod interrupts;
#[cfg(target_arch = "aarch64")]
mod services;
mod state;
#[cfg(target_arch = "x86_64")]
mod tdx;

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
    #[cfg(target_arch = "aarch64")]
    ("set-ram-keeps-content", For::Realm, conversion::set_ram_keeps_content),
    ("timer-interrupt", For::Both, interrupts::timer),
    ("sgi-to-self", For::Both, interrupts::sgi_to_self),
    ("device-interrupt", For::Both, interrupts::device),
    ("other-vcpus", For::Both, interrupts::other_vcpus),
    ("registers-kept-across-exits", For::Both, state::registers_kept),
    ("fp-kept-across-exits", For::Both, state::vectors_kept),
    ("clock-is-monotonic", For::Both, state::clock_is_monotonic),
    #[cfg(target_arch = "aarch64")]
    ("psci-services", For::Both, services::psci),
    #[cfg(target_arch = "aarch64")]
    ("rsi-services", For::Realm, services::rsi),
    #[cfg(target_arch = "aarch64")]
    ("rsi-state-get", For::Realm, services::rsi_state_get),
    #[cfg(target_arch = "aarch64")]
    ("rsi-host-call", For::Realm, services::rsi_host_call),
    #[cfg(target_arch = "aarch64")]
    ("pkvm-services", For::Pkvm, services::pkvm),
    #[cfg(target_arch = "x86_64")]
    ("tdx-services", For::Tdx, tdx::services),
    #[cfg(target_arch = "x86_64")]
    ("tdx-metadata", For::Tdx, tdx::metadata),
    #[cfg(target_arch = "x86_64")]
    ("tdx-accept", For::Tdx, tdx::accept),
    #[cfg(target_arch = "x86_64")]
    ("tdx-map-gpa-retry", For::Tdx, tdx::map_gpa_retry),
    #[cfg(target_arch = "x86_64")]
    ("tdx-report", For::Tdx, tdx::report),
    #[cfg(target_arch = "x86_64")]
    ("tdx-virtualization-exception", For::Tdx, tdx::virtualization_exception),
    #[cfg(target_arch = "x86_64")]
    ("tdx-halt", For::Tdx, tdx::halt),
    #[cfg(target_arch = "x86_64")]
    ("tdx-ports", For::Tdx, tdx::ports),
    #[cfg(target_arch = "x86_64")]
    ("tdx-identity", For::Tdx, tdx::identity),
];
