//! The ownership table by which pKVM tests itself, as far as its rows exist here, with what it leaves out: a second VM,
//! contents, misaligned and foreign addresses.
//!
//! pKVM's calls and ours: donate to hypervisor = topup, share with hypervisor and pin = pin, donate to guest = donate,
//! guest shares and unshares = share and unshare, reclaim from a dead guest = reclaim. There is no forced reclaim (C12), no
//! share of host memory with a guest, and the hypervisor gives nothing back.

use crate::common::*;
use guestmem::fake::{Concatenated, GIB};
use guestmem::*;

struct Table {
    world: World<Concatenated>,
    vm: Guest,
    other: Guest,
}

impl Table {
    fn frame(&self) -> Pfn {
        self.world.page(3)
    }

    /// Tries everything that must fail in a state, and finds the state unchanged after each.
    #[track_caller]
    fn all_refused(&self, expected: &[(&str, Refusal)]) {
        let (w, frame) = (&self.world, self.frame());
        let before = w.core.lookup(frame);
        let one = &mut Budget::new(1);
        for &(call, refusal) in expected {
            let answer = match call {
                "topup" => w.core.topup(frame),
                "meta" => w.core.donate_meta(&self.vm, frame),
                "meta other" => w.core.donate_meta(&self.other, frame),
                "donate g0" => w.donate(&self.vm, frame, w.gfn(0)),
                "donate g1" => w.donate(&self.vm, frame, w.gfn(1)),
                "donate other" => w.donate(&self.other, frame, w.gfn(0)),
                "donate block" => w.core.donate(&self.vm, w.block(1), w.gfn(512), Size::Block, one).map(drop),
                "load" => w.core.load(&self.vm, frame, w.gfn(1), 1, &mut |_, _| ()).map(drop),
                "pin host" => w.core.pin(frame, State::Host),
                "pin shared" => w.core.pin(frame, State::Shared),
                "unpin" => w.core.unpin(frame),
                "share" => w.core.share(&self.vm, w.gfn(0)),
                "unshare" => w.core.unshare(&self.vm, w.gfn(0)),
                "relinquish" => w.core.relinquish(&self.vm, w.gfn(0)),
                "share other" => w.core.share(&self.other, w.gfn(0)),
                "relinquish other" => w.core.relinquish(&self.other, w.gfn(0)),
                call => panic!("{call}"),
            };
            assert_eq!(answer, Err(refusal), "{call} in {before:?}");
            assert_eq!(w.core.lookup(frame), before, "{call}");
        }
        w.check(&[&self.vm, &self.other]);
    }

    /// What the host and the guest can reach: the frame, and its guest address.
    #[track_caller]
    fn reached(&self, host: bool, guest: bool) {
        let whole = self.world.has_gib() && self.world.is_all_host();
        assert_eq!(self.world.is_gib_leaf(GIB.start), whole, "the GiB");
        assert_eq!(self.world.host_reads(self.frame()).is_some(), host, "host");
        assert_eq!(self.world.guest_reads(&self.vm, self.world.gfn(0)).is_some(), guest, "guest");
    }
}

#[test]
fn every_row_of_the_ownership_table() {
    every_row(World::new());
}

#[test]
fn every_row_of_the_ownership_table_in_a_whole_gib() {
    every_row(World::in_gib(64));
}

fn every_row(world: World<Concatenated>) {
    use Refusal::*;
    let (vm, other) = (world.plain(1), world.plain(2));
    let t = Table { world, vm, other };
    let (w, frame, gfn) = (&t.world, t.frame(), t.world.gfn(0));

    // S1: the host's alone.
    t.reached(true, false);
    let nothing_there = [("share", Absent), ("unshare", Absent), ("relinquish", Absent), ("share other", Absent)];
    t.all_refused(&nothing_there);
    t.all_refused(&[("unpin", Underflow), ("pin shared", NotOwner(State::Host))]);

    // S2, S2a: pinned by Postern.
    w.core.pin(frame, State::Host).unwrap();
    w.core.pin(frame, State::Host).unwrap();
    w.core.unpin(frame).unwrap();
    assert_eq!(w.core.lookup(frame).pins(), 1);
    t.reached(true, false);
    let given = ["topup", "meta", "donate g0", "donate g1", "donate other", "donate block", "load"];
    t.all_refused(&given.map(|call| (call, Pinned)));
    w.core.unpin(frame).unwrap();

    // S7: donated.
    w.donate(&t.vm, frame, gfn).unwrap();
    t.reached(false, true);
    let private = NotOwner(State::Private);
    let all =
        ["topup", "meta", "meta other", "donate g0", "donate g1", "donate other", "load", "pin host", "pin shared"];
    t.all_refused(&all.map(|call| (call, private)));
    t.all_refused(&[("unpin", private), ("donate block", private), ("unshare", WrongVisibility)]);
    t.all_refused(&[("share other", Absent), ("relinquish other", Absent)]);

    // S8: shared by the guest.
    w.core.share(&t.vm, gfn).unwrap();
    t.reached(true, true);
    let shared = NotOwner(State::Shared);
    let all = ["topup", "meta", "meta other", "donate g0", "donate g1", "donate other", "load", "pin host"];
    t.all_refused(&all.map(|call| (call, shared)));
    t.all_refused(&[("share", WrongVisibility), ("donate block", shared), ("unpin", Underflow)]);

    // S8 with a pin: the guest cannot have it back yet.
    w.core.pin(frame, State::Shared).unwrap();
    t.all_refused(&[("unshare", Pinned), ("share", WrongVisibility), ("topup", shared)]);
    w.core.unpin(frame).unwrap();

    // S9: taken back.
    w.core.unshare(&t.vm, gfn).unwrap();
    t.reached(false, true);
    let all = ["topup", "meta", "donate g0", "donate g1", "donate other", "load", "pin host", "pin shared", "unpin"];
    t.all_refused(&all.map(|call| (call, private)));

    // S10, S11: failed in hardware; another frame takes the next address.
    w.core.poison(frame, Some(&t.vm)).unwrap();
    t.reached(false, false);
    let all = ["topup", "meta", "donate other", "load", "pin host", "unpin", "share", "unshare", "relinquish"];
    t.all_refused(&all.map(|call| (call, Poisoned)));
    w.donate(&t.vm, w.page(4), w.gfn(1)).unwrap();
    assert_eq!(w.donate(&t.vm, w.page(5), gfn), Err(Occupied), "S12: the address is still poisoned");

    // S12: the VM ends; S13: what it had is anybody's, the failed frame nobody's.
    assert_eq!(w.core.host_fault(w.page(4).addr()), HostFault::Denied(State::Private));
    w.end(&t.vm);
    assert_eq!(w.host_reads(w.page(4)), Some(0));
    assert_eq!(w.core.topup(frame), Err(Poisoned));
    w.core.topup(w.page(4)).unwrap();
    assert_eq!(w.core.topup(w.page(4)), Err(NotOwner(State::Postern)));

    // S0: Postern's own.
    let (vm, postern) = (&t.other, NotOwner(State::Postern));
    assert_eq!(w.donate(vm, w.page(4), gfn), Err(postern));
    assert_eq!(w.core.donate_meta(vm, w.page(4)), Err(postern));
    assert_eq!(w.core.pin(w.page(4), State::Host), Err(postern));
    assert_eq!(w.core.unpin(w.page(4)), Err(postern));
    assert_eq!(w.core.load(vm, w.page(4), gfn, 1, &mut |_, _| ()), Err(postern));
    w.check(&[&t.other]);
}
