//! A GiB of RAM is one leaf in the host's table while all of it is the host's, and a table otherwise.

use crate::common::*;
use guestmem::fake::{self, Concatenated, FourLevels, GIB, RAM_START};
use guestmem::*;
use std::sync::atomic::Ordering::Relaxed;

fn leaf_comes_and_goes<F: TableFormat>() {
    let w = World::<F>::in_gib(64);
    let vm = w.aliased(1);
    let (far, frame) = (Pfn::new(GIB.end.get() - 1), w.block(2));
    let flushes = || w.core.stats().flushes;
    // A translation from the leaf is in the TLB.
    w.host_writes(far, 7);
    assert!(w.is_gib_leaf(far));

    // One frame held is enough to take the leaf apart; nothing else changes for the host.
    let before = flushes();
    w.core.pin(frame, State::Host).unwrap();
    assert_eq!(flushes() - before, 2, "the GiB, and the block");
    assert!(!w.is_gib_leaf(far));
    assert_eq!((w.host_reads(far), w.host_reads(frame)), (Some(7), Some(0)));
    w.check(&[&vm]);
    // What follows in a GiB that is apart costs what it did.
    let before = flushes();
    w.core.lend(w.block(3)).unwrap();
    assert_eq!(flushes() - before, 1);
    w.core.unpin(frame).unwrap();
    assert!(!w.is_gib_leaf(far), "one block is still not whole");
    w.check(&[&vm]);
    let before = flushes();
    w.core.end_lend(w.block(3)).unwrap();
    assert_eq!(flushes() - before, 2, "the block, and the GiB");
    assert!(w.is_gib_leaf(far));
    assert_eq!(w.host_reads(far), Some(7));
    w.check(&[&vm]);

    // Blocks and pages that a guest gets, and how each of them comes back.
    w.donate_block(&vm, frame, w.gfn(0)).unwrap();
    assert!(!w.is_gib_leaf(far));
    assert_eq!((w.host_reads(frame), w.host_reads(far)), (None, Some(7)));
    w.donate(&vm, w.page(5), w.gfn(512)).unwrap();
    w.check(&[&vm]);
    let before = flushes();
    w.core.share(&vm, w.gfn(512)).unwrap();
    w.core.unshare(&vm, w.gfn(512)).unwrap();
    assert_eq!(flushes() - before, 3, "a conversion does not touch the GiB");
    w.core.relinquish(&vm, w.gfn(512)).unwrap();
    assert!(!w.is_gib_leaf(far));
    w.convert(&vm, w.gfn(0)..w.gfn(512), Visibility::Shared).unwrap();
    assert!(!w.is_gib_leaf(far), "the host may access all of it, but not all is the host's");
    w.check(&[&vm]);
    w.end(&vm);
    assert!(w.is_gib_leaf(far));
    assert_eq!(w.host_reads(far), Some(7));
    w.check(&[]);

    // What never comes back keeps the GiB apart.
    w.core.poison(w.block(4), None).unwrap();
    assert!(!w.is_gib_leaf(far));
    assert_eq!((w.host_reads(w.block(4)), w.host_reads(far)), (None, Some(7)));
    w.check(&[]);
}

#[test]
fn the_leaf_goes_with_the_first_block_and_comes_with_the_last() {
    leaf_comes_and_goes::<Concatenated>();
    leaf_comes_and_goes::<FourLevels>();
}

#[test]
fn a_block_that_is_wiped_on_its_way_back_is_waited_for() {
    let w = World::<Concatenated>::in_gib(64);
    let vm = w.plain(1);
    w.donate_block(&vm, w.block(2), w.gfn(0)).unwrap();
    while w.core.reclaim(&vm, &mut Budget::new(64)) == Progress::More {
        if w.state(w.block(2)) == State::Returning {
            assert!(!w.is_gib_leaf(GIB.start));
            assert_eq!((w.host_reads(w.block(2)), w.host_reads(GIB.start)), (None, Some(0)));
        }
    }
    assert!(w.is_gib_leaf(GIB.start));
    w.check(&[]);
}

#[test]
fn a_host_that_meets_the_exchange_is_told_to_try_again() {
    let w = World::<Concatenated>::in_gib(64);
    let slot = &w.core.machine.content(w.core.host_root())[(GIB.start.get() >> 18) as usize];
    let leaf = slot.swap(0, Relaxed);
    assert_eq!(w.host_reads(GIB.start), None);
    assert_eq!(w.core.host_fault(GIB.start.addr()), HostFault::Retry);
    slot.store(leaf, Relaxed);
    assert_eq!(w.host_reads(GIB.start), Some(0));
}

#[test]
fn only_a_gib_that_is_all_ram_has_a_leaf() {
    const LAST: u64 = GIB.end.get();
    let postern = pfns(RAM_START..RAM_START + BLOCK_FRAMES);
    for (ram, leaves) in [
        (vec![pfns(GIB.start.get()..LAST)], 1),
        (vec![pfns(GIB.start.get()..LAST - 1)], 0),
        (vec![pfns(GIB.start.get() + 1..LAST)], 0),
        (vec![pfns(GIB.start.get() - 700..LAST + 700)], 1),
        (vec![pfns(GIB.start.get()..LAST - 1000), pfns(LAST - 1000..LAST)], 1),
        (vec![pfns(GIB.start.get()..LAST - 1000), pfns(LAST - 999..LAST)], 0),
        (vec![pfns(GIB.start.get()..LAST - 1024), pfns(LAST - 512..LAST)], 0),
        (vec![pfns(GIB.start.get() - 512..LAST - 1), pfns(LAST..LAST + (1 << 18))], 1),
        (vec![pfns(GIB.start.get()..LAST + (1 << 18))], 2),
    ] {
        let regions = [vec![postern.clone()], ram].concat();
        let core = fake::boot::<Concatenated>(&regions, 64);
        assert_eq!(core.stats().gib_leaves, leaves, "{regions:?}");
        fake::audit(&core, &[]);
        let past = regions.last().unwrap().end;
        for frame in regions[1..].iter().flat_map(|region| [region.start, Pfn::new(region.end.get() - 1)]) {
            assert!(core.machine.load(Space::Host, core.host_root(), frame.addr()).is_some(), "{frame:?}");
        }
        assert_eq!(core.machine.load(Space::Host, core.host_root(), past.addr()), None);
    }
    // Postern's own frames in it, and no table: boot's claims come before.
    let core = fake::boot::<FourLevels>(&[GIB], 64);
    assert_eq!(core.stats().gib_leaves, 0);
    fake::audit(&core, &[]);
}
