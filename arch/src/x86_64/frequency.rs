//! How fast the time stamp counter runs. Pure: what CPUID says, what a clock of known speed says, and which to believe.

/// Ticks a second of the ACPI power management timer (ACPI specification, "Power Management Timer").
pub const PM_TIMER_HZ: u64 = 3_579_545;
/// Ticks a second of the 8254.
pub const PIT_HZ: u64 = 1_193_182;
/// Most reads of a clock before it counts as stopped: a port takes about a microsecond, so that this is seconds.
const READS_MAX: u32 = 4_000_000;
/// Reads after which a clock that has not moved at all counts as absent.
const READS_STILL: u32 = 100_000;

/// Ticks a second from CPUID leaf 0x15 as (EAX, EBX, ECX); `None` when it does not say all (SDM volume 3, "Time-Stamp
/// Counter").
pub fn from_crystal((denominator, numerator, crystal): (u32, u32, u32)) -> Option<u64> {
    let known = denominator != 0 && numerator != 0 && crystal != 0;
    known.then(|| u64::from(crystal) * u64::from(numerator) / u64::from(denominator))
}

/// Counts `ticks` for a hundredth of a second of a clock that counts upwards to `mask` at `hz`. Returns ticks a second;
/// `None` when the clock stands still.
pub fn measure(mut clock: impl FnMut() -> u64, mut ticks: impl FnMut() -> u64, mask: u64, hz: u64) -> Option<u64> {
    let (mut last, mut elapsed) = (clock(), 0);
    let start = ticks();
    for reads in 0..READS_MAX {
        let now = clock();
        elapsed += now.wrapping_sub(last) & mask;
        last = now;
        if elapsed >= hz / 100 {
            let passed = u128::from(ticks().wrapping_sub(start));
            return u64::try_from(passed * u128::from(hz) / u128::from(elapsed)).ok().filter(|hz| *hz != 0);
        }
        if elapsed == 0 && reads > READS_STILL {
            return None;
        }
    }
    None
}

/// The middle one of three measurements: a system management interrupt spoils one of them at most.
pub fn median(mut measure: impl FnMut() -> Option<u64>) -> Option<u64> {
    let mut all = [measure()?, measure()?, measure()?];
    all.sort_unstable();
    Some(all[1])
}

/// What to believe: the crystal, which is exact, unless a measurement differs by more than one part in twenty, as it does in
/// emulators and below other hypervisors; then the measurement; then the base frequency in MHz, which is the counter's to
/// about one percent (SDM volume 3, "Determining the Processor Base Frequency").
pub fn choose(crystal: Option<u64>, measured: Option<u64>, base: u16) -> Option<u64> {
    let base = (base != 0).then_some(u64::from(base) * 1_000_000);
    let exact = crystal.filter(|said| measured.is_none_or(|seen| said.abs_diff(seen) <= seen / 20));
    exact.or(measured).or(base)
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::cell::Cell;

    #[test]
    fn the_crystal_is_multiplied() {
        assert_eq!(from_crystal((2, 156, 38_400_000)), Some(2_995_200_000));
        assert_eq!(from_crystal((1, u32::MAX, u32::MAX)), Some(u64::from(u32::MAX) * u64::from(u32::MAX)));
        for unknown in [(0, 156, 1), (2, 0, 1), (2, 156, 0)] {
            assert_eq!(from_crystal(unknown), None);
        }
    }

    /// A clock that advances by `step` at each read, and a counter that advances by `rate` for each of the clock's ticks.
    fn run(step: u64, rate: u64, mask: u64) -> Option<u64> {
        let time = Cell::new(mask - 5);
        measure(
            || {
                time.set(time.get() + step);
                time.get() & mask
            },
            || time.get() * rate,
            mask,
            PM_TIMER_HZ,
        )
    }

    #[test]
    fn a_measurement_survives_the_clock_wrapping_round() {
        let seen = run(3, 100, 0xff_ffff).expect("the clock runs");
        assert!(seen.abs_diff(PM_TIMER_HZ * 100) < PM_TIMER_HZ, "{seen}");
    }

    #[test]
    fn a_clock_that_stands_still_is_none() {
        assert_eq!(run(0, 100, 0xff_ffff), None);
        let mut reads = 0;
        let still = || {
            reads += 1;
            7
        };
        assert_eq!(measure(still, || 0, 0xff_ffff, PM_TIMER_HZ), None);
        assert!(reads < 2 * READS_STILL, "an absent clock is given up on early");
        assert_eq!(run(3, 0, 0xff_ffff), None);
    }

    #[test]
    fn one_bad_measurement_does_not_count() {
        for bad in [0, 1, 2] {
            let mut turn = 0..;
            assert_eq!(median(|| Some(if turn.next() == Some(bad) { 9_999 } else { 100 })), Some(100));
        }
        assert_eq!(median(|| None), None);
    }

    #[test]
    fn a_measurement_overrules_a_figure_that_is_far_off() {
        assert_eq!(choose(Some(3_000), Some(3_010), 7), Some(3_000));
        assert_eq!(choose(Some(3_000), Some(50), 7), Some(50));
        assert_eq!(choose(Some(3_000), Some(2_800), 7), Some(2_800));
        assert_eq!(choose(Some(2_800), Some(3_000), 7), Some(3_000));
        assert_eq!(choose(None, Some(50), 7), Some(50));
        assert_eq!(choose(Some(3_000), None, 7), Some(3_000));
        assert_eq!(choose(None, None, 7), Some(7_000_000));
        assert_eq!(choose(None, None, 0), None);
    }
}
