//! The PL011 as a console.

use super::device::{read32, write32};

/// PL011 register offsets (Arm DDI0183 section 3.2).
mod register {
    pub const DATA: u64 = 0;
    pub const FLAGS: u64 = 0x18;
    pub const LINE_CONTROL: u64 = 0x2c;
    pub const CONTROL: u64 = 0x30;
}
const TRANSMIT_FULL: u32 = 1 << 5;
const RECEIVE_EMPTY: u32 = 1 << 4;

/// Switches a PL011 on: FIFO, receiver and transmitter.
pub fn init(address: u64) {
    write32(address + register::CONTROL, 0);
    write32(address + register::LINE_CONTROL, 3 << 5 | 1 << 4);
    write32(address + register::CONTROL, 1 | 1 << 8 | 1 << 9);
}

/// Writes a byte to a PL011, waiting for room.
pub fn put(address: u64, byte: u8) {
    while read32(address + register::FLAGS) & TRANSMIT_FULL != 0 {
        core::hint::spin_loop();
    }
    write32(address + register::DATA, byte.into());
}

/// Takes a byte from a PL011's receiver.
pub fn get(address: u64) -> Option<u8> {
    (read32(address + register::FLAGS) & RECEIVE_EMPTY == 0).then(|| read32(address + register::DATA) as u8)
}

/// Where a protected guest finds the UART at `line`, when shared memory is `alias` bytes further on.
pub fn shared(line: u64, alias: u64) -> u64 {
    line + alias
}
