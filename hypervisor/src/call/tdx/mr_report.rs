//! `TDG.MR.REPORT`: writes a TDREPORT_STRUCT with the caller's 64 bytes, the measurements and their hashes.
//!
//! The authentication code is zero and no field of TEE_TCB_INFO is valid: there is no key that anybody could check it
//! with. The report says what Postern says, to whoever trusts this machine already.

use super::{Answer, Call, with_page, word_of};
use abi::tdx::{ATTRIBUTES, MEASUREMENT_SIZE, RTMRS, XFAM, register::*, report};
use arch::machine::Vcpu;
use core::sync::atomic::Ordering::Relaxed;

/// SHA-384 of TEE_TCB_INFO, all zero.
const TCB_INFO_HASH: [u8; MEASUREMENT_SIZE] = [
    0x70, 0xfa, 0x2d, 0x4b, 0x4a, 0x97, 0x24, 0x9d, 0xb1, 0x78, 0x9e, 0x4b, 0x19, 0x64, 0xb1, 0xee, 0xc6, 0xc3, 0xf7,
    0xce, 0x1f, 0xf8, 0x7b, 0xad, 0x80, 0x83, 0x3b, 0xb0, 0x78, 0xd2, 0xf9, 0xa4, 0xc1, 0xdd, 0x7d, 0xcc, 0xcc, 0xab,
    0xc8, 0x51, 0x1f, 0xd2, 0x21, 0x03, 0x24, 0x53, 0x38, 0xb7,
];

#[inline(never)]
pub fn run(call: &Call<'_>, registers: &Vcpu) -> Answer {
    match write(call, registers.x(RCX), registers.x(RDX), registers.x(R8)) {
        Ok(()) => Answer::SUCCESS,
        Err(answer) => answer,
    }
}

fn write(call: &Call<'_>, to: u64, data_at: u64, subtype: u64) -> Result<(), Answer> {
    if !to.is_multiple_of(report::SIZE as u64) {
        return Err(Answer::invalid(RCX));
    }
    if !data_at.is_multiple_of(report::DATA_SIZE as u64) {
        return Err(Answer::invalid(RDX));
    }
    let mut bytes = [0; report::SIZE];
    with_page(call, data_at, RDX, |words| {
        let data = &mut bytes[report::DATA..][..report::DATA_SIZE];
        for (to, from) in data.chunks_exact_mut(8).zip(&words[word_of(data_at)..]) {
            to.copy_from_slice(&from.load(Relaxed).to_le_bytes());
        }
    })?;
    if subtype != 0 {
        return Err(Answer::invalid(R8));
    }
    // Before the hash: a page that the host has to give first is found missing at once.
    with_page(call, to, RCX, |_| ())?;
    fill(call, &mut bytes)?;
    with_page(call, to, RCX, |words| {
        for (to, from) in words[word_of(to)..].iter().zip(bytes.chunks_exact(8)) {
            to.store(u64::from_le_bytes(from.try_into().unwrap_or_default()), Relaxed);
        }
    })
}

/// All but the caller's data.
fn fill(call: &Call<'_>, bytes: &mut [u8; report::SIZE]) -> Result<(), Answer> {
    bytes[0] = report::TYPE;
    let mut put = |at: usize, field: &[u8]| bytes[at..][..field.len()].copy_from_slice(field);
    put(report::ATTRIBUTES, &ATTRIBUTES.to_le_bytes());
    put(report::XFAM, &XFAM.to_le_bytes());
    // Others may hold the locks for a moment.
    let launch = call.vm.launch.try_lock().ok_or(Answer::Again)?;
    put(report::MRTD, launch.digest());
    let mut registers = call.vm.extensible.try_lock().ok_or(Answer::Again)?;
    for index in 0..RTMRS {
        put(report::RTMR + index * MEASUREMENT_SIZE, &registers.get(index).unwrap_or([0; MEASUREMENT_SIZE]));
    }
    put(report::TCB_INFO_HASH, &TCB_INFO_HASH);
    // A part of it at a time: the guest comes again, and may take interrupts on the way.
    let td_info = &bytes[report::TD_INFO..][..report::TD_INFO_SIZE];
    let hash = registers.hash_on(td_info).ok_or(Answer::Again)?;
    bytes[report::TD_INFO_HASH..][..MEASUREMENT_SIZE].copy_from_slice(&hash);
    Ok(())
}
