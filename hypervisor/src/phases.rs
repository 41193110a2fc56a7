//! Where the time of a boot goes: a few phases, one after the other, by the machine's counter.

use abi::handoff::HandOff;
use arch::BootInfo;
use arrayvec::ArrayVec;
use core::fmt;

/// Most phases.
const MAX: usize = 16;

/// The phases so far.
#[derive(Clone, Debug)]
pub struct Phases {
    /// Name and ticks.
    done: ArrayVec<(&'static str, u64), MAX>,
    /// When the last one ended.
    last: u64,
}

impl Phases {
    /// The phases before Postern's own, as far as the UEFI application has told of them.
    pub fn new(info: &BootInfo) -> Self {
        let record = info.record.as_ref().and_then(|record| record.as_ref().ok());
        let done = record.and_then(|received| firmware(&received.record, info.entered_at)).unwrap_or_default();
        Self { done, last: info.entered_at }
    }

    /// A phase that began where the last one ended is over at `now`.
    pub fn mark(&mut self, name: &'static str, now: u64) {
        // One phase too many is one that is not shown.
        let _ = self.done.try_push((name, now.saturating_sub(self.last)));
        self.last = now;
    }

    /// All of them in milliseconds; `frequency` is the counter's, in Hz.
    pub fn shown(&self, frequency: u64) -> impl fmt::Display {
        fmt::from_fn(move |f| {
            write!(f, "{}: ", Milliseconds(self.done.iter().map(|(_, ticks)| ticks).sum(), frequency))?;
            for (index, (name, ticks)) in self.done.iter().enumerate() {
                let comma = if index == 0 { "" } else { ", " };
                write!(f, "{comma}{name} {}", Milliseconds(*ticks, frequency))?;
            }
            Ok(())
        })
    }
}

/// The application's phases; `None` when its times are in no order that makes sense.
fn firmware(record: &HandOff, entered_at: u64) -> Option<ArrayVec<(&'static str, u64), MAX>> {
    let HandOff { entered_at: start, reading, measuring, leaving_at, left_at, .. } = *record;
    let before = leaving_at.checked_sub(start)?;
    let rest = before.checked_sub(reading)?.checked_sub(measuring)?;
    let leaving = left_at.checked_sub(leaving_at)?;
    let over = entered_at.checked_sub(left_at)?;
    let phases = [
        ("files", reading),
        ("measuring", measuring),
        ("description", rest),
        ("leaving firmware", leaving),
        ("jump", over),
    ];
    Some(phases.into_iter().collect())
}

/// Ticks, and how many there are in a second.
struct Milliseconds(u64, u64);

impl fmt::Display for Milliseconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tenths = self.0.saturating_mul(10_000) / self.1.max(1);
        write!(f, "{}.{} ms", tenths / 10, tenths % 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use loader::received::Received;
    use std::string::ToString;

    fn info(record: Option<HandOff>, entered_at: u64) -> BootInfo {
        let record = record.map(|record| Ok(Received { record, measurements: 0 }));
        BootInfo {
            machine: loader::Machine::default(),
            tree: &[],
            image: 0..0,
            memory: 0..0,
            free: 0..0,
            record,
            entered_at,
        }
    }

    const RECORD: HandOff = HandOff {
        entered_at: 1000,
        reading: 300,
        measuring: 200,
        leaving_at: 1600,
        left_at: 1650,
        ..loader::handoff::EMPTY
    };

    #[test]
    fn phases_are_shown_with_those_of_the_application() {
        let mut phases = Phases::new(&info(Some(RECORD), 1700));
        phases.mark("early boot", 1800);
        phases.mark("entry", 1801);
        let shown = "80.1 ms: files 30.0 ms, measuring 20.0 ms, description 10.0 ms, leaving firmware 5.0 ms, \
                     jump 5.0 ms, early boot 10.0 ms, entry 0.1 ms";
        assert_eq!(phases.shown(10_000).to_string(), shown);
    }

    #[test]
    fn times_that_make_no_sense_are_left_out() {
        for (record, entered) in [
            (HandOff { entered_at: 1601, ..RECORD }, 1700),
            (HandOff { reading: 401, ..RECORD }, 1700),
            (HandOff { measuring: u64::MAX, ..RECORD }, 1700),
            (HandOff { left_at: 1599, ..RECORD }, 1700),
            (RECORD, 1649),
        ] {
            let mut phases = Phases::new(&info(Some(record), entered));
            phases.mark("early boot", entered + 10);
            assert_eq!(phases.shown(0).to_string().matches(" ms").count(), 2);
        }
        let mut phases = Phases::new(&info(None, 5));
        for _ in 0..2 * MAX {
            phases.mark("back", 4);
        }
        assert!(phases.shown(1).to_string().starts_with("0.0 ms: back 0.0 ms, "));
    }
}
