//! The log console: a 16550 at the first serial port's place.

use core::fmt;
use uart_16550::backend::PioBackend;
use uart_16550::{BaudRate, Config, Uart16550};

/// COM1.
const PORT: u16 = 0x3f8;

/// A UART to write to.
pub struct Serial {
    uart: Uart16550<PioBackend>,
    /// It has not taken a byte for so long that text is dropped until it does: the host can stop the line.
    stuck: bool,
}

impl Serial {
    /// COM1, when it is there.
    ///
    /// # Safety
    /// Only this value uses it.
    pub unsafe fn new() -> Option<Self> {
        // SAFETY: the caller's promise; the ports have had this meaning since the first PC.
        let mut uart = unsafe { Uart16550::new_port(PORT) }.ok()?;
        let config = Config { baud_rate: BaudRate::Baud115200, ..Config::default() };
        uart.init(config).ok()?;
        Some(Self { uart, stuck: false })
    }

    /// Writes a byte if that can be done at once.
    pub fn try_byte(&mut self, byte: u8) -> bool {
        self.uart.try_send_byte(byte).is_ok()
    }

    fn byte(&mut self, byte: u8) {
        // Bounded: a UART that is stuck loses text, not the machine.
        let polls = if self.stuck { 1 } else { 100_000 };
        self.stuck = (0..polls).all(|_| self.uart.try_send_byte(byte).is_err());
    }
}

impl fmt::Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                self.byte(b'\r');
            }
            self.byte(byte);
        }
        Ok(())
    }
}
