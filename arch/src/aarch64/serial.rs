//! The log console: a PL011 (DDI 0183).

use arm_pl011_uart::{DataBits, LineConfig, PL011Registers, Parity, StopBits, Uart, UniqueMmioPointer};
use core::fmt;
use core::ptr::NonNull;

/// UARTCR, to see whether firmware has set the UART up.
const CONTROL: u64 = 0x30;
const ENABLED: u32 = 1 | 1 << 8;

/// A UART to write to.
pub struct Serial {
    uart: Uart<'static>,
    /// It has not taken a byte for so long that text is dropped until it does: the host can stop the line.
    stuck: bool,
}

// SAFETY: the registers are reachable from every CPU; the console's lock lets one at a time use them.
unsafe impl Send for Serial {}

impl Serial {
    /// The UART whose registers are at `base`.
    ///
    /// # Safety
    /// `base` is a PL011, mapped as device memory or with the MMU off, and only this value uses it.
    pub unsafe fn new(base: u64) -> Option<Self> {
        let registers = NonNull::new(base as *mut PL011Registers)?;
        // SAFETY: the caller's promise.
        let mut uart = Uart::new(unsafe { UniqueMmioPointer::new(registers) });
        // SAFETY: a register of the same device.
        let control = unsafe { ((base + CONTROL) as *const u32).read_volatile() };
        if control & ENABLED != ENABLED {
            // Firmware has not touched it, so there is no baud rate to keep; 24 MHz is what boards and emulators use.
            let line = LineConfig { data_bits: DataBits::Bits8, parity: Parity::None, stop_bits: StopBits::One };
            let _ = uart.enable(line, 115_200, 24_000_000);
        }
        Some(Self { uart, stuck: false })
    }

    /// Writes a byte if that can be done at once.
    pub fn try_byte(&mut self, byte: u8) -> bool {
        let free = !self.uart.is_tx_fifo_full();
        if free {
            self.uart.write_word(byte);
        }
        free
    }

    fn byte(&mut self, byte: u8) {
        // Bounded: a UART that is stuck loses text, not the machine.
        let polls = if self.stuck { 1 } else { 100_000 };
        self.stuck = (0..polls).all(|_| self.uart.is_tx_fifo_full());
        if !self.stuck {
            self.uart.write_word(byte);
        }
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
