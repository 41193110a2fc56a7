//! The distributor: the SPIs of a guest, and the GICD frame.

use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering::SeqCst};

use super::bank::{Bank, Groups, Place, WIDTH, bits};
use super::mmio::{self, Access, Frame, Register};
use super::{FIRST_SPI, IIDR, MAX_VCPUS, PIDR2, SPI_COUNT, VcpuMask, all_vcpus, vcpu_bit};

const _: () = assert!(SPI_COUNT == WIDTH, "one bit for each SPI");

/// The distributor of one guest, shared by its vCPUs and by whoever carries the host's device interrupts.
pub struct Dist {
    /// EnableGrp0 and EnableGrp1 of GICD_CTLR.
    enabled_groups: AtomicU32,
    vcpu_count: AtomicUsize,
    pub(super) spis: Bank,
    /// The affinity (Aff2, Aff1, Aff0 in 23:0) of the vCPU that gets each SPI.
    route: [AtomicU32; SPI_COUNT],
}

/// The INTID, which is given, is not one of an SPI that the guest has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadIntid(pub u32);

impl Dist {
    /// A distributor after reset, of a guest without vCPUs.
    pub const fn new() -> Self {
        Self {
            enabled_groups: AtomicU32::new(0),
            vcpu_count: AtomicUsize::new(0),
            spis: Bank::new(0),
            route: [const { AtomicU32::new(0) }; SPI_COUNT],
        }
    }

    /// Puts the distributor into its reset state for `vcpu_count` vCPUs (no more than [`MAX_VCPUS`] count). No vCPU may
    /// be running; what their list registers still hold is discarded at their next [`drain`](super::drain).
    pub fn reset(&self, vcpu_count: usize) {
        self.vcpu_count.store(vcpu_count.min(MAX_VCPUS), SeqCst);
        self.enabled_groups.store(0, SeqCst);
        self.spis.reset();
        for route in &self.route {
            route.store(0, SeqCst);
        }
    }

    /// Sets the level of a device's line and returns the vCPU to kick: the one it is routed to, or the one that still
    /// has the interrupt in its list registers. A rising level latches an SPI that the guest has made edge-triggered,
    /// a high one keeps a level-sensitive SPI pending.
    ///
    /// # Errors
    /// `intid` is not that of an SPI.
    pub fn set_spi(&self, intid: u32, level: bool) -> Result<usize, BadIntid> {
        let bit = spi_bit(intid).ok_or(BadIntid(intid))?;
        self.spis.set_line(bit, level);
        let holder = self.spis.place(bit).holder();
        // An SPI that is routed nowhere stays pending; some vCPU has to be named, and a needless kick does no harm.
        Ok(holder.or_else(|| self.route(bit)).unwrap_or(0))
    }

    pub(super) fn groups(&self) -> Groups {
        let enabled = self.enabled_groups.load(SeqCst);
        Groups { group0: enabled & ENABLE_GRP0 != 0, group1: enabled & ENABLE_GRP1 != 0 }
    }

    /// The vCPU that SPI `bit` is routed to, if it exists.
    pub(super) fn route(&self, bit: u32) -> Option<usize> {
        let affinity = self.route[bit as usize].load(SeqCst) as usize;
        (affinity < self.vcpu_count.load(SeqCst)).then_some(affinity)
    }

    /// The vCPUs that have to act on the SPIs `mask`, whose state has just changed: the holder, which alone can let go
    /// of the interrupt, or else the vCPU it is routed to if it is deliverable.
    pub(super) fn concerned(&self, mask: u64) -> VcpuMask {
        let ready = self.spis.ready(self.groups());
        bits(mask).fold(0, |concerned, bit| {
            let vcpu = match self.spis.place(bit) {
                Place::Idle if ready & 1 << bit != 0 => self.route(bit),
                place => place.holder(),
            };
            concerned | vcpu.map_or(0, vcpu_bit)
        })
    }
}

impl Default for Dist {
    fn default() -> Self {
        Self::new()
    }
}

/// The bank's bit of an SPI.
pub(super) fn spi_bit(intid: u32) -> Option<u32> {
    intid.checked_sub(FIRST_SPI).filter(|&bit| (bit as usize) < SPI_COUNT)
}

