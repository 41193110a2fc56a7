//! Device interrupts of a GICv3: levels.

use crate::functional::interrupts::eventually;
use crate::world::World;
use crate::{expect, mailbox, require};
use alloc::string::String;
use core::sync::atomic::{AtomicU64, Ordering};
use payloads::mailbox::command;
use payloads::{exception, gic, percpu, timer};

/// The device interrupt of the test, and how often it is to come.
const DEVICE: u32 = 40;
const TIMES: u32 = 3;
/// What to add to the mailbox's address, for the handler.
static ALIAS: AtomicU64 = AtomicU64::new(0);

/// Lowers the line at the third interrupt: until then it comes back as soon as it was ended.
fn lower_line(intid: u32) {
    if intid == DEVICE && percpu::this().counted(DEVICE).is_multiple_of(TIMES) {
        mailbox::lower(ALIAS.load(Ordering::Relaxed), DEVICE);
    }
}

/// A level interrupt that the host raises comes again and again until it is lowered, and then no more.
pub fn device(world: &World) -> Result<(), String> {
    let area = percpu::this();
    ALIAS.store(world.alias, Ordering::Relaxed);
    exception::on_interrupt(lower_line);
    gic::enable_spi(DEVICE);
    for round in 1..=4 {
        mailbox::ask(world, command::INTERRUPT, DEVICE.into(), 1);
        require!(eventually(|| area.counted(DEVICE) >= round * TIMES), "the interrupt did not come often enough");
        timer::delay(3);
        expect!("interrupts", area.counted(DEVICE), round * TIMES);
    }
    Ok(())
}
