//! Postern's own translation, and the control registers that go with it (SDM volume 3, "Control Registers").

use super::features::{self, Feature};
use super::pages::{Builder, Table};
use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};
use loader::{BootError, Bytes};
use x86_64::registers::model_specific::Msr;

const EFER: u32 = 0xc000_0080;
const EFER_NXE: u64 = 1 << 11;
const PAT: u32 = 0x277;
/// Page attributes as they are after reset, whatever firmware has made of them. Used are entry 0, write-back, and entry 3,
/// uncacheable.
pub const PAT_RESET: u64 = 0x0007_0406_0007_0406;
/// CR0: protected mode, monitor coprocessor, extension type, numeric error, write protect, paging.
const CR0: u64 = 1 | 1 << 1 | 1 << 4 | 1 << 5 | 1 << 16 | 1 << 31;

static ROOT: AtomicU64 = AtomicU64::new(0);

/// Starts tables in `memory`.
///
/// # Errors
/// No room.
pub fn builder(memory: &Bytes) -> Result<Builder<'static>, BootError> {
    let count = (memory.end - memory.start) / abi::FRAME_SIZE;
    // SAFETY: frames below 4 GiB, so mapped, that the caller has set aside for nothing else.
    let tables = unsafe { core::slice::from_raw_parts_mut(memory.start as *mut Table, count as usize) };
    Builder::new(tables, memory.start, features::gigabyte_pages())
}

/// Control register 4 while Postern runs, VMX aside: physical address extension, machine checks, global pages, FXSAVE and
/// XSAVE for those who switch extended state, and what keeps a supervisor from a user's pages.
fn cr4() -> u64 {
    let optional = [(Feature::Umip, 11), (Feature::Smep, 20), (Feature::Smap, 21)];
    let optional =
        optional.iter().filter(|(feature, _)| features::has(*feature)).fold(0, |bits, (_, bit)| bits | 1 << bit);
    1 << 5 | 1 << 6 | 1 << 7 | 1 << 9 | 1 << 10 | 1 << 18 | optional
}

/// Sets this CPU's registers and uses the tables at `root`, which all CPUs share.
pub fn enable(root: u64) {
    ROOT.store(root, Ordering::Relaxed);
    // SAFETY: the tables map all that Postern uses at the same addresses as before. CR4 is written whole, so that nothing
    // firmware has left on stays on; writing it with PGE changed, and CR3, leaves nothing of old translations (SDM
    // volume 3, "Operations that Invalidate TLBs").
    unsafe {
        let mut efer = Msr::new(EFER);
        let value = efer.read();
        efer.write(value | EFER_NXE);
        Msr::new(PAT).write(PAT_RESET);
        asm!("mov cr0, {}", in(reg) CR0, options(nostack, preserves_flags));
        asm!("mov cr3, {}", in(reg) root, options(nostack, preserves_flags));
        asm!("mov cr4, {}", in(reg) cr4(), options(nostack, preserves_flags));
        asm!("mov cr3, {}", in(reg) root, options(nostack, preserves_flags));
    }
}

/// The root that [`enable`] was given first.
pub fn root() -> u64 {
    ROOT.load(Ordering::Relaxed)
}
