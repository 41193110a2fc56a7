//! Ports that the host does not reach unseen. All others are the hardware's to answer. Pure.
//!
//! * What resets the CPUs and leaves memory as it is: whoever runs next, which may be the host by way of the shutdown code in
//!   CMOS memory, has no Postern above it (IBM PC/AT "System Reset"; Intel PCH data sheets, "RST_CNT").
//! * The registers by which ACPI suspends the machine, whose waking vector knows no Postern, switches it off, which Postern does
//!   itself, and resets it.
//! * The DMA interface of QEMU's firmware configuration device, which reads and writes any memory (QEMU
//!   `docs/specs/fw_cfg.rst`).

use super::acpi_power::{Asked, Power};
use core::ops::Range;

/// The keyboard controller's commands: 0xF0 to 0xFF pulse lines, of which line 0 is the CPU's reset; 0xD1 has the next byte
/// at its data port set them.
const KEYBOARD: u16 = 0x64;
const SET_LINES: u8 = 0xd1;
/// System control port A: bit 0 resets the CPU.
const SYSTEM_CONTROL: u16 = 0x92;
/// Reset control: bit 2 resets. As part of four bytes at 0xCF8 it is PCI's configuration address.
const RESET_CONTROL: u16 = 0xcf9;
const PCI_ADDRESS: u16 = 0xcf8;
/// Address of a request to the firmware configuration device.
const FIRMWARE_DMA: Range<u16> = 0x514..0x51c;

/// What becomes of an OUT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Out {
    /// The hardware takes it.
    Native,
    /// It resets the machine, which the host may do while there is no guest.
    Reset,
    /// It switches the machine off, which Postern does.
    Off,
    /// It suspends the machine, which nobody does.
    Suspend,
    /// Nothing happens.
    Dropped,
}

/// Whether an access to the port exits.
pub fn is_guarded(port: u16, acpi: &Power) -> bool {
    matches!(port, KEYBOARD | SYSTEM_CONTROL | RESET_CONTROL) || FIRMWARE_DMA.contains(&port) || acpi.is_guarded(port)
}

/// Whether an access of `size` bytes touches what the host is not shown.
pub fn is_hidden(port: u16, size: u32) -> bool {
    bytes(port, size, 0).any(|(port, _)| FIRMWARE_DMA.contains(&port))
}

/// Decides about an OUT of `size` bytes on a machine with these registers of ACPI's.
pub fn write(port: u16, size: u32, value: u32, acpi: &Power) -> Out {
    if is_hidden(port, size) || bytes(port, size, value).any(|byte| byte == (KEYBOARD, SET_LINES)) {
        return Out::Dropped;
    }
    let is_address = (port, size) == (PCI_ADDRESS, 4);
    let resets = bytes(port, size, value).any(|(at, byte)| match at {
        RESET_CONTROL if is_address => false,
        KEYBOARD if byte & 0xf1 == 0xf0 => true,
        SYSTEM_CONTROL if byte & 1 != 0 => true,
        RESET_CONTROL if byte & 1 << 2 != 0 => true,
        _ => acpi.asked(at, byte) == Asked::Reset,
    });
    let asks = |what| bytes(port, size, value).any(|(at, byte)| acpi.asked(at, byte) == what);
    match (asks(Asked::Suspend), resets, asks(Asked::Off)) {
        (true, _, _) => Out::Suspend,
        (_, true, _) => Out::Reset,
        (_, _, true) => Out::Off,
        _ => Out::Native,
    }
}

/// The ports that an access touches, and the byte at each.
fn bytes(port: u16, size: u32, value: u32) -> impl Iterator<Item = (u16, u8)> {
    value
        .to_le_bytes()
        .into_iter()
        .take(size as usize)
        .enumerate()
        .map(move |(n, byte)| (port.wrapping_add(n as u16), byte))
}

/// The two I/O bitmaps as one, a bit for each port (SDM volume 3, "I/O-Bitmap Addresses").
pub fn bitmap(acpi: &Power) -> impl Iterator<Item = u64> {
    (0..1024u16).map(|word| (0..64).fold(0, |bits, n| bits | u64::from(is_guarded(word * 64 + n, acpi)) << n))
}

#[cfg(test)]
mod tests {
    use super::super::acpi_power::Register;
    use super::*;
    use std::vec::Vec;

