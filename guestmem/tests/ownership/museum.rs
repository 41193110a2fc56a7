//! Bugs that other hypervisors had, as tests: the numbers are those of the list in the reference.

use crate::common::*;
use guestmem::fake::{self, Concatenated, Fake};
use guestmem::sync::AtomicU64;
use guestmem::*;
use std::sync::atomic::Ordering::Relaxed;

type W = World<Concatenated>;

#[test]
fn museum_1_a_page_of_a_block_is_unmapped_without_taking_data_for_a_table() {
    let w = W::new();
    let vm = w.plain(1);
    w.donate_block(&vm, w.block(2), w.gfn(0)).unwrap();
    // Every page of the guest looks like a table full of leaves and tables that lead to Postern's own root.
    for page in 0..512 {
        w.core
            .with_page(&vm, w.gfn(page), |words| {
                for (index, word) in words.iter().enumerate() {
                    word.store(w.core.host_root().addr() | 1 | (index as u64 & 1) << 1, Relaxed);
                }
            })
            .unwrap();
    }
    w.core.relinquish(&vm, w.gfn(77)).unwrap();
    w.check(&[&vm]);
    w.core.share(&vm, w.gfn(78)).unwrap();
    w.check(&[&vm]);
    assert_eq!(w.guest_reads(&vm, w.gfn(77)), None);
    assert!(w.guest_reads(&vm, w.gfn(79)).unwrap() != 0, "its neighbours are as they were");
    w.end(&vm);
    w.check(&[]);
}

#[test]
fn museum_2_all_of_a_block_is_wiped() {
    for alias in [None, Some(ALIAS)] {
        let w = W::new();
        let vm = w.guest(1, alias, 32);
        w.donate_block(&vm, w.block(2), w.gfn(0)).unwrap();
        for page in 0..512 {
            w.guest_writes(&vm, w.gfn(page), 0x5ec);
        }
        if alias.is_some() {
            w.convert(&vm, w.gfn(0)..w.gfn(512), Visibility::Shared).unwrap();
            assert!((0..512).all(|page| w.host_reads(w.block(2).offset(page)) == Some(0)));
            w.convert(&vm, w.gfn(0)..w.gfn(512), Visibility::Private).unwrap();
            (0..512).for_each(|page| assert!(w.guest_writes(&vm, w.gfn(page), 0x5ec)));
        }
        w.end(&vm);
        assert!((0..512).all(|page| w.host_reads(w.block(2).offset(page)) == Some(0)));
    }
}

#[test]
fn museum_3_nothing_is_handed_on_before_the_flush() {
    // Every operation with all translations of its page in the TLB; `check` compares the TLB with the records.
    for alias in [None, Some(ALIAS)] {
        let w = W::new();
        let vm = w.guest(1, alias, 32);
        let touch = |gfn, frame| {
            let _ = (w.guest_reads(&vm, gfn), w.host_reads(frame));
            if alias.is_some() {
                let _ = w.alias_reads(&vm, gfn);
            }
        };
        let (frame, gfn) = (w.page(0), w.gfn(0));
        type Step<'a> = &'a dyn Fn() -> Result<(), Refusal>;
        let steps: [Step<'_>; 12] = [
            &|| w.donate(&vm, frame, gfn),
            &|| w.core.share(&vm, gfn),
            &|| w.core.unshare(&vm, gfn),
            &|| w.core.relinquish(&vm, gfn),
            &|| w.donate(&vm, frame, gfn),
            &|| w.core.share(&vm, gfn),
            &|| w.core.relinquish(&vm, gfn),
            &|| w.core.convert(&vm, gfn..w.gfn(1), Visibility::Private, &mut Budget::new(1)).map(drop).or(Ok(())),
            &|| w.core.load(&vm, frame, gfn, 1, &mut |_, _| ()).map(drop),
            &|| w.core.poison(frame, Some(&vm)),
            &|| w.core.topup(w.page(1)),
            &|| w.core.donate_meta(&vm, w.page(2)),
        ];
        for (number, step) in steps.iter().enumerate() {
            (0..3).for_each(|page| touch(w.gfn(page), w.page(page)));
            step().unwrap_or_else(|refusal| panic!("step {number}: {refusal:?}"));
            w.check(&[&vm]);
        }
        touch(w.gfn(0), w.page(0));
        w.end(&vm);
        w.check(&[]);
    }
}

