//! Guests that accept what they take back: between the host's loss and the guest's word nobody has the page.

use crate::common::*;
use guestmem::fake::{Concatenated, FourLevels};
use guestmem::*;

fn accepted(w: &World<impl TableFormat>, vm: &Guest, gfn: Gfn) -> Result<Acceptance, Refusal> {
    w.core.accept(vm, gfn, Size::Page)
}

on_both! {
    fn a_page_that_was_taken_back_is_accepted_exactly_once(w) {
        let vm = w.accepting(1);
        w.donate(&vm, w.page(0), w.gfn(0)).unwrap();
        assert_eq!(accepted(&w, &vm, w.gfn(0)), Ok(Acceptance::Already(Size::Page)), "the host's gift is usable as it is");
        w.guest_writes(&vm, w.gfn(0), 0x5EC);
        w.core.share(&vm, w.gfn(0)).unwrap();
        assert_eq!(accepted(&w, &vm, w.gfn(0)), Err(Refusal::WrongVisibility));
        w.host_writes(w.page(0), 0xBAD);
        w.alias_reads(&vm, w.gfn(0));

        w.core.unshare(&vm, w.gfn(0)).unwrap();
        w.check(&[&vm]);
        assert_eq!((w.state(w.page(0)), w.host_reads(w.page(0))), (State::Pending, None));
        assert_eq!((w.guest_reads(&vm, w.gfn(0)), w.alias_reads(&vm, w.gfn(0))), (None, None));
        assert_eq!(w.core.fault(&vm, w.gfn(0), Visibility::Private), Fault::Wrong);
        assert_eq!(w.core.visibility(&vm, w.gfn(0)), Visibility::Private);
        assert_eq!(w.core.with_page(&vm, w.gfn(0), |_| ()), Err(Refusal::WrongVisibility));
        assert_eq!(w.core.with_shared_page(&vm, w.gfn(0), |_| ()), Err(Refusal::WrongVisibility));
        assert_eq!(w.core.unshare(&vm, w.gfn(0)), Err(Refusal::WrongVisibility), "it is private");

        assert_eq!(accepted(&w, &vm, w.gfn(0)), Ok(Acceptance::Accepted));
        w.check(&[&vm]);
        assert_eq!(w.guest_reads(&vm, w.gfn(0)), Some(0));
        w.guest_writes(&vm, w.gfn(0), 0x600D);
        assert_eq!(accepted(&w, &vm, w.gfn(0)), Ok(Acceptance::Already(Size::Page)));
        assert_eq!(w.guest_reads(&vm, w.gfn(0)), Some(0x600D), "a second acceptance touches nothing");
        w.end(&vm);
        w.check(&[]);
    }

    fn a_pending_page_can_be_shared_poisoned_relinquished_and_reclaimed(w) {
        let vm = w.accepting(1);
        for page in 0..4 {
            w.donate(&vm, w.page(page), w.gfn(page)).unwrap();
            w.core.share(&vm, w.gfn(page)).unwrap();
            w.core.unshare(&vm, w.gfn(page)).unwrap();
        }
        w.core.share(&vm, w.gfn(0)).unwrap();
        assert_eq!((w.host_reads(w.page(0)), w.alias_reads(&vm, w.gfn(0))), (Some(0), Some(0)));
        w.core.poison(w.page(1), Some(&vm)).unwrap();
        assert_eq!(accepted(&w, &vm, w.gfn(1)), Err(Refusal::Poisoned));
        w.core.relinquish(&vm, w.gfn(2)).unwrap();
        assert_eq!(w.host_reads(w.page(2)), Some(0));
        assert_eq!(w.donate(&vm, w.page(3), w.gfn(9)), Err(Refusal::NotOwner(State::Pending)));
        assert_eq!(w.core.pin(w.page(3), State::Shared), Err(Refusal::NotOwner(State::Pending)));
        w.check(&[&vm]);
        w.end(&vm);
        w.check(&[]);
        assert_eq!(w.host_reads(w.page(3)), Some(0));
    }

    fn a_block_that_was_taken_back_whole_is_accepted_whole(w) {
        let vm = w.accepting(1);
        w.donate_block(&vm, w.block(2), w.gfn(512)).unwrap();
        let (start, end) = (w.gfn(512), w.gfn(1024));
        assert_eq!(w.core.accept(&vm, start, Size::Block), Ok(Acceptance::Already(Size::Block)));
        assert_eq!(accepted(&w, &vm, w.gfn(600)), Ok(Acceptance::Already(Size::Block)));
        assert_eq!(w.core.accept(&vm, w.gfn(513), Size::Block), Err(Refusal::Unaligned));
        let splits = w.core.stats().splits;
        w.convert(&vm, start..end, Visibility::Shared).unwrap();
        assert_eq!(w.core.accept(&vm, start, Size::Block), Err(Refusal::WrongVisibility));
        let next = w.core.convert(&vm, start..end, Visibility::Private, &mut Budget::new(100)).unwrap();
        assert!(next < end, "not in one step");
        while w.core.accept(&vm, start, Size::Block) == Err(Refusal::Busy) {
            w.check(&[&vm]);
        }
        assert_eq!(w.guest_reads(&vm, w.gfn(700)), Some(0));
        assert_eq!(w.core.accept(&vm, start, Size::Block), Ok(Acceptance::Already(Size::Block)));
        assert_eq!(w.core.stats().splits, splits, "never split");
        w.check(&[&vm]);
        w.end(&vm);
        w.check(&[]);
    }

    fn pages_of_a_pending_block_are_accepted_one_by_one(w) {
        let vm = w.accepting(1);
        w.donate_block(&vm, w.block(2), w.gfn(512)).unwrap();
        w.convert(&vm, w.gfn(512)..w.gfn(1024), Visibility::Shared).unwrap();
        w.convert(&vm, w.gfn(512)..w.gfn(1024), Visibility::Private).unwrap();
        assert_eq!(w.guest_reads(&vm, w.gfn(520)), None);
        assert_eq!(accepted(&w, &vm, w.gfn(520)), Ok(Acceptance::Accepted));
        w.check(&[&vm]);
        assert_eq!((w.guest_reads(&vm, w.gfn(520)), w.guest_reads(&vm, w.gfn(521))), (Some(0), None));
        assert_eq!(w.core.accept(&vm, w.gfn(512), Size::Block), Ok(Acceptance::Smaller));
        // Shared and taken back as a whole once more, it is one piece again.
        w.convert(&vm, w.gfn(512)..w.gfn(1024), Visibility::Shared).unwrap();
        w.convert(&vm, w.gfn(512)..w.gfn(1024), Visibility::Private).unwrap();
        w.check(&[&vm]);
        assert_eq!(w.guest_reads(&vm, w.gfn(520)), None, "what was accepted then is pending now");
        for page in 512..1024 {
            assert_eq!(accepted(&w, &vm, w.gfn(page)), Ok(Acceptance::Accepted));
        }
        w.check(&[&vm]);
        w.end(&vm);
        w.check(&[]);
    }

    fn only_what_is_there_can_be_taken_back_and_what_was_never_given_needs_no_acceptance(w) {
        let vm = w.accepting(1);
        assert_eq!(accepted(&w, &vm, w.gfn(3)), Ok(Acceptance::Accepted));
        assert_eq!(accepted(&w, &vm, w.gfn(3)), Ok(Acceptance::Accepted), "nothing to lose yet");
        assert_eq!(w.core.accept(&vm, w.gfn(512), Size::Block), Ok(Acceptance::Accepted));
        // Both ways to note a wish: with and without a table there.
        w.donate(&vm, w.page(1), w.gfn(1)).unwrap();
        for range in [w.gfn(3)..w.gfn(4), w.gfn(512)..w.gfn(1024)] {
            w.convert(&vm, range.clone(), Visibility::Shared).unwrap();
            assert_eq!(accepted(&w, &vm, range.start), Err(Refusal::WrongVisibility));
            let back = w.core.convert(&vm, range.clone(), Visibility::Private, &mut Budget::unlimited());
            assert_eq!(back, Err(Refusal::Absent));
            assert_eq!(w.core.visibility(&vm, range.start), Visibility::Shared, "nothing changed");
        }
        assert_eq!(w.core.unshare(&vm, w.gfn(3)), Err(Refusal::Absent));
        assert_eq!(w.core.unshare(&vm, w.gfn(4)), Err(Refusal::WrongVisibility), "private already");
        w.donate(&vm, w.page(3), w.gfn(3)).unwrap();
        w.core.unshare(&vm, w.gfn(3)).unwrap();
        assert_eq!(accepted(&w, &vm, w.gfn(3)), Ok(Acceptance::Accepted));
        assert_eq!(w.core.accept(&vm, w.gfn(512), Size::Block), Err(Refusal::WrongVisibility));
        w.convert(&vm, w.gfn(1024)..w.gfn(1025), Visibility::Shared).unwrap();
        assert_eq!(w.core.accept(&vm, w.gfn(1024), Size::Block), Ok(Acceptance::Smaller), "of two kinds");
        w.check(&[&vm]);
        w.end(&vm);
        w.check(&[]);
    }

    fn a_block_on_its_way_from_the_host_counts_as_not_there(w) {
        let vm = w.accepting(1);
        let donate = |budget| w.core.donate(&vm, w.block(2), w.gfn(512), Size::Block, &mut Budget::new(budget));
        assert_eq!(donate(100), Ok(Progress::More));
        assert_eq!(w.core.accept(&vm, w.gfn(512), Size::Block), Ok(Acceptance::Accepted));
        assert_eq!(accepted(&w, &vm, w.gfn(600)), Ok(Acceptance::Accepted));
        while donate(100) == Ok(Progress::More) {}
        assert_eq!(w.guest_reads(&vm, w.gfn(600)), Some(0));
        w.check(&[&vm]);
        w.end(&vm);
        w.check(&[]);
    }

    fn nothing_is_accepted_outside_ram_or_in_a_guest_that_does_not_accept(w) {
        let (vm, other) = (w.accepting(1), w.aliased(2));
        for gfn in [Gfn::new(0), w.gfn(16 * 512), Gfn::new(u64::MAX)] {
            assert_eq!(accepted(&w, &vm, gfn), Err(Refusal::OutOfRange));
        }
        assert_eq!(w.core.accept(&vm, w.gfn(16 * 512 - 1), Size::Block), Err(Refusal::OutOfRange));
        w.donate(&other, w.page(0), w.gfn(0)).unwrap();
        w.core.share(&other, w.gfn(0)).unwrap();
        w.core.unshare(&other, w.gfn(0)).unwrap();
        assert_eq!(w.guest_reads(&other, w.gfn(0)), Some(0), "usable at once");
        w.end(&vm);
        assert_eq!(accepted(&w, &vm, w.gfn(0)), Err(Refusal::Dying));
        w.end(&other);
        w.check(&[]);
    }

    fn nothing_is_ready_that_is_not_the_guests_to_turn(w) {
        let vm = w.accepting(1);
        for page in 0..4 {
            w.donate(&vm, w.page(page), w.gfn(page)).unwrap();
            w.core.share(&vm, w.gfn(page)).unwrap();
            w.core.unshare(&vm, w.gfn(page)).unwrap();
        }
        let turns = |page, to| w.core.convert_ready(&vm, w.gfn(page), to);
        assert!(w.core.accept_ready(&vm, w.gfn(0)));
        assert!(!w.core.accept_ready(&vm, w.gfn(0)), "private already");
        assert!(!turns(0, Visibility::Private), "private already");
        assert!(turns(0, Visibility::Shared));
        assert!(!turns(0, Visibility::Shared), "shared already");
        assert!(!w.core.accept_ready(&vm, w.gfn(0)), "shared");
        w.core.pin(w.page(0), State::Shared).unwrap();
        assert!(!turns(0, Visibility::Private), "pinned");
        w.core.unpin(w.page(0)).unwrap();
        w.core.poison(w.page(1), Some(&vm)).unwrap();
        assert!(!turns(1, Visibility::Shared) && !w.core.accept_ready(&vm, w.gfn(1)), "poisoned");
        // Above what an entry's memory of a GiB and a record can name, the third page has the same number.
        let third = w.gfn(3).get();
        for wild in [u64::MAX, u64::MAX >> 12, 0, third | 1 << 36, third | 1 << 37, third | 1 << 63] {
            assert!(!w.core.convert_ready(&vm, Gfn::new(wild), Visibility::Shared));
            assert!(!w.core.accept_ready(&vm, Gfn::new(wild)));
        }
        w.check(&[&vm]);
        w.core.kill(&vm);
        assert!(!turns(0, Visibility::Private) && !turns(2, Visibility::Shared), "dying");
        assert!(!w.core.accept_ready(&vm, w.gfn(3)), "dying");
        w.end(&vm);
        w.check(&[]);
    }
}
