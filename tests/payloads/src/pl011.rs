//! A PL011 (Arm DDI0183) as a device model: what Linux's amba-pl011 driver and its early console need.
//!
//! The transmitter takes every byte at once, so the transmit interrupt is raised after each write; the receive
//! interrupt is a level: raised while a byte waits.

use alloc::collections::VecDeque;

/// Receive FIFO depth.
const DEPTH: usize = 32;

const RECEIVE: u32 = 1 << 4;
const TRANSMIT: u32 = 1 << 5;
const RECEIVE_TIMEOUT: u32 = 1 << 6;
/// FR with both FIFOs empty: TXFE and RXFE.
const FLAGS_EMPTY: u32 = 1 << 7 | 1 << 4;
const FLAG_RXFE: u32 = 1 << 4;
const FLAG_RXFF: u32 = 1 << 6;
/// Bits of the interrupt registers.
const INTERRUPTS: u32 = 0x7ff;
/// PeriphID0..3 and PCellID0..3 (DDI0183 section 3.3.14 on), revision r1p5 as Arm's.
const IDENTIFICATION: [u32; 8] = [0x11, 0x10, 0x34, 0x00, 0x0d, 0xf0, 0x05, 0xb1];

/// What the machine has to do after an access.
#[derive(Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// Send this byte out.
    Send(u8),
}

/// The registers.
#[derive(Default)]
pub struct Pl011 {
    received: VecDeque<u8>,
    /// So many of those are in the FIFO; the others are still on the line.
    arrived: usize,
    transmitted: bool,
    mask: u32,
    line_control: u32,
    control: u32,
    integer_divisor: u32,
    fraction_divisor: u32,
    fifo_levels: u32,
}

impl Pl011 {
    /// After reset; the FIFO gets its memory now.
    pub fn new() -> Self {
        Self { received: VecDeque::with_capacity(DEPTH), control: 0x300, fifo_levels: 0x12, ..Self::default() }
    }

    /// Whether another byte may be received.
    pub fn has_room(&self) -> bool {
        self.received.len() < DEPTH
    }

    /// A byte arrives on the line; dropped when there is no room.
    pub fn receive(&mut self, byte: u8) {
        if self.has_room() {
            self.received.push_back(byte);
        }
    }

    /// The level of the interrupt line.
    pub fn interrupt(&self) -> bool {
        self.raw() & self.mask != 0
    }

    /// Lets what is on the line into the FIFO once the driver looks why it was interrupted, and no sooner: as it starts,
    /// Linux' driver enables the interrupt for a moment, and then empties the FIFO.
    fn arrive(&mut self) {
        if self.mask & (RECEIVE | RECEIVE_TIMEOUT) != 0 {
            self.arrived = self.received.len();
        }
    }

    fn take(&mut self) -> u8 {
        let byte = if self.arrived > 0 { self.received.pop_front() } else { None };
        self.arrived = self.arrived.saturating_sub(1);
        byte.unwrap_or(0)
    }

    fn raw(&self) -> u32 {
        let receive = if self.received.is_empty() { 0 } else { RECEIVE | RECEIVE_TIMEOUT };
        receive | if self.transmitted { TRANSMIT } else { 0 }
    }

    /// Reads the register at `offset`.
    pub fn read(&mut self, offset: u64) -> u32 {
        match offset {
            0x00 => self.take().into(),
            0x18 if self.arrived == 0 => FLAGS_EMPTY,
            0x18 if self.arrived < DEPTH => FLAGS_EMPTY & !FLAG_RXFE,
            0x18 => FLAGS_EMPTY & !FLAG_RXFE | FLAG_RXFF,
            0x24 => self.integer_divisor,
            0x28 => self.fraction_divisor,
            0x2c => self.line_control,
            0x30 => self.control,
            0x34 => self.fifo_levels,
            0x38 => self.mask,
            0x3c => {
                self.arrive();
                self.raw()
            }
            0x40 => {
                self.arrive();
                self.raw() & self.mask
            }
            0xfe0..=0xffc => IDENTIFICATION[(offset as usize - 0xfe0) / 4],
            _ => 0,
        }
    }

