//! Guests on x86-64: TDX guests.

mod apic;
pub mod attacks;
pub mod device;
pub mod dialect;
mod tdx;

use crate::table::{For, Test};
use crate::terminal;
use crate::world::World;
use abi::tdx::vmcall;
use payloads::{doom, tdcall};

/// The functional tests that only this architecture has.
pub const FUNCTIONAL: &[Test] = &[
    ("tdx-services", For::Tdx, tdx::services),
    ("tdx-metadata", For::Tdx, tdx::metadata),
    ("tdx-accept", For::Tdx, tdx::accept),
    ("tdx-map-gpa-retry", For::Tdx, tdx::map_gpa_retry),
    ("tdx-report", For::Tdx, tdx::report),
    ("tdx-virtualization-exception", For::Tdx, tdx::virtualization_exception),
    ("tdx-halt", For::Tdx, tdx::halt),
    ("tdx-ports", For::Tdx, tdx::ports),
    ("tdx-identity", For::Tdx, tdx::identity),
    ("speculation-control", For::Both, tdx::speculation_control),
    ("apic-registers", For::Both, apic::registers),
    ("apic-self-ipi", For::Both, apic::self_ipi),
    ("apic-priority", For::Both, apic::priority),
    ("apic-order", For::Both, apic::order),
    ("apic-masked-timer", For::Both, apic::masked_timer),
    ("apic-ipi-storm", For::Both, apic::ipi_storm),
];

/// Runs the terminal test `name`; `false` when there is none of that name here.
pub fn end(world: &World, name: &str) -> bool {
    match name {
        "triple-fault" => doom::triple_fault(),
        "fatal-error" => fatal_error(),
        "fatal-while-others-run" => {
            terminal::others_spin(world);
            fatal_error();
        }
        _ => return false,
    }
    true
}

fn fatal_error() {
    tdcall::vmcall(vmcall::REPORT_FATAL_ERROR, [0; 4]);
}
