//! Every operation, its refusals, and what may be seen by whom afterwards. The first word of a name is the requirement it
//! stands for.

use crate::common::*;
use guestmem::fake::{Concatenated, FourLevels};
use guestmem::*;

on_both! {
    fn c1_a_page_is_donated_shared_taken_back_and_reclaimed(w) {
        let vm = w.plain(1);
        let (frame, gfn) = (w.page(0), w.gfn(5));
        w.host_writes(frame, 0x5ec);
        w.donate(&vm, frame, gfn).unwrap();
        w.check(&[&vm]);
        assert_eq!(w.host_reads(frame), None, "A1: the host has lost it");
        assert_eq!(w.guest_reads(&vm, gfn), Some(0), "C4: it arrives zeroed");
        w.guest_writes(&vm, gfn, 0x600d);
        assert_eq!(w.core.share(&vm, gfn), Ok(()));
        w.check(&[&vm]);
        assert_eq!(w.host_reads(frame), Some(0), "C3: what was private is gone");
        assert_eq!(w.guest_reads(&vm, gfn), Some(0));
        w.host_writes(frame, 0xbad);
        assert_eq!(w.guest_reads(&vm, gfn), Some(0xbad));
        assert_eq!(w.core.unshare(&vm, gfn), Ok(()));
        w.check(&[&vm]);
        assert_eq!(w.host_reads(frame), None);
        assert_eq!(w.guest_reads(&vm, gfn), Some(0));
        w.guest_writes(&vm, gfn, 0x5ec);
        w.end(&vm);
        assert_eq!(w.host_reads(frame), Some(0), "C4: it returns wiped");
        w.check(&[]);
    }

    fn b4_several_pages_are_donated_up_to_the_first_that_is_refused(w) {
        let vm = w.aliased(1);
        (0..8).for_each(|n| assert!(w.host_writes(w.page(n), 0x5ec)));
        assert_eq!(w.core.donate_pages(&vm, w.page(0), w.gfn(0), 8), Ok(8));
        for n in 0..8 {
            assert_eq!(w.host_reads(w.page(n)), None, "A1: the host has lost it");
            assert_eq!(w.guest_reads(&vm, w.gfn(n)), Some(0), "C4: it arrives zeroed");
        }
        w.check(&[&vm]);
        // The third is pinned, and the fourth is as if it had not been asked for.
        w.core.pin(w.page(10), State::Host).unwrap();
        w.host_writes(w.page(11), 0x600d);
        assert_eq!(w.core.donate_pages(&vm, w.page(8), w.gfn(8), 8), Ok(2));
        assert_eq!(w.host_reads(w.page(11)), Some(0x600d));
        assert_eq!(w.core.donate_pages(&vm, w.page(10), w.gfn(10), 8), Err(Refusal::Pinned));
        // What the guest wants shared arrives shared among the others.
        w.core.share(&vm, w.gfn(21)).unwrap();
        assert_eq!(w.core.donate_pages(&vm, w.page(20), w.gfn(20), 3), Ok(3));
        assert_eq!(w.alias_reads(&vm, w.gfn(21)), Some(0));
        assert_eq!(w.host_reads(w.page(21)), Some(0), "wiped, and open");
        // Something is there; RAM of the guest ends; the frames' block ends.
        assert_eq!(w.core.donate_pages(&vm, w.page(40), w.gfn(19), 8), Ok(1));
        assert_eq!(w.core.donate_pages(&vm, w.page(48), w.gfn(16 * 512 - 2), 8), Ok(2));
        assert_eq!(w.core.donate_pages(&vm, w.page(509), w.gfn(600), 8), Ok(3));
        w.check(&[&vm]);
        w.core.unpin(w.page(10)).unwrap();
        w.end(&vm);
        w.check(&[]);
    }

    fn c6_a_block_that_was_given_in_pieces_is_made_whole(w) {
        let vm = w.plain(1);
        for n in (0..512).step_by(8) {
            assert_eq!(w.core.donate_pages(&vm, w.block(2).offset(n), w.gfn(512 + n), 8), Ok(8));
        }
        assert_eq!(w.core.stats().merges, 1);
        w.check(&[&vm]);
        w.end(&vm);
        w.check(&[]);
    }

    fn a4_with_an_alias_a_page_is_in_one_half_at_a_time(w) {
        let vm = w.aliased(1);
        let (frame, gfn) = (w.page(0), w.gfn(5));
        w.donate(&vm, frame, gfn).unwrap();
        w.guest_writes(&vm, gfn, 0x5ec);
        assert_eq!(w.alias_reads(&vm, gfn), None);
        w.core.share(&vm, gfn).unwrap();
        w.check(&[&vm]);
        assert_eq!((w.guest_reads(&vm, gfn), w.alias_reads(&vm, gfn)), (None, Some(0)));
        assert_eq!(w.host_reads(frame), Some(0));
        w.host_writes(frame, 0xbad);
        assert_eq!(w.alias_reads(&vm, gfn), Some(0xbad));
        w.core.unshare(&vm, gfn).unwrap();
        w.check(&[&vm]);
        assert_eq!((w.guest_reads(&vm, gfn), w.alias_reads(&vm, gfn)), (Some(0), None));
        assert_eq!(w.host_reads(frame), None);
        assert_eq!((vm.shares(), vm.unshares()), (1, 1));
        w.end(&vm);
        w.check(&[]);
    }

    fn b4_donations_are_refused_for_the_right_reason(w) {
        let (vm, other) = (w.plain(1), w.plain(2));
        let one = &mut Budget::new(1);
        let (frame, gfn) = (w.page(0), w.gfn(0));
        assert_eq!(w.donate(&vm, Pfn::new(1), gfn), Err(Refusal::NotRam), "D5");
        assert_eq!(w.donate(&vm, Pfn::new(u64::MAX), gfn), Err(Refusal::NotRam));
        assert_eq!(w.donate(&vm, Pfn::from_addr(u64::MAX), gfn), Err(Refusal::NotRam));
        assert_eq!(w.donate(&vm, frame, Gfn::new(u64::MAX)), Err(Refusal::OutOfRange));
        assert_eq!(w.donate(&vm, frame, Gfn::new(GUEST_RAM - 1)), Err(Refusal::OutOfRange));
        assert_eq!(w.donate(&vm, frame, w.gfn(16 * 512)), Err(Refusal::OutOfRange));
        assert_eq!(w.core.donate(&vm, w.block(2), w.gfn(15 * 512 + 1), Size::Block, one), Err(Refusal::OutOfRange));
        assert_eq!(w.core.donate(&vm, w.block(2), w.gfn(1), Size::Block, one), Err(Refusal::Unaligned));
        assert_eq!(w.core.donate(&vm, w.page(1), w.gfn(0), Size::Block, one), Err(Refusal::Unaligned));
        assert_eq!(w.donate(&vm, w.core.host_root(), gfn), Err(Refusal::NotOwner(State::Postern)));
        assert_eq!(w.donate(&vm, vm.root(), gfn), Err(Refusal::NotOwner(State::Meta)));
        w.core.pin(frame, State::Host).unwrap();
        assert_eq!(w.donate(&vm, frame, gfn), Err(Refusal::Pinned), "C10");
        assert_eq!(w.core.donate(&vm, w.block(1), w.gfn(512), Size::Block, one), Err(Refusal::Pinned));
        w.core.unpin(frame).unwrap();
        w.donate(&vm, frame, gfn).unwrap();
        assert_eq!(w.donate(&vm, frame, w.gfn(1)), Err(Refusal::NotOwner(State::Private)), "A3");
        assert_eq!(w.donate(&other, frame, gfn), Err(Refusal::NotOwner(State::Private)), "A3");
        assert_eq!(w.donate(&vm, w.page(1), gfn), Err(Refusal::Occupied));
        assert_eq!(w.core.donate(&vm, w.block(2), gfn, Size::Block, one), Err(Refusal::Occupied));
        assert_eq!(
            w.core.donate(&other, w.block(1), gfn, Size::Block, one),
            Err(Refusal::NotOwner(State::Private)),
            "part of the block is another guest's"
        );
        w.core.share(&vm, gfn).unwrap();
        assert_eq!(w.donate(&other, frame, gfn), Err(Refusal::NotOwner(State::Shared)), "shared is not given");
        assert_eq!(w.core.donate_meta(&other, frame), Err(Refusal::NotOwner(State::Shared)));
        assert_eq!(w.core.topup(frame), Err(Refusal::NotOwner(State::Shared)));
        w.check(&[&vm, &other]);
    }

    fn a6_conversions_are_refused_for_the_right_reason(w) {
        let (vm, other) = (w.plain(1), w.aliased(2));
        let gfn = w.gfn(0);
        assert_eq!(w.core.share(&vm, gfn), Err(Refusal::Absent));
        assert_eq!(w.core.unshare(&vm, gfn), Err(Refusal::Absent));
        assert_eq!(w.core.share(&vm, Gfn::new(u64::MAX)), Err(Refusal::OutOfRange));
        assert_eq!(w.core.relinquish(&vm, Gfn::new(0)), Err(Refusal::OutOfRange));
        w.donate(&vm, w.page(0), gfn).unwrap();
        assert_eq!(w.core.unshare(&vm, gfn), Err(Refusal::WrongVisibility));
        w.core.share(&vm, gfn).unwrap();
        assert_eq!(w.core.share(&vm, gfn), Err(Refusal::WrongVisibility));
        w.core.pin(w.page(0), State::Shared).unwrap();
        assert_eq!(w.core.unshare(&vm, gfn), Err(Refusal::Pinned), "C7, C10");
        w.core.unpin(w.page(0)).unwrap();
        w.core.unshare(&vm, gfn).unwrap();
        w.core.kill(&vm);
        assert_eq!(w.core.share(&vm, gfn), Err(Refusal::Dying));
        assert_eq!(w.core.relinquish(&vm, gfn), Err(Refusal::Dying));
        assert_eq!(w.donate(&vm, w.page(1), w.gfn(1)), Err(Refusal::Dying));
        assert_eq!(w.core.donate_meta(&vm, w.page(1)), Err(Refusal::Dying));
        assert_eq!(w.core.share(&other, gfn), Ok(()), "with an alias the wish is kept");
        assert_eq!(w.core.share(&other, gfn), Err(Refusal::WrongVisibility));
        w.check(&[&vm, &other]);
    }

    fn a6_an_unpopulated_page_arrives_as_wanted(w) {
        let vm = w.aliased(1);
        w.core.share(&vm, w.gfn(3)).unwrap();
        assert_eq!(w.core.fault(&vm, w.gfn(3), Visibility::Private), Fault::Wrong);
        assert_eq!(w.core.fault(&vm, w.gfn(3), Visibility::Shared), Fault::Absent(Visibility::Shared));
        assert_eq!(w.core.fault(&vm, w.gfn(4), Visibility::Private), Fault::Absent(Visibility::Private));
        w.host_writes(w.page(0), 7);
        w.donate(&vm, w.page(0), w.gfn(3)).unwrap();
        assert_eq!(w.alias_reads(&vm, w.gfn(3)), Some(0));
        assert_eq!(w.guest_reads(&vm, w.gfn(3)), None);
        assert_eq!(w.host_reads(w.page(0)), Some(0));
        assert_eq!(w.core.fault(&vm, w.gfn(3), Visibility::Shared), Fault::Retry);
        let mixed = w.core.donate(&vm, w.block(2), w.gfn(0), Size::Block, &mut Budget::new(1));
        assert_eq!(mixed, Err(Refusal::WrongVisibility));
        w.convert(&vm, w.gfn(512)..w.gfn(1024), Visibility::Shared).unwrap();
        w.donate_block(&vm, w.block(2), w.gfn(512)).unwrap();
        assert_eq!(w.alias_reads(&vm, w.gfn(600)), Some(0));
        assert_eq!(w.host_reads(w.block(2)), Some(0));
        assert_eq!(w.core.load(&vm, w.page(9), w.gfn(1), 1, &mut |_, _| ()), Ok(Progress::Done));
        w.core.share(&vm, w.gfn(8)).unwrap();
        assert_eq!(w.core.load(&vm, w.page(8), w.gfn(8), 1, &mut |_, _| ()), Err(Refusal::WrongVisibility));
        w.check(&[&vm]);
        w.end(&vm);
        w.check(&[]);
    }

    fn b10_a_launch_page_is_measured_out_of_the_hosts_reach_and_keeps_its_content(w) {
        let vm = w.plain(1);
        w.host_writes(w.page(0), 0x1a0);
        let mut seen = Vec::new();
        for chunk in 0..4 {
            let more = w.core.load(&vm, w.page(0), w.gfn(0), 4, &mut |words, chunk| {
                seen.push((words[1].load(std::sync::atomic::Ordering::Relaxed), chunk));
            });
            assert!(!w.host_writes(w.page(0), 0xbad), "not while it is being measured");
            assert_eq!(more, Ok(if chunk < 3 { Progress::More } else { Progress::Done }));
            assert_eq!(vm.loading(), u64::from(chunk < 3));
            w.check(&[&vm]);
        }
        assert_eq!(seen, (0..4).map(|chunk| (0x1a0, chunk)).collect::<Vec<_>>());
        assert_eq!(w.guest_reads(&vm, w.gfn(0)), Some(0x1a0));
        assert!(!w.core.lookup(w.page(0)).wiped);
        assert_eq!(w.core.load(&vm, w.page(0), w.gfn(0), 4, &mut |_, _| ()), Err(Refusal::NotOwner(State::Private)));
        assert_eq!(w.core.load(&vm, w.page(1), w.gfn(0), 4, &mut |_, _| ()), Err(Refusal::Occupied));
        // One that is never finished goes back with the VM.
        assert_eq!(w.core.load(&vm, w.page(2), w.gfn(2), 4, &mut |_, _| ()), Ok(Progress::More));
        assert_eq!(w.donate(&vm, w.page(2), w.gfn(2)), Err(Refusal::NotOwner(State::Moving)));
        w.end(&vm);
        assert_eq!(w.host_reads(w.page(2)), Some(0));
        w.check(&[]);
    }

    fn d2_pins_are_counted_and_never_wrap(w) {
        let vm = w.plain(1);
        assert_eq!(w.core.unpin(w.page(0)), Err(Refusal::Underflow));
        assert_eq!(w.core.pin(w.page(0), State::Shared), Err(Refusal::NotOwner(State::Host)));
        w.donate(&vm, w.page(0), w.gfn(0)).unwrap();
        assert_eq!(w.core.pin(w.page(0), State::Host), Err(Refusal::NotOwner(State::Private)));
        assert_eq!(w.core.unpin(w.page(0)), Err(Refusal::NotOwner(State::Private)), "D2: it has moved on");
        w.core.share(&vm, w.gfn(0)).unwrap();
        assert_eq!(w.core.pin(w.page(0), State::Host), Err(Refusal::NotOwner(State::Shared)));
        for _ in 0..COUNT_MAX {
            w.core.pin(w.page(0), State::Shared).unwrap();
        }
        assert_eq!(w.core.pin(w.page(0), State::Shared), Err(Refusal::Overflow), "D6");
        w.end(&vm);
        w.check(&[]);
        assert_eq!(w.core.lookup(w.page(0)).pins(), COUNT_MAX, "pins survive as the host's");
        let vm = w.plain(1);
        assert_eq!(w.donate(&vm, w.page(0), w.gfn(0)), Err(Refusal::Pinned));
        for _ in 0..COUNT_MAX {
            w.core.unpin(w.page(0)).unwrap();
        }
        assert_eq!(w.core.unpin(w.page(0)), Err(Refusal::Underflow));
        w.donate(&vm, w.page(0), w.gfn(0)).unwrap();
        w.check(&[&vm]);
    }

    fn d2_what_postern_borrows_the_host_cannot_give_away_nor_take_back(w) {
        let vm = w.plain(1);
        w.core.lend(w.page(0)).unwrap();
        w.check(&[&vm]);
        assert!(w.host_writes(w.page(0), 5), "the host keeps it");
        assert_eq!(w.core.with_host_page(w.page(0), |words| words[1].load(std::sync::atomic::Ordering::Relaxed)), Ok(5));
        let lent = Err(Refusal::NotOwner(State::Lent));
        assert_eq!(w.core.lend(w.page(0)), lent, "once only");
        assert_eq!(w.core.unpin(w.page(0)), lent, "the host's calls do not end it");
        assert_eq!(w.core.pin(w.page(0), State::Host), lent);
        assert_eq!(w.donate(&vm, w.page(0), w.gfn(0)), lent);
        assert_eq!(w.core.donate_meta(&vm, w.page(0)), lent);
        assert_eq!(w.core.topup(w.page(0)), lent);
        assert_eq!(w.core.donate(&vm, w.block(1), w.gfn(0), Size::Block, &mut Budget::new(1)).map(drop), lent);
        assert_eq!(w.core.end_lend(w.page(1)), Err(Refusal::NotOwner(State::Host)));
        w.core.end_lend(w.page(0)).unwrap();
        assert_eq!(w.core.end_lend(w.page(0)), Err(Refusal::NotOwner(State::Host)));
        w.donate(&vm, w.page(0), w.gfn(0)).unwrap();
        assert_eq!(w.core.lend(w.page(0)), Err(Refusal::NotOwner(State::Private)));
        w.core.share(&vm, w.gfn(0)).unwrap();
        assert_eq!(w.core.lend(w.page(0)), Err(Refusal::NotOwner(State::Shared)));
        w.core.pin(w.page(1), State::Host).unwrap();
        assert_eq!(w.core.lend(w.page(1)), Err(Refusal::Pinned));
        w.check(&[&vm]);
    }

    fn c12_a_guest_gives_pages_back(w) {
        for (alias, block) in [(None, 2), (Some(ALIAS), 3)] {
            let vm = w.guest(1, alias, 32);
            w.donate_block(&vm, w.block(block), w.gfn(0)).unwrap();
            w.guest_writes(&vm, w.gfn(7), 0x5ec);
            w.core.relinquish(&vm, w.gfn(7)).unwrap();
            w.check(&[&vm]);
            assert_eq!(w.guest_reads(&vm, w.gfn(7)), None);
            assert_eq!(w.host_reads(w.block(block).offset(7)), Some(0));
            assert_eq!(w.core.relinquish(&vm, w.gfn(7)), Err(Refusal::Absent));
            assert_eq!(w.core.fault(&vm, w.gfn(7), Visibility::Private), Fault::Absent(Visibility::Private));
            w.core.share(&vm, w.gfn(8)).unwrap();
            w.host_writes(w.block(block).offset(8), 5);
            w.core.pin(w.block(block).offset(8), State::Shared).unwrap();
            w.core.relinquish(&vm, w.gfn(8)).unwrap();
            w.check(&[&vm]);
            assert_eq!(w.host_reads(w.block(block).offset(8)), Some(5));
            assert_eq!(w.core.lookup(w.block(block).offset(8)).pins(), 1);
            w.core.unpin(w.block(block).offset(8)).unwrap();
            for page in (0..512).filter(|page| ![7, 8].contains(page)) {
                w.core.relinquish(&vm, w.gfn(page)).unwrap();
            }
            w.check(&[&vm]);
            assert_eq!(w.core.lookup(w.block(block)).state, State::Host);
            let visible = if vm.layout().alias.is_some() { Visibility::Shared } else { Visibility::Private };
            assert_eq!(w.core.visibility(&vm, w.gfn(8)), visible, "what it wants there is remembered");
            w.convert(&vm, w.gfn(8)..w.gfn(9), Visibility::Private).or_else(|refusal| {
                if refusal == Refusal::Absent { Ok(()) } else { Err(refusal) }
            }).unwrap();
            // Its tables are there and empty: a block takes their place.
            w.donate_block(&vm, w.block(block), w.gfn(0)).unwrap();
            w.check(&[&vm]);
            w.end(&vm);
            w.check(&[]);
        }
    }

    fn a1_the_host_can_be_told_about_every_address(w) {
        let vm = w.plain(1);
        w.donate(&vm, w.page(0), w.gfn(0)).unwrap();
        assert_eq!(w.core.host_fault(w.page(0).addr() + 77), HostFault::Denied(State::Private));
        assert_eq!(w.core.host_fault(w.page(1).addr()), HostFault::Retry, "only a mapping in motion");
        assert_eq!(w.core.host_fault(w.core.host_root().addr()), HostFault::Denied(State::Postern));
        assert_eq!(w.core.host_fault(vm.root().addr()), HostFault::Denied(State::Meta));
        w.core.share(&vm, w.gfn(0)).unwrap();
        assert_eq!(w.core.host_fault(w.page(0).addr()), HostFault::Retry);
    }

    fn b7_postern_touches_only_what_it_may(w) {
        use std::sync::atomic::Ordering::Relaxed;
        let vm = w.plain(1);
        w.donate(&vm, w.page(0), w.gfn(0)).unwrap();
        assert_eq!(w.core.with_page(&vm, w.gfn(1), |_| ()), Err(Refusal::Absent));
        w.core.with_page(&vm, w.gfn(0), |words| words[1].store(9, Relaxed)).unwrap();
        assert_eq!(w.guest_reads(&vm, w.gfn(0)), Some(9));
        assert_eq!(w.core.with_host_page(w.page(0), |_| ()), Err(Refusal::NotOwner(State::Private)));
        assert_eq!(w.core.with_host_page(w.core.host_root(), |_| ()), Err(Refusal::NotOwner(State::Postern)));
        w.core.share(&vm, w.gfn(0)).unwrap();
        assert_eq!(w.core.with_page(&vm, w.gfn(0), |_| ()), Err(Refusal::WrongVisibility));
        assert_eq!(w.core.with_host_page(w.page(0), |words| words[1].load(Relaxed)), Ok(0));
    }

    fn poison_takes_a_frame_out_for_good(w) {
        for (alias, block) in [(None, 2), (Some(ALIAS), 3)] {
            let vm = w.guest(1, alias, 32);
            w.donate_block(&vm, w.block(block), w.gfn(0)).unwrap();
            w.core.share(&vm, w.gfn(9)).unwrap();
            w.guest_writes(&vm, w.gfn(3), 3);
            let frame = |page| w.block(block).offset(page);
            assert_eq!(w.core.poison(frame(4), None), Err(Refusal::NotOwner(State::Private)));
            w.core.poison(frame(4), Some(&vm)).unwrap();
            w.core.poison(frame(4), Some(&vm)).unwrap();
            w.core.poison(frame(9), Some(&vm)).unwrap();
            w.check(&[&vm]);
            assert_eq!(w.guest_reads(&vm, w.gfn(4)), None);
            assert_eq!(w.guest_reads(&vm, w.gfn(9)), None);
            assert_eq!(w.host_reads(frame(9)), None);
            assert_eq!(w.guest_reads(&vm, w.gfn(3)), Some(3));
            assert_eq!(w.core.fault(&vm, w.gfn(4), Visibility::Private), Fault::Poisoned);
            assert_eq!(w.core.share(&vm, w.gfn(4)), Err(Refusal::Poisoned));
            assert_eq!(w.core.with_page(&vm, w.gfn(4), |_| ()), Err(Refusal::Poisoned));
            assert_eq!(w.donate(&vm, w.page(block), w.gfn(4)), Err(Refusal::Occupied));
            assert_eq!(w.core.host_fault(frame(4).addr()), HostFault::Denied(State::Poisoned));
            w.end(&vm);
            w.check(&[]);
            assert_eq!(w.state(frame(4)), State::Poisoned, "reclaim leaves it");
            assert_eq!(w.host_reads(frame(4)), None);
            let vm = w.plain(1);
            assert_eq!(w.donate(&vm, frame(4), w.gfn(4)), Err(Refusal::Poisoned));
            w.end(&vm);
        }
        w.core.poison(w.page(1), None).unwrap();
        assert_eq!(w.host_reads(w.page(1)), None);
        assert_eq!(w.core.poison(w.core.host_root(), None), Err(Refusal::NotOwner(State::Postern)));
        w.check(&[]);
    }

    fn metadata_is_counted_and_comes_back(w) {
        let vm = w.plain(1);
        assert_eq!((vm.meta_frames(), vm.meta_free()), (32, 32 - w.root_frames()));
        let frame = w.core.alloc_meta(&vm).unwrap();
        assert_eq!(w.host_reads(frame), None);
        assert_eq!(w.core.free_meta(&vm, w.page(0)), Err(Refusal::NotOwner(State::Host)));
        assert_eq!(w.core.free_meta(&vm, vm.root()), Err(Refusal::Underflow), "D2: not what alloc_meta gave");
        w.core.free_meta(&vm, frame).unwrap();
        assert_eq!(w.core.free_meta(&vm, frame), Err(Refusal::Underflow), "D2: twice");
        while w.core.alloc_meta(&vm).is_ok() {}
        assert_eq!(w.core.alloc_meta(&vm), Err(Refusal::NoMeta));
        assert_eq!(w.donate(&vm, w.page(0), w.gfn(0)), Err(Refusal::NoMeta));
        assert_eq!(w.host_reads(w.page(0)), Some(0), "nothing has happened to the frame");
        w.check(&[&vm]);
        w.end(&vm);
        assert_eq!(w.core.alloc_meta(&vm), Err(Refusal::Dying));
        assert_eq!(w.core.donate_meta(&vm, w.page(0)), Err(Refusal::Dying));
        w.check(&[]);
    }

    fn d3_nothing_is_looked_up_in_what_were_a_vms_tables(w) {
        let vm = w.aliased(1);
        // In the block whose entry the host will write.
        let gfns = [0, 1].map(|index| w.gfn(BLOCK_FRAMES + index));
        for (frame, gfn) in [w.page(0), w.page(1)].into_iter().zip(gfns) {
            w.donate(&vm, frame, gfn).unwrap();
            w.core.share(&vm, gfn).unwrap();
        }
        w.end(&vm);
        let entry = w.block_entry(w.block(2));
        for frame in (0..32).map(|index| vm.root().offset(index)) {
            assert!(w.host_writes(frame, entry), "it is the host's again");
        }
        assert!(!w.core.is_populated(&vm, gfns[0]));
        assert_eq!(w.core.fault(&vm, gfns[0], Visibility::Private), Fault::Absent(Visibility::Private));
        assert_eq!(w.core.share(&vm, gfns[0]), Err(Refusal::Dying));
        assert_eq!(w.donate(&vm, w.page(0), gfns[0]), Err(Refusal::Dying));
        w.check(&[]);
    }

    fn a_vm_without_a_root_does_nothing(w) {
        let layout = Layout { ram: w.gfn(0)..w.gfn(512), alias: None, accepts: false };
        let vm = Guest::new(OwnerId::new(1).unwrap(), w.page(0), layout.clone());
        assert_eq!(w.donate(&vm, w.page(5), w.gfn(0)), Err(Refusal::Dying));
        assert_eq!(w.core.share(&vm, w.gfn(0)), Err(Refusal::Dying));
        assert_eq!(w.core.fault(&vm, w.gfn(0), Visibility::Private), Fault::Absent(Visibility::Private));
        w.core.donate_meta(&vm, w.page(7)).unwrap();
        w.end(&vm);
        for (root, ram, alias) in [
            (w.page(0), w.gfn(0)..w.gfn(0), None),
            (w.page(0), w.gfn(1)..w.gfn(0), None),
            (w.page(0), w.gfn(0)..Gfn::new(GFN_END + 1), None),
            (w.page(0), w.gfn(0)..Gfn::new(u64::MAX), Some(38)),
            (w.page(0), w.gfn(0)..w.gfn(512), Some(63)),
            (w.page(0), w.gfn(0)..w.gfn(512), Some(3)),
            (w.page(0), w.gfn(0)..w.gfn(512), Some(29)),
            (w.page(0), w.gfn(0)..w.gfn(512 * 32768 + 1), Some(38)),
        ] {
            let vm = Guest::new(OwnerId::new(1).unwrap(), root, Layout { ram, alias, accepts: false });
            assert_eq!(w.core.donate_meta(&vm, w.page(0)), Err(Refusal::OutOfRange), "{vm:?}");
            let _ = (w.core.share(&vm, w.gfn(0)), w.core.fault(&vm, w.gfn(0), Visibility::Shared));
            w.end(&vm);
        }
        w.check(&[]);
    }

    fn museum_13_the_pool_refuses_before_anything_changes_and_is_topped_up(w) {
        let w = w.smaller_pool();
        let vm = w.plain(1);
        let mut block = 7;
        while w.core.stats().pool_free > 3 {
            // Splits that stay: a pin in each block.
            w.core.pin(w.block(block), State::Host).unwrap();
            block -= 1;
        }
        assert_eq!(w.donate(&vm, w.page(0), w.gfn(0)), Err(Refusal::NoPool));
        assert_eq!(w.core.pin(w.page(0), State::Host), Err(Refusal::NoPool));
        assert_eq!(w.host_reads(w.page(0)), Some(0));
        w.check(&[&vm]);
        // The reserve is there for this: the first frame of a block costs two, the others nothing.
        let before = w.core.stats().pool_free;
        for page in 0..8 {
            w.core.topup(w.page(100 + page)).unwrap();
        }
        assert_eq!(w.core.topup(w.page(100)), Err(Refusal::NotOwner(State::Postern)));
        assert_eq!(w.core.stats().pool_free, before - 2 + 8);
        assert_eq!(w.host_reads(w.page(100)), None);
        w.donate(&vm, w.page(0), w.gfn(0)).unwrap();
        w.check(&[&vm]);
    }
}
