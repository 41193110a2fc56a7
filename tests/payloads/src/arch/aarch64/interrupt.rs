//! Interrupts under the names that both architectures have.

use super::{Machine, gic, timer};
use crate::percpu;

/// Interrupts that programs send to each other.
pub const SOFTWARE: core::ops::Range<u32> = 0..16;
/// The interrupt that wakes other CPUs.
pub const WAKE: u32 = gic::SGI_WAKE;

/// Switches the machine's interrupt controller on; its registers are `alias` bytes from where the machine says. Once,
/// before any [`init_cpu`].
pub fn init(machine: &Machine, alias: u64) {
    gic::init(machine.distributor + alias, machine.redistributors + alias);
}

/// Readies the calling CPU.
pub fn init_cpu() {
    gic::init_cpu();
}

/// Sends `intid`, one of the 16 that software may send, to CPU `index`.
pub fn send(intid: u32, index: usize) {
    gic::send_sgi(intid, percpu::affinity(index));
}

/// Takes all pending interrupts of the calling CPU, which keeps them masked.
pub fn service() {
    loop {
        let intid = gic::acknowledge();
        if intid >= gic::SPURIOUS {
            return;
        }
        if intid == timer::INTID {
            timer::stop();
        }
        gic::end(intid);
    }
}
