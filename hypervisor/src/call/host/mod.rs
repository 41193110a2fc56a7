//! Calls of the host ([`abi::host`]), as a table. `docs/calls.md` is made from it.

mod audit;
mod console_write;
mod counters;
mod frame_info;
mod log_read;
mod pin;
mod pool_topup;
mod unpin;
mod vcpu_create;
mod vcpu_kick;
mod vcpu_run;
mod version;
pub mod vm_create;
mod vm_destroy;
mod vm_donate;
mod vm_donate_meta;
mod vm_info;
mod vm_irq;
mod vm_load;
mod vm_reclaim;
mod vm_seal;

use crate::{Postern, Refused};
use abi::host::{self, counter};
use core::sync::atomic::{AtomicU64, Ordering};
use guestmem::Pfn;

/// What a call answers: a status of zero or more, and results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// [`host::OK`] or [`host::MORE`].
    pub status: i64,
    /// x1 to x3.
    pub values: [u64; 3],
}

/// Done, nothing to say.
pub const DONE: Reply = Reply { status: host::OK, values: [0; 3] };
/// Progress was made.
pub const MORE: Reply = Reply { status: host::MORE, values: [0; 3] };

/// Done, with results.
pub const fn done(values: [u64; 3]) -> Reply {
    Reply { status: host::OK, values }
}

/// One call.
#[derive(Debug)]
pub struct Call {
    /// Its number.
    pub number: u64,
    /// Its name.
    pub name: &'static str,
    /// Its arguments, in x1 and following.
    pub arguments: &'static [&'static str],
    /// Its results, in x1 and following.
    pub results: &'static [&'static str],
    /// What it does, in a sentence.
    pub summary: &'static str,
    /// The handler.
    pub run: fn(&Postern, [u64; 6]) -> Result<Reply, Refused>,
}

/// All calls, by number.
pub static CALLS: [Call; (host::END - host::BASE) as usize] = [
    version::CALL,
    pool_topup::CALL,
    vm_create::CALL,
    vm_donate_meta::CALL,
    vm_donate::CALL,
    vm_load::CALL,
    vm_seal::CALL,
    vcpu_create::CALL,
    vcpu_run::CALL,
    vm_irq::CALL,
    vcpu_kick::CALL,
    vm_destroy::CALL,
    vm_reclaim::CALL,
    vm_info::CALL,
    frame_info::CALL,
    pin::CALL,
    unpin::CALL,
    counters::CALL,
    log_read::CALL,
    audit::CALL,
    console_write::CALL,
];

const _: () = {
    let mut index = 0;
    while index < CALLS_BY_NUMBER.len() {
        assert!(CALLS_BY_NUMBER[index] == host::BASE + index as u64);
        index += 1;
    }
};
const CALLS_BY_NUMBER: [u64; 21] = [
    version::CALL.number,
    pool_topup::CALL.number,
    vm_create::CALL.number,
    vm_donate_meta::CALL.number,
    vm_donate::CALL.number,
    vm_load::CALL.number,
    vm_seal::CALL.number,
    vcpu_create::CALL.number,
    vcpu_run::CALL.number,
    vm_irq::CALL.number,
    vcpu_kick::CALL.number,
    vm_destroy::CALL.number,
    vm_reclaim::CALL.number,
    vm_info::CALL.number,
    frame_info::CALL.number,
    pin::CALL.number,
    unpin::CALL.number,
    counters::CALL.number,
    log_read::CALL.number,
    audit::CALL.number,
    console_write::CALL.number,
];

/// Finds the call, makes it, and turns its answer into x0 to x3.
pub fn dispatch(postern: &Postern, number: u64, arguments: [u64; 6]) -> [u64; 4] {
    postern.counters.count(counter::HOST_CALLS);
    let index = number.checked_sub(host::BASE).and_then(|index| usize::try_from(index).ok());
    let Some(call) = index.and_then(|index| CALLS.get(index)) else {
        #[cfg(feature = "crash-test")]
        if let Some(crash) = postern.crash.filter(|_| number == host::CRASH_TEST) {
            crash.happen();
        }
        postern.counters.count(counter::HOST_REFUSALS);
        log::debug!("host call {number:#x}: {}", Refused::Unknown);
        return [Refused::Unknown.host_code() as u64, 0, 0, 0];
    };
    match (call.run)(postern, arguments) {
        Ok(Reply { status, values: [a, b, c] }) => [status as u64, a, b, c],
        Err(refused) => {
            postern.counters.count(counter::HOST_REFUSALS);
            log::debug!("host call {}: {refused}", call.name);
            [refused.host_code() as u64, 0, 0, 0]
        }
    }
}

/// A whole frame at `address`, a multiple of 4 KiB.
fn frame(address: u64) -> Result<Pfn, Refused> {
    if !address.is_multiple_of(abi::FRAME_SIZE) {
        return Err(Refused::Invalid("the physical address is no multiple of 4 KiB"));
    }
    Ok(Pfn::from_addr(address))
}

/// `count` frames from `address`, at most [`host::FRAMES_PER_CALL`].
fn frames(address: u64, count: u64) -> Result<impl Iterator<Item = Pfn> + Clone, Refused> {
    let first = frame(address)?;
    if !(1..=host::FRAMES_PER_CALL).contains(&count) {
        return Err(Refused::Invalid("the number of frames"));
    }
    if first.get().checked_add(count).is_none_or(|end| end > 1 << 52) {
        return Err(Refused::Core(guestmem::Refusal::NotRam));
    }
    Ok((first.get()..first.get() + count).map(Pfn::new))
}

/// Gives frames one by one and says how many were taken; refuses only when none was.
fn take_all(
    frames: impl Iterator<Item = Pfn>,
    mut take: impl FnMut(Pfn) -> Result<(), guestmem::Refusal>,
) -> Result<Reply, Refused> {
    let mut taken = 0;
    for frame in frames {
        match take(frame) {
            Ok(()) => taken += 1,
            Err(refusal) if taken == 0 => return Err(refusal.into()),
            Err(refusal) => {
                log::debug!("frame {:#x}: {refusal:?}; {taken} before it were taken", frame.addr());
                break;
            }
        }
    }
    Ok(done([taken, 0, 0]))
}

/// Writes `words` to a frame of the host's.
fn write_words(postern: &Postern, address: u64, words: &[u64]) -> Result<(), Refused> {
    let frame = frame(address)?;
    postern.core.with_host_page(frame, |page: &[AtomicU64; 512]| {
        for (to, from) in page.iter().zip(words) {
            to.store(*from, Ordering::Relaxed);
        }
    })?;
    Ok(())
}
