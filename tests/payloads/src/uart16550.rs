//! A 16550A (National Semiconductor PC16550D) as a device model: what Linux's 8250 driver and its early console need.
//!
//! The transmitter takes every byte at once. The interrupt output is a level here; a PC's interrupt controller sees its
//! rising edge.

use alloc::collections::VecDeque;

pub use crate::pl011::Effect;

/// Receive FIFO depth.
const DEPTH: usize = 16;

/// Interrupt enable: received data, transmitter empty.
const ON_RECEIVED: u8 = 1;
const ON_EMPTY: u8 = 2;
/// Interrupt identification: none, transmitter empty, received data; FIFOs on.
const NONE: u8 = 1;
const EMPTY: u8 = 2;
const RECEIVED: u8 = 4;
const FIFOS: u8 = 0xc0;
/// Line control: the first two registers are the divisor.
const DIVISOR: u8 = 0x80;
/// Modem control: the second output, which lets the interrupt through on a PC; loop-back.
const OUT2: u8 = 8;
const LOOP: u8 = 0x10;
/// Line status: data ready; transmitter empty, both parts.
const READY: u8 = 1;
const IDLE: u8 = 0x60;
/// Modem status without loop-back: carrier, ready, clear to send.
const CONNECTED: u8 = 0xb0;

/// The registers.
#[derive(Default)]
pub struct Uart16550 {
    received: VecDeque<u8>,
    enabled: u8,
    /// The transmitter has become empty since the interrupt was last looked at.
    emptied: bool,
    fifos: bool,
    line_control: u8,
    modem_control: u8,
    scratch: u8,
    divisor: [u8; 2],
}

impl Uart16550 {
    /// After reset; the FIFO gets its memory now.
    pub fn new() -> Self {
        Self { received: VecDeque::with_capacity(DEPTH), ..Self::default() }
    }

    /// Whether another received byte is wanted: it fits, and the driver listens. Linux' driver empties the FIFO and reads the
    /// receiver as it looks for the device and as it starts, so what is typed before then has to wait on the line; when it
    /// looks it sets every bit of the interrupt enable register for a moment, but not OUT2.
    pub fn has_room(&self) -> bool {
        let listens = self.modem_control & (LOOP | OUT2) == OUT2 && self.enabled & ON_RECEIVED != 0;
        self.received.len() < DEPTH && listens
    }

    /// A byte arrives on the line; dropped when there is no room.
    pub fn receive(&mut self, byte: u8) {
        if self.has_room() {
            self.received.push_back(byte);
        }
    }

    fn reason(&self) -> u8 {
        if self.enabled & ON_RECEIVED != 0 && !self.received.is_empty() {
            RECEIVED
        } else if self.enabled & ON_EMPTY != 0 && self.emptied {
            EMPTY
        } else {
            NONE
        }
    }

    /// The level of the interrupt output.
    pub fn interrupt(&self) -> bool {
        self.reason() != NONE
    }

    /// Reads the register at `offset`, 0 to 7.
    pub fn read(&mut self, offset: u64) -> u32 {
        self.read_byte(offset).into()
    }

    fn read_byte(&mut self, offset: u64) -> u8 {
        match offset {
            0 | 1 if self.line_control & DIVISOR != 0 => self.divisor[offset as usize],
            0 => self.received.pop_front().unwrap_or(0),
            1 => self.enabled,
            2 => {
                let reason = self.reason();
                if reason == EMPTY {
                    self.emptied = false;
                }
                reason | if self.fifos { FIFOS } else { 0 }
            }
            3 => self.line_control,
            4 => self.modem_control,
            5 => IDLE | if self.received.is_empty() { 0 } else { READY },
            // In loop-back the four outputs come back as the four inputs.
            6 if self.modem_control & LOOP != 0 => {
                let out = self.modem_control;
                (out & 2) << 3 | (out & 1) << 5 | (out & 4) << 4 | (out & 8) << 4
            }
            6 => CONNECTED,
            _ => self.scratch,
        }
    }

    /// Writes the register at `offset`.
    pub fn write(&mut self, offset: u64, value: u32) -> Effect {
        let value = value as u8;
        match offset {
            0 | 1 if self.line_control & DIVISOR != 0 => self.divisor[offset as usize] = value,
            0 => {
                self.emptied = true;
                if self.modem_control & LOOP == 0 {
                    return Effect::Send(value);
                }
                if self.received.len() < DEPTH {
                    self.received.push_back(value);
                }
            }
            1 => {
                // Enabling the interrupt of an empty transmitter raises it.
                self.emptied |= value & ON_EMPTY & !self.enabled != 0;
                self.enabled = value & 0xf;
            }
            2 => {
                self.fifos = value & 1 != 0;
                if value & 2 != 0 {
                    self.received.clear();
                }
            }
            3 => self.line_control = value,
            4 => self.modem_control = value & 0x1f,
            7 => self.scratch = value,
            _ => {}
        }
        Effect::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_finds_a_16550a() {
        let mut uart = Uart16550::new();
        uart.write(7, 0x5a);
        assert_eq!(uart.read(7), 0x5a);
        uart.write(4, 0x1a);
        assert_eq!(uart.read(6) & 0xf0, 0x90, "what Linux looks for in loop-back");
        uart.write(4, 0);
        uart.write(2, 1);
        assert_eq!(uart.read(2) & 0xc0, 0xc0);
        uart.write(3, 0x80);
        uart.write(0, 1);
        assert_eq!((uart.read(0), uart.read(5) & 0x60), (1, 0x60));
    }

    #[test]
    fn the_transmitter_interrupts_when_enabled_and_after_each_byte() {
        let mut uart = Uart16550::new();
        assert!(!uart.interrupt());
        uart.write(1, 2);
        assert_eq!(uart.read(2) & 0xf, 2);
        assert!(!uart.interrupt(), "looking at the reason clears it");
        assert_eq!(uart.write(0, u32::from(b'x')), Effect::Send(b'x'));
        assert!(uart.interrupt());
        uart.write(1, 0);
        assert!(!uart.interrupt());
    }

    #[test]
    fn what_was_received_interrupts_until_it_is_read_and_is_bounded() {
        let mut uart = Uart16550::new();
        uart.write(4, 8);
        uart.write(1, 1);
        (0..100).for_each(|byte| uart.receive(byte));
        assert_eq!(uart.read(2) & 0xf, 4);
        for byte in 0..DEPTH as u32 {
            assert_eq!(uart.read(5) & 1, 1);
            assert_eq!(uart.read(0), byte);
        }
        assert!(!uart.interrupt());
        assert_eq!(uart.read(5) & 1, 0);
    }

    #[test]
    fn nothing_is_taken_before_the_driver_listens() {
        let mut uart = Uart16550::new();
        assert!(!uart.has_room());
        uart.receive(b'x');
        assert_eq!(uart.read(5) & 1, 0, "nothing has arrived");
        uart.write(1, 0xf);
        assert!(!uart.has_room(), "it is only looked for");
        uart.write(4, 8);
        uart.write(1, 1);
        uart.receive(b'y');
        assert_eq!(uart.read(0), b'y'.into());
        uart.write(1, 0);
        assert!(!uart.has_room());
    }
}