#[test]
fn museum_4_a_page_arrives_zeroed() {
    let w = W::new();
    let vm = w.plain(1);
    for page in 0..512 {
        w.host_writes(w.block(2).offset(page), 0xbad);
        w.host_writes(w.page(page), 0xbad);
    }
    w.donate_block(&vm, w.block(2), w.gfn(0)).unwrap();
    w.donate(&vm, w.page(9), w.gfn(512)).unwrap();
    assert!((0..513).all(|page| w.guest_reads(&vm, w.gfn(page)) == Some(0)));
    w.core.donate_meta(&vm, w.page(10)).unwrap();
    assert_eq!(w.core.machine.content(w.page(10))[1].load(Relaxed), 0);
}

#[test]
fn museum_5_accepting_a_page_twice_swaps_nothing() {
    let w = W::new();
    for alias in [None, Some(ALIAS)] {
        let vm = w.guest(1, alias, 32);
        w.donate(&vm, w.page(0), w.gfn(0)).unwrap();
        w.guest_writes(&vm, w.gfn(0), 0x600d);
        assert_eq!(w.donate(&vm, w.page(1), w.gfn(0)), Err(Refusal::Occupied));
        let again = w.core.convert(&vm, w.gfn(0)..w.gfn(1), Visibility::Private, &mut Budget::new(1));
        assert_eq!(again, Ok(w.gfn(1)), "private is private already");
        assert_eq!(w.guest_reads(&vm, w.gfn(0)), Some(0x600d));
        w.end(&vm);
    }
}

#[test]
fn museum_6_the_host_reaches_nothing_of_posterns() {
    let w = W::new();
    let vm = w.aliased(1);
    w.donate(&vm, w.page(0), w.gfn(0)).unwrap();
    w.core.share(&vm, w.gfn(3)).unwrap();
    w.check(&[&vm]);
    let mut own = 0;
    for frame in (RAM_START..RAM_END).map(Pfn::new) {
        let state = w.state(frame);
        assert_eq!(w.host_reads(frame).is_some(), state == State::Host, "{frame:?} {state:?}");
        own += u64::from(state == State::Postern);
    }
    assert_eq!(w.core.stats().postern_frames, own);
    // A frame that the core uses as a table is never one that the host could have kept.
    assert!(own > w.core.stats().pool_free);
}

use guestmem::fake::RAM_START;

#[test]
fn museum_10_more_ram_than_expected_and_holes_are_handled_or_refused() {
    let build = |regions: &[std::ops::Range<Pfn>], records: usize| {
        let summaries: Vec<AtomicU64> = (0..records).map(|_| AtomicU64::new(0)).collect();
        Core::new(Fake::<Concatenated>::new(&[]), regions, summaries.leak()).err()
    };
    assert_eq!(build(&[], 0), Some(BootError::NoMemory));
    assert_eq!(build(&[pfns(5..5)], 9), Some(BootError::BadRegions));
    assert_eq!(build(&[Pfn::new(9)..Pfn::new(5)], 9), Some(BootError::BadRegions));
    assert_eq!(build(&[pfns(0..10), pfns(9..20)], 9), Some(BootError::BadRegions));
    assert_eq!(build(&[pfns(10..20), pfns(0..5)], 9), Some(BootError::BadRegions));
    assert_eq!(build(&[pfns(0..GFN_END + 1)], 9), Some(BootError::AddressTooLarge));
    assert_eq!(build(&[pfns(0..u64::MAX)], 9), Some(BootError::AddressTooLarge));
    assert_eq!(build(&[pfns(0..1025)], 2), Some(BootError::SummariesTooSmall));
    assert_eq!(build(&[pfns(0..1025)], 3), None);
    let many: Vec<_> = (0..65).map(|index| pfns(index * 4..index * 4 + 2)).collect();
    assert_eq!(build(&many, 999), Some(BootError::TooManyRegions));
    assert_eq!(build(&many[..64], 1), None, "64 regions in one block need one record");
}

