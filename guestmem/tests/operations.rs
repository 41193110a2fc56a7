//! Every operation, its refusals, and what may be seen by whom afterwards. The first word of a name is the requirement it
//! stands for.

mod common;
use common::*;
use guestmem::fake::{Concatenated, FourLevels};
use guestmem::*;

/// Runs a test on both table formats.
macro_rules! on_both {
    ($($(#[$meta:meta])* fn $name:ident($world:ident) $body:block)*) => {
        mod two_root_tables {
            use super::*;
            $($(#[$meta])* #[test] fn $name() { let $world = World::<Concatenated>::new(); $body })*
        }
        mod four_levels {
            use super::*;
            $($(#[$meta])* #[test] fn $name() { let $world = World::<FourLevels>::new(); $body })*
        }
    };
}

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

    fn c6_sharing_a_page_without_an_alias_does_not_split_the_guests_block(w) {
        let vm = w.plain(1);
        w.donate_block(&vm, w.block(2), w.gfn(512)).unwrap();
        w.check(&[&vm]);
        w.guest_writes(&vm, w.gfn(512 + 8), 1);
        let flushes = w.core.machine.flushes.load(std::sync::atomic::Ordering::Relaxed);
        w.core.share(&vm, w.gfn(512 + 7)).unwrap();
        w.check(&[&vm]);
        assert_eq!(w.core.machine.flushes.load(std::sync::atomic::Ordering::Relaxed), flushes, "nothing to flush");
        assert_eq!(w.host_reads(w.block(2).offset(7)), Some(0));
        assert_eq!(w.host_reads(w.block(2).offset(8)), None);
        assert_eq!(w.guest_reads(&vm, w.gfn(512 + 8)), Some(1));
        w.core.unshare(&vm, w.gfn(512 + 7)).unwrap();
        assert_eq!(w.host_reads(w.block(2).offset(7)), None);
        w.check(&[&vm]);
        w.end(&vm);
        w.check(&[]);
    }

    fn c6_with_an_alias_the_rest_of_the_block_keeps_its_content(w) {
        let vm = w.aliased(1);
        w.donate_block(&vm, w.block(2), w.gfn(512)).unwrap();
        for page in 0..512 {
            w.guest_writes(&vm, w.gfn(512 + page), 1 + page);
        }
        w.core.share(&vm, w.gfn(512 + 7)).unwrap();
        w.check(&[&vm]);
        for page in 0..512 {
            let expected = if page == 7 { None } else { Some(1 + page) };
            assert_eq!(w.guest_reads(&vm, w.gfn(512 + page)), expected);
        }
        w.core.unshare(&vm, w.gfn(512 + 7)).unwrap();
        w.check(&[&vm]);
        // The block is uniform again, and turned in one piece.
        w.convert(&vm, w.gfn(512)..w.gfn(1024), Visibility::Shared).unwrap();
        assert_eq!(w.core.lookup(w.block(2)).state, State::Shared);
        w.check(&[&vm]);
        w.core.unshare(&vm, w.gfn(512 + 9)).unwrap();
        w.check(&[&vm]);
        assert_eq!(w.guest_reads(&vm, w.gfn(512 + 9)), Some(0));
        assert_eq!(w.alias_reads(&vm, w.gfn(512 + 10)), Some(0));
        w.end(&vm);
        w.check(&[]);
    }

    fn c5_a_block_is_donated_in_steps_and_nobody_has_it_meanwhile(w) {
        let vm = w.plain(1);
        let frame = w.block(3);
        w.host_writes(frame.offset(511), 0x5ec);
        let mut calls = 0;
        while w.core.donate(&vm, frame, w.gfn(0), Size::Block, &mut Budget::new(100)) == Ok(Progress::More) {
            calls += 1;
            assert_eq!(w.state(frame.offset(511)), State::Moving);
            assert_eq!((w.host_reads(frame.offset(511)), w.guest_reads(&vm, w.gfn(511))), (None, None));
            assert_eq!(w.core.host_fault(frame.addr()), HostFault::Denied(State::Moving));
            assert_eq!(w.core.fault(&vm, w.gfn(3), Visibility::Private), Fault::Absent(Visibility::Private));
            w.check(&[&vm]);
        }
        assert_eq!(calls, 5, "512 frames, 100 at a time");
        assert_eq!(w.guest_reads(&vm, w.gfn(511)), Some(0));
        w.check(&[&vm]);
        assert_eq!(w.core.lookup(frame).count, 0);
    }

    fn c5_an_interrupt_ends_a_step_after_one_frame(w) {
        let vm = w.plain(1);
        w.core.machine.interrupt.store(true, std::sync::atomic::Ordering::Relaxed);
        for step in 1..512 {
            let more = w.core.donate(&vm, w.block(3), w.gfn(0), Size::Block, &mut Budget::new(100));
            assert_eq!(more, Ok(Progress::More));
            assert_eq!(w.core.lookup(w.block(3)).count, step);
        }
        assert_eq!(w.donate_block(&vm, w.block(3), w.gfn(0)), Ok(()));
        let mut calls = 1;
        while w.core.reclaim(&vm, &mut Budget::new(1)) == Progress::More {
            calls += 1;
        }
        assert!(calls < 600, "one frame at least for each call: {calls}");
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

    fn a3_a_block_at_a_moving_ones_address_is_refused(w) {
        let vm = w.plain(1);
        let one = &mut Budget::new(1);
        assert_eq!(w.core.donate(&vm, w.block(2), w.gfn(0), Size::Block, one), Ok(Progress::More));
        assert_eq!(w.core.donate(&vm, w.block(3), w.gfn(0), Size::Block, one), Err(Refusal::Occupied));
        assert_eq!(w.donate(&vm, w.page(0), w.gfn(3)), Err(Refusal::Occupied));
        assert_eq!(
            w.core.donate(&vm, w.block(2), w.gfn(512), Size::Block, one),
            Err(Refusal::NotOwner(State::Moving)),
            "the same block to another address"
        );
        w.donate_block(&vm, w.block(2), w.gfn(0)).unwrap();
        w.check(&[&vm]);
    }

    fn c1_pages_that_fill_a_block_make_it_one(w) {
        let vm = w.plain(1);
        let before = w.core.stats();
        for page in (0..512).rev() {
            w.donate(&vm, w.block(4).offset(page), w.gfn(512 + page)).unwrap();
        }
        let after = w.core.stats();
        assert_eq!((after.splits - before.splits, after.merges - before.merges), (1, 1));
        assert_eq!(after.pool_free, before.pool_free, "the record page is back");
        w.check(&[&vm]);
        assert_eq!(w.core.lookup(w.block(4).offset(3)).gfn, w.gfn(512 + 3));
        w.end(&vm);
        assert_eq!(w.core.stats().pool_free, before.pool_free);
        w.check(&[]);
    }

    fn c1_pages_at_scattered_addresses_stay_pages(w) {
        let vm = w.plain(1);
        for page in 0..512 {
            w.donate(&vm, w.block(4).offset(page), w.gfn(1024 + (page ^ 1))).unwrap();
        }
        w.check(&[&vm]);
        let vm2 = w.plain(2);
        for page in 0..512 {
            w.donate(&vm2, w.block(5).offset(page), w.gfn(3 + page)).unwrap();
        }
        w.check(&[&vm, &vm2]);
        assert_eq!(w.guest_reads(&vm2, w.gfn(514)), Some(0));
        w.end(&vm);
        w.end(&vm2);
        w.check(&[]);
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

    fn c6_a_range_of_blocks_is_converted_without_splitting(w) {
        let vm = w.aliased(1);
        for block in 0..3 {
            w.donate_block(&vm, w.block(2 + block), w.gfn(block * 512)).unwrap();
        }
        w.guest_writes(&vm, w.gfn(5), 0x5ec);
        let before = w.core.stats();
        w.convert(&vm, w.gfn(0)..w.gfn(3 * 512), Visibility::Shared).unwrap();
        w.check(&[&vm]);
        let after = w.core.stats();
        assert_eq!((after.splits, after.flushes), (before.splits, before.flushes + 3), "one flush for each block");
        assert_eq!(after.wipes - before.wipes, 3 * 512);
        assert_eq!((w.alias_reads(&vm, w.gfn(5)), w.guest_reads(&vm, w.gfn(5))), (Some(0), None));
        w.host_writes(w.block(2).offset(5), 0xbad);
        w.convert(&vm, w.gfn(0)..w.gfn(3 * 512), Visibility::Private).unwrap();
        w.check(&[&vm]);
        assert_eq!(w.core.stats().splits, before.splits);
        assert_eq!((w.alias_reads(&vm, w.gfn(5)), w.guest_reads(&vm, w.gfn(5))), (None, Some(0)));
        assert_eq!(w.host_reads(w.block(2).offset(5)), None);
        assert_eq!((vm.shares(), vm.unshares()), (3 * 512, 3 * 512));
    }

    fn c3_what_is_so_already_keeps_its_content(w) {
        let vm = w.aliased(1);
        w.donate_block(&vm, w.block(2), w.gfn(0)).unwrap();
        w.donate(&vm, w.page(0), w.gfn(512)).unwrap();
        w.guest_writes(&vm, w.gfn(7), 7);
        w.guest_writes(&vm, w.gfn(512), 8);
        w.convert(&vm, w.gfn(0)..w.gfn(16 * 512), Visibility::Private).unwrap();
        assert_eq!((w.guest_reads(&vm, w.gfn(7)), w.guest_reads(&vm, w.gfn(512))), (Some(7), Some(8)));
        w.convert(&vm, w.gfn(10)..w.gfn(20), Visibility::Shared).unwrap();
        w.convert(&vm, w.gfn(0)..w.gfn(1024), Visibility::Private).unwrap();
        assert_eq!((w.guest_reads(&vm, w.gfn(7)), w.guest_reads(&vm, w.gfn(512))), (Some(7), Some(8)));
        assert_eq!(w.guest_reads(&vm, w.gfn(15)), Some(0));
        w.check(&[&vm]);
    }

    fn c5_a_block_half_converted_is_nobodys_until_a_fault_pushes_it_on(w) {
        let vm = w.aliased(1);
        w.donate_block(&vm, w.block(2), w.gfn(0)).unwrap();
        w.guest_writes(&vm, w.gfn(500), 0x5ec);
        let next = w.core.convert(&vm, w.gfn(0)..w.gfn(512), Visibility::Shared, &mut Budget::new(64)).unwrap();
        assert!(next > w.gfn(0) && next < w.gfn(512));
        assert_eq!(w.state(w.block(2)), State::Opening);
        w.check(&[&vm]);
        let reads = (w.guest_reads(&vm, w.gfn(500)), w.alias_reads(&vm, w.gfn(500)), w.host_reads(w.block(2)));
        assert_eq!(reads, (None, None, None));
        assert_eq!(w.core.share(&vm, w.gfn(1)), Err(Refusal::Busy));
        assert_eq!(w.core.with_page(&vm, w.gfn(1), |_| ()), Err(Refusal::Busy));
        assert_eq!(w.core.fault(&vm, w.gfn(1), Visibility::Private), Fault::Wrong);
        let mut faults = 0;
        while w.alias_reads(&vm, w.gfn(500)).is_none() {
            assert_eq!(w.core.fault(&vm, w.gfn(500), Visibility::Shared), Fault::Retry);
            faults += 1;
        }
        assert!(faults < 20);
        assert_eq!(w.alias_reads(&vm, w.gfn(500)), Some(0));
        w.check(&[&vm]);
        // Turning round half way: both wipes are done.
        let _ = w.core.convert(&vm, w.gfn(0)..w.gfn(512), Visibility::Private, &mut Budget::new(64)).unwrap();
        assert_eq!(w.state(w.block(2)), State::Closing);
        let mut refusals = 0;
        while w.core.convert(&vm, w.gfn(0)..w.gfn(512), Visibility::Shared, &mut Budget::new(64)) == Err(Refusal::Busy) {
            refusals += 1;
        }
        assert!(refusals < 10);
        w.convert(&vm, w.gfn(0)..w.gfn(512), Visibility::Shared).unwrap();
        assert_eq!(w.state(w.block(2)), State::Shared);
        w.check(&[&vm]);
    }

    fn c10_a_pinned_page_stops_a_range_where_it_is(w) {
        let vm = w.aliased(1);
        w.donate_block(&vm, w.block(2), w.gfn(0)).unwrap();
        w.convert(&vm, w.gfn(0)..w.gfn(512), Visibility::Shared).unwrap();
        w.core.pin(w.block(2).offset(9), State::Shared).unwrap();
        w.check(&[&vm]);
        let range = w.gfn(0)..w.gfn(512);
        let mut at = range.start;
        loop {
            match w.core.convert(&vm, at..range.end, Visibility::Private, &mut Budget::new(64)) {
                Ok(next) => at = next,
                Err(refusal) => break assert_eq!(refusal, Refusal::Pinned),
            }
        }
        assert_eq!(at, w.gfn(9));
        w.check(&[&vm]);
        w.core.unpin(w.block(2).offset(9)).unwrap();
        w.convert(&vm, range, Visibility::Private).unwrap();
        w.check(&[&vm]);
    }

    fn c11_a_range_without_an_alias_goes_page_by_page(w) {
        let vm = w.plain(1);
        w.donate_block(&vm, w.block(2), w.gfn(0)).unwrap();
        w.convert(&vm, w.gfn(3)..w.gfn(70), Visibility::Shared).unwrap();
        assert_eq!(vm.shared_frames(), 67);
        assert_eq!(w.core.visibility_run(&vm, w.gfn(0), w.gfn(512)), (Visibility::Private, w.gfn(3)));
        assert_eq!(w.core.visibility_run(&vm, w.gfn(3), w.gfn(512)), (Visibility::Shared, w.gfn(70)));
        w.convert(&vm, w.gfn(0)..w.gfn(512), Visibility::Private).unwrap();
        assert_eq!(vm.shared_frames(), 0);
        assert_eq!(w.core.convert(&vm, w.gfn(600)..w.gfn(601), Visibility::Shared, &mut Budget::new(1)), Err(Refusal::Absent));
        w.check(&[&vm]);
    }

    fn malformed_ranges_are_refused(w) {
        for vm in [w.plain(1), w.aliased(2)] {
            let one = &mut Budget::new(1);
            let max = Gfn::new(u64::MAX);
            for range in [w.gfn(3)..w.gfn(3), w.gfn(3)..w.gfn(2), w.gfn(0)..max, max..max, Gfn::new(0)..w.gfn(1)] {
                assert_eq!(w.core.convert(&vm, range, Visibility::Shared, one), Err(Refusal::OutOfRange));
            }
            assert_eq!(w.core.fault(&vm, max, Visibility::Shared), Fault::OutOfRange);
            assert_eq!(w.core.visibility(&vm, max), Visibility::Private);
            assert_eq!(w.core.visibility_run(&vm, max, max), (Visibility::Private, max));
            assert_eq!(w.core.visibility_run(&vm, w.gfn(5), w.gfn(3)).0, Visibility::Private);
            assert_eq!(w.core.with_page(&vm, max, |_| ()), Err(Refusal::OutOfRange));
            assert_eq!(w.core.load(&vm, w.page(0), w.gfn(0), 0, &mut |_, _| ()), Err(Refusal::OutOfRange));
            assert_eq!(w.core.load(&vm, w.page(0), w.gfn(0), 4096, &mut |_, _| ()), Err(Refusal::OutOfRange));
        }
        for address in [0, 1, u64::MAX, RAM_END * 4096] {
            assert_eq!(w.core.host_fault(address), HostFault::NotRam);
            assert_eq!(w.core.with_host_page(Pfn::from_addr(address), |_| ()), Err(Refusal::NotRam));
            assert_eq!(w.core.pin(Pfn::from_addr(address), State::Host), Err(Refusal::NotRam));
            assert_eq!(w.core.unpin(Pfn::from_addr(address)), Err(Refusal::NotRam));
            assert_eq!(w.core.topup(Pfn::from_addr(address)), Err(Refusal::NotRam));
            assert_eq!(w.core.poison(Pfn::from_addr(address), None), Err(Refusal::NotRam));
        }
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

    fn a_vm_without_a_root_does_nothing(w) {
        let layout = Layout { ram: w.gfn(0)..w.gfn(512), alias: None };
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
            let vm = Guest::new(OwnerId::new(1).unwrap(), root, Layout { ram, alias });
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
