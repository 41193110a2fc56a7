//! The registers, in a page laid out as CPUs that virtualise APICs have it (SDM "Virtual APIC State" and "Virtual-APIC
//! Page"): the register of MSR 0x800 + n is at 16 * n. Software and the CPU find and leave them there alike.

use abi::FRAME_SIZE;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// First MSRs of the registers that hold a set of vectors: in service, requested; eight registers of 32 vectors each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Set {
    InService = 0x810,
    Requested = 0x820,
}

/// One vCPU's. Only the CPU that runs the vCPU uses it, Postern and guest in turn; atomics, because the CPU writes it while
/// the guest runs.
#[repr(transparent)]
pub struct Page([AtomicU32; FRAME_SIZE as usize / 4]);

impl core::fmt::Debug for Page {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        // Never print what is in it: it belongs to the guest.
        f.write_str("Page")
    }
}

impl Page {
    /// All zero, as a frame of metadata comes.
    pub const fn new() -> Self {
        Self([const { AtomicU32::new(0) }; FRAME_SIZE as usize / 4])
    }

    pub(super) fn clear(&self) {
        self.0.iter().for_each(|word| word.store(0, Relaxed));
    }

    fn word(&self, msr: u32) -> &AtomicU32 {
        &self.0[(msr as usize & 0xff) * 4]
    }

    pub(super) fn get(&self, msr: u32) -> u32 {
        self.word(msr).load(Relaxed)
    }

    pub(super) fn set(&self, msr: u32, value: u32) {
        self.word(msr).store(value, Relaxed);
    }

    /// All that RDMSR reads: the word above is part of it, which only the interrupt command register uses.
    pub(super) fn wide(&self, msr: u32) -> u64 {
        let above = self.0[(msr as usize & 0xff) * 4 + 1].load(Relaxed);
        u64::from(above) << 32 | u64::from(self.get(msr))
    }

    pub(super) fn set_wide(&self, msr: u32, value: u64) {
        self.set(msr, value as u32);
        self.0[(msr as usize & 0xff) * 4 + 1].store((value >> 32) as u32, Relaxed);
    }

    fn part(&self, set: Set, vector: u8) -> &AtomicU32 {
        self.word(set as u32 + u32::from(vector / 32))
    }

    // Nobody else writes meanwhile, so a load and a store do; a locked instruction would cost more.
    pub(super) fn insert(&self, set: Set, vector: u8) {
        let part = self.part(set, vector);
        part.store(part.load(Relaxed) | 1 << (vector % 32), Relaxed);
    }

    pub(super) fn remove(&self, set: Set, vector: u8) {
        let part = self.part(set, vector);
        part.store(part.load(Relaxed) & !(1 << (vector % 32)), Relaxed);
    }

    /// The highest vector of a set, 0 for none: no interrupt has that one.
    pub(super) fn highest(&self, set: Set) -> u8 {
        for word in (0..8).rev() {
            if let Some(bit) = self.get(set as u32 + word).checked_ilog2() {
                return (word * 32 + bit) as u8;
            }
        }
        0
    }
}

impl Default for Page {
    fn default() -> Self {
        Self::new()
    }
}
