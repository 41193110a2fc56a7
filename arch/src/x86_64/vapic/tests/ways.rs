//! The two ways, under other CPUs and under guests that write anything.

use super::*;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

#[test]
fn a_reset_inbox_is_a_new_one() {
    for way in WAYS {
        let mut guest = Guest::booted(way, 1);
        guest.inboxes[0].post(0x40);
        guest.inboxes[0].post_nmi();
        guest.inboxes[0].reset();
        assert!(!guest.deliverable(0));
        guest.inboxes[0].post(0x40);
        assert_eq!(guest.pending(0), None, "off");
        // One that is not there takes nothing and sends nothing.
        let mut stray = Apic::new(7, 1, Box::leak(Box::new(Page::new())));
        stray.write(&guest.inboxes, SVR, 0x1ff, 0).unwrap();
        assert_eq!(stray.write(&guest.inboxes, ICR, 1 << 18 | 0x40, 0), Ok(0));
        stray.accept(0x40);
        assert_eq!(stray.pending(&Inbox::new()), None);
    }
}

/// Anything that a guest may write, in any order, against rules that always hold.
#[test]
fn no_sequence_of_writes_breaks_it() {
    for way in WAYS {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let mut guest = Guest::booted(way, 3);
        let mut now = 0;
        for _ in 0..50_000 {
            let (what, index, value) = (random() % 8, (random() % 3) as usize, random() >> (random() % 64));
            now += random() % 1000;
            match what {
                0 => drop(guest.read_at(index, 0x800 + (value % 256) as u32, now)),
                1..4 => drop(guest.write_at(index, 0x800 + (value % 64) as u32, random() >> (random() % 64), now)),
                4 => drop(guest.write_at(index, TSC_DEADLINE, value, now)),
                5 => guest.inboxes[index].post(value as u8),
                6 => guest.apics[index].poll(&guest.inboxes, now),
                _ => drop(guest.take(index)),
            }
            for index in 0..3 {
                let sees = guest.deliverable(index);
                let next = guest.pending(index);
                assert_eq!(next.is_some() || guest.inboxes[index].nmi(), sees);
                let status = guest.fields[index].unwrap_or(guest.apics[index].status());
                let page = guest.pages[index];
                assert_eq!(status.requested, page.highest(Set::Requested));
                assert_eq!(status.serving, page.highest(Set::InService));
                assert!(next.is_none_or(|vector| vector >> 4 > guest.apics[index].ppr(status) >> 4));
                assert_eq!(guest.apics[index].is_on() && way == Way::Cpu, guest.fields[index].is_some());
            }
        }
    }
}

/// The sender posts and then asks whether the vCPU sleeps; the vCPU says that it sleeps and then looks.
#[test]
fn a_post_and_a_wait_do_not_miss_each_other() {
    for way in WAYS {
        for round in 0..1_000 {
            let guest = Guest::booted(way, 1);
            let inbox = &guest.inboxes[0];
            let status = guest.fields[0].unwrap_or_default();
            let (asleep, barrier) = (AtomicBool::new(false), Barrier::new(2));
            let (woken, found) = std::thread::scope(|scope| {
                let sender = scope.spawn(|| {
                    barrier.wait();
                    inbox.post(0x40);
                    asleep.load(SeqCst)
                });
                barrier.wait();
                asleep.store(true, SeqCst);
                let found = guest.apics[0].deliverable(inbox, status);
                (sender.join().unwrap(), found)
            });
            assert!(woken || found, "round {round}: it would sleep for ever");
        }
    }
}