    #[test]
    fn resets_are_found_in_accesses_of_every_size() {
        for (port, size, value) in [
            (0x64, 1, 0xfe),
            (0x64, 1, 0xf0),
            (0x92, 1, 1),
            (0xcf9, 1, 6),
            (0xcf9, 1, 0xe),
            (0x63, 2, 0xfe00),
            (0x91, 2, 0x0300),
            (0xcf8, 2, 0x0600),
            (0xcf7, 4, 0x06_0000),
            (0xcf9, 4, 4),
        ] {
            assert_eq!(write(port, size, value, &Power::default()), Out::Reset, "{port:#x}");
        }
        // One that would reset with the byte after it, which goes to another port.
        assert_eq!(write(0x64, 1, 0xd1, &Power::default()), Out::Dropped);
    }

    #[test]
    fn everyday_accesses_pass() {
        // PCI's configuration address with all bits; A20; the keyboard controller's other commands; a reset's preparation.
        for (port, size, value) in [
            (0xcf8, 4, 0x8000_ff04),
            (0x92, 1, 2),
            (0x64, 1, 0xd4),
            (0x64, 1, 0xff),
            (0xcf9, 1, 2),
            (0x64, 2, 0xfe20),
            (0xffff, 4, u32::MAX),
        ] {
            assert_eq!(write(port, size, value, &Power::default()), Out::Native, "{port:#x}");
        }
    }

    /// Registers at 0x404 and 0x1004, a reset at 0x2000.
    fn acpi() -> Power {
        let registers = [0x404, 0x1004].map(|port| Register { port, wide: true, off: Some(5) });
        Power { registers: registers.into_iter().collect(), reset: Some((0x2000, 0x55)), ..Power::default() }
    }

    #[test]
    fn acpis_registers_are_found_in_accesses_of_every_size() {
        for (port, size, value, expected) in [
            (0x404, 2, 0x3400, Out::Off),
            (0x405, 1, 0x34, Out::Off),
            (0x1004, 4, 0xffff_3401, Out::Off),
            (0x404, 2, 0x2400, Out::Suspend),
            (0x405, 1, 0x20, Out::Suspend),
            (0x403, 4, 0x3c_0000, Out::Suspend),
            (0x402, 4, 0x2400_0000, Out::Suspend),
            (0x404, 2, 0x1401, Out::Native),
            (0x404, 1, 0x34, Out::Native),
            (0x2000, 1, 0x55, Out::Reset),
            (0x1fff, 2, 0x5500, Out::Reset),
            (0x1ffd, 4, 0x5500_0000, Out::Reset),
            (0x2000, 1, 0x54, Out::Native),
        ] {
            assert_eq!(write(port, size, value, &acpi()), expected, "{size} bytes {value:#x} at {port:#x}");
        }
        let words: Vec<u64> = bitmap(&acpi()).collect();
        for port in [0x405usize, 0x1005, 0x2000] {
            assert_ne!(words[port / 64] >> (port % 64) & 1, 0, "{port:#x}");
        }
    }

    #[test]
    fn a_reset_register_where_one_is_already_adds_to_it() {
        let acpi = Power { reset: Some((0xcf9, 0x0a)), ..acpi() };
        assert_eq!(write(0xcf9, 1, 0x0a, &acpi), Out::Reset);
        assert_eq!(write(0xcf9, 1, 6, &acpi), Out::Reset);
        assert_eq!(write(0xcf8, 4, 0x8000_0a00, &acpi), Out::Native, "PCI's configuration address");
    }

    #[test]
    fn firmware_dma_is_not_there() {
        for (port, size) in [(0x514, 4), (0x518, 4), (0x51b, 1), (0x513, 2), (0x512, 4)] {
            assert!(is_hidden(port, size));
            assert_eq!(write(port, size, u32::MAX, &Power::default()), Out::Dropped);
        }
        for (port, size) in [(0x510, 2), (0x511, 1), (0x51c, 4), (0x510, 4)] {
            assert!(!is_hidden(port, size));
        }
    }

    #[test]
    fn the_bitmap_is_the_decisions() {
        let words: Vec<u64> = bitmap(&Power::default()).collect();
        assert_eq!(words.len() * 8, 2 * 4096);
        let set: Vec<usize> = (0..1 << 16).filter(|port| words[port / 64] >> (port % 64) & 1 != 0).collect();
        assert_eq!(set, [0x64, 0x92, 0x514, 0x515, 0x516, 0x517, 0x518, 0x519, 0x51a, 0x51b, 0xcf9]);
        // Whatever does not exit has to be harmless.
        for port in (0..=u16::MAX).filter(|port| !is_guarded(*port, &Power::default())) {
            assert_eq!(write(port, 1, 0xff, &Power::default()), Out::Native);
        }
    }
}