    /// Writes the register at `offset`.
    pub fn write(&mut self, offset: u64, value: u32) -> Effect {
        match offset {
            0x00 => {
                self.transmitted = true;
                return Effect::Send(value as u8);
            }
            0x24 => self.integer_divisor = value & 0xffff,
            0x28 => self.fraction_divisor = value & 0x3f,
            0x2c => self.line_control = value & 0xff,
            0x30 => self.control = value & 0xffff,
            0x34 => self.fifo_levels = value & 0x3f,
            0x38 => self.mask = value & INTERRUPTS,
            0x44 if value & TRANSMIT != 0 => self.transmitted = false,
            _ => {}
        }
        Effect::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amba_identification_is_a_pl011() {
        let mut uart = Pl011::new();
        let id = |uart: &mut Pl011, base: u64| (0..4).fold(0, |id, n| id | uart.read(base + n * 4) << (8 * n));
        assert_eq!(id(&mut uart, 0xfe0) & 0x000f_ffff, 0x0004_1011);
        assert_eq!(id(&mut uart, 0xff0), 0xb105_f00d);
    }

    #[test]
    fn transmit_interrupt_follows_write_mask_and_clear() {
        let mut uart = Pl011::new();
        uart.write(0x38, TRANSMIT);
        assert!(!uart.interrupt(), "nothing was sent yet");
        assert_eq!(uart.write(0, u32::from(b'x')), Effect::Send(b'x'));
        assert!(uart.interrupt());
        assert_eq!(uart.read(0x40), TRANSMIT);
        uart.write(0x44, TRANSMIT);
        assert!(!uart.interrupt());
        uart.write(0, 1);
        uart.write(0x38, 0);
        assert!(!uart.interrupt(), "masked");
    }

    #[test]
    fn receive_interrupt_is_a_level_and_the_fifo_is_bounded() {
        let mut uart = Pl011::new();
        uart.write(0x38, RECEIVE);
        for byte in 0..100 {
            uart.receive(byte);
        }
        assert!(uart.interrupt());
        uart.write(0x44, INTERRUPTS);
        assert!(uart.interrupt(), "a clear does not lose what is still in the FIFO");
        assert_eq!(uart.read(0x40), RECEIVE);
        assert_ne!(uart.read(0x18) & FLAG_RXFF, 0);
        assert_eq!((0..DEPTH).map(|_| uart.read(0)).collect::<Vec<_>>(), (0..DEPTH as u32).collect::<Vec<_>>());
        assert!(!uart.interrupt());
        assert_ne!(uart.read(0x18) & FLAG_RXFE, 0);
    }

    #[test]
    fn what_was_typed_early_survives_a_driver_that_starts() {
        let mut uart = Pl011::new();
        uart.receive(b'x');
        uart.write(0x38, RECEIVE | RECEIVE_TIMEOUT);
        assert!(uart.interrupt());
        uart.write(0x38, 0);
        assert_eq!((uart.read(0x18), uart.read(0), uart.read(0x3c)), (FLAGS_EMPTY, 0, RECEIVE | RECEIVE_TIMEOUT));
        assert_eq!(uart.read(0), 0, "it does not listen yet");
        uart.write(0x38, RECEIVE | RECEIVE_TIMEOUT);
        assert_ne!(uart.read(0x3c) & RECEIVE, 0);
        assert_eq!((uart.read(0x18) & FLAG_RXFE, uart.read(0)), (0, b'x'.into()));
        assert!(!uart.interrupt());
    }

    #[test]
    fn any_access_is_harmless() {
        let mut uart = Pl011::new();
        for offset in (0..0x2000).step_by(2) {
            uart.write(offset, u32::MAX);
            uart.read(offset);
        }
    }
}
