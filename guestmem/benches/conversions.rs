//! What conversions cost: pages and blocks, alone and on two CPUs, and how near wiping gets to plain `memset`.
//!
//! `cargo bench -p guestmem`. The machine is memory without a TLB, so what remains is the core's own work and the wipes.
#![allow(unsafe_code)] // wiping as a machine does it, not word by word

use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use guestmem::sync::{AtomicU64, Word};
use guestmem::*;
use std::cell::Cell;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};

fn main() {
    divan::main();
}

struct Memory {
    frames: Vec<[Word; 512]>,
    wipes: AtomicBool,
}

impl Machine for Memory {
    type Format = fake::Concatenated;

    fn words(&self, frame: Pfn) -> &[Word; 512] {
        &self.frames[frame.get() as usize]
    }

    fn wipe(&self, frame: Pfn) {
        self.wipe_several(frame, 1);
    }

    fn wipe_several(&self, first: Pfn, frames: u64) {
        if self.wipes.load(Ordering::Relaxed) {
            let words = self.frames[first.get() as usize..][..frames as usize].as_ptr().cast_mut();
            // SAFETY: whole frames that the slice vouches for, behind atomics and so writable; nothing else in this
            // program touches their content while they are being wiped.
            unsafe { words.write_bytes(0, frames as usize) };
        }
    }

    fn flush(&self, _: Space, _: u64, _: Size) {}
    fn flush_all(&self, _: Space) {}
    fn publish(&self) {}
    fn should_yield(&self) -> bool {
        false
    }
}

/// Blocks of each guest: more than a cache holds.
const GUEST_BLOCKS: u64 = 64;
const PLAIN: u64 = 2;
const ALIASED: u64 = PLAIN + GUEST_BLOCKS;
const SPARE: u64 = ALIASED + GUEST_BLOCKS;
const BLOCKS: u64 = SPARE + 2;

struct World {
    core: Core<Memory>,
    plain: Guest,
    aliased: Guest,
}

fn block(index: u64) -> u64 {
    index * BLOCK_FRAMES
}

/// Blocks 0 and 1 are for Postern and metadata, then come the guests'.
static WORLD: LazyLock<World> = LazyLock::new(|| {
    let frames = (0..BLOCKS * BLOCK_FRAMES).map(|_| [const { Word::new(0) }; 512]).collect();
    let ram = Pfn::new(0)..Pfn::new(BLOCKS * BLOCK_FRAMES);
    let summaries: Vec<AtomicU64> = (0..BLOCKS).map(|_| AtomicU64::new(0)).collect();
    let machine = Memory { frames, wipes: AtomicBool::new(true) };
    let core = Core::new(machine, std::slice::from_ref(&ram), summaries.leak()).unwrap();
    core.add_pool(Pfn::new(512)..Pfn::new(1024)).unwrap();
    core.claim(Pfn::new(0)..Pfn::new(2)).unwrap();
    core.build_host_table(Pfn::new(0), &[]).unwrap();
    let guest = |id, alias, first: u64, meta: u64| {
        let layout = Layout { ram: Gfn::new(0)..Gfn::new(block(GUEST_BLOCKS)), alias, accepts: false };
        let vm = Guest::new(OwnerId::new(id).unwrap(), Pfn::new(meta), layout);
        (meta..meta + 200).for_each(|frame| core.donate_meta(&vm, Pfn::new(frame)).unwrap());
        for index in 0..GUEST_BLOCKS {
            let (frame, gfn) = (Pfn::new(block(first + index)), Gfn::new(block(index)));
            assert_eq!(core.donate(&vm, frame, gfn, Size::Block, &mut Budget::unlimited()), Ok(Progress::Done));
        }
        vm
    };
    let (plain, aliased) = (guest(1, None, PLAIN, 4), guest(2, Some(38), ALIASED, 204));
    World { core, plain, aliased }
});

/// A range of blocks for each thread, so that they have nothing in common but the VM; the next of them at each call.
fn own_block() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    std::thread_local!(static MINE: Cell<Option<(u64, u64)>> = const { Cell::new(None) });
    const EACH: u64 = GUEST_BLOCKS / 2;
    MINE.with(|mine| {
        let (base, at) = mine.get().unwrap_or_else(|| (NEXT.fetch_add(1, Ordering::Relaxed) % 2 * EACH, 0));
        mine.set(Some((base, (at + 1) % EACH)));
        block(base + at)
    })
}

