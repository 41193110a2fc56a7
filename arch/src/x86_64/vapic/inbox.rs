//! What other CPUs may touch of a vCPU's APIC.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

/// The requests to one vCPU.
#[derive(Debug)]
pub struct Inbox {
    /// Vectors that have not got into the request register yet: bit `n % 64` of word `n / 64`.
    posted: [AtomicU64; 4],
    /// Set after something has been put there, so that its owner has to look at one word only.
    news: AtomicBool,
    nmi: AtomicBool,
    /// The guest has switched its APIC on: as long as it has not, interrupts are lost (SDM "Local APIC State After It
    /// Has Been Software Disabled").
    enabled: AtomicBool,
}

impl Inbox {
    /// Empty, with the APIC off.
    pub const fn new() -> Self {
        let [news, nmi, enabled] = [const { AtomicBool::new(false) }; 3];
        Self { posted: [const { AtomicU64::new(0) }; 4], news, nmi, enabled }
    }

    /// As after [`Self::new`].
    pub fn reset(&self) {
        self.enable(false);
        self.posted.iter().for_each(|word| word.store(0, SeqCst));
        self.news.store(false, SeqCst);
        self.nmi.store(false, SeqCst);
    }

    /// Requests an edge-triggered interrupt, from any CPU.
    pub fn post(&self, vector: u8) {
        if self.enabled.load(SeqCst) {
            self.posted[usize::from(vector / 64)].fetch_or(1 << (vector % 64), SeqCst);
            self.news.store(true, SeqCst);
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

    /// Whether nothing is requested. Who has just posted may not be seen yet; a kick follows.
    #[inline]
    pub fn is_empty(&self) -> bool {
        !self.nmi() && !self.news.load(SeqCst)
    }

    /// The highest vector that is requested; 0 for none.
    pub(super) fn highest(&self) -> u8 {
        let word = self.posted.iter().rposition(|word| word.load(SeqCst) != 0);
        // Only its owner takes anything out.
        word.map_or(0, |word| (word * 64) as u8 + self.posted[word].load(SeqCst).ilog2() as u8)
    }

    /// Takes all vectors that are requested.
    pub(super) fn take(&self, mut take: impl FnMut(u8)) {
        if !self.news.load(SeqCst) {
            return;
        }
        // Before the look: what is posted from here on is news again.
        self.news.store(false, SeqCst);
        for (word, first) in self.posted.iter().zip([0, 64, 128, 192]) {
            // Mostly empty, and a look costs less than a locked instruction.
            let mut bits = if word.load(SeqCst) == 0 { 0 } else { word.swap(0, SeqCst) };
            while bits != 0 {
                take(first + bits.trailing_zeros() as u8);
                bits &= bits - 1;
            }
        }
    }

    pub(super) fn enable(&self, enabled: bool) {
        self.enabled.store(enabled, SeqCst);
    }
}

impl Default for Inbox {
    fn default() -> Self {
        Self::new()
    }
}
