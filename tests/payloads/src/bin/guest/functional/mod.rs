//! What has to work.

mod conversion;
pub mod interrupts;
mod state;

use crate::arch::device;
use crate::table::{For, Test};

/// The functional tests that all architectures have.
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
    ("timer-interrupt", For::Both, interrupts::timer),
    ("sgi-to-self", For::Both, interrupts::sgi_to_self),
    ("device-interrupt", For::Both, device::device),
    ("other-vcpus", For::Both, interrupts::other_vcpus),
    ("registers-kept-across-exits", For::Both, state::registers_kept),
    ("fp-kept-across-exits", For::Both, state::vectors_kept),
    ("fault-address-kept-across-exits", For::Both, state::fault_address_kept),
    ("clock-is-monotonic", For::Both, state::clock_is_monotonic),
];
