//! How long Postern keeps a CPU with interrupts off: measured at every exit and every return.

use super::percpu;
use super::timer;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

static LONGEST: AtomicU64 = AtomicU64::new(0);
static CAUSE: AtomicU64 = AtomicU64::new(0);

/// Postern has the CPU.
#[inline(always)]
pub fn begin() {
    percpu::this().entered_at.set(timer::now());
}

/// Postern is about to leave, and `now` is [`timer::now`]; `cause` is the exit reason it came in with.
#[inline(always)]
pub fn end(now: u64, cause: u64) {
    took(now.wrapping_sub(percpu::this().entered_at.get()), cause);
}

/// A section took so many ticks.
#[inline(always)]
pub fn took(ticks: u64, cause: u64) {
    if ticks > LONGEST.load(Relaxed) {
        LONGEST.store(ticks, Relaxed);
        CAUSE.store(cause, Relaxed);
    }
}

/// Longest section so far in ticks of the time stamp counter, and its cause.
pub fn longest() -> (u64, u64) {
    (LONGEST.load(Relaxed), CAUSE.load(Relaxed))
}
