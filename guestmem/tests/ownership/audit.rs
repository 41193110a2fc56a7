//! The audit finds what it is there to find: one entry or record is bent behind the core's back, and comes up.

use crate::common::*;
use guestmem::fake::{Concatenated, Fake, GIB};
use guestmem::*;
use std::sync::atomic::Ordering::Relaxed;

type W = World<Concatenated>;

fn violations(w: &W, vms: &[&Guest]) -> Vec<Violation> {
    let find = |id: OwnerId| vms.iter().copied().find(|vm| vm.id() == id);
    let (mut found, mut cursor, mut calls) = (Vec::new(), Some(0), 0);
    while let Some(at) = cursor {
        let audit = w.core.audit(&find, at, &mut Budget::new(64));
        found.extend(audit.first.into_iter().flatten());
        cursor = audit.next;
        calls += 1;
        assert!(calls < 10_000);
    }
    found
}

/// The entry that maps `number` at `level`, by the fake's own rules.
fn entry(w: &W, root: Pfn, number: u64, level: u32) -> &sync::Word {
    let mut slot = &w.core.machine.content(root.offset(number >> 27))[(number >> 18) as usize % 512];
    for at in 2..=level {
        let Entry::Table { address } = <Concatenated as TableFormat>::decode(slot.load(Relaxed), at - 1) else {
            panic!("no table at level {at}");
        };
        slot = &w.core.machine.content(Pfn::from_addr(address))[(number >> (9 * (3 - at))) as usize % 512];
    }
    slot
}

fn leaf(frame: Pfn, level: u32, attrs: Attrs) -> u64 {
    <<Fake as Machine>::Format as TableFormat>::leaf(frame.addr(), level, attrs)
}

/// Bends one entry, expects a violation that satisfies `wanted`, and puts the entry back.
#[track_caller]
fn bend(w: &W, vms: &[&Guest], slot: &sync::Word, value: u64, wanted: impl Fn(&Violation) -> bool) {
    let before = slot.swap(value, Relaxed);
    assert_ne!(before, value, "nothing was bent");
    let found = violations(w, vms);
    assert!(found.iter().any(wanted), "{found:?}");
    slot.store(before, Relaxed);
    assert_eq!(violations(w, vms), []);
}

