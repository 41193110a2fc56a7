//! Where the last TDCALL was, so that the next one from there needs no walk of the guest's tables.
//!
//! What is remembered is where the words of that walk are, not what they lead to: each time they are read again, from the
//! guest's memory, and have to say what they said. So a guest that changes its tables or its code is always understood
//! as the CPU understands it. What can go stale is only where a guest's page is; [`Places`] tells when any has moved,
//! and is looked at after all that is read: what was read while a page went to somebody else is not used.

use super::tlb::Places;
use super::walk::{Miss, PAGE_BITS, Paging};
use core::sync::atomic::{AtomicU64, Ordering};
use guestmem::{OwnerId, Pfn};

/// Levels of a guest's tables.
const LEVELS: usize = 4;
/// Accessed and dirty, which the CPU sets by itself.
const USED: u64 = 1 << 5 | 1 << 6;
/// The last place in a page from which four bytes are within two words of it.
const LAST: u64 = PAGE_BITS - 11;

/// An entry of a guest's tables: where it is, and what it says.
#[derive(Clone, Copy, Debug)]
struct Step {
    word: u64,
    value: u64,
}

/// The walk to one page of code.
#[derive(Clone, Debug)]
pub struct Fetch {
    paging: Paging,
    page: u64,
    /// With large pages the last one is there more than once.
    steps: [Step; LEVELS],
    code: Pfn,
    places: Places,
}

/// Reads a word of RAM, whosever it is.
#[inline(always)]
fn read(word: u64) -> u64 {
    // SAFETY: a multiple of eight in a frame of RAM, which is mapped at its physical address for good; atomics make
    // accesses that race with the guest's or the host's defined.
    unsafe { &*(word as *const AtomicU64) }.load(Ordering::Acquire)
}

impl Fetch {
    /// Walks to the page of `linear`. `frame` gives the frame of a page of the guest `owner`'s private memory.
    ///
    /// # Errors
    /// [`Miss`].
    pub fn walk(
        paging: Paging,
        linear: u64,
        owner: OwnerId,
        mut frame: impl FnMut(u64) -> Option<Pfn>,
    ) -> Result<Self, Miss> {
        let mut steps = [None; LEVELS];
        let mut free = steps.iter_mut();
        let mut places = Places::new(owner);
        let mut find = |address: u64| {
            // Before the look-up: it may be outdated when it is done.
            places.add(address)?;
            Some((frame(address)?, places))
        };
        let address = paging.fetch(linear, &mut |address| {
            let (frame, places) = find(address)?;
            let word = frame.addr() | address & PAGE_BITS;
            let value = read(word);
            if !places.are_current() {
                return None;
            }
            *free.next()? = Some(Step { word, value });
            Some(value)
        })?;
        let (code, places) = find(address).ok_or(Miss::Absent)?;
        let last = steps.into_iter().flatten().last().ok_or(Miss::Absent)?;
        let steps = steps.map(|step| step.unwrap_or(last));
        Ok(Self { paging, page: linear & !PAGE_BITS, steps, code, places })
    }

    /// The four bytes at `linear`, if they are all in the page and the walk there is still the same.
    #[inline]
    pub fn instruction(&self, paging: &Paging, linear: u64) -> Option<[u8; 4]> {
        let offset = linear & PAGE_BITS;
        if linear & !PAGE_BITS != self.page || offset > LAST || *paging != self.paging {
            return None;
        }
        let differs = self.steps.iter().fold(0, |differs, step| differs | read(step.word) ^ step.value);
        let word = self.code.addr() | offset & !7;
        let bytes = u128::from(read(word + 8)) << 64 | u128::from(read(word));
        let instruction = ((bytes >> (offset % 8 * 8)) as u32).to_le_bytes();
        (differs & !USED == 0 && self.places.are_current()).then_some(instruction)
    }
}
