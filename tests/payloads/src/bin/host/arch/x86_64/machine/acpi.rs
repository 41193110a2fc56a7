//! ACPI's registers: what suspends, switches off and resets the machine.

use crate::attacks::scene::Scene;
use crate::frames;
use abi::host::OK;
use alloc::format;
use alloc::string::String;
use payloads::{acpi, cpu, hostcall};

/// PM1 control: enter the state; its type begins at bit 10.
const ENABLE: u16 = 1 << 13;

/// The type that means off on the machines of the tests is 0.
pub fn suspend(_: &mut Scene) -> Result<i64, String> {
    let port = acpi::sleep_port().ok_or("ACPI names no register")?;
    for kind in 1..8u16 {
        let value = kind << 10 | ENABLE;
        cpu::outw(port, value);
        cpu::outb(port + 1, (value >> 8) as u8);
        cpu::outl(port - 2, u32::from(value) << 16);
        cpu::outl(port, value.into());
        cpu::outw(port + 1, value >> 8);
    }
    // The type alone is harmless, and passes.
    cpu::outw(port, 1 << 10);
    let found = cpu::inw(port);
    cpu::outw(port, 0);
    if found & 0x3c00 == 1 << 10 { Ok(OK) } else { Err(format!("the register reads {found:#x}")) }
}

/// What has come of it only Postern's log says: a machine whose tables name such a register is made so for this test, and has
/// nothing there.
pub fn reset(_: &mut Scene) -> Result<i64, String> {
    let Some((port, value)) = acpi::reset() else { return Ok(OK) };
    cpu::outb(port, value);
    cpu::outw(port - 1, u16::from(value) << 8);
    cpu::outl(port - 3, u32::from(value) << 24);
    let log = log()?;
    for port in [port, port - 1, port - 3] {
        let line = format!("reset while there is a guest, by port {port:#x},");
        if !log.contains(&line) {
            return Err(format!("Postern's log does not say {line:?}"));
        }
    }
    Ok(OK)
}

/// All of Postern's log.
fn log() -> Result<String, String> {
    let out = frames::zeroed_frame().ok_or("out of memory")?;
    let (mut text, mut position) = (String::new(), 0);
    loop {
        let reply = hostcall::log_read(out, position);
        let [next, bytes, ..] = reply.values;
        if reply.status != OK || bytes == 0 {
            break;
        }
        let words = (0..bytes.div_ceil(8)).flat_map(|word| frames::read(out + word * 8).to_le_bytes());
        text.extend(words.take(bytes as usize).map(char::from));
        position = next;
    }
    frames::free_frame(out);
    Ok(text)
}

/// Not survived.
pub fn off(_: &mut Scene) -> Result<i64, String> {
    let port = acpi::sleep_port().ok_or("ACPI names no register")?;
    cpu::outw(port, ENABLE);
    Err(String::from("the machine is still on"))
}
