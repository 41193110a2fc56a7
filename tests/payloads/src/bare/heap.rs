//! The heap: a static array, so that it is part of the memory the image header asks for.

use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use linked_list_allocator::Heap;
use spin::mutex::SpinMutex;

/// Memory for the heap.
#[repr(C, align(4096))]
pub struct Space<const BYTES: usize>(UnsafeCell<[u8; BYTES]>);

// SAFETY: the bytes are handed to the allocator once and touched through it only.
unsafe impl<const BYTES: usize> Sync for Space<BYTES> {}

impl<const BYTES: usize> Space<BYTES> {
    /// Zeroed memory.
    #[expect(clippy::new_without_default, reason = "only ever a static")]
    pub const fn new() -> Self {
        Self(UnsafeCell::new([0; BYTES]))
    }

    /// Makes this the heap.
    pub fn give_to_allocator(&'static self) {
        // SAFETY: static memory that nothing else refers to; `entry!` calls this once.
        unsafe { ALLOCATOR.0.lock().init(self.0.get().cast(), BYTES) };
    }
}

struct Allocator(SpinMutex<Heap>);

#[global_allocator]
static ALLOCATOR: Allocator = Allocator(SpinMutex::new(Heap::empty()));

// SAFETY: `Heap` hands out disjoint memory of the layout asked for; the lock serialises the CPUs, and interrupt handlers
// do not allocate.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.0.lock().allocate_first_fit(layout).map_or(core::ptr::null_mut(), |block| block.as_ptr())
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let Some(block) = core::ptr::NonNull::new(block) else { return };
        // SAFETY: the caller passes a block of this allocator with the layout it was allocated with.
        unsafe { self.0.lock().deallocate(block, layout) };
    }
}
