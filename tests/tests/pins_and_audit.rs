//! Host calls that look: frame states, pins, counters, answers, audit; and reclaim.

use abi::host::{counter, frame, *};
use abi::{BLOCK_SIZE, FRAME_SIZE};
use core::sync::atomic::Ordering::Relaxed;
use tests::{Guest, NOT_RAM, RAM, World};

const POSTERN: u64 = RAM[0].start;

#[test]
fn a7_frame_info_says_whose_a_frame_is() {
    let world = World::new();
    let (guest, page, _) = Guest::scene(&world);
    guest.share(guest.ipa(1), true);
    world.ok(PIN, [page]);
    assert_eq!(world.frame(page), (frame::SHARED, 1));
    assert_eq!(world.frame(POSTERN), (frame::POSTERN, 0));
    assert_eq!(world.frame(guest.first_page), (frame::PRIVATE, 0));
    for pa in NOT_RAM {
        assert_eq!(world.frame(pa), (frame::ABSENT, 0));
    }
    assert_eq!(world.refusal(FRAME_INFO, [page + 1]), INVALID);
}

#[test]
fn c7_d6_pins_hold_shared_frames_and_never_wrap() {
    let world = World::new();
    let (guest, page, _) = Guest::scene(&world);
    assert_eq!(world.refusal(PIN, [page]), OWNER, "private");
    assert_eq!(world.refusal(PIN, [world.page()]), OWNER, "the host's own");
    guest.share(guest.ipa(1), true);
    assert_eq!(world.refusal(UNPIN, [page]), OWNER, "never pinned");
    let most = (0..).find(|_| world.call(PIN, [page]).0 != OK).expect("a limit");
    assert_eq!(world.refusal(PIN, [page]), LIMIT);
    assert_eq!(world.frame(page), (frame::SHARED, most));
    let base = guest.ipa(1);
    let reject = [abi::rsi::SUCCESS, base, 1, 0];
    let set = [abi::rsi::IPA_STATE_SET, base, base + FRAME_SIZE, abi::rsi::RIPAS_RAM];
    assert_eq!(guest.call(&set), reject);
    (0..most).for_each(|_| assert_eq!(world.call(UNPIN, [page]).0, OK));
    assert_eq!(world.refusal(UNPIN, [page]), OWNER);
    guest.share(base, false);
    for (pa, status) in [(page, OWNER), (POSTERN, OWNER), (page + 4, INVALID), (0, ADDRESS)] {
        assert_eq!(world.refusal(PIN, [pa]), status);
        assert_eq!(world.refusal(UNPIN, [pa]), status);
    }
    world.check();
}

#[test]
fn d1_the_hold_on_a_run_page_is_not_the_hosts_to_undo() {
    let world = World::new();
    let guest = Guest::sealed(&world, dialect::PKVM, 1);
    let run_page = guest.run_pages[0];
    assert_eq!(world.refusal(UNPIN, [run_page]), BUSY);
    assert_eq!(world.refusal(PIN, [run_page]), BUSY);
    assert_eq!(world.refusal(VM_DONATE, [guest.handle, run_page, guest.ipa(5), 1]), BUSY);
    let block = run_page & !(BLOCK_SIZE - 1);
    assert_eq!(world.refusal(VM_DONATE, [guest.handle, block, guest.ipa(512), 512]), OWNER);
    guest.end();
    world.check_empty();
}

#[test]
fn pins_outlive_the_guest_that_shared_and_can_still_be_undone() {
    let world = World::new();
    let (guest, page, _) = Guest::scene(&world);
    guest.share(guest.ipa(1), true);
    world.ok(PIN, [page]);
    guest.end();
    assert_eq!(world.frame(page), (frame::HOST, 1));
    assert_eq!(world.refusal(POOL_TOPUP, [page, 1]), BUSY);
    world.ok(UNPIN, [page]);
    world.check_empty();
}

#[test]
fn answers_go_to_host_frames_only() {
    let world = World::new();
    let (guest, page, _) = Guest::scene(&world);
    let own = guest.world.page();
    for (pa, status) in [(own + 1, INVALID), (POSTERN, OWNER), (page, OWNER), (0, ADDRESS), (u64::MAX - 4095, ADDRESS)]
    {
        assert_eq!(world.refusal(VM_INFO, [guest.handle, pa]), status);
        assert_eq!(world.refusal(COUNTERS, [pa]), status);
        assert_eq!(world.refusal(LOG_READ, [pa, 0]), status);
    }
    assert_eq!(guest.reads(guest.ipa(1)), Some(0), "nothing was written");
}

#[test]
fn counters_count() {
    let world = World::new();
    let (guest, ..) = Guest::scene(&world);
    let calls = world.counter(counter::HOST_CALLS);
    assert_eq!(world.counter(counter::HOST_CALLS), calls + 1);
    for (index, at_least) in
        [(counter::WIPES, 513), (counter::SPLITS, 1), (counter::FLUSHES, 1), (counter::POOL_FREE, 1)]
    {
        assert!(world.counter(index) >= at_least, "counter {index}");
    }
    let refusals = world.counter(counter::GUEST_REFUSALS);
    guest.call(&[abi::rsi::IPA_STATE_GET, 1, 0]);
    assert_eq!(world.counter(counter::GUEST_REFUSALS), refusals + 1);
    assert_eq!(world.counter(counter::POSTERN_FRAMES), 512);
}

#[test]
fn audit_goes_over_everything_in_parts() {
    let world = World::new();
    let (guest, ..) = Guest::scene(&world);
    let (mut cursor, mut calls) = (0, 0);
    loop {
        let (status, [next, violations, _]) = world.call(AUDIT, [cursor]);
        assert_eq!(violations, 0);
        calls += 1;
        if status == OK {
            break;
        }
        assert_eq!(status, MORE);
        cursor = next;
    }
    assert!(calls > 2);
    for cursor in [u64::MAX, 1 << 63, 7 << 60, 2 << 60, 2 << 60 | 1 << 48 | 0xffff_ffff, 1 << 60 | 1 << 47] {
        assert_eq!(world.call(AUDIT, [cursor]).1[1], 0, "{cursor:#x}");
    }
    world
        .postern
        .vms
        .with(guest.handle, |_| {
            assert!(world.call(AUDIT, [0]).0 >= 0, "a running VM is no obstacle");
            Ok(())
        })
        .expect("the VM exists");
}

#[test]
fn museum_12_reclaim_ends_however_often_it_is_interrupted() {
    let world = World::new();
    let (guest, _, _) = Guest::scene(&world);
    world.postern.core.machine.interrupt.store(true, Relaxed);
    world.ok(VM_DESTROY, [guest.handle]);
    let mut calls = 0;
    while world.call(VM_RECLAIM, [guest.handle]).0 == MORE {
        calls += 1;
        if calls % 50 == 0 {
            world.check();
        }
        assert!(calls < 1000);
    }
    assert!(calls > 512, "one frame for each call, at least");
    world.check_empty();
}