#[test]
fn museum_10_ram_with_holes_and_ragged_edges() {
    // Starts and ends within blocks, two regions share a block, a hole of one frame, a lone frame, a far region.
    let start = RAM_START + 13;
    let regions = [
        pfns(start..start + 700),
        pfns(start + 701..start + 1200),
        pfns(RAM_START + 4096..RAM_START + 4097),
        pfns(RAM_START + 5000..RAM_START + 5632 + 1024),
        pfns((1 << 22) + 511..(1 << 22) + 513),
    ];
    let devices = [0..0x1000_0000, (RAM_START + 4097) << 12..(RAM_START + 4999) << 12, (1 << 36)..(3 << 36) - 0x3000];
    assert_eq!(Core::<Fake<Concatenated>>::summaries_needed(&regions), 3 + 1 + 4 + 2);
    let core = fake::boot_with::<Concatenated>(&regions, 100, &devices);
    fake::audit(&core, &[]);
    let host = |frame: u64| core.machine.translate(Space::Host, core.host_root(), frame << 12);
    for frame in RAM_START..RAM_START + 8192 {
        let ram = regions.iter().any(|region| region.contains(&Pfn::new(frame)));
        let state = core.lookup(Pfn::new(frame)).state;
        assert_eq!(state != State::Absent, ram, "{frame:#x}");
        let device = (RAM_START + 4097..RAM_START + 4999).contains(&frame);
        let expected = match state {
            State::Host => Some((Pfn::new(frame), Attrs::Ram)),
            _ if device => Some((Pfn::new(frame), Attrs::Device)),
            _ => None,
        };
        assert_eq!(host(frame), expected, "{frame:#x}");
    }
    assert_eq!(host(0x9000), Some((Pfn::new(0x9000), Attrs::Device)));
    assert_eq!(host(2 << 24), Some((Pfn::new(2 << 24), Attrs::Device)));
    assert_eq!(host((3 << 24) - 3), None);
    assert_eq!(host((1 << 22) + 512), Some((Pfn::new((1 << 22) + 512), Attrs::Ram)));
    // Blocks with holes are not given away whole; blocks without are.
    let layout = Layout { ram: gfns(0..2048), alias: None, accepts: false };
    let meta = RAM_START + 5632;
    let vm = fake::guest(&core, 1, layout, pfns(meta..meta + 20));
    let one = &mut Budget::unlimited();
    let block = |frame| Pfn::new(frame).block_start();
    let whole = |frame, one: &mut Budget| core.donate(&vm, block(frame), Gfn::new(0), Size::Block, one);
    assert_eq!(whole(RAM_START + 512, one), Err(Refusal::NotRam));
    assert_eq!(whole(RAM_START + 4096, one), Err(Refusal::NotRam));
    assert_eq!(whole(RAM_START + 5632 + 512, one), Ok(Progress::Done));
    assert_eq!(core.donate(&vm, Pfn::new(start + 700), Gfn::new(512), Size::Page, one), Err(Refusal::NotRam));
    assert_eq!(core.donate(&vm, Pfn::new(start + 701), Gfn::new(512), Size::Page, one), Ok(Progress::Done));
    fake::audit(&core, &[&vm]);
    while core.reclaim(&vm, &mut Budget::new(64)) == Progress::More {}
    fake::audit(&core, &[]);
    // Devices never overlap RAM.
    let bad = fake::boot::<Concatenated>(&regions, 100);
    let root = bad.host_root();
    for device in [0..u64::MAX, 0..(RAM_START + 14) << 12, (start << 12) + 1..(start << 12) + 2] {
        let refusal = bad.build_host_table(root, &[device]).unwrap_err();
        assert!(matches!(refusal, Refusal::Occupied | Refusal::OutOfRange));
    }
    assert_eq!(bad.build_host_table(root.offset(1), &[]), Err(Refusal::Unaligned));
    assert_eq!(bad.build_host_table(Pfn::new(RAM_START + 5632), &[]), Err(Refusal::NotOwner(State::Host)));
}

