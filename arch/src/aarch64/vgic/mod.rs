//! The GICv3 that a guest sees: distributor, redistributors and the filling of the list registers.
//!
//! Postern emulates the memory-mapped half of the controller itself; the CPU interface (ICC_* as seen by the guest,
//! ICV_* in the manual) is the hardware's, fed through the list registers. The host has one way in: the level of a
//! device's SPI line ([`Dist::set_spi`]). It can neither raise an SGI or a PPI nor see the state of any interrupt.
//!
//! The model is a GICv3 with a single security state (GICD_CTLR.DS = 1), affinity routing always on, 64 SPIs, no LPIs,
//! no message-based SPIs and no 1-of-N routing. vCPU `n` has the affinity 0.0.0.`n`. Register facts are from the *Arm
//! Generic Interrupt Controller Architecture Specification, GICv3 and GICv4*, cited as IHI0069 with chapter or section.
//!
//! # How the world switch uses it
//!
//! ```text
//! exit:   read the list registers -> set_ppi(27, timer output) -> drain -> kick(mask) -> handle the exit
//! entry:  fill -> kick(mask) -> write the list registers -> ERET
//! ```
//!
//! * An exit that has nothing to do with interrupts can go back without all this, the list registers stay in the
//!   hardware meanwhile. What does need it: a kick, a maintenance interrupt, a change of the timer's output, a WFI, and
//!   an access to the distributor or a redistributor. That access comes *after* `drain`, or the guest would find its
//!   own interrupts as they were before it acknowledged or ended them.
//! * From `fill` to ERET physical interrupts stay masked, so that a kick that arrives in between ends the run at once.
//! * Functions that can make an interrupt deliverable *elsewhere* return the set of vCPUs to kick: wake them when they
//!   wait, make them exit when they run. The bit of the vCPU that is being handled can be ignored, it passes `fill`.
//! * A maintenance interrupt (PPI 25) needs no handling of its own: `drain` and `fill` do all of it.
//! * HCR_EL2.IMO and FMO are both 1; a write to ICC_SGI1R_EL1 traps and goes through [`sgi_targets`] to
//!   [`CpuIf::post_sgi`].
//!
//! # Who owns an interrupt
//!
//! There are no locks: everything shared is an atomic, and each interrupt has one atomic `bank::Place`. A vCPU puts an
//! INTID into a list register only after it has moved the place from `Idle` to `Listed(itself)`, and only it moves it
//! back. So an INTID never sits in two list registers (UNPREDICTABLE: IHI0069 §12.4, `ICH_LR<n>_EL2`), however the
//! guest disables, re-routes or re-triggers it meanwhile. All accesses are sequentially consistent, because the kicks
//! rest on a store-then-load argument: one side makes the interrupt pending and then reads its place, the other frees
//! the place and then reads whether it is pending. At least one of the two sees both.

mod bank;
mod dist;
mod lr;
mod mmio;
mod redist;
mod sgi;
#[cfg(test)]
mod tests;

pub use dist::{BadIntid, Dist, dist_access};
pub use lr::{ListRegs, deliverable, drain, fill, retire};
pub use mmio::Access;
pub use redist::{CpuIf, redist_access};
pub use sgi::{SgiRequest, sgi_targets};

/// Number of shared peripheral interrupts: INTIDs 32 to 95.
pub const SPI_COUNT: usize = 64;

/// Most vCPUs one guest can have: a [`VcpuMask`] has a bit for each.
pub const MAX_VCPUS: usize = 32;

/// Size in bytes of the distributor's frame (IHI0069 §12.8).
pub const DIST_SIZE: u64 = 0x1_0000;

/// Size in bytes of one vCPU's redistributor: the RD frame, then the SGI frame (IHI0069 §12.10).
pub const REDIST_SIZE: u64 = 0x2_0000;

/// INTID of the EL1 virtual timer, a level-sensitive PPI (Arm BSA, PPI assignments).
pub const VIRTUAL_TIMER_INTID: u32 = 27;

/// A set of vCPUs of one guest: bit `n` is vCPU `n`.
pub type VcpuMask = u32;

/// First INTID of the SPIs; the ones below are private to a vCPU (IHI0069 §2.2).
const FIRST_SPI: u32 = 32;

/// First INTID of the PPIs; the ones below are SGIs (IHI0069 §2.2).
const FIRST_PPI: u32 = 16;

/// GICD_PIDR2 and GICR_PIDR2: ArchRev (7:4) is 3 for GICv3; the JEP106 flag (3) is RES1 (IHI0069 §12.9, §12.11).
const PIDR2: u32 = 3 << 4 | 1 << 3;

/// GICD_IIDR and GICR_IIDR: product `P` in 31:24, and no JEP106 implementer, so that no driver's erratum list matches.
const IIDR: u32 = (b'P' as u32) << 24;

/// The mask with only `vcpu` in it; empty when there can be no such vCPU.
fn vcpu_bit(vcpu: usize) -> VcpuMask {
    if vcpu < MAX_VCPUS { 1 << vcpu } else { 0 }
}

/// The mask of the vCPUs `0..count`.
fn all_vcpus(count: usize) -> VcpuMask {
    if count < MAX_VCPUS { (1 << count) - 1 } else { VcpuMask::MAX }
}
