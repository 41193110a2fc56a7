//! The redistributor of a vCPU: its SGIs and PPIs, and the GICR frames.

use core::sync::atomic::{AtomicBool, Ordering::SeqCst};

use super::bank::Bank;
use super::mmio::{self, Access, Frame, Register};
use super::{FIRST_PPI, FIRST_SPI, IIDR, PIDR2, VcpuMask, vcpu_bit};

/// The SGIs, as bits of their bank.
const SGIS: u64 = (1 << FIRST_PPI) - 1;

/// The private interrupts of one vCPU. Any CPU may post to it while the vCPU runs on another one.
pub struct CpuIf {
    pub(super) private: Bank,
    /// GICR_WAKER.ProcessorSleep, which ChildrenAsleep follows at once.
    asleep: AtomicBool,
}

impl CpuIf {
    /// The redistributor after reset.
    pub const fn new() -> Self {
        Self { private: Bank::new(SGIS), asleep: AtomicBool::new(true) }
    }

    /// Puts the redistributor into its reset state. The vCPU may not be running, and its [`ListRegs`](super::ListRegs)
    /// have to be [retired](super::retire) or new, for they are reset with it.
    pub fn reset(&self) {
        self.private.reset();
        self.asleep.store(true, SeqCst);
    }

    /// Sets the level of the wire of PPI `intid`, as for an SPI. An INTID that is not a PPI's is ignored.
    pub fn set_ppi(&self, intid: u32, level: bool) {
        if (FIRST_PPI..FIRST_SPI).contains(&intid) {
            self.private.set_line(intid, level);
        }
    }

    /// Makes SGI `intid` pending; the vCPU has to be kicked then. An INTID that is not an SGI's is ignored.
    pub fn post_sgi(&self, intid: u32) {
        if intid < FIRST_PPI {
            self.private.latch(intid);
        }
    }
}

impl Default for CpuIf {
    fn default() -> Self {
        Self::new()
    }
}

/// An access of a guest to the redistributor of vCPU `index` of `vcpu_count`: `size` bytes at `offset` from the start
/// of that redistributor, a write of the low bytes of the value if `write` is given. Every vCPU may access every
/// redistributor. Never fails: reserved registers read as zero and ignore writes.
pub fn redist_access(
    cpu: &CpuIf,
    index: usize,
    vcpu_count: usize,
    offset: u64,
    size: u32,
    write: Option<u64>,
) -> Access {
    mmio::access(&Redistributor { cpu, index, is_last: index + 1 >= vcpu_count }, offset, size, write)
}

// Offsets in the RD frame (IHI0069 §12.10). GICR_CTLR is RES0 as a whole: there are no LPIs to enable, no 1-of-N
// selection to take part in, and a write is complete before the guest can look at RWP.
const GICR_IIDR: u64 = 0x4;
const GICR_TYPER: u64 = 0x8;
const GICR_TYPER_HIGH: u64 = 0xc;
const GICR_WAKER: u64 = 0x14;
const GICR_PIDR2: u64 = 0xffe8;
/// Start of the second frame, with the registers of the SGIs and PPIs.
const SGI_FRAME: u64 = 0x1_0000;

// GICR_TYPER, low half (IHI0069 §12.11). PPInum (31:27) is 0 for 16 PPIs; the affinity is the high half.
const LAST: u32 = 1 << 4;
const PROCESSOR_NUMBER_SHIFT: u32 = 8;

// GICR_WAKER (IHI0069 §12.11). Interrupts are delivered in either state, which is what a guest that never sleeps and
// does not know about the register expects; one that does sleep disables its CPU interface first.
const PROCESSOR_SLEEP: u32 = 1 << 1;
const CHILDREN_ASLEEP: u32 = 1 << 2;

/// The two frames of one vCPU.
struct Redistributor<'a> {
    cpu: &'a CpuIf,
    index: usize,
    is_last: bool,
}

/// The register at `offset` of the redistributor, and the first interrupt it covers, which is private.
fn private_register(offset: u64) -> Option<(Register, u32)> {
    Register::at(offset.checked_sub(SGI_FRAME)?).filter(|&(_, first)| first < FIRST_SPI)
}

impl Frame for Redistributor<'_> {
    fn read(&self, offset: u64) -> (u32, VcpuMask) {
        if let Some((register, first)) = private_register(offset) {
            let stale = if register.is_volatile() { self.cpu.private.holders(register.covers(first)) } else { 0 };
            return (self.cpu.private.read(register, first), stale);
        }
        let value = match offset {
            GICR_IIDR => IIDR,
            GICR_TYPER => (self.index as u32) << PROCESSOR_NUMBER_SHIFT | if self.is_last { LAST } else { 0 },
            GICR_TYPER_HIGH => self.index as u32,
            GICR_WAKER if self.cpu.asleep.load(SeqCst) => PROCESSOR_SLEEP | CHILDREN_ASLEEP,
            GICR_PIDR2 => PIDR2,
            _ => 0,
        };
        (value, 0)
    }

    fn write(&self, offset: u64, value: u32, lanes: u32) -> VcpuMask {
        if let Some((register, first)) = private_register(offset) {
            // Guests write their own redistributor, so a kick too many costs nothing.
            let changed = self.cpu.private.write(register, first, value, lanes);
            return if changed != 0 { vcpu_bit(self.index) } else { 0 };
        }
        if offset == GICR_WAKER && lanes == u32::MAX {
            self.cpu.asleep.store(value & PROCESSOR_SLEEP != 0, SeqCst);
        }
        0
    }
}
