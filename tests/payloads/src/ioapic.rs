//! An I/O APIC (Intel 82093AA) as a device model: edge-triggered inputs that become messages to local APICs.

/// Inputs.
const PINS: usize = 24;
/// Redirection entry: masked.
const MASKED: u64 = 1 << 16;
/// Redirection entry: bits that only the device writes, delivery status and remote IRR.
const READ_ONLY: u64 = 1 << 12 | 1 << 14;

/// Offsets of the two registers that the others are reached through.
const SELECT: u64 = 0;
const WINDOW: u64 = 0x10;
/// Indices.
const ID: u32 = 0;
const VERSION: u32 = 1;
const ENTRIES: u32 = 0x10;

/// An interrupt message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Identifier of the local APIC.
    pub target: u8,
    /// Vector.
    pub vector: u8,
}

/// The registers.
pub struct IoApic {
    select: u32,
    id: u32,
    entries: [u64; PINS],
    /// An edge came while the pin was masked; kept, so that an input that never falls is not lost.
    waiting: u32,
}

impl Default for IoApic {
    fn default() -> Self {
        Self { select: 0, id: 0, entries: [MASKED; PINS], waiting: 0 }
    }
}

impl IoApic {
    /// Reads the register at `offset`.
    pub fn read(&self, offset: u64) -> u32 {
        match offset {
            SELECT => self.select,
            WINDOW => match self.select {
                ID => self.id,
                VERSION => 0x11 | (PINS as u32 - 1) << 16,
                index => self.entry(index).map_or(0, |(pin, shift)| (self.entries[pin] >> shift) as u32),
            },
            _ => 0,
        }
    }

    /// Writes the register at `offset`: the message that had been waiting for that.
    pub fn write(&mut self, offset: u64, value: u32) -> Option<Message> {
        match (offset, self.select) {
            (SELECT, _) => self.select = value & 0xff,
            (WINDOW, ID) => self.id = value & 0x0f00_0000,
            (WINDOW, index) => {
                let (pin, shift) = self.entry(index)?;
                let kept = self.entries[pin] & !(0xffff_ffff << shift);
                self.entries[pin] = kept | u64::from(value) << shift & !READ_ONLY;
                if self.waiting & 1 << pin != 0 {
                    return self.edge(pin);
                }
            }
            _ => {}
        }
        None
    }

    fn entry(&self, index: u32) -> Option<(usize, u32)> {
        let index = index.checked_sub(ENTRIES)?;
        let pin = (index / 2) as usize;
        (pin < PINS).then_some((pin, index % 2 * 32))
    }

    /// The input `pin` rises: the message to send.
    pub fn edge(&mut self, pin: usize) -> Option<Message> {
        let entry = *self.entries.get(pin)?;
        let vector = entry as u8;
        if entry & MASKED != 0 || vector < 32 {
            self.waiting |= 1 << pin;
            return None;
        }
        self.waiting &= !(1 << pin);
        Some(Message { target: (entry >> 56) as u8, vector })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(apic: &mut IoApic, index: u32, value: u32) -> Option<Message> {
        apic.write(SELECT, index);
        apic.write(WINDOW, value)
    }

    #[test]
    fn entries_are_two_words_each_and_come_back() {
        let mut apic = IoApic::default();
        set(&mut apic, ENTRIES + 9, 3 << 24);
        set(&mut apic, ENTRIES + 8, 0x31 | READ_ONLY as u32);
        assert_eq!(apic.read(WINDOW), 0x31);
        apic.write(SELECT, VERSION);
        assert_eq!(apic.read(WINDOW) >> 16, 23);
        assert_eq!(apic.edge(4), Some(Message { target: 3, vector: 0x31 }));
        assert_eq!(apic.edge(24), None, "no such pin");
    }

    #[test]
    fn an_edge_on_a_masked_pin_comes_when_it_is_unmasked() {
        let mut apic = IoApic::default();
        assert_eq!(apic.edge(4), None);
        assert_eq!(set(&mut apic, ENTRIES + 8, MASKED as u32 | 0x40), None);
        assert_eq!(set(&mut apic, ENTRIES + 8, 0x40), Some(Message { target: 0, vector: 0x40 }));
        assert_eq!(set(&mut apic, ENTRIES + 8, 0x40), None, "once");
        assert_eq!(set(&mut apic, ENTRIES + 8, 3), None, "vectors below 32 are exceptions");
    }
}
