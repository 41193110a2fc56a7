//! The timer.

use super::*;

#[test]
fn a_timer_with_an_illegal_vector_is_an_error() {
    for way in WAYS {
        let mut guest = Guest::booted(way, 1);
        guest.write(0, LVT_ERROR, 3).unwrap();
        guest.write(0, LVT_TIMER, 0x0f).unwrap();
        guest.write(0, DIVIDE, 0b1011).unwrap();
        guest.write(0, INITIAL, 10).unwrap();
        guest.apics[0].poll(&guest.inboxes, 10);
        assert_eq!(guest.pending(0), None);
        guest.write(0, ESR, 0).unwrap();
        assert_eq!(guest.read(0, ESR), Ok(1 << 6));
    }
}

#[test]
fn tsc_deadline() {
    for way in WAYS {
        let mut guest = Guest::booted(way, 1);
        guest.write(0, TSC_DEADLINE, 1000).unwrap();
        assert_eq!(guest.read(0, TSC_DEADLINE), Ok(0), "ignored in another mode");
        guest.write(0, LVT_TIMER, 2 << 17 | 0xec).unwrap();
        guest.write_at(0, INITIAL, 5, 0).unwrap();
        assert_eq!(guest.apics[0].deadline(), None, "the count is ignored in this mode");
        guest.write(0, TSC_DEADLINE, 1000).unwrap();
        assert_eq!(guest.apics[0].deadline(), Some(1000));
        assert_eq!(guest.read(0, TSC_DEADLINE), Ok(1000));
        guest.apics[0].poll(&guest.inboxes, 999);
        assert_eq!(guest.pending(0), None);
        guest.apics[0].poll(&guest.inboxes, 1000);
        assert_eq!(guest.take(0), Some(0xec));
        assert_eq!(guest.read_at(0, TSC_DEADLINE, 1001), Ok(0), "it is over");
        assert_eq!(guest.apics[0].deadline(), None);
        guest.apics[0].poll(&guest.inboxes, 5000);
        assert_eq!(guest.read(0, 0x827), Ok(0), "once");
        guest.write_at(0, EOI, 0, 2000).unwrap();
        guest.write_at(0, TSC_DEADLINE, 1500, 2000).unwrap();
        assert_eq!(guest.pending(0), Some(0xec), "a time that is past is now");
        guest.write_at(0, TSC_DEADLINE, 3000, 2000).unwrap();
        guest.write_at(0, TSC_DEADLINE, 0, 2000).unwrap();
        assert_eq!(guest.apics[0].deadline(), None, "disarmed");
        guest.write_at(0, TSC_DEADLINE, 3000, 2000).unwrap();
        guest.write_at(0, LVT_TIMER, 0xec, 2000).unwrap();
        assert_eq!(guest.apics[0].deadline(), None, "disarmed by the change of mode");
    }
}

#[test]
fn a_masked_timer_expires_without_a_sound() {
    for way in WAYS {
        let mut guest = Guest::booted(way, 1);
        guest.write(0, LVT_TIMER, 2 << 17 | 1 << 16 | 0xec).unwrap();
        guest.write(0, TSC_DEADLINE, 100).unwrap();
        assert_eq!(guest.apics[0].deadline(), None);
        guest.write_at(0, LVT_TIMER, 2 << 17 | 0xec, 200).unwrap();
        assert_eq!(guest.pending(0), None, "it was masked when it expired");
        assert_eq!(guest.read_at(0, TSC_DEADLINE, 200), Ok(0));
    }
}

#[test]
fn counting_down_with_every_divisor() {
    for way in WAYS {
        for (register, divisor) in [(0, 2), (1, 4), (2, 8), (3, 16), (8, 32), (9, 64), (10, 128), (11, 1)] {
            let mut guest = Guest::reset(way, 1, 3);
            guest.write(0, SVR, 0x1ff).unwrap();
            guest.write(0, LVT_TIMER, 0x40).unwrap();
            guest.write(0, DIVIDE, register).unwrap();
            guest.write_at(0, INITIAL, 100, 1000).unwrap();
            let tick = 3 * divisor;
            assert_eq!(guest.apics[0].deadline(), Some(1000 + 100 * tick), "divisor {divisor}");
            assert_eq!(guest.read_at(0, CURRENT, 1000 + 40 * tick), Ok(60));
            assert_eq!(guest.read_at(0, CURRENT, 1000 + 40 * tick + 1), Ok(60));
            assert_eq!(guest.read_at(0, CURRENT, 1000 + 100 * tick), Ok(0));
            assert_eq!(guest.pending(0), Some(0x40));
            assert_eq!(guest.read_at(0, INITIAL, 1 << 40), Ok(100));
            assert_eq!(guest.apics[0].deadline(), None, "one shot");
        }
    }
}

#[test]
fn a_new_divisor_keeps_what_is_left() {
    for way in WAYS {
        let mut guest = Guest::booted(way, 1);
        guest.write(0, LVT_TIMER, 0x40).unwrap();
        guest.write(0, DIVIDE, 0b1011).unwrap();
        guest.write(0, INITIAL, 100).unwrap();
        guest.write_at(0, DIVIDE, 0, 60).unwrap();
        assert_eq!(guest.read_at(0, CURRENT, 60), Ok(40));
        assert_eq!(guest.apics[0].deadline(), Some(60 + 80));
    }
}

#[test]
fn periods_are_kept_when_the_vcpu_is_late() {
    for way in WAYS {
        let mut guest = Guest::booted(way, 1);
        guest.write(0, LVT_TIMER, 1 << 17 | 0x40).unwrap();
        guest.write(0, DIVIDE, 0b1011).unwrap();
        guest.write_at(0, INITIAL, 100, 7).unwrap();
        guest.apics[0].poll(&guest.inboxes, 107);
        assert_eq!((guest.take(0), guest.apics[0].deadline()), (Some(0x40), Some(207)));
        guest.write_at(0, EOI, 0, 150).unwrap();
        guest.apics[0].poll(&guest.inboxes, 1_000_050);
        assert_eq!((guest.take(0), guest.apics[0].deadline()), (Some(0x40), Some(1_000_107)));
        assert_eq!(guest.read_at(0, CURRENT, 1_000_050), Ok(57));
        guest.write_at(0, INITIAL, 0, 1_000_060).unwrap();
        assert_eq!(guest.apics[0].deadline(), None, "zero stops it");
        // The longest there is, at the end of time.
        guest.write(0, DIVIDE, 10).unwrap();
        guest.write_at(0, INITIAL, 0xffff_ffff, u64::MAX - 1).unwrap();
        guest.apics[0].poll(&guest.inboxes, u64::MAX);
    }
}
