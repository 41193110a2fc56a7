//! The state of up to 64 interrupts, one bit each: the SPIs of a guest, or the SGIs and PPIs of one vCPU.

use core::sync::atomic::{AtomicU8, AtomicU64, Ordering::SeqCst};

use super::{VcpuMask, mmio::Register, vcpu_bit};

/// Interrupts that a bank can hold: the bits of its words.
pub(super) const WIDTH: usize = 64;

/// Implemented bits of a priority: 32 levels, which is what every virtual CPU interface has at least (IHI0069 §12.4,
/// ICH_VTR_EL2.PRIbits). The others are RAZ/WI (§4.8).
const PRIORITY_MASK: u8 = 0xf8;

/// Where an interrupt is. Only the vCPU that is named may end its hold on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In no list register and not active: free for the vCPU it is routed to.
    Idle,
    /// In a list register of this vCPU, and not known to be active.
    Listed(usize),
    /// In a list register of this vCPU, active when last looked at.
    Active(usize),
    /// As `Active`, but the guest has written GICx_ICACTIVER since: the vCPU drops the activation at its next look.
    Dropped(usize),
    /// Active in no list register: set by GICx_ISACTIVER, or left so by a vCPU that was switched off.
    Parked,
}

impl Place {
    const KIND: u8 = 0xc0;
    const LISTED: u8 = 0x40;
    const ACTIVE: u8 = 0x80;
    const DROPPED: u8 = 0xc0;
    const PARKED: u8 = 0x3f;

    /// The vCPU whose list registers hold the interrupt.
    pub(super) fn holder(self) -> Option<usize> {
        match self {
            Place::Listed(vcpu) | Place::Active(vcpu) | Place::Dropped(vcpu) => Some(vcpu),
            Place::Idle | Place::Parked => None,
        }
    }

    fn encode(self) -> u8 {
        // An index is below MAX_VCPUS, far from the mask; masking keeps even a wrong one from changing the kind.
        let index = |vcpu: usize| vcpu as u8 & !Self::KIND;
        match self {
            Place::Idle => 0,
            Place::Parked => Self::PARKED,
            Place::Listed(vcpu) => Self::LISTED | index(vcpu),
            Place::Active(vcpu) => Self::ACTIVE | index(vcpu),
            Place::Dropped(vcpu) => Self::DROPPED | index(vcpu),
        }
    }

    fn decode(byte: u8) -> Self {
        let vcpu = usize::from(byte & !Self::KIND);
        match byte & Self::KIND {
            Self::LISTED => Place::Listed(vcpu),
            Self::ACTIVE => Place::Active(vcpu),
            Self::DROPPED => Place::Dropped(vcpu),
            _ if byte == 0 => Place::Idle,
            _ => Place::Parked,
        }
    }
}

/// The interrupt groups that the distributor forwards: the two enable bits of GICD_CTLR with DS = 1.
#[derive(Clone, Copy)]
pub(super) struct Groups {
    pub(super) group0: bool,
    pub(super) group1: bool,
}

/// The bits of `mask` that are set, lowest first.
pub(super) fn bits(mut mask: u64) -> impl Iterator<Item = u32> {
    core::iter::from_fn(move || {
        let bit = (mask != 0).then(|| mask.trailing_zeros())?;
        mask &= mask - 1;
        Some(bit)
    })
}

/// The programmable state of a set of interrupts. Bit `n` of every word is interrupt `n` of the bank.
pub(super) struct Bank {
    /// Interrupts that are always edge-triggered: the SGIs (IHI0069 §12.11, GICR_ICFGR0).
    always_edge: u64,
    edge: AtomicU64,
    /// Group 1, which is signalled as an IRQ; 0 is Group 0, signalled as an FIQ (IHI0069 §4.6).
    group1: AtomicU64,
    enabled: AtomicU64,
    /// The level of the interrupt's wire.
    line: AtomicU64,
    /// Pending whatever the wire says: an edge has come, or the guest has written GICx_ISPENDR.
    latched: AtomicU64,
    /// Lower is more urgent.
    priority: [AtomicU8; WIDTH],
    place: [AtomicU8; WIDTH],
}

