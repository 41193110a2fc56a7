//! `MMIO_GUARD` and its `ENROLL`: which addresses outside RAM are devices. Without it the host answers accesses to all of
//! them, and could make a guest believe in a device where it means to have memory, or nothing.

use crate::call::guest::Answer;
use crate::call::host::vm_create::{GICD_SIZE, GICR_SIZE};
use crate::vm::Vm;
use abi::pkvm::{INVALID_PARAMETER, MMIO_GUARD_MAX};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What a guest has declared.
#[derive(Debug)]
pub struct Guards {
    enrolled: AtomicBool,
    /// Numbers of granules plus one; 0 is free. Nothing is ever taken out.
    granules: [AtomicU64; MMIO_GUARD_MAX],
}

impl Guards {
    /// A guest that has declared nothing, and has not said that it will.
    pub const fn new() -> Self {
        Self { enrolled: AtomicBool::new(false), granules: [const { AtomicU64::new(0) }; MMIO_GUARD_MAX] }
    }

    /// Whether the host may answer an access to `address`, which is not RAM.
    pub fn admit(&self, address: u64) -> bool {
        let wanted = address / abi::FRAME_SIZE + 1;
        !self.is_enrolled() || self.granules.iter().any(|granule| granule.load(Ordering::Acquire) == wanted)
    }

    fn is_enrolled(&self) -> bool {
        self.enrolled.load(Ordering::Acquire)
    }

    /// False when there is no room.
    fn add(&self, address: u64) -> bool {
        let wanted = address / abi::FRAME_SIZE + 1;
        self.granules.iter().any(|granule| {
            let before = granule.compare_exchange(0, wanted, Ordering::AcqRel, Ordering::Acquire);
            before.map_or_else(|found| found == wanted, |_| true)
        })
    }
}

impl Default for Guards {
    fn default() -> Self {
        Self::new()
    }
}

/// Declares a granule. The other arguments are rubbish in the callers there are.
pub fn run(vm: &Vm, [address, ..]: [u64; 3]) -> Answer {
    let well_formed = address.is_multiple_of(abi::FRAME_SIZE) && address < 1 << arch::machine::ipa_bits();
    let device = well_formed && vm.ram(address).is_none();
    // A guest that does not enroll has every device there is; Linux declares them all the same.
    let taken = device && (!vm.guards.is_enrolled() || is_interrupt_controller(vm, address) || vm.guards.add(address));
    Answer::status(if taken { 0 } else { INVALID_PARAMETER })
}

/// The interrupt controller is Postern's, so there is nothing to remember of its many granules.
fn is_interrupt_controller(vm: &Vm, address: u64) -> bool {
    let (distributor, redistributors) = (vm.config.gicd_base, vm.config.gicr_base);
    let within = |base: u64, size: u64| (base..base + size).contains(&address);
    within(distributor, GICD_SIZE) || within(redistributors, vm.config.vcpu_count * GICR_SIZE)
}

/// From now on what is not declared is nothing.
pub fn enroll(vm: &Vm) -> Answer {
    vm.guards.enrolled.store(true, Ordering::Release);
    Answer::status(0)
}
