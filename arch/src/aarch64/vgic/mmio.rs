//! What the two register frames share: access sizes, and the registers with a field per interrupt.

use super::VcpuMask;

/// The outcome of a guest's access to a register frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// The value read, zero-extended; 0 for a write.
    pub value: u64,
    /// The vCPUs that have to look at their interrupts again. The accessing vCPU need not be kicked.
    pub kick: VcpuMask,
}

/// A register frame as a set of 32-bit words.
pub(super) trait Frame {
    /// Reads the word at `offset`, a multiple of 4.
    fn read(&self, offset: u64) -> (u32, VcpuMask);

    /// Writes those bytes of the word at `offset` where `lanes` is 0xff.
    fn write(&self, offset: u64, value: u32, lanes: u32) -> VcpuMask;
}

/// Carries out an access of `size` bytes. One that is misaligned or of an impossible size reads as zero and is ignored.
///
/// A doubleword is treated as two words, low one first. That is right for the 64-bit registers of this model, because
/// all that the guest can change in them lies in one half (IHI0069 §12.1.3 allows both kinds of access to them).
pub(super) fn access(frame: &impl Frame, offset: u64, size: u32, write: Option<u64>) -> Access {
    if !matches!(size, 1 | 2 | 4 | 8) || !offset.is_multiple_of(u64::from(size)) {
        return Access::default();
    }
    if size == 8 {
        let low = access(frame, offset, 4, write);
        let high = access(frame, offset + 4, 4, write.map(|value| value >> 32));
        return Access { value: high.value << 32 | low.value, kick: high.kick | low.kick };
    }
    let word = offset & !3;
    let shift = 8 * (offset & 3) as u32;
    let lanes = u32::MAX >> (32 - 8 * size) << shift;
    match write {
        Some(value) => Access { value: 0, kick: frame.write(word, (value as u32) << shift & lanes, lanes) },
        None => {
            let (value, kick) = frame.read(word);
            Access { value: u64::from((value & lanes) >> shift), kick }
        }
    }
}

/// A register with a field for each of several interrupts. The offsets are the same in GICD and in GICR's SGI frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Register {
    Group,
    SetEnable,
    ClearEnable,
    SetPending,
    ClearPending,
    SetActive,
    ClearActive,
    Priority,
    Config,
}

impl Register {
    /// The register at `offset` and the first INTID that it covers (IHI0069 §12.8, §12.10).
    pub(super) fn at(offset: u64) -> Option<(Self, u32)> {
        let (register, base) = match offset {
            0x080..0x100 => (Register::Group, 0x080),
            0x100..0x180 => (Register::SetEnable, 0x100),
            0x180..0x200 => (Register::ClearEnable, 0x180),
            0x200..0x280 => (Register::SetPending, 0x200),
            0x280..0x300 => (Register::ClearPending, 0x280),
            0x300..0x380 => (Register::SetActive, 0x300),
            0x380..0x400 => (Register::ClearActive, 0x380),
            0x400..0x800 => (Register::Priority, 0x400),
            0xc00..0xd00 => (Register::Config, 0xc00),
            _ => return None,
        };
        Some((register, (offset - base) as u32 / 4 * register.interrupts()))
    }

    /// How many interrupts one such register covers.
    fn interrupts(self) -> u32 {
        match self {
            Register::Priority => 4,
            Register::Config => 16,
            _ => 32,
        }
    }

    /// The bits of a bank that the register covers whose first interrupt is `first` of that bank.
    pub(super) fn covers(self, first: u32) -> u64 {
        ((1 << self.interrupts()) - 1) << first
    }

    /// Whether the register shows state that a running vCPU changes without telling anyone.
    pub(super) fn is_volatile(self) -> bool {
        use Register::*;
        matches!(self, SetPending | ClearPending | SetActive | ClearActive)
    }
}