fn share_and_unshare(bencher: Bencher<'_, '_>, vm: &'static Guest, wipes: bool) {
    let core = &WORLD.core;
    core.machine.wipes.store(wipes, Ordering::Relaxed);
    // All have been split before: that is another measurement.
    (0..GUEST_BLOCKS).for_each(|index| {
        core.share(vm, Gfn::new(block(index) + 7)).unwrap();
        core.unshare(vm, Gfn::new(block(index) + 7)).unwrap();
    });
    bencher.counter(ItemsCount::new(2_u64)).bench(|| {
        let gfn = Gfn::new(own_block() + 7);
        core.share(vm, black_box(gfn)).unwrap();
        core.unshare(vm, black_box(gfn)).unwrap();
    });
    core.machine.wipes.store(true, Ordering::Relaxed);
}

/// A page opened and closed, both wipes included; on two threads in two blocks of one VM.
#[divan::bench(threads = [1, 2])]
fn page(bencher: Bencher<'_, '_>) {
    share_and_unshare(bencher, &WORLD.plain, true);
}

/// As `page`, with a shared half.
#[divan::bench(threads = [1, 2])]
fn page_aliased(bencher: Bencher<'_, '_>) {
    share_and_unshare(bencher, &WORLD.aliased, true);
}

/// The core's own work alone.
#[divan::bench]
fn page_unwiped(bencher: Bencher<'_, '_>) {
    share_and_unshare(bencher, &WORLD.plain, false);
}

/// As `page_unwiped`, with a shared half.
#[divan::bench]
fn page_aliased_unwiped(bencher: Bencher<'_, '_>) {
    share_and_unshare(bencher, &WORLD.aliased, false);
}

/// 2 MiB opened and closed in one piece, on two threads in two blocks of one VM.
#[divan::bench(threads = [1, 2])]
fn block_aliased(bencher: Bencher<'_, '_>) {
    let World { core, aliased: vm, .. } = &*WORLD;
    bencher.counter(BytesCount::new(4_u64 << 20)).bench(|| {
        let start = Gfn::new(own_block());
        for to in [Visibility::Shared, Visibility::Private] {
            // Another thread's conversion may hold the VM's structure for a moment.
            while core.convert(vm, start..start.offset(512), to, &mut Budget::unlimited()) != Ok(start.offset(512)) {}
        }
    });
}

/// What `block_aliased` is measured by: 2 MiB of the same memory, twice.
#[divan::bench(threads = [1, 2])]
fn memset(bencher: Bencher<'_, '_>) {
    let core = &WORLD.core;
    bencher.counter(BytesCount::new(4_u64 << 20)).bench(|| {
        let words = core.machine.words(Pfn::new(block(ALIASED) + own_block())).as_ptr().cast_mut();
        for _ in 0..2 {
            // SAFETY: the frames of a block follow each other in the vector, and nothing else uses them meanwhile.
            unsafe { black_box(words).write_bytes(0, 512 * 512) };
        }
    });
}

/// As `memset`, in pieces of this many frames.
#[divan::bench(args = [1, 4, 16, 64, 512])]
fn memset_pieces(bencher: Bencher<'_, '_>, piece: usize) {
    let core = &WORLD.core;
    bencher.counter(BytesCount::new(4_u64 << 20)).bench(|| {
        let words = core.machine.words(Pfn::new(block(ALIASED) + own_block())).as_ptr().cast_mut();
        for _ in 0..2 {
            for at in (0..512).step_by(piece) {
                // SAFETY: as above.
                unsafe { black_box(words).add(at * 512).write_bytes(0, piece * 512) };
            }
        }
    });
}

/// A block given, wiped, and taken back by the end of its VM.
#[divan::bench]
fn donate_and_reclaim_a_block(bencher: Bencher<'_, '_>) {
    let core = &WORLD.core;
    bencher.counter(BytesCount::new(4_u64 << 20)).bench_local(|| {
        let layout = Layout { ram: Gfn::new(0)..Gfn::new(512), alias: None, accepts: false };
        let vm = Guest::new(OwnerId::new(3).unwrap(), Pfn::new(404), layout);
        (404..408).for_each(|frame| core.donate_meta(&vm, Pfn::new(frame)).unwrap());
        let frame = Pfn::new(block(SPARE));
        assert_eq!(core.donate(&vm, frame, Gfn::new(0), Size::Block, &mut Budget::unlimited()), Ok(Progress::Done));
        while core.reclaim(&vm, &mut Budget::unlimited()) == Progress::More {}
    });
}

/// A block of the host split for one page, and merged again.
#[divan::bench]
fn split_and_merge(bencher: Bencher<'_, '_>) {
    let core = &WORLD.core;
    bencher.bench_local(|| {
        core.pin(Pfn::new(block(SPARE + 1) + 77), State::Host).unwrap();
        core.unpin(Pfn::new(block(SPARE + 1) + 77)).unwrap();
    });
}