#[test]
fn a4_whatever_is_bent_comes_up() {
    let w = W::new();
    let (vm, aliased) = (w.plain(1), w.aliased(2));
    let vms = [&vm, &aliased];
    w.donate(&vm, w.page(0), w.gfn(0)).unwrap();
    w.donate(&vm, w.page(1), w.gfn(1)).unwrap();
    w.core.share(&vm, w.gfn(1)).unwrap();
    w.donate_block(&vm, w.block(2), w.gfn(512)).unwrap();
    w.donate_block(&aliased, w.block(3), w.gfn(0)).unwrap();
    w.donate_block(&aliased, w.block(4), w.gfn(512)).unwrap();
    w.convert(&aliased, w.gfn(512)..w.gfn(1024), Visibility::Shared).unwrap();
    w.core.share(&aliased, w.gfn(5)).unwrap();
    assert_eq!(violations(&w, &vms), []);
    let host = w.core.host_root();
    let page = |frame: Pfn| entry(&w, host, frame.get(), 3);
    let block = |frame: Pfn| entry(&w, host, frame.get(), 2);
    let (ram, shared) = (Attrs::Ram, Attrs::SharedRam);

    // Invariant 2: the host's table.
    bend(&w, &vms, page(w.page(0)), leaf(w.page(0), 3, ram), |it| *it == Violation::Host(w.page(0)));
    bend(&w, &vms, page(w.page(1)), 0, |it| *it == Violation::Host(w.page(1)));
    bend(&w, &vms, page(w.page(2)), leaf(w.page(0), 3, ram), |it| *it == Violation::Host(w.page(2)));
    bend(&w, &vms, page(w.page(2)), leaf(w.page(2), 3, Attrs::Device), |it| *it == Violation::Host(w.page(2)));
    bend(&w, &vms, page(host), leaf(host, 3, ram), |it| *it == Violation::Host(host));
    bend(&w, &vms, page(vm.root()), leaf(vm.root(), 3, ram), |it| *it == Violation::Host(vm.root()));
    bend(&w, &vms, block(w.block(2)), leaf(w.block(2), 2, ram), |it| *it == Violation::Host(w.block(2)));
    bend(&w, &vms, block(w.block(5)), leaf(w.block(2), 2, ram), |it| *it == Violation::Host(w.block(5)));
    bend(&w, &vms, block(w.block(8)), leaf(w.block(2), 2, ram), |it| *it == Violation::Host(w.block(8)));
    bend(&w, &vms, entry(&w, host, 3 << 18, 1), leaf(w.block(2), 1, ram), |it| {
        *it == Violation::Host(Pfn::new(3 << 18))
    });

    // Invariants 1 and 3: the guests' tables.
    let gfn = |index| w.gfn(index).get();
    let alias = |index| gfn(index) | 1 << (ALIAS - 12);
    let page = |vm: &Guest, number| entry(&w, vm.root(), number, 3);
    let of = |frame| move |it: &Violation| *it == Violation::Guest(frame);
    bend(&w, &vms, page(&vm, gfn(0)), 0, of(w.page(0)));
    bend(&w, &vms, page(&vm, gfn(0)), leaf(w.page(1), 3, ram), of(w.page(0)));
    bend(&w, &vms, page(&vm, gfn(0)), leaf(w.page(0), 3, shared), of(w.page(0)));
    let stray = |vm: &Guest, number| {
        let id = vm.id();
        move |it: &Violation| *it == Violation::Stray(id, number)
    };
    bend(&w, &vms, page(&vm, gfn(9)), leaf(w.page(0), 3, ram), stray(&vm, gfn(9)));
    bend(&w, &vms, page(&vm, gfn(9)), leaf(w.page(9), 3, ram), stray(&vm, gfn(9)));
    bend(&w, &vms, page(&vm, gfn(9)), leaf(vm.root(), 3, ram), stray(&vm, gfn(9)));
    bend(&w, &vms, page(&aliased, gfn(5)), leaf(w.block(3).offset(5), 3, ram), of(w.block(3).offset(5)));
    bend(&w, &vms, page(&aliased, alias(6)), leaf(w.block(3).offset(6), 3, shared), of(w.block(3).offset(6)));
    bend(&w, &vms, page(&aliased, alias(5)), 0, of(w.block(3).offset(5)));
    let block = |vm: &Guest, number| entry(&w, vm.root(), number, 2);
    bend(&w, &vms, block(&vm, gfn(512)), leaf(w.block(5), 2, ram), of(w.block(2)));
    bend(&w, &vms, block(&vm, gfn(1024)), leaf(w.block(2), 2, ram), stray(&vm, gfn(1024)));
    bend(&w, &vms, block(&aliased, gfn(512)), leaf(w.block(4), 2, ram), of(w.block(4)));
    bend(&w, &vms, block(&aliased, alias(512)), 0, of(w.block(4)));
    // A table in a frame that is not the VM's.
    let foreign = <Concatenated as TableFormat>::table(w.page(0).addr());
    bend(&w, &vms, block(&vm, gfn(1024)), foreign, |it| *it == Violation::Table(w.page(0)));

    // Records of a VM that nobody knows.
    let orphans = violations(&w, &[&vm]);
    assert!(orphans.iter().any(|it| matches!(it, Violation::Record(_))), "a VM that there is not");
}

#[test]
fn a4_a_bent_gib_comes_up() {
    let w = W::in_gib(64);
    let vm = w.plain(1);
    let host = w.core.host_root();
    let gib = || entry(&w, host, GIB.start.get(), 1);
    let of = |it: &Violation| *it == Violation::Host(GIB.start);
    let ram = Attrs::Ram;
    assert_eq!(gib().load(Relaxed), leaf(GIB.start, 1, ram));
    for value in [0, leaf(GIB.start, 1, Attrs::Device), leaf(Pfn::new(0x4_0000), 1, ram)] {
        bend(&w, &[&vm], gib(), value, of);
    }
    // Apart, and the table is found by its entry.
    let whole = gib().load(Relaxed);
    w.donate(&vm, w.page(0), w.gfn(0)).unwrap();
    let table = gib().load(Relaxed);
    bend(&w, &[&vm], gib(), whole, of);
    bend(&w, &[&vm], gib(), 0, of);
    let block = |frame: Pfn| entry(&w, host, frame.get(), 2);
    bend(&w, &[&vm], block(w.block(3)), 0, |it| *it == Violation::Host(w.block(3)));
    // Together again: what waits behind the leaf is checked as well.
    let waiting = block(w.block(3));
    w.core.relinquish(&vm, w.gfn(0)).unwrap();
    assert_eq!(gib().load(Relaxed), whole);
    bend(&w, &[&vm], waiting, 0, |it| *it == Violation::Host(w.block(3)));
    bend(&w, &[&vm], gib(), table, of);
}
