//! What Postern takes from the UEFI application's record ([`crate::handoff`]): it comes from whoever has booted the
//! machine, and is believed only as far as it fits the machine.

use crate::machine::Machine;
use crate::screen::Layout;
use crate::{BootError, Bytes, eventlog, handoff, overlap};
use abi::handoff::{HandOff, SIZE_MIN};

/// Largest log of measurements that is read, in bytes.
const LOG_MAX: u64 = 1 << 20;

const MISPLACED: BootError = BootError::HandOff("record of the boot: it is not in memory of its own");
const LOG: BootError = BootError::HandOff("record of the boot: its measurements are not in memory of their own");

/// A record that has been checked.
#[derive(Clone, Copy, Debug)]
pub struct Received {
    /// The record, without the seed.
    pub record: HandOff,
    /// Measurements in its log.
    pub measurements: usize,
}

impl Received {
    /// The screen of the record, which nobody has compared with the machine: [`Layout::fits`].
    pub fn screen(&self) -> Option<Layout> {
        Layout::of_record(&self.record)
    }
}

/// Where the seed of the record at `address` is.
fn seed(address: u64) -> Bytes {
    let start = address + core::mem::offset_of!(HandOff, seed) as u64;
    start..start + size_of::<[u8; 64]>() as u64
}

/// Reads the record that `machine` names, and has the machine keep the memory of record and measurements; `apart` is what
/// they must not touch, `memory` gives the bytes of a range where it can. `None` when there is no record. A bad one is
/// forgotten: the host is not told of it either.
///
/// The second result is where the record's seed is, whatever else is wrong with the record: Postern has no use for it, and
/// nobody else is to know it, so the caller wipes it.
pub fn receive<'a>(
    machine: &mut Machine,
    apart: &[Bytes],
    memory: &dyn Fn(&Bytes) -> Option<&'a [u8]>,
) -> (Option<Result<Received, BootError>>, Option<Bytes>) {
    let Some(at) = machine.hand_off else { return (None, None) };
    let mut seed = None;
    let received = read(machine, at, apart, memory, &mut seed);
    if received.is_err() {
        machine.hand_off = None;
    }
    (Some(received), seed)
}

fn read<'a>(
    machine: &mut Machine,
    at: u64,
    apart: &[Bytes],
    memory: &dyn Fn(&Bytes) -> Option<&'a [u8]>,
    secret: &mut Option<Bytes>,
) -> Result<Received, BootError> {
    let own = |range: &Bytes| {
        let known = machine.memory.iter().chain(&machine.reserved);
        let is_memory = known.into_iter().any(|known| known.start <= range.start && range.end <= known.end);
        (is_memory && !apart.iter().any(|other| overlap(other, range))).then(|| memory(range)).flatten()
    };
    let range = |size: usize| Some(at..at.checked_add(size as u64)?);
    if at == 0 || !at.is_multiple_of(8) {
        return Err(MISPLACED);
    }
    // As many bytes of the record as there must be say how many there are.
    let least = range(SIZE_MIN).and_then(|range| own(&range)).ok_or(MISPLACED)?;
    *secret = Some(seed(at));
    let size = u32::from_le_bytes([least[12], least[13], least[14], least[15]]) as usize;
    let whole = range(size.clamp(SIZE_MIN, handoff::SIZE)).ok_or(MISPLACED)?;
    let mut record = handoff::parse(own(&whole).ok_or(MISPLACED)?)?;
    record.seed = [0; 64];
    let log = handoff::bytes(&record.event_log).filter(|log| log.end - log.start <= LOG_MAX).ok_or(LOG)?;
    let measurements = if log.is_empty() { 0 } else { eventlog::events(own(&log).ok_or(LOG)?).count() };
    for range in [whole, log] {
        keep(machine, range)?;
    }
    Ok(Received { record, measurements })
}

/// Has nobody but the host use a range of memory.
fn keep(machine: &mut Machine, range: Bytes) -> Result<(), BootError> {
    let kept = machine.reserved.iter().any(|kept| kept.start <= range.start && range.end <= kept.end);
    if kept || range.is_empty() {
        return Ok(());
    }
    machine.reserved.try_push(range).map_err(|_| BootError::TooMany("reserved ranges"))
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init)] // Lists of ranges, some of which have one.
mod tests {
    use super::*;
    use abi::handoff::Region;
    use std::vec;
    use std::vec::Vec;

    const RAM: Bytes = 0x1000..0x9000;
    const AT: u64 = 0x3000;
    const LOG_AT: u64 = 0x5000;

