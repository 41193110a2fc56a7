//! The guest ABI of x86-64: Intel TDX.

use crate::world::{Dialect, World};
use abi::FRAME_SIZE;
use abi::tdx::{leaf, register};
use payloads::{apic, cpu, interrupt, mmu, tdcall, timer};

/// Asks the CPU, in the way that Linux does.
pub fn detect() -> Dialect {
    if tdcall::present() { Dialect::Tdx } else { Dialect::Bare }
}

/// What to add to an address to reach its shared alias: zero where there is none.
pub fn alias(dialect: Dialect) -> u64 {
    if dialect == Dialect::Tdx { mmu::ALIAS } else { 0 }
}

/// Opens pages to the host, or closes them.
///
/// # Errors
/// The status.
pub fn convert(_: &World, start: u64, count: u64, share: bool) -> Result<(), i64> {
    let bytes = count * FRAME_SIZE;
    if share {
        tdcall::map_gpa(start | tdcall::shared_bit(), bytes).map_err(|status| status as i64)
    } else {
        tdcall::make_private(start, bytes).map_err(|status| status as i64)
    }
}

/// The cheapest call that there is.
pub fn cheapest_call(_: &World) {
    core::hint::black_box(tdcall::call(leaf::VP_INFO, 0, 0, 0, 0)[register::RCX]);
}

/// One page of a kind that is there already, opened and closed with as few instructions as it takes: whether that worked.
pub fn share_unshare(_: &World, page: u64) -> bool {
    let shared = tdcall::map_gpa_once(page | tdcall::shared_bit(), FRAME_SIZE).0 == 0;
    shared && tdcall::map_gpa_once(page, FRAME_SIZE).0 == 0 && tdcall::accept(page, 0) == 0
}

/// An instruction that the hypervisor answers by itself, and its name.
pub const TRAP: Option<(&str, fn())> = Some(("cpuid", || {
    core::hint::black_box(cpu::cpuid(1, 0));
}));

/// Interrupts that come at once, taken and ended, and their names.
pub const EVENTS: &[(&str, fn())] = &[
    ("self-ipi", || cpu::wrmsr(apic::register::SELF, interrupt::SOFTWARE.start.into())),
    // A time that is past is now.
    ("timer", || timer::fire_at(1)),
];
