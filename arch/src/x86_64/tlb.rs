//! Removal of second-level translations from every CPU's TLB (SDM volume 3, "Operations that Invalidate Cached Mappings",
//! "Guidelines for Use of the INVEPT Instruction").
//!
//! INVEPT acts on the CPU that executes it, and what it forgets is only used in VMX non-root operation. So each space has
//! a generation, each CPU remembers which generation it has seen, and looks again as the last thing before it enters
//! (`vectors`). A CPU in root operation is never waited for; one in non-root operation is sent an NMI, which makes it leave.

use super::{apic, host, percpu, stage2};
use core::ops::Range;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use guestmem::{OwnerId, Pfn, Space};

const SPACES: usize = abi::host::VMS_MAX + 1;
/// The host's VPID on every CPU; guests' begin at 8 (`vcpu`), and 0 is root's own.
pub const HOST_VPID: u16 = 1;

/// Looks at a CPU that does not leave before it is sent another NMI: tens of milliseconds.
const SPINS: u32 = 1 << 20;

/// EPTP of the host (index 0) and of every VM (by owner); 0 while there is none.
pub static EPTP: [AtomicU64; SPACES] = [const { AtomicU64::new(0) }; SPACES];
/// How often something was taken out of each space. A CPU that has seen less must not enter it. The first is 1, because a
/// CPU starts with 0 seen.
pub static GENERATION: [AtomicU64; SPACES] = [const { AtomicU64::new(1) }; SPACES];
/// How often something was taken out of each part of a guest's space.
static MOVES: [[AtomicU64; PLACES]; SPACES] = [const { [const { AtomicU64::new(0) }; PLACES] }; SPACES];
/// Parts: blocks of 2 MiB, by their number modulo this.
const PLACES: usize = 64;
/// CPUs that may be in non-root operation have smaller indices.
static CPUS: AtomicUsize = AtomicUsize::new(0);

/// Index of a space in the tables of this folder: 0 is the host. Fits, because owners are VM slots plus one.
pub fn index(space: Space) -> usize {
    match space {
        Space::Host => 0,
        Space::Guest(owner) => (owner.get() as usize).min(SPACES - 1),
    }
}

/// Remembers the root table of a space. The frame may have been another's root before, or this one's: no CPU enters before
/// it has forgotten that.
pub fn set_root(space: Space, root: Pfn) {
    EPTP[index(space)].store(stage2::eptp(root.addr()), Ordering::Release);
    moved_all(space);
    GENERATION[index(space)].fetch_add(1, Ordering::SeqCst);
}

/// EPTP of a space whose root is known.
pub fn eptp(space: Space) -> u64 {
    EPTP[index(space)].load(Ordering::Acquire)
}

/// This CPU is going to enter spaces from now on.
pub fn join(cpu: usize) {
    CPUS.fetch_max(cpu + 1, Ordering::SeqCst);
}

/// CPUs that are in VMX operation.
pub fn cpus() -> Range<usize> {
    0..CPUS.load(Ordering::SeqCst)
}

/// Completes the removal of a translation, of at most 2 MiB, from a space: the instruction knows no single addresses.
#[inline(always)]
pub fn flush(space: Space, address: u64) {
    // What the host has, nobody looks up by its places.
    if space != Space::Host {
        MOVES[index(space)][part(address)].fetch_add(1, Ordering::SeqCst);
    }
    forget(index(space));
}

/// Completes the removal of all translations from a space.
pub fn flush_all(space: Space) {
    moved_all(space);
    forget(index(space));
}

/// Something may have been taken out of any part.
fn moved_all(space: Space) {
    if space != Space::Host {
        for count in &MOVES[index(space)] {
            count.fetch_add(1, Ordering::SeqCst);
        }
    }
}

