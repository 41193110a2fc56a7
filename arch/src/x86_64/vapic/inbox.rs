//! What other CPUs may touch of a vCPU's APIC.

use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::SeqCst};

use super::{Vectors, highest};

/// The requests to one vCPU.
#[derive(Debug)]
pub struct Inbox {
    /// The interrupt request register.
    requests: [AtomicU64; 4],
    nmi: AtomicBool,
    /// The guest has switched its APIC on: as long as it has not, interrupts are lost (SDM "Local APIC State After It
    /// Has Been Software Disabled").
    enabled: AtomicBool,
    /// The processor priority, so that others can tell whether there is something to take.
    ppr: AtomicU8,
}

impl Inbox {
    /// Empty, with the APIC off.
    pub const fn new() -> Self {
        Self {
            requests: [const { AtomicU64::new(0) }; 4],
            nmi: AtomicBool::new(false),
            enabled: AtomicBool::new(false),
            ppr: AtomicU8::new(0),
        }
    }

    /// As after [`Self::new`].
    pub fn reset(&self) {
        self.publish(false, 0);
        self.requests.iter().for_each(|word| word.store(0, SeqCst));
        self.nmi.store(false, SeqCst);
    }

    /// Requests an edge-triggered interrupt, from any CPU.
    pub fn post(&self, vector: u8) {
        if self.enabled.load(SeqCst) {
            self.request(vector);
        }
    }

    /// Requests a non-maskable interrupt, from any CPU. There is one at a time, as on a CPU.
    pub fn post_nmi(&self) {
        self.nmi.store(true, SeqCst);
    }

    /// Whether a non-maskable interrupt is requested.
    pub fn nmi(&self) -> bool {
        self.nmi.load(SeqCst)
    }

    /// Ends the request of a non-maskable interrupt, and says whether there was one.
    pub fn take_nmi(&self) -> bool {
        self.nmi.swap(false, SeqCst)
    }

    /// Whether nothing is requested.
    #[inline]
    pub fn is_empty(&self) -> bool {
        !self.nmi() && self.requests.iter().fold(0, |all, word| all | word.load(SeqCst)) == 0
    }

    /// Whether the vCPU has anything to take, were its interrupts enabled.
    pub fn deliverable(&self) -> bool {
        let ppr = self.ppr.load(SeqCst);
        self.nmi() || self.highest().is_some_and(|vector| vector & 0xf0 > ppr & 0xf0)
    }

    pub(super) fn request(&self, vector: u8) {
        self.requests[usize::from(vector / 64)].fetch_or(1 << (vector % 64), SeqCst);
    }

    pub(super) fn clear(&self, vector: u8) {
        self.requests[usize::from(vector / 64)].fetch_and(!(1 << (vector % 64)), SeqCst);
    }

    pub(super) fn requests(&self) -> Vectors {
        core::array::from_fn(|word| self.requests[word].load(SeqCst))
    }

    pub(super) fn highest(&self) -> Option<u8> {
        highest(&self.requests())
    }

    pub(super) fn publish(&self, enabled: bool, ppr: u8) {
        self.enabled.store(enabled, SeqCst);
        self.ppr.store(ppr, SeqCst);
    }
}

impl Default for Inbox {
    fn default() -> Self {
        Self::new()
    }
}
