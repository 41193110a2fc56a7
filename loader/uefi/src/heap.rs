//! The heap: pages of the firmware's that stay usable once boot services are gone, when the last description of the
//! machine is written.
#![allow(unsafe_code)] // The allocator is given memory.

use crate::memory::Pages;
use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::ptr::NonNull;
use linked_list_allocator::Heap;

/// Bytes; a device tree takes several times its own size while it is edited.
const SIZE: usize = 16 << 20;

struct Allocator(UnsafeCell<Heap>);

// SAFETY: a UEFI application runs on one CPU, and this one installs no event handler that could allocate.
unsafe impl Sync for Allocator {}

#[global_allocator]
static HEAP: Allocator = Allocator(UnsafeCell::new(Heap::empty()));

// SAFETY: the heap hands out memory as the trait demands; see `Sync` for why it is never entered twice.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: nobody else has a reference; see `Sync`.
        let heap = unsafe { &mut *self.0.get() };
        heap.allocate_first_fit(layout).map_or(core::ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as above.
        let heap = unsafe { &mut *self.0.get() };
        if let Some(at) = NonNull::new(at) {
            // SAFETY: the caller got it from `alloc` with this layout.
            unsafe { heap.deallocate(at, layout) };
        }
    }
}

/// Gets the heap's memory; `None` when firmware has none. Nothing may be on the heap any more when it is dropped.
pub fn init() -> Option<Pages> {
    let pages = Pages::new(SIZE, 4096)?;
    // SAFETY: called once, before anything is allocated; the pages are nobody else's.
    unsafe { (*HEAP.0.get()).init(pages.address() as *mut u8, SIZE) };
    Some(pages)
}
