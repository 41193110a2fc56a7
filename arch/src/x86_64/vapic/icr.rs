//! The interrupt command register in x2APIC mode (SDM "Interrupt Command Register (ICR)" and "x2APIC Mode").

use crate::VcpuMask;

/// Bits that have to be zero: 13, 17:16 and 31:20. Bit 12, which was the delivery status, is ignored, as CPUs do.
pub(super) const RESERVED: u64 = 1 << 13 | 0b11 << 16 | 0xfff << 20;
/// The delivery status of the older modes; reads as zero.
pub(super) const STATUS: u64 = 1 << 12;

/// The destination that means everybody.
const BROADCAST: u32 = u32::MAX;

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// An interrupt with this vector.
    Fixed(u8),
    /// A non-maskable interrupt.
    Nmi,
    /// What a guest's APIC does not deliver: SMI, INIT, SIPI, and what is reserved.
    Nothing,
}

/// A command: what goes to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Command {
    pub message: Message,
    pub targets: VcpuMask,
}

/// Decodes what vCPU `from` of `count` writes.
pub(super) fn decode(value: u64, from: usize, count: usize) -> Command {
    let everybody = ((1_u64 << count.min(32)) - 1) as VcpuMask;
    let own = 1_u32.checked_shl(from as u32).unwrap_or(0) & everybody;
    let (logical, to) = (value & 1 << 11 != 0, (value >> 32) as u32);
    let targets = match value >> 18 & 0b11 {
        1 => own,
        2 => everybody,
        3 => everybody & !own,
        _ if to == BROADCAST => everybody,
        _ if logical => everybody & logical_targets(to),
        _ => everybody & 1_u32.checked_shl(to).unwrap_or(0),
    };
    let vector = value as u8;
    match value >> 8 & 0b111 {
        0 => Command { message: Message::Fixed(vector), targets },
        // Lowest priority: one of them, and any will do.
        1 => Command { message: Message::Fixed(vector), targets: targets & targets.wrapping_neg() },
        4 => Command { message: Message::Nmi, targets },
        _ => Command { message: Message::Nothing, targets: 0 },
    }
}

/// The logical x2APIC ID of a vCPU: its cluster of sixteen, and one bit for it (SDM "Logical Destination Mode in x2APIC
/// Mode").
pub(super) fn logical_id(index: usize) -> u32 {
    let index = index as u32;
    (index >> 4) << 16 | 1 << (index & 0xf)
}

/// The vCPUs that a logical destination names.
fn logical_targets(to: u32) -> VcpuMask {
    match to >> 16 {
        0 => to & 0xffff,
        1 => to << 16,
        _ => 0,
    }
}
