//! Memory from the firmware that outlives boot services.
#![allow(unsafe_code)] // Pages from the firmware become slices.

use core::ptr::NonNull;
use loader::Bytes;
use uefi::boot::{self, AllocateType, MemoryType};

/// Where everything has to be: below what this machine's boot protocol can say.
const LIMIT: u64 = crate::machine::LIMIT;

/// Zeroed pages. They go back to the firmware when they are dropped, which is when Postern cannot boot: firmware does not free
/// what an application leaves behind, and the next attempt needs it.
pub struct Pages {
    start: u64,
    size: usize,
    /// As allocated: address and number.
    whole: (NonNull<u8>, usize),
}

impl Pages {
    /// At least `size` bytes at a multiple of `align` (a power of two, at least 4096); `None` when there are none.
    pub fn new(size: usize, align: u64) -> Option<Self> {
        Self::of(MemoryType::LOADER_DATA, size, align)
    }

    /// The same for instructions that run before Postern has page tables of its own: firmware may execute no data.
    #[cfg(target_arch = "x86_64")]
    pub fn code(size: usize) -> Option<Self> {
        use uefi::mem::memory_map::MemoryAttribute;
        use uefi::proto::security::MemoryProtection;
        let pages = Self::of(MemoryType::LOADER_CODE, size, abi::FRAME_SIZE)?;
        let handle = boot::get_handle_for_protocol::<MemoryProtection>();
        if let Ok(protection) = handle.and_then(boot::open_protocol_exclusive::<MemoryProtection>) {
            protection.clear_memory_attributes(pages.range(), MemoryAttribute::EXECUTE_PROTECT).ok()?;
        }
        Some(pages)
    }

    fn of(kind: MemoryType, size: usize, align: u64) -> Option<Self> {
        let slack = (align - abi::FRAME_SIZE) as usize;
        let count = size.max(1).checked_add(slack)?.div_ceil(abi::FRAME_SIZE as usize);
        let first = boot::allocate_pages(AllocateType::MaxAddress(LIMIT), kind, count).ok()?;
        let start = (first.as_ptr() as u64).next_multiple_of(align);
        let mut pages = Self { start, size, whole: (first, count) };
        // SAFETY: the pages are ours; they are written before a reference to them is made.
        unsafe { core::ptr::write_bytes(start as *mut u8, 0, size.next_multiple_of(abi::FRAME_SIZE as usize)) };
        debug_assert_eq!(pages.bytes().len(), size);
        Some(pages)
    }

    /// First address.
    pub fn address(&self) -> u64 {
        self.start
    }

    /// Addresses, whole frames.
    pub fn range(&self) -> Bytes {
        self.start..self.start + (self.size as u64).next_multiple_of(abi::FRAME_SIZE)
    }

    /// Content.
    pub fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: allocated, zeroed, and ours until dropped; the borrow of `self` keeps it exclusive.
        unsafe { core::slice::from_raw_parts_mut(self.start as *mut u8, self.size) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        if crate::boot::has_services() {
            let (first, count) = self.whole;
            // SAFETY: allocated as this, and all references to the content have ended with `self`.
            let _ = unsafe { boot::free_pages(first, count) };
        }
    }
}
