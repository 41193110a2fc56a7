//! The log console: a string.

use core::fmt;
use std::string::String;
use std::sync::{Mutex, PoisonError};

static PRINTED: Mutex<String> = Mutex::new(String::new());

/// A UART whose text [`printed`] returns. All of them print on one paper.
#[derive(Debug)]
pub struct Serial;

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
