//! The 16550 as a console; addresses are ports.

use super::cpu::{inb, outb};

/// Registers, as distances from the first port.
const DATA: u16 = 0;
const INTERRUPTS: u16 = 1;
const FIFO: u16 = 2;
const LINE_CONTROL: u16 = 3;
const MODEM_CONTROL: u16 = 4;
const LINE_STATUS: u16 = 5;
const SCRATCH: u16 = 7;
const RECEIVED: u8 = 1;
const ROOM: u8 = 1 << 5;
const IDLE: u8 = 1 << 6;

/// Whether there is one: its scratch register keeps what is written.
pub fn is_there(port: u16) -> bool {
    [0x5a, 0xa5].into_iter().all(|value| {
        outb(port + SCRATCH, value);
        inb(port + SCRATCH) == value
    })
}

/// Switches it on: eight bits, no interrupts, as fast as it goes. Without FIFO: Bochs loses input with it.
pub fn init(port: u64) {
    let port = port as u16;
    outb(port + INTERRUPTS, 0);
    outb(port + LINE_CONTROL, 0x80);
    outb(port + DATA, 1);
    outb(port + INTERRUPTS, 0);
    outb(port + LINE_CONTROL, 3);
    outb(port + FIFO, 0);
    outb(port + MODEM_CONTROL, 3);
}

/// Writes a byte, waiting for room.
pub fn put(port: u64, byte: u8) {
    while inb(port as u16 + LINE_STATUS) & ROOM == 0 {
        core::hint::spin_loop();
    }
    outb(port as u16 + DATA, byte);
}

/// Takes a byte that was received.
pub fn get(port: u64) -> Option<u8> {
    (inb(port as u16 + LINE_STATUS) & RECEIVED != 0).then(|| inb(port as u16 + DATA))
}

/// Waits until everything is out.
pub fn drain(port: u64) {
    while inb(port as u16 + LINE_STATUS) & IDLE == 0 {
        core::hint::spin_loop();
    }
}

/// Where a protected guest finds the UART at `line`, when shared memory is `alias` bytes further on.
pub fn shared(line: u64, _alias: u64) -> u64 {
    line
}