    /// Memory with a record and a log of two measurements.
    fn scene(change: impl FnOnce(&mut HandOff)) -> (Machine, Vec<u8>) {
        let mut log = eventlog::EventLog::new();
        log.append(eventlog::PCR_FILES, &[1; 48], "bundle");
        log.append(eventlog::PCR_SETTINGS, &[2; 48], "postern.conf");
        let event_log = Region { start: LOG_AT, size: log.bytes().len() as u64 };
        let mut record = HandOff { event_log, seed: [7; 64], log_level: 4, ..handoff::EMPTY };
        change(&mut record);
        let mut memory = vec![0; RAM.end as usize];
        handoff::write(&record, &mut memory[AT as usize..]);
        memory[LOG_AT as usize..][..log.bytes().len()].copy_from_slice(log.bytes());
        let machine = Machine { memory: [RAM].into_iter().collect(), hand_off: Some(AT), ..Machine::default() };
        (machine, memory)
    }

    fn receive_in(machine: &mut Machine, memory: &[u8], apart: &[Bytes]) -> Option<Result<Received, BootError>> {
        receive(machine, apart, &|range| memory.get(range.start as usize..range.end as usize)).0
    }

    #[test]
    fn a_good_record_is_read_and_its_memory_is_kept() {
        let (mut machine, memory) = scene(|_| {});
        let received = receive_in(&mut machine, &memory, &[0..AT, AT + 232..LOG_AT]).unwrap().unwrap();
        assert_eq!((received.record.log_level, received.measurements), (4, 2));
        assert_eq!(received.record.seed, [0; 64], "nobody is told the seed");
        assert_eq!(machine.reserved[0], AT..AT + 232);
        assert!(machine.reserved[1].contains(&LOG_AT) && machine.hand_off == Some(AT));
        assert_eq!(memory[seed(AT).start as usize..seed(AT).end as usize], [7; 64]);
        // What is reserved already is not reserved twice, and need not be RAM.
        let (mut machine, memory) = scene(|_| {});
        machine.memory = [0x8000..0x9000].into_iter().collect();
        machine.reserved = [0x2000..0x6000].into_iter().collect();
        assert!(receive_in(&mut machine, &memory, &[]).unwrap().is_ok());
        assert_eq!(machine.reserved.as_slice(), [0x2000..0x6000]);
    }

    #[test]
    fn a_screen_is_not_the_machine_s_before_it_has_been_checked() {
        let (mut machine, memory) = scene(|record| {
            record.framebuffer = Region { start: 0x8000, size: 0x1000 };
            (record.resolution, record.stride, record.pixel_format) = ([8, 8], 8, abi::handoff::pixel::BGR);
        });
        let received = receive_in(&mut machine, &memory, &[]).unwrap().unwrap();
        assert!(received.screen().is_some_and(|layout| !layout.fits(&machine, &[])), "it is RAM");
        assert_eq!(machine.screen, None);
    }

    #[test]
    fn none_is_none() {
        let (mut machine, memory) = scene(|_| {});
        machine.hand_off = None;
        assert!(receive_in(&mut machine, &memory, &[]).is_none());
    }

    #[test]
    fn a_record_that_does_not_fit_the_machine_is_forgotten() {
        type Change = fn(&mut HandOff);
        let changes: [Change; 7] = [
            |r| r.version = 2,
            |r| r.magic = 0,
            |r| r.event_log.start = 0x8ff0,
            |r| r.event_log.start = u64::MAX - 8,
            |r| r.event_log.size = u64::MAX,
            |r| r.event_log.size = LOG_MAX + 1,
            |r| r.log_level = 6,
        ];
        for (number, change) in changes.into_iter().enumerate() {
            let (mut machine, memory) = scene(change);
            assert!(receive_in(&mut machine, &memory, &[]).unwrap().is_err(), "{number}");
            assert!(machine.hand_off.is_none() && machine.reserved.is_empty(), "{number}");
        }
        for at in [0, 8, AT + 4, RAM.end - 8, RAM.end, u64::MAX - 7] {
            let (mut machine, memory) = scene(|_| {});
            machine.hand_off = Some(at);
            assert!(receive_in(&mut machine, &memory, &[]).unwrap().is_err(), "{at:#x}");
        }
        for apart in [AT + 231..AT + 300, 0..AT + 1, LOG_AT + 8..LOG_AT + 9] {
            let (mut machine, memory) = scene(|_| {});
            assert!(receive_in(&mut machine, &memory, &[apart]).unwrap().is_err());
        }
        let (mut machine, memory) = scene(|_| {});
        for index in 0..32 {
            machine.reserved.push(0x8000 + index..0x8001 + index);
        }
        assert!(receive_in(&mut machine, &memory, &[]).unwrap().is_err(), "no room to keep it");
    }
}