#[test]
fn museum_12_reclaim_always_ends() {
    for alias in [None, Some(ALIAS)] {
        let w = W::new();
        let vm = w.guest(1, alias, 32);
        // Everything that could hold it up: pins, blocks in the middle of every motion, launch pages half measured,
        // poison, an interrupt that never goes away, the smallest budget, and a pool that is empty.
        for block in 2..6 {
            w.donate_block(&vm, w.block(block), w.gfn((block - 2) * 512)).unwrap();
        }
        let one = &mut Budget::new(1);
        if alias.is_some() {
            let _ = w.core.convert(&vm, w.gfn(0)..w.gfn(512), Visibility::Shared, one).unwrap();
            w.convert(&vm, w.gfn(512)..w.gfn(1024), Visibility::Shared).unwrap();
            let _ = w.core.convert(&vm, w.gfn(512)..w.gfn(1024), Visibility::Private, one).unwrap();
            assert_eq!((w.state(w.block(2)), w.state(w.block(3))), (State::Opening, State::Closing));
        }
        w.core.share(&vm, w.gfn(1025)).unwrap();
        w.core.pin(w.block(4).offset(1), State::Shared).unwrap();
        w.core.poison(w.block(4).offset(2), Some(&vm)).unwrap();
        assert_eq!(w.core.load(&vm, w.page(7), w.gfn(3600), 9, &mut |_, _| ()), Ok(Progress::More));
        assert_eq!(w.core.donate(&vm, w.block(6), w.gfn(2560), Size::Block, one), Ok(Progress::More));
        while w.core.alloc_meta(&vm).is_ok() {}
        w.core.machine.interrupt.store(true, Relaxed);
        let mut calls = 0;
        while w.core.reclaim(&vm, &mut Budget::new(1)) == Progress::More {
            calls += 1;
            assert!(calls < 6 * 512, "every call returns a frame");
        }
        assert!(vm.is_gone());
        assert_eq!(w.core.lookup(w.block(4).offset(1)).pins(), 1);
        w.check(&[]);
        let states: Vec<_> = (RAM_START..RAM_END).map(|frame| w.state(Pfn::new(frame))).collect();
        let guests = |state: &State| !matches!(state, State::Host | State::Postern | State::Poisoned);
        assert!(!states.iter().any(guests));
        assert_eq!(states.iter().filter(|state| **state == State::Poisoned).count(), 1);
        assert_eq!(w.core.reclaim(&vm, one), Progress::Done, "and again");
    }
}

#[test]
fn museum_13_tables_are_paid_by_their_vm_and_visibly_so() {
    let w = W::new();
    let (poor, rich) = (w.guest(1, Some(ALIAS), 4), w.guest(2, Some(ALIAS), 32));
    assert_eq!((poor.meta_frames(), poor.meta_free()), (4, 2));
    w.donate(&poor, w.page(0), w.gfn(0)).unwrap();
    assert_eq!(poor.meta_free(), 0);
    assert_eq!(w.core.share(&poor, w.gfn(0)), Err(Refusal::NoMeta));
    w.check(&[&poor, &rich]);
    assert!(w.guest_writes(&poor, w.gfn(0), 1), "nothing has happened to the page");
    for page in 0..3 {
        w.core.donate_meta(&poor, w.page(100 + page)).unwrap();
        assert_eq!(w.core.share(&poor, w.gfn(0)), Err(Refusal::NoMeta));
    }
    w.core.donate_meta(&poor, w.page(103)).unwrap();
    w.core.share(&poor, w.gfn(0)).unwrap();
    assert_eq!((poor.meta_frames(), poor.meta_free()), (8, 0));
    assert_eq!(rich.meta_free(), 30, "others do not pay for it");
    w.check(&[&poor, &rich]);
}
