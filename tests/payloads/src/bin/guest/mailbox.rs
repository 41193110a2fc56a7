//! The guest's end of the test device.

use crate::world::World;
use payloads::device::{read64, write64};
use payloads::mailbox::{ARGUMENT, BASE, COMMAND, RESULT, VALUE, command};

/// Has the host execute a command.
pub fn ask(world: &World, number: u64, argument: u64, value: u64) -> u64 {
    let device = BASE + world.alias;
    write64(device + ARGUMENT, argument);
    write64(device + VALUE, value);
    write64(device + COMMAND, number);
    read64(device + RESULT)
}

/// Has the host lower an interrupt line; for an interrupt handler, which may come in the middle of [`ask`], so it uses a
/// register of its own.
#[allow(dead_code, reason = "not every architecture has levels to lower")]
pub fn lower(alias: u64, intid: u32) {
    write64(BASE + alias + payloads::mailbox::LOWER, intid.into());
}

/// What the host reads in the frame behind a guest address.
pub fn host_read(world: &World, address: u64) -> u64 {
    ask(world, command::READ, address, 0)
}

/// Has the host write there.
pub fn host_write(world: &World, address: u64, value: u64) -> u64 {
    ask(world, command::WRITE, address, value)
}

/// The state Postern tells the host of that frame.
pub fn state(world: &World, address: u64) -> u64 {
    ask(world, command::STATE, address, 0)
}
