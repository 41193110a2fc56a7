//! The log console: a string.

use core::fmt;
use std::string::String;
use std::sync::{Mutex, PoisonError};

static PRINTED: Mutex<String> = Mutex::new(String::new());

/// A UART whose text [`printed`] returns. All of them print on one paper.
#[derive(Debug)]
pub struct Serial;

impl Serial {
    /// Writes a byte if that can be done at once, which it always can. Returns are not printed.
    pub fn try_byte(&mut self, byte: u8) -> bool {
        use fmt::Write;
        byte == b'\r' || self.write_char(char::from(byte)).is_ok()
    }
}

impl fmt::Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        PRINTED.lock().unwrap_or_else(PoisonError::into_inner).push_str(text);
        Ok(())
    }
}

/// All that was printed since the last time somebody asked.
pub fn printed() -> String {
    core::mem::take(&mut PRINTED.lock().unwrap_or_else(PoisonError::into_inner))
}