impl Bank {
    pub(super) const fn new(always_edge: u64) -> Self {
        Self {
            always_edge,
            edge: AtomicU64::new(always_edge),
            group1: AtomicU64::new(0),
            enabled: AtomicU64::new(0),
            line: AtomicU64::new(0),
            latched: AtomicU64::new(0),
            priority: [const { AtomicU8::new(0) }; WIDTH],
            place: [const { AtomicU8::new(0) }; WIDTH],
        }
    }

    pub(super) fn reset(&self) {
        self.edge.store(self.always_edge, SeqCst);
        for word in [&self.group1, &self.enabled, &self.line, &self.latched] {
            word.store(0, SeqCst);
        }
        for byte in self.priority.iter().chain(&self.place) {
            byte.store(0, SeqCst);
        }
    }

    /// Sets the level of a wire; a rising one latches an edge-triggered interrupt.
    pub(super) fn set_line(&self, bit: u32, level: bool) {
        if !level {
            self.line.fetch_and(!(1 << bit), SeqCst);
        } else if self.line.fetch_or(1 << bit, SeqCst) & 1 << bit == 0 && self.is_edge(bit) {
            self.latch(bit);
        }
    }

    pub(super) fn latch(&self, bit: u32) {
        self.latched.fetch_or(1 << bit, SeqCst);
    }

    /// Clears the latch and tells whether it was set: of several callers only one gets `true`.
    pub(super) fn take_latch(&self, bit: u32) -> bool {
        self.latched.fetch_and(!(1 << bit), SeqCst) & 1 << bit != 0
    }

    pub(super) fn is_edge(&self, bit: u32) -> bool {
        self.edge.load(SeqCst) & 1 << bit != 0
    }

    pub(super) fn is_group1(&self, bit: u32) -> bool {
        self.group1.load(SeqCst) & 1 << bit != 0
    }

    pub(super) fn priority(&self, bit: u32) -> u8 {
        self.priority[bit as usize].load(SeqCst)
    }

    /// The interrupts that are pending outside of list registers, enabled or not.
    pub(super) fn pending(&self) -> u64 {
        self.latched.load(SeqCst) | self.line.load(SeqCst) & !self.edge.load(SeqCst)
    }

    /// The pending interrupts that are enabled and whose group the distributor forwards.
    pub(super) fn ready(&self, groups: Groups) -> u64 {
        let group1 = self.group1.load(SeqCst);
        let mut forwarded = 0;
        if groups.group0 {
            forwarded |= !group1;
        }
        if groups.group1 {
            forwarded |= group1;
        }
        self.pending() & self.enabled.load(SeqCst) & forwarded
    }

    pub(super) fn place(&self, bit: u32) -> Place {
        Place::decode(self.place[bit as usize].load(SeqCst))
    }

    /// For the holder of the interrupt, from a place that nobody else may change.
    pub(super) fn set_place(&self, bit: u32, to: Place) {
        self.place[bit as usize].store(to.encode(), SeqCst);
    }

    /// Moves the interrupt if it still is where the caller believes; tells whether it was.
    pub(super) fn move_place(&self, bit: u32, from: Place, to: Place) -> bool {
        self.place[bit as usize].compare_exchange(from.encode(), to.encode(), SeqCst, SeqCst).is_ok()
    }

    /// The interrupts of `mask` whose place satisfies `wanted`.
    pub(super) fn placed(&self, mask: u64, wanted: impl Fn(Place) -> bool) -> u64 {
        bits(mask).filter(|&bit| wanted(self.place(bit))).fold(0, |found, bit| found | 1 << bit)
    }

    /// The vCPUs whose list registers hold an interrupt of `mask`.
    pub(super) fn holders(&self, mask: u64) -> VcpuMask {
        bits(mask).filter_map(|bit| self.place(bit).holder()).fold(0, |found, vcpu| found | vcpu_bit(vcpu))
    }
}