/// An access of a guest to the distributor: `size` bytes at `offset` from the start of the frame, a write of the low
/// bytes of the value if `write` is given. Never fails: reserved registers read as zero and ignore writes.
pub fn dist_access(dist: &Dist, offset: u64, size: u32, write: Option<u64>) -> Access {
    mmio::access(dist, offset, size, write)
}

// Offsets of the registers that are there once (IHI0069 §12.8).
const GICD_CTLR: u64 = 0x0;
const GICD_TYPER: u64 = 0x4;
const GICD_IIDR: u64 = 0x8;
const GICD_IROUTER32: u64 = 0x6100;
const GICD_IROUTER_END: u64 = GICD_IROUTER32 + 8 * SPI_COUNT as u64;
const GICD_PIDR2: u64 = 0xffe8;

// GICD_CTLR with a single security state (IHI0069 §12.9). RWP (31) is always 0, writes take effect at once.
const ENABLE_GRP0: u32 = 1 << 0;
const ENABLE_GRP1: u32 = 1 << 1;
/// Affinity routing: RAO/WI, there is no GICv2 compatibility.
const ARE: u32 = 1 << 4;
/// Disable Security: RAO/WI, there are no two security states.
const DS: u32 = 1 << 6;

/// GICD_TYPER (IHI0069 §12.9): ITLinesNumber (4:0) for INTIDs below 96; IDbits (23:19) for 10 bits of INTID; No1N (25);
/// RSS (26), as Aff0 may exceed 15. MBIS (16) and LPIS (17) are 0, and so is A3V (24): affinity level 3 is always 0.
const TYPER: u32 = ((SPI_COUNT as u32 + FIRST_SPI) / 32 - 1) | ((10 - 1) << 19) | 1 << 25 | 1 << 26;

/// The implemented part of `GICD_IROUTER<n>`: Aff2 to Aff0. With A3V = 0 and No1N = 1 all else is RES0.
const AFFINITY: u32 = 0x00ff_ffff;

/// The SPI, as a bit of its bank, whose GICD_IROUTER is at `offset`, if that is the half which is not RES0.
fn routed_spi(offset: u64) -> Option<u32> {
    let low_half = (GICD_IROUTER32..GICD_IROUTER_END).contains(&offset) && offset.is_multiple_of(8);
    low_half.then(|| ((offset - GICD_IROUTER32) / 8) as u32)
}

/// The register at `offset`, and the first SPI, as a bit of the bank, that it covers. With affinity routing the fields
/// of SGIs and PPIs are RES0 here, the redistributors have them.
fn spi_register(offset: u64) -> Option<(Register, u32)> {
    let (register, first) = Register::at(offset)?;
    Some((register, spi_bit(first)?))
}

impl Frame for Dist {
    fn read(&self, offset: u64) -> (u32, VcpuMask) {
        if let Some((register, first)) = spi_register(offset) {
            // State inside the list registers of running vCPUs is as old as their last exit. Making them exit gives a
            // guest that polls (Linux's synchronize_irq) the truth on its next read.
            let stale = if register.is_volatile() { self.spis.holders(register.covers(first)) } else { 0 };
            return (self.spis.read(register, first), stale);
        }
        if let Some(bit) = routed_spi(offset) {
            return (self.route[bit as usize].load(SeqCst), 0);
        }
        let value = match offset {
            GICD_CTLR => self.enabled_groups.load(SeqCst) | ARE | DS,
            GICD_TYPER => TYPER,
            GICD_IIDR => IIDR,
            GICD_PIDR2 => PIDR2,
            _ => 0,
        };
        (value, 0)
    }

    fn write(&self, offset: u64, value: u32, lanes: u32) -> VcpuMask {
        if let Some((register, first)) = spi_register(offset) {
            return self.concerned(self.spis.write(register, first, value, lanes));
        }
        if lanes != u32::MAX {
            return 0;
        }
        if let Some(bit) = routed_spi(offset) {
            self.route[bit as usize].store(value & AFFINITY, SeqCst);
            return self.concerned(1 << bit);
        }
        if offset == GICD_CTLR {
            let enabled = value & (ENABLE_GRP0 | ENABLE_GRP1);
            if self.enabled_groups.swap(enabled, SeqCst) != enabled {
                return all_vcpus(self.vcpu_count.load(SeqCst));
            }
        }
        0
    }
}
