//! Device interrupts of x86-64: messages.

use crate::functional::interrupts::eventually;
use crate::world::World;
use crate::{expect, mailbox, require};
use alloc::string::String;
use payloads::mailbox::command;
use payloads::{percpu, timer};

/// A message that the host sends comes exactly once, on the vCPU and with the vector that it names.
pub fn device(world: &World) -> Result<(), String> {
    const DEVICE: u32 = 0x62;
    let area = percpu::this();
    for round in 1..=4 {
        mailbox::ask(world, command::INTERRUPT, DEVICE.into(), 1);
        require!(eventually(|| area.counted(DEVICE) >= round), "the interrupt did not come");
        timer::delay(3);
        expect!("interrupts", area.counted(DEVICE), round);
    }
    Ok(())
}
