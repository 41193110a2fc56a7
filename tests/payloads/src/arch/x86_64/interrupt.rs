//! Interrupts under the names that both architectures have. Numbers are vectors.

use super::{Machine, apic, cpu};
use crate::percpu;
use core::ops::Range;

/// Vectors that programs send to each other.
pub const SOFTWARE: Range<u32> = 0x40..0x50;
/// The interrupt that wakes other CPUs.
pub const WAKE: u32 = SOFTWARE.start + 1;

/// Silences the old interrupt controllers; guests have none. Once, before any [`init_cpu`].
pub fn init(_machine: &Machine, alias: u64) {
    if alias == 0 {
        // Both halves of the 8259A pair (their OCW1).
        cpu::outb(0x21, 0xff);
        cpu::outb(0xa1, 0xff);
    }
}

/// Readies the calling CPU: its local APIC.
pub fn init_cpu() {
    apic::enable();
}

/// Sends vector `vector` to CPU `index`.
pub fn send(vector: u32, index: usize) {
    apic::send(u64::from(vector), percpu::affinity(index));
}

/// Takes all pending interrupts of the calling CPU, which keeps them masked.
pub fn service() {
    cpu::unmask_interrupts();
    cpu::mask_interrupts();
}
