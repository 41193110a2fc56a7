//! What a hostile TDX guest tries. Each test passes when the refusal is the documented one, or, where the architecture
//! leaves a choice, when nothing happens; then the host has Postern check its books.

mod addresses;
mod calls;
mod code;
mod cpu;
mod devices;

use crate::table::{For, Test};

/// The attacks.
pub const TESTS: &[Test] = &[
    ("access-beyond-ram", For::Tdx, addresses::beyond_ram),
    ("access-beyond-address-space", For::Tdx, addresses::beyond_address_space),
    ("page-table-reserved-bits", For::Tdx, addresses::reserved_bits),
    ("page-tables-everywhere", For::Tdx, addresses::tables_everywhere),
    ("access-private-alias-of-shared", For::Tdx, addresses::private_alias),
    ("access-shared-alias-of-private", For::Tdx, addresses::shared_alias),
    ("execute-shared", For::Tdx, addresses::execute_shared),
    ("map-gpa-ranges", For::Tdx, calls::map_gpa_ranges),
    ("map-gpa-own-code", For::Tdx, calls::map_gpa_storm),
    ("accept-bad-operands", For::Tdx, calls::accept_operands),
    ("accept-shared", For::Tdx, calls::accept_shared),
    ("accept-twice", For::Tdx, calls::accept_twice),
    ("report-bad-addresses", For::Tdx, calls::report_addresses),
    ("rtmr-bad-operands", For::Tdx, calls::rtmr_operands),
    ("unknown-leaves", For::Tdx, calls::unknown_leaves),
    ("vmcall-register-mask", For::Tdx, calls::register_mask),
    ("vmcall-unknown-functions", For::Tdx, calls::unknown_functions),
    ("tdcall-from-ring-3", For::Tdx, calls::from_ring_3),
    ("tdcall-changed", For::Tdx, code::changed),
    ("host-calls-from-guest", For::Tdx, calls::host_calls),
    ("vmx-instructions", For::Tdx, cpu::vmx_instructions),
    ("cpuid-everything", For::Tdx, cpu::cpuid_everything),
    ("msr-everything", For::Tdx, cpu::msr_everything),
    ("control-registers", For::Tdx, cpu::control_registers),
    ("debug-registers", For::Tdx, cpu::debug_registers),
    ("debug-in-shadow", For::Tdx, cpu::debug_in_shadow),
    ("interrupt-in-shadow", For::Tdx, cpu::interrupt_in_shadow),
    ("cache-instructions", For::Tdx, cpu::cache_instructions),
    ("halt-storm", For::Tdx, cpu::halt_storm),
    ("undefined-instructions", For::Tdx, cpu::undefined),
    ("port-strings", For::Tdx, devices::port_strings),
    ("port-garbage", For::Tdx, devices::port_garbage),
    ("mmio-garbage", For::Tdx, devices::mmio_garbage),
    ("interrupt-command-garbage", For::Tdx, devices::command_garbage),
    ("apic-garbage", For::Tdx, devices::apic_garbage),
];
