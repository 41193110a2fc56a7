//! The guest's console: an emulated UART whose line is the machine's second UART.

use crate::platform::{self, ConsoleDevice, Effect};
use crate::vm::Vm;
use alloc::string::String;
use payloads::{say, uart};

/// Longest line of guest text that is looked at.
const LINE: usize = 200;

/// The device and its line.
pub struct GuestConsole {
    device: ConsoleDevice,
    /// Registers of the physical UART; zero when the machine has only one.
    line: u64,
    level: bool,
    text: String,
    /// Lines `guest: FAIL` so far.
    failures: u64,
    /// The guest is paused when a line contains this.
    watch: Option<&'static str>,
}

impl GuestConsole {
    /// A console on the physical UART at `line`.
    pub fn new(line: u64) -> Self {
        if line != 0 {
            uart::init(line);
        }
        Self {
            device: ConsoleDevice::new(),
            line,
            level: false,
            text: String::with_capacity(LINE),
            failures: 0,
            watch: None,
        }
    }

    /// Pauses the guest when it writes a line that contains `text`.
    pub fn watch(&mut self, text: &'static str) {
        self.watch = Some(text);
    }

    /// How many failures a test guest has reported.
    pub fn failures(&self) -> u64 {
        self.failures
    }

    /// Moves what was typed into the device.
    fn take_input(&mut self) {
        while self.line != 0 && self.device.has_room() {
            let Some(byte) = uart::get(self.line) else { break };
            self.device.receive(byte);
        }
    }

    /// Sends a byte; whether it ended the line that is watched for.
    fn send(&mut self, byte: u8) -> bool {
        if self.line != 0 {
            uart::put(self.line, byte);
        }
        if byte != b'\n' {
            if self.text.len() < LINE && byte != b'\r' {
                self.text.push(byte.into());
            }
            return false;
        }
        // The verdicts of test guests go into the log too, in order with the host's own lines.
        if self.text.starts_with("guest: ") || self.text.starts_with("bench: ") {
            say!("{}", self.text);
        }
        self.failures += u64::from(self.text.starts_with("guest: FAIL"));
        let seen = self.watch.is_some_and(|watched| self.text.contains(watched));
        if seen {
            self.watch = None;
        }
        self.text.clear();
        seen
    }
}

/// Serves an access to the registers.
pub fn access(vm: &Vm, offset: u64, write: Option<u64>) -> u64 {
    let mut console = vm.console.lock();
    let value = match write {
        None => console.device.read(offset).into(),
        Some(value) => {
            if let Effect::Send(byte) = console.device.write(offset, value as u32)
                && console.send(byte)
            {
                vm.pause();
            }
            0
        }
    };
    update(vm, &mut console);
    value
}

/// Looks for input; called now and then.
pub fn poll(vm: &Vm) {
    if let Some(mut console) = vm.console.try_lock() {
        update(vm, &mut console);
    }
}

/// Brings input and the interrupt's level up to date.
fn update(vm: &Vm, console: &mut GuestConsole) {
    console.take_input();
    let level = console.device.interrupt();
    if level != console.level {
        console.level = level;
        platform::console_interrupt(vm, level);
    }
}
