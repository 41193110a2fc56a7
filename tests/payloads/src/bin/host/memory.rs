//! A guest's memory as its VMM sees it: which host frame it has given for which page.

use crate::frames;
use abi::host;
use abi::{BLOCK_SIZE, FRAME_SIZE};
use alloc::vec;
use alloc::vec::Vec;
use payloads::hostcall;

const BLOCK_FRAMES: u64 = BLOCK_SIZE / FRAME_SIZE;
/// Frames that are given at once when Postern asks for more.
const STEP: u64 = host::FRAMES_PER_CALL;

/// How much a fault is served with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Give {
    /// The page.
    Page,
    /// The page and those around it that one call takes.
    Pages,
    /// 2 MiB where nothing was given yet, else as [`Give::Pages`].
    Blocks,
}

impl Give {
    /// By its name in the bundle's `config`.
    pub fn named(name: &str) -> Option<Self> {
        [("page", Self::Page), ("pages", Self::Pages), ("blocks", Self::Blocks)]
            .into_iter()
            .find_map(|(known, give)| (known == name).then_some(give))
    }
}

/// Pages given so far.
pub struct GuestMemory {
    handle: u64,
    base: u64,
    /// Frame number given for each page, zero when none was.
    pages: Vec<u32>,
    /// Pages given in each 2 MiB.
    filled: Vec<u16>,
    give: Give,
    /// Metadata given: address and frames.
    meta: Vec<(u64, u64)>,
}

/// Why memory could not be given: a host-call status, or [`OUT_OF_MEMORY`].
pub type Status = i64;
/// The host has no free frame left.
pub const OUT_OF_MEMORY: Status = -100;

impl GuestMemory {
    /// Nothing given but `meta`.
    pub fn new(handle: u64, base: u64, size: u64, give: Give, meta: (u64, u64)) -> Self {
        Self {
            handle,
            base,
            pages: vec![0; (size / FRAME_SIZE) as usize],
            filled: vec![0; (size / BLOCK_SIZE) as usize],
            give,
            meta: vec![meta],
        }
    }

    /// The VM's handle.
    pub fn handle(&self) -> u64 {
        self.handle
    }

    fn page(&self, ipa: u64) -> Option<usize> {
        let page = (ipa.checked_sub(self.base)? / FRAME_SIZE) as usize;
        (page < self.pages.len()).then_some(page)
    }

    /// Host address of the byte at `ipa`, if its page was given.
    pub fn frame_of(&self, ipa: u64) -> Option<u64> {
        let frame = *self.pages.get(self.page(ipa)?)?;
        (frame != 0).then_some(u64::from(frame) * FRAME_SIZE + ipa % FRAME_SIZE)
    }

    /// All pages given: guest address and frame.
    pub fn given(&self) -> impl Iterator<Item = (u64, u64)> {
        let pages = self.pages.iter().enumerate().filter(|(_, frame)| **frame != 0);
        pages.map(|(page, frame)| (self.base + page as u64 * FRAME_SIZE, u64::from(*frame) * FRAME_SIZE))
    }

    /// All metadata frames given.
    pub fn meta(&self) -> impl Iterator<Item = u64> {
        self.meta.iter().flat_map(|(start, count)| (0..*count).map(move |n| start + n * FRAME_SIZE))
    }

    /// Gives the page at `ipa`, and what [`Give`] says besides.
    ///
    /// # Errors
    /// The status of Postern's refusal.
    pub fn populate(&mut self, ipa: u64) -> Result<(), Status> {
        let page = self.page(ipa).ok_or(host::ADDRESS)?;
        if self.pages[page] != 0 {
            return Ok(());
        }
        let unfilled = self.filled[page / BLOCK_FRAMES as usize] == 0;
        if self.give == Give::Blocks && unfilled && self.populate_block(page) {
            return Ok(());
        }
        if self.give != Give::Page && self.populate_around(page) {
            return Ok(());
        }
        let frame = frames::frame().ok_or(OUT_OF_MEMORY)?;
        frames::soil(frame);
        let status = self.insist(|handle| hostcall::vm_donate(handle, frame, ipa & !(FRAME_SIZE - 1), 1));
        self.settle(page, frame, status)
    }