#[inline(always)]
fn forget(space: usize) {
    // A locked instruction: the entries written before are visible before it, and it is before the looks below (SDM volume
    // 3, "Memory Ordering"). `vectors` does the reverse: `running`, a fence, then the generation.
    let before = GENERATION[space].fetch_add(1, Ordering::SeqCst);
    let cpus = cpus();
    if cpus.end > 1 {
        drive_out(cpus, space, before + 1);
    }
}

/// Makes those of the CPUs leave `space` that may be using translations from before `generation`.
#[inline(never)]
fn drive_out(cpus: Range<usize>, space: usize, generation: u64) {
    let this = percpu::this().index.get();
    let others = || cpus.clone().filter(|cpu| *cpu != this);
    for cpu in others().filter(|cpu| inside(*cpu, space, generation)) {
        kick(cpu);
    }
    for cpu in others() {
        // Its NMI needs nothing of this CPU, so this ends; and should an NMI ever get lost, there is another.
        let mut spins = 0u32;
        while inside(cpu, space, generation) {
            core::hint::spin_loop();
            spins = spins.wrapping_add(1);
            if spins.is_multiple_of(SPINS) {
                // Marked, or the host would get it.
                percpu::of(cpu).kicked.store(true, Ordering::SeqCst);
                apic::send_nmi(percpu::of(cpu).apic_id.get());
            }
        }
    }
}

fn part(address: u64) -> usize {
    (address / abi::BLOCK_SIZE) as usize % PLACES
}

/// Pages of a guest's address space, and how often something was taken out of their surroundings.
///
/// Whoever looks up which frames are there may go on using the answers without a lock as long as [`Places::are_current`]: a
/// frame that leaves a guest is flushed before anybody else gets it. Asked after a read, in that order, it says that what was
/// read was the guest's.
#[derive(Clone, Copy, Debug)]
pub struct Places {
    all: &'static [AtomicU64; PLACES],
    counts: [&'static AtomicU64; Self::MOST],
    /// Of the counts when they were added. They only go up, so as long as the sum is the same, each is.
    sum: u64,
    free: usize,
}

/// Stands for counts that are not needed.
static NEVER: AtomicU64 = AtomicU64::new(0);

impl Places {
    /// A page of code, and the four tables on the way there.
    const MOST: usize = 5;

    /// None so far, of this guest.
    pub fn new(owner: OwnerId) -> Self {
        Self { all: &MOVES[index(Space::Guest(owner))], counts: [&NEVER; Self::MOST], sum: 0, free: 0 }
    }

    /// The page around an address, as it is now: before the look-up. None when there is no room.
    pub fn add(&mut self, address: u64) -> Option<()> {
        let count = &self.all[part(address)];
        *self.counts.get_mut(self.free)? = count;
        self.sum = self.sum.wrapping_add(count.load(Ordering::SeqCst));
        self.free += 1;
        Some(())
    }

    /// Whether nothing was taken out since.
    #[inline(always)]
    pub fn are_current(&self) -> bool {
        self.counts.iter().fold(0, |sum: u64, count| sum.wrapping_add(count.load(Ordering::SeqCst))) == self.sum
    }
}

/// Whether a CPU may be using translations of `space` from before `generation`.
fn inside(cpu: usize, space: usize, generation: u64) -> bool {
    let cpu = percpu::of(cpu);
    cpu.running.load(Ordering::SeqCst) == space as u64 + 1 && cpu.seen[space].load(Ordering::SeqCst) < generation
}

/// Makes a CPU leave non-root operation, or sleep in root operation, by an NMI. One that is on its way is enough for all.
pub fn kick(cpu: usize) {
    let cpu = percpu::of(cpu);
    if !cpu.kicked.swap(true, Ordering::SeqCst) {
        apic::send_nmi(cpu.apic_id.get());
    }
}

/// Whether the NMI that has just arrived is one of [`kick`]'s; otherwise it is kept for the host.
pub fn nmi_arrived() -> bool {
    let cpu = percpu::this();
    let ours = cpu.kicked.swap(false, Ordering::SeqCst);
    if !ours {
        host::pend_nmi(cpu);
    }
    ours
}
