//! Postern's host calls, one function each. The status is returned as it comes; [`OK`](abi::host::OK) is success.

use crate::hypercall;
use abi::host;

/// Most repetitions of a call that keeps answering MORE: enough to wipe 16 GiB a frame at a time.
const REPEAT_MAX: u32 = 1 << 22;

/// Answer of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Status: one of the codes in [`abi::host`].
    pub status: i64,
    /// Results: x1..x3, or RDI, RSI, RDX.
    pub values: [u64; 3],
}

impl Reply {
    /// The first result, or the status of a failed call.
    ///
    /// # Errors
    /// The status.
    pub fn value(self) -> Result<u64, i64> {
        if self.status == host::OK { Ok(self.values[0]) } else { Err(self.status) }
    }
}

/// Any call, once.
pub fn raw(number: u64, arguments: [u64; 6]) -> Reply {
    let (status, values) = hypercall::call(number, arguments);
    Reply { status: status as i64, values }
}

/// Any call with up to four arguments, repeated while it answers MORE; a call that never ends answers MORE.
pub fn repeat(number: u64, arguments: [u64; 4]) -> Reply {
    let [a, b, c, d] = arguments;
    let mut reply = raw(number, [a, b, c, d, 0, 0]);
    for _ in 0..REPEAT_MAX {
        if reply.status != host::MORE {
            break;
        }
        reply = raw(number, [a, b, c, d, 0, 0]);
    }
    reply
}

fn once(number: u64, a: u64, b: u64, c: u64) -> Reply {
    raw(number, [a, b, c, 0, 0, 0])
}

/// Whether Postern is there at all: a call without a hypervisor is an undefined instruction.
pub fn present() -> bool {
    matches!(hypercall::try_call(host::VERSION), Ok((0, version)) if version == host::VERSION_NUMBER)
}

/// `VERSION`: version and features.
pub fn version() -> Reply {
    once(host::VERSION, 0, 0, 0)
}

/// `POOL_TOPUP`: the frames taken.
///
/// # Errors
/// The status.
pub fn pool_topup(pa: u64, frames: u64) -> Result<u64, i64> {
    once(host::POOL_TOPUP, pa, frames, 0).value()
}

/// `VM_CREATE`: the handle.
///
/// # Errors
/// The status.
pub fn vm_create(config: u64, meta: u64, meta_frames: u64) -> Result<u64, i64> {
    repeat(host::VM_CREATE, [config, meta, meta_frames, 0]).value()
}

/// `VM_DONATE_META`: the frames taken.
///
/// # Errors
/// The status.
pub fn vm_donate_meta(handle: u64, pa: u64, frames: u64) -> Result<u64, i64> {
    once(host::VM_DONATE_META, handle, pa, frames).value()
}

/// `VM_DONATE`.
pub fn vm_donate(handle: u64, pa: u64, ipa: u64, frames: u64) -> i64 {
    repeat(host::VM_DONATE, [handle, pa, ipa, frames]).status
}

/// `VM_DONATE` of consecutive pages: how many were given.
///
/// # Errors
/// The status, when not even the first was.
pub fn vm_donate_pages(handle: u64, pa: u64, ipa: u64, frames: u64) -> Result<u64, i64> {
    raw(host::VM_DONATE, [handle, pa, ipa, frames, 0, 0]).value()
}

/// `VM_LOAD`.
pub fn vm_load(handle: u64, pa: u64, ipa: u64) -> i64 {
    repeat(host::VM_LOAD, [handle, pa, ipa, 0]).status
}

/// `VM_SEAL`.
pub fn vm_seal(handle: u64, entry: u64, argument: u64) -> i64 {
    repeat(host::VM_SEAL, [handle, entry, argument, 0]).status
}

/// `VCPU_CREATE`.
pub fn vcpu_create(handle: u64, index: u64, run_page: u64) -> i64 {
    once(host::VCPU_CREATE, handle, index, run_page).status
}

/// `VCPU_RUN`: the exit reason in the first value.
pub fn vcpu_run(handle: u64, index: u64) -> Reply {
    once(host::VCPU_RUN, handle, index, 0)
}

/// `VM_IRQ`: the vCPU that the interrupt is routed to.
///
/// # Errors
/// The status.
pub fn vm_irq(handle: u64, intid: u32, level: bool) -> Result<u64, i64> {
    once(host::VM_IRQ, handle, intid.into(), level.into()).value()
}

/// `VCPU_KICK`: whether the vCPU is running.
pub fn vcpu_kick(handle: u64, index: u64) -> Reply {
    once(host::VCPU_KICK, handle, index, 0)
}

/// `VM_DESTROY`.
pub fn vm_destroy(handle: u64) -> i64 {
    once(host::VM_DESTROY, handle, 0, 0).status
}

/// `VM_RECLAIM`.
pub fn vm_reclaim(handle: u64) -> i64 {
    repeat(host::VM_RECLAIM, [handle, 0, 0, 0]).status
}

/// `VM_INFO` into the frame `out`.
pub fn vm_info(handle: u64, out: u64) -> i64 {
    once(host::VM_INFO, handle, out, 0).status
}

/// `FRAME_INFO`: state and pins.
pub fn frame_info(pa: u64) -> Reply {
    once(host::FRAME_INFO, pa, 0, 0)
}

/// State of a frame, as [`abi::host::frame`] numbers them; `u64::MAX` when the call fails.
pub fn frame_state(pa: u64) -> u64 {
    frame_info(pa).value().unwrap_or(u64::MAX)
}

/// `PIN`.
pub fn pin(pa: u64) -> i64 {
    once(host::PIN, pa, 0, 0).status
}

/// `UNPIN`.
pub fn unpin(pa: u64) -> i64 {
    once(host::UNPIN, pa, 0, 0).status
}

/// `COUNTERS` into the frame `out`.
pub fn counters(out: u64) -> i64 {
    once(host::COUNTERS, out, 0, 0).status
}

/// `LOG_READ` into the frame `out`: next position and bytes.
pub fn log_read(out: u64, position: u64) -> Reply {
    once(host::LOG_READ, out, position, 0)
}

/// `AUDIT` from beginning to end: the violations.
///
/// # Errors
/// The status that ended it.
pub fn audit() -> Result<u64, i64> {
    let (mut cursor, mut violations) = (0, 0);
    for _ in 0..REPEAT_MAX {
        let reply = once(host::AUDIT, cursor, 0, 0);
        match reply.status {
            host::OK => return Ok(violations + reply.values[1]),
            host::MORE => (cursor, violations) = (reply.values[0], violations + reply.values[1]),
            status => return Err(status),
        }
    }
    Err(host::MORE)
}

/// `CONSOLE_WRITE` of up to 40 bytes.
pub fn console_write(bytes: &[u8]) {
    let mut packed = [0u8; 40];
    let length = bytes.len().min(packed.len());
    packed[..length].copy_from_slice(&bytes[..length]);
    let mut arguments = [length as u64, 0, 0, 0, 0, 0];
    for (word, eight) in arguments[1..].iter_mut().zip(packed.chunks_exact(8)) {
        *word = u64::from_le_bytes(eight.try_into().unwrap_or_default());
    }
    let mut status = raw(host::CONSOLE_WRITE, arguments).status;
    while status == host::BUSY {
        status = raw(host::CONSOLE_WRITE, arguments).status;
    }
    // Until all of it is with the UART, so that nothing is lost when the machine is switched off.
    while status == host::MORE {
        status = raw(host::CONSOLE_WRITE, [0; 6]).status;
    }
}