    /// Gives the aligned pages around one as far as none of them was given yet; when that fails, the one has to do.
    fn populate_around(&mut self, page: usize) -> bool {
        const COUNT: usize = host::PAGES_PER_DONATION as usize;
        let first = page / COUNT * COUNT;
        let around = first..first + COUNT;
        if self.pages.get(around.clone()).is_none_or(|pages| pages.iter().any(|page| *page != 0)) {
            return false;
        }
        let Some(start) = frames::contiguous(COUNT as u64) else { return false };
        (0..COUNT as u64).for_each(|n| frames::soil(start + n * FRAME_SIZE));
        let ipa = self.base + first as u64 * FRAME_SIZE;
        let given = core::cell::Cell::new(0);
        let status = self.insist(|handle| match hostcall::vm_donate_pages(handle, start, ipa, COUNT as u64) {
            Ok(count) => {
                given.set(count.min(COUNT as u64));
                host::OK
            }
            Err(status) => status,
        });
        let given = given.get();
        frames::free_contiguous(start + given * FRAME_SIZE, COUNT as u64 - given);
        for n in 0..given as usize {
            self.pages[first + n] = (start / FRAME_SIZE) as u32 + n as u32;
        }
        self.filled[page / BLOCK_FRAMES as usize] += given as u16;
        status == host::OK && first + given as usize > page
    }

    /// Gives 2 MiB; when Postern refuses, say because the guest shares part of them, single pages have to do.
    fn populate_block(&mut self, page: usize) -> bool {
        let Some(block) = frames::block() else { return false };
        let first = page / BLOCK_FRAMES as usize * BLOCK_FRAMES as usize;
        let ipa = self.base + first as u64 * FRAME_SIZE;
        (block..block + BLOCK_SIZE).step_by(FRAME_SIZE as usize).for_each(frames::soil);
        if self.insist(|handle| hostcall::vm_donate(handle, block, ipa, BLOCK_FRAMES)) != host::OK {
            frames::free_block(block);
            return false;
        }
        for n in 0..BLOCK_FRAMES as usize {
            self.pages[first + n] = (block / FRAME_SIZE) as u32 + n as u32;
        }
        self.filled[first / BLOCK_FRAMES as usize] = BLOCK_FRAMES as u16;
        true
    }

    /// Gives one page with content, before the VM is sealed.
    ///
    /// # Errors
    /// The status of Postern's refusal.
    pub fn load(&mut self, ipa: u64, bytes: &[u8]) -> Result<(), Status> {
        let page = self.page(ipa).ok_or(host::ADDRESS)?;
        let frame = frames::frame().ok_or(OUT_OF_MEMORY)?;
        frames::fill(frame, bytes);
        let status = self.insist(|handle| hostcall::vm_load(handle, frame, ipa));
        self.settle(page, frame, status)
    }

    fn settle(&mut self, page: usize, frame: u64, status: Status) -> Result<(), Status> {
        if status != host::OK {
            frames::free_frame(frame);
            return Err(status);
        }
        self.pages[page] = (frame / FRAME_SIZE) as u32;
        self.filled[page / BLOCK_FRAMES as usize] += 1;
        Ok(())
    }

    /// Makes a call again after giving the metadata or table pages it lacks.
    pub fn insist(&mut self, call: impl Fn(u64) -> Status) -> Status {
        loop {
            let status = call(self.handle);
            let more = match status {
                host::NO_META => self.add_meta(STEP),
                host::NO_POOL => add_pool(),
                _ => return status,
            };
            if more != host::OK {
                return more;
            }
        }
    }

    /// Gives `count` frames of metadata.
    pub fn add_meta(&mut self, mut count: u64) -> Status {
        while count > 0 {
            let step = count.min(STEP);
            let Some(start) = frames::contiguous(step) else { return OUT_OF_MEMORY };
            let taken = hostcall::vm_donate_meta(self.handle, start, step);
            let kept = taken.unwrap_or(0).min(step);
            frames::free_contiguous(start + kept * FRAME_SIZE, step - kept);
            match taken {
                Ok(_) => self.meta.push((start, kept)),
                Err(status) => return status,
            }
            count -= step;
        }
        host::OK
    }

    /// Gives all frames back to the host's allocator, once Postern has given them back to the host.
    pub fn release(&mut self) {
        for frame in self.pages.iter_mut().filter(|frame| **frame != 0) {
            frames::free_returned(u64::from(*frame) * FRAME_SIZE);
            *frame = 0;
        }
        self.filled.fill(0);
        for (start, count) in self.meta.drain(..) {
            (0..count).for_each(|n| frames::free_returned(start + n * FRAME_SIZE));
        }
    }
}

/// Gives Postern frames for its pool; they do not come back.
pub fn add_pool() -> Status {
    let Some(start) = frames::contiguous(STEP) else { return OUT_OF_MEMORY };
    let taken = hostcall::pool_topup(start, STEP);
    let kept = taken.unwrap_or(0).min(STEP);
    frames::free_contiguous(start + kept * FRAME_SIZE, STEP - kept);
    taken.err().unwrap_or(host::OK)
}