/// The registers that hold a field of several interrupts each (IHI0069 §12.9, §12.11: the same in both frames).
impl Bank {
    /// Reads the register whose first interrupt is `first` of this bank.
    pub(super) fn read(&self, register: Register, first: u32) -> u32 {
        let word = |bits: u64| (bits >> first) as u32;
        match register {
            Register::Group => word(self.group1.load(SeqCst)),
            Register::SetEnable | Register::ClearEnable => word(self.enabled.load(SeqCst)),
            // What sits in a list register was taken out of `latched`; to the guest it is pending all the same.
            Register::SetPending | Register::ClearPending => {
                word(self.pending() | self.placed(register.covers(first), |place| matches!(place, Place::Listed(_))))
            }
            Register::SetActive | Register::ClearActive => {
                word(self.placed(register.covers(first), |place| matches!(place, Place::Active(_) | Place::Parked)))
            }
            Register::Priority => u32::from_le_bytes(core::array::from_fn(|byte| self.priority(first + byte as u32))),
            Register::Config => {
                let edge = self.edge.load(SeqCst) >> first;
                (0..16).filter(|n| edge & 1 << n != 0).fold(0, |value, n| value | 0b10 << (2 * n))
            }
        }
    }

    /// Writes the bytes `lanes` of the register whose first interrupt is `first` of this bank. Returns the interrupts
    /// that may now be deliverable, or no longer be.
    pub(super) fn write(&self, register: Register, first: u32, value: u32, lanes: u32) -> u64 {
        if register == Register::Priority {
            for (byte, priority) in value.to_le_bytes().into_iter().enumerate() {
                if lanes >> (8 * byte) & 0xff != 0 {
                    self.priority[first as usize + byte].store(priority & PRIORITY_MASK, SeqCst);
                }
            }
            return 0;
        }
        // The others are accessible as words only (IHI0069 §12.1.3).
        if lanes != u32::MAX {
            return 0;
        }
        let covered = register.covers(first);
        let bits = u64::from(value) << first & covered;
        match register {
            Register::Group => replace(&self.group1, covered, bits),
            Register::SetEnable => replace(&self.enabled, bits, bits),
            Register::ClearEnable => replace(&self.enabled, bits, 0),
            Register::SetPending => replace(&self.latched, bits, bits),
            // What another, running vCPU has in a list register may still be delivered once, as on hardware when the
            // write comes too late.
            Register::ClearPending => replace(&self.latched, bits, 0),
            Register::SetActive => self.set_active(bits),
            Register::ClearActive => self.clear_active(bits),
            Register::Config => {
                // The upper bit of each field says edge; the lower one is RES0.
                let edge = (0..16).filter(|n| value & 0b10 << (2 * n) != 0).fold(0, |edge, n| edge | 1 << n);
                replace(&self.edge, covered, edge << first | self.always_edge & covered)
            }
            Register::Priority => 0,
        }
    }

    fn set_active(&self, mask: u64) -> u64 {
        for bit in bits(mask) {
            match self.place(bit) {
                Place::Idle => self.move_place(bit, Place::Idle, Place::Parked),
                Place::Dropped(vcpu) => self.move_place(bit, Place::Dropped(vcpu), Place::Active(vcpu)),
                Place::Listed(_) | Place::Active(_) | Place::Parked => continue,
            };
        }
        mask
    }

    fn clear_active(&self, mask: u64) -> u64 {
        for bit in bits(mask) {
            match self.place(bit) {
                Place::Parked => self.move_place(bit, Place::Parked, Place::Idle),
                Place::Active(vcpu) => self.move_place(bit, Place::Active(vcpu), Place::Dropped(vcpu)),
                Place::Listed(_) | Place::Dropped(_) | Place::Idle => continue,
            };
        }
        mask
    }
}

/// Sets the bits `mask` of `word` to those of `bits`, and returns `mask`. Bits outside of it may change meanwhile.
fn replace(word: &AtomicU64, mask: u64, bits: u64) -> u64 {
    word.fetch_and(!(mask & !bits), SeqCst);
    word.fetch_or(mask & bits, SeqCst);
    mask
}
