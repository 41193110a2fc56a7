//! A machine in host memory, for tests.
//!
//! It has arm64's table format and interrupt distributor, which are pure, a TLB that stays stale until it is flushed, and
//! vCPUs whose guests do what a test has written down ([`Instruction`]). Items and file names are those of
//! `aarch64`, which is what makes it a third architecture; what only tests use is added behind them.

mod machine;
mod serial;
mod vcpu;

pub use machine::{
    DIALECTS, Format, LOW_MEMORY, Machine, VCPU_FRAMES, cpu, describe_host, forget_instructions, frequency,
    hidden_devices, host_image, interrupt_cpu, ipa_bits, longest, now, power_off, run_host, set_cpu, set_root,
};
pub use serial::{Serial, printed};
pub use vcpu::{Exception, Instruction, Vcpu, Vm};