#[test]
fn posts_from_many_cpus_all_arrive() {
    for way in WAYS {
        let mut guest = Guest::booted(way, 1);
        // Others reach the inbox only.
        let inbox: &'static Inbox = Box::leak(Box::new(guest.inboxes.remove(0)));
        std::thread::scope(|scope| {
            for first in 0..4_u8 {
                scope.spawn(move || (0..60).for_each(|n| inbox.post(16 + first * 60 + n)));
            }
            let (apic, mut status) = (&mut guest.apics[0], guest.fields[0]);
            let mut seen = [false; 256];
            while seen[16..].iter().any(|seen| !seen) {
                let next = match &mut status {
                    Some(status) => {
                        apic.collect(inbox, status);
                        cpu::evaluate(guest.pages[0], *status).inspect(|_| cpu::deliver(guest.pages[0], status))
                    }
                    None => apic.pending(inbox).inspect(|vector| apic.accept(*vector)),
                };
                let Some(vector) = next else { continue };
                assert!(!core::mem::replace(&mut seen[usize::from(vector)], true), "once");
                match &mut status {
                    Some(status) => drop(cpu::write(guest.pages[0], status, EOI, 0)),
                    None => drop(apic.write(&[], EOI, 0, 0)),
                }
            }
        });
    }
}

/// The guest switches its APIC off and on again: what is requested and in service goes with it both ways.
#[test]
fn nothing_is_lost_between_the_two_ways() {
    let mut guest = Guest::booted(Way::Cpu, 1);
    assert!(guest.fields[0].is_some());
    guest.inboxes[0].post(0x50);
    assert_eq!(guest.take(0), Some(0x50));
    guest.inboxes[0].post(0x60);
    guest.write(0, SELF, 0x40).unwrap();
    guest.write(0, SVR, 0xff).unwrap();
    assert_eq!((guest.fields[0], guest.pending(0)), (None, Some(0x60)), "in software");
    assert_eq!(guest.read(0, PPR), Ok(0x50));
    assert_eq!(guest.take(0), Some(0x60));
    guest.write(0, SELF, 0x70).unwrap();
    assert_eq!(guest.pending(0), None, "an APIC that is off takes nothing, from itself neither");
    guest.write(0, SVR, 0x1ff).unwrap();
    assert!(guest.fields[0].is_some() && guest.apics[0].status() == Status::default());
    guest.write(0, EOI, 0).unwrap();
    assert_eq!((guest.read(0, PPR), guest.pending(0)), (Ok(0x50), None));
    guest.write(0, EOI, 0).unwrap();
    assert_eq!(guest.take(0), Some(0x40));
}

/// The CPU reads the page without asking: it has to say what software says.
#[test]
fn the_page_is_what_a_register_reads_as() {
    let mut guest = Guest::reset(Way::Software, 2, 1);
    let writes = [
        (SVR, 0x1ff),
        (LVT_TIMER, 1 << 17 | 0x40),
        (LVT_ERROR, 0x41),
        (DIVIDE, 0b1011),
        (INITIAL, 77),
        (ICR, 1 << 32 | 0x30),
        (TPR, 0x23),
        (SELF, 0x50),
        (LVT_TIMER, 2 << 17 | 0x40),
        (ESR, 0),
        (SVR, 0xff),
    ];
    for (msr, value) in writes {
        guest.write(1, msr, value).unwrap();
        for msr in (0x800..=0x8ff).filter(|msr| passes(*msr).0 && *msr != PPR) {
            let inbox = &guest.inboxes[1];
            guest.apics[1].pending(inbox);
            assert_eq!(guest.read(1, msr), Ok(guest.pages[1].wide(msr)), "{msr:#x}");
        }
    }
    assert_eq!(guest.read(1, ICR), Ok(1 << 32 | 0x30));
    assert_eq!(guest.read(1, INITIAL), Ok(0), "the mode has changed");
    // A vCPU that starts anew finds nothing of this.
    guest.apics[1] = Apic::new(1, 1, guest.pages[1]);
    assert_eq!(guest.read(1, ICR), Ok(0));
    assert_eq!(guest.read(1, 0x822), Ok(0));
    assert_eq!((guest.read(1, SVR), guest.read(1, TPR)), (Ok(0xff), Ok(0)));
}
