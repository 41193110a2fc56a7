//! Removal of stage-2 translations from every CPU's TLB (Arm ARM D8.17).
//!
//! Combined stage 1 and 2 entries are not tagged with the IPA, so after the stage-2 entry all stage-1 entries of the
//! VMID have to go; stage 2 first, because a walk could refill a combined entry from a stage-2 entry still cached.

use super::sysreg::{instruction, isb, mrs, msr};
use core::sync::atomic::{AtomicU64, Ordering};
use guestmem::{OwnerId, Pfn, Space};

/// VTTBR_EL2 of the host (index 0, VMID 0) and of every VM (VMID = owner).
static VTTBR: [AtomicU64; abi::host::VMS_MAX + 1] = [const { AtomicU64::new(0) }; abi::host::VMS_MAX + 1];

/// Remembers the root table of a space, for [`vttbr`].
pub fn set_root(space: Space, root: Pfn) {
    let vmid = vmid(space);
    VTTBR[vmid].store((vmid as u64) << 48 | root.addr(), Ordering::Release);
}

/// VTTBR_EL2 of a space whose root is known.
pub fn vttbr(space: Space) -> u64 {
    VTTBR[vmid(space)].load(Ordering::Acquire)
}

/// VMID of the VM `owner`: fits, because owners are VM slots plus one.
fn vmid(space: Space) -> usize {
    match space {
        Space::Host => 0,
        Space::Guest(owner) => owner_index(owner),
    }
}

fn owner_index(owner: OwnerId) -> usize {
    (owner.get() as usize).min(abi::host::VMS_MAX)
}

/// Runs `maintenance` with the VMID of `space` current: by-IPA and by-VMID maintenance acts on VTTBR_EL2.
#[inline]
fn in_space(space: Space, maintenance: impl FnOnce()) {
    let (wanted, current) = (vttbr(space), mrs!("vttbr_el2"));
    // The table writes before this must be visible to every walker before the first invalidation (D8.17.5).
    instruction!("dsb ishst");
    if wanted == current {
        maintenance();
    } else {
        msr!("vttbr_el2", wanted);
        isb();
        maintenance();
        msr!("vttbr_el2", current);
    }
    isb();
}

/// Completes the removal of one page or block at `address` (IPA in bytes).
pub fn flush(space: Space, address: u64) {
    in_space(space, || {
        instruction!("tlbi ipas2e1is, {}", address >> 12);
        instruction!("dsb ish");
        instruction!("tlbi vmalle1is");
        instruction!("dsb ish");
    });
}

/// Completes the removal of everything in a space.
pub fn flush_all(space: Space) {
    in_space(space, || {
        instruction!("tlbi vmalls12e1is");
        instruction!("dsb ish");
    });
}

/// Forgets everything of EL1 and EL0 that this CPU's TLB holds, for all VMIDs.
pub fn forget_all() {
    instruction!("tlbi alle1");
    instruction!("dsb nsh");
    isb();
}

/// Forgets this CPU's stage-1 entries and instructions of the current VMID: two vCPUs of a VM may use one ASID for
/// different things, and they share the VMID.
pub fn flush_local_stage1() {
    instruction!("tlbi vmalle1");
    instruction!("ic iallu");
    instruction!("dsb nsh");
    isb();
}
