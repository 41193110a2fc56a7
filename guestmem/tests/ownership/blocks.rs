//! Blocks and ranges: what is donated and converted in one piece, step by step, and how blocks split and merge.

use crate::common::*;
use guestmem::fake::{Concatenated, FourLevels};
use guestmem::*;

on_both! {
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

    fn d2_a_block_full_of_pins_is_not_forgotten(w) {
        let vm = w.plain(1);
        w.donate_block(&vm, w.block(2), w.gfn(0)).unwrap();
        w.convert(&vm, w.gfn(0)..w.gfn(512), Visibility::Shared).unwrap();
        (0..512).for_each(|page| w.core.pin(w.block(2).offset(page), State::Shared).unwrap());
        w.end(&vm);
        w.check(&[]);
        let vm = w.plain(1);
        let one = &mut Budget::new(1);
        assert_eq!(w.core.donate(&vm, w.block(2), w.gfn(0), Size::Block, one), Err(Refusal::Pinned));
        (0..511).for_each(|page| w.core.unpin(w.block(2).offset(page)).unwrap());
        assert_eq!(w.core.donate(&vm, w.block(2), w.gfn(0), Size::Block, one), Err(Refusal::Pinned));
        w.core.unpin(w.block(2).offset(511)).unwrap();
        w.donate_block(&vm, w.block(2), w.gfn(0)).unwrap();
        w.check(&[&vm]);
    }

    fn a6_wishes_across_the_pages_of_the_map(w) {
        // 384 MiB of RAM that starts in the middle of a block; nothing is populated.
        let start = GUEST_RAM + 77;
        let vm = w.guest_of(1, gfns(start..start + 3 * 32768), Some(ALIAS), 16);
        let gfn = |index: u64| Gfn::new(GUEST_RAM + index);
        let free = vm.meta_free();
        let set = |range: std::ops::Range<u64>, to| w.convert(&vm, gfn(range.start)..gfn(range.end), to).unwrap();
        let run = |index: u64| w.core.visibility_run(&vm, gfn(index), gfn(77 + 3 * 32768));
        set(32700..32768, Visibility::Shared);
        assert_eq!(vm.meta_free(), free - 2, "an index and one page");
        assert_eq!(run(32700), (Visibility::Shared, gfn(32768)), "the run ends where the next page is missing");
        assert_eq!(run(32768), (Visibility::Private, gfn(77 + 3 * 32768)));
        set(32768..32770, Visibility::Shared);
        assert_eq!(run(32701), (Visibility::Shared, gfn(32770)), "and goes on where it is there");
        set(77..77 + 3 * 32768, Visibility::Shared);
        assert_eq!(vm.meta_free(), free - 5);
        let mut at = 77;
        while at < 77 + 3 * 32768 {
            let (visibility, end) = run(at);
            assert!(visibility == Visibility::Shared && end > gfn(at), "bounded, and further on");
            at = end.get() - GUEST_RAM;
        }
        set(100..32900, Visibility::Private);
        assert_eq!(run(77), (Visibility::Shared, gfn(100)));
        assert_eq!(run(100), (Visibility::Private, gfn(32900)));
        for index in [77, 99, 100, 32767, 32768, 32899, 32900, 76 + 3 * 32768] {
            let shared = !(100..32900).contains(&index);
            assert_eq!(w.core.visibility(&vm, gfn(index)) == Visibility::Shared, shared, "{index}");
        }
        assert_eq!(w.core.convert(&vm, gfn(76)..gfn(80), Visibility::Shared, &mut Budget::new(9)), Err(Refusal::OutOfRange));
        w.check(&[&vm]);
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

    fn c5_one_page_of_a_block_in_motion_costs_no_more_than_its_share(w) {
        let vm = w.aliased(1);
        w.donate_block(&vm, w.block(2), w.gfn(0)).unwrap();
        for to in [Visibility::Shared, Visibility::Private] {
            let _ = w.core.convert(&vm, w.gfn(0)..w.gfn(512), Visibility::Shared, &mut Budget::new(12)).unwrap();
            let mut most = 0;
            loop {
                let before = w.core.stats().wipes;
                let done = w.core.convert(&vm, w.gfn(511)..w.gfn(512), to, &mut Budget::new(12));
                most = most.max(w.core.stats().wipes - before);
                if done.is_ok() {
                    break;
                }
                assert_eq!(done, Err(Refusal::Busy));
            }
            w.check(&[&vm]);
            assert!(most <= 32, "{most} frames in one call");
            w.convert(&vm, w.gfn(0)..w.gfn(512), Visibility::Private).unwrap();
        }
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
}
