//! Where the last TDCALL was, so that the next one from there needs no walk of the guest's tables.
//!
//! What is remembered is where the words of that walk are, not what they lead to: each time they are read again, from the
//! guest's memory, and have to say what they said, as have the registers that say where the walk begins and for whom. So a guest
//! that changes its tables or its code is always understood as the CPU understands it. What can go stale is only where a guest's
//! page is; [`Places`] tells when any has moved, and is looked at after all that is read: what was read while a page went to
//! somebody else is not used.

use super::exits::{self, CR4_SMEP};
use super::tlb::Places;
use super::vcpu::{LONG_ACTIVE, LONG_CODE};
use super::vmx::{self, field};
use super::walk::{PAGE_BITS, Paging};
use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};
use guestmem::{OwnerId, Pfn};

/// Levels of a guest's tables.
const LEVELS: usize = 4;
/// Access rights of a code segment: it runs at the level of whoever goes there.
const CONFORMING: u64 = 1 << 2;
/// The last place in a page where a whole TDCALL has room.
const LAST: u64 = abi::FRAME_SIZE - exits::TDCALL.len() as u64;

/// What decides how the loaded guest fetches, as the VMCS has it.
#[derive(Clone, Copy, Debug)]
pub struct Mode {
    cr3: u64,
    cr4: u64,
    efer: u64,
    code_rights: u64,
    stack_rights: u64,
}

impl Mode {
    /// The loaded guest's.
    pub fn read() -> Self {
        Self {
            cr3: vmx::read(field::GUEST_CR3),
            cr4: vmx::read(field::GUEST_CR4),
            efer: vmx::read(field::GUEST_EFER),
            code_rights: vmx::read(field::GUEST_CS_RIGHTS),
            stack_rights: vmx::read(field::GUEST_SS_RIGHTS),
        }
    }

    /// In 64-bit mode.
    pub fn is_long(&self) -> bool {
        self.efer & LONG_ACTIVE != 0 && self.code_rights & LONG_CODE != 0
    }

    /// At privilege level 0: the level is that of SS (SDM volume 3, "Guest Register State").
    pub fn is_kernel(&self) -> bool {
        self.stack_rights >> 5 & 0b11 == 0
    }

    /// At privilege level 0 for as long as the code segment's rights are the same: a segment that does not conform has the level
    /// of the stack segment (SDM volume 3, "Checks on Guest Segment Registers").
    fn is_kernel_by_code(&self) -> bool {
        self.is_kernel() && self.code_rights & CONFORMING == 0
    }

    /// Where its code is, in 64-bit mode.
    pub fn paging(&self, physical_bits: u32) -> Paging {
        Paging { cr3: self.cr3, smep: self.cr4 & CR4_SMEP != 0, user: !self.is_kernel(), physical_bits }
    }
}

/// An entry of a guest's tables: where it is, and what it says.
#[derive(Clone, Copy, Debug)]
struct Step {
    word: u64,
    value: u64,
}

/// The walk to one page of code, in a mode in which TDCALL is a call.
#[derive(Clone, Debug)]
pub struct Fetch {
    cr3: u64,
    efer: u64,
    code_rights: u64,
    page: u64,
    /// With large pages the last one is there more than once.
    steps: [Step; LEVELS],
    /// Address of the frame.
    code: u64,
    places: Places,
}

/// Reads a word of RAM, whosever it is.
#[inline(always)]
fn read(word: u64) -> u64 {
    // SAFETY: a multiple of eight in a frame of RAM, which is mapped at its physical address for good; atomics make
    // accesses that race with the guest's or the host's defined.
    unsafe { &*(word as *const AtomicU64) }.load(Ordering::Acquire)
}

/// Reads the instruction at any address in a frame of RAM, all of which is in the frame.
#[inline(always)]
fn read_code(address: u64) -> u32 {
    let code: u32;
    // SAFETY: as above, but for the alignment, which the CPU does not ask for.
    unsafe { asm!("mov {:e}, [{}]", out(reg) code, in(reg) address, options(nostack, preserves_flags, readonly)) };
    code
}

impl Fetch {
    /// Walks to the page of `linear`. `frame` gives the frame of a page of the guest `owner`'s private memory. None where there
    /// is nothing to be found, or where no TDCALL is a call.
    pub fn walk(
        mode: Mode,
        physical_bits: u32,
        linear: u64,
        owner: OwnerId,
        mut frame: impl FnMut(u64) -> Option<Pfn>,
    ) -> Option<Self> {
        if !(mode.is_long() && mode.is_kernel_by_code()) {
            return None;
        }
        let mut steps = [None; LEVELS];
        let mut free = steps.iter_mut();
        let mut places = Places::new(owner);
        let mut find = |address: u64| {
            // Before the look-up: it may be outdated when it is done.
            places.add(address)?;
            Some((frame(address)?, places))
        };
        let fetched = mode.paging(physical_bits).fetch(linear, &mut |address| {
            let (frame, places) = find(address)?;
            let word = frame.addr() | address & PAGE_BITS;
            let value = read(word);
            if !places.are_current() {
                return None;
            }
            *free.next()? = Some(Step { word, value });
            Some(value)
        });
        let (code, places) = find(fetched.ok()?)?;
        let last = steps.into_iter().flatten().last()?;
        let steps = steps.map(|step| step.unwrap_or(last));
        let Mode { cr3, efer, code_rights, .. } = mode;
        Some(Self { cr3, efer, code_rights, page: linear & !PAGE_BITS, steps, code: code.addr(), places })
    }

    /// Whether the loaded guest is at a TDCALL in the page, in the same mode, and the walk there is still the same. It has
    /// fetched what is there, so that what forbids fetches need not be looked at.
    #[inline(always)]
    pub fn finds_tdcall(&self) -> bool {
        let offset = vmx::read(field::GUEST_RIP).wrapping_sub(self.page);
        offset <= LAST
            && vmx::read(field::GUEST_CR3) == self.cr3
            && vmx::read(field::GUEST_EFER) == self.efer
            && vmx::read(field::GUEST_CS_RIGHTS) == self.code_rights
            && self.steps.iter().all(|step| read(step.word) == step.value)
            && read_code(self.code | offset) == u32::from_le_bytes(exits::TDCALL)
            && self.places.are_current()
    }
}
