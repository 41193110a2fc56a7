//! Malformed calls.

use crate::world::{World, read, write};
use crate::{expect, require};
use abi::FRAME_SIZE;
use abi::tdx::{leaf, register::*, status, vmcall};
use alloc::format;
use alloc::string::String;
use payloads::registers::around_tdcall;
use payloads::{hypercall, ring3, tdcall};

/// An operand was refused: whichever it was.
const INVALID: u64 = status::OPERAND_INVALID;
const NAME: u64 = !0xffff_ffff;

/// Holes, wrap-around, both halves in one range, and what is not aligned.
pub fn map_gpa_ranges(world: &World) -> Result<(), String> {
    let page = world.page();
    write(page, 7);
    let shared = tdcall::shared_bit();
    let beyond = 1 << tdcall::width();
    for half in [0, shared] {
        for (start, size, code) in [
            (page, 0, vmcall::INVALID_OPERAND),
            (page, u64::MAX, vmcall::INVALID_OPERAND),
            (page, !page + 1, vmcall::INVALID_OPERAND),
            (page, shared, vmcall::INVALID_OPERAND),
            (world.ram.end - FRAME_SIZE, 2 * FRAME_SIZE, vmcall::INVALID_OPERAND),
            (world.ram.end, FRAME_SIZE, vmcall::INVALID_OPERAND),
            (0xfec0_0000, FRAME_SIZE, vmcall::INVALID_OPERAND),
            (beyond | page, FRAME_SIZE, vmcall::INVALID_OPERAND),
            (1 << 63 | page, FRAME_SIZE, vmcall::INVALID_OPERAND),
            (shared - FRAME_SIZE, 2 * FRAME_SIZE, vmcall::INVALID_OPERAND),
            (page + 8, FRAME_SIZE, vmcall::ALIGN_ERROR),
            (page, FRAME_SIZE + 8, vmcall::ALIGN_ERROR),
        ] {
            let (found, at) = tdcall::map_gpa_once(start | half, size);
            expect!(format!("MapGPA of {size:#x} bytes at {:#x}", start | half), found, code);
            expect!("R11", at, start | half);
        }
    }
    expect!("content", read(page), 7);
    Ok(())
}

/// Back and forth, with and without accepting.
pub fn map_gpa_storm(world: &World) -> Result<(), String> {
    let page = world.page();
    for round in 0..200u64 {
        let shared = page | tdcall::shared_bit();
        tdcall::map_gpa(shared, FRAME_SIZE).map_err(|code| format!("MapGPA to shared answers {code:#x}"))?;
        if round % 3 == 0 {
            tdcall::map_gpa(shared, FRAME_SIZE).map_err(|code| format!("a second MapGPA answers {code:#x}"))?;
        }
        tdcall::map_gpa(page, FRAME_SIZE).map_err(|code| format!("MapGPA to private answers {code:#x}"))?;
        if round % 2 == 0 {
            tdcall::map_gpa(page, FRAME_SIZE).map_err(|code| format!("a second MapGPA answers {code:#x}"))?;
            expect!("ACCEPT", tdcall::accept(page, 0), 0);
            expect!("content", read(page), 0);
            write(page, round + 1);
        }
    }
    expect!("the last MapGPA", tdcall::map_gpa_once(page, FRAME_SIZE).0, 0);
    let _ = tdcall::accept(page, 0);
    Ok(())
}

pub fn accept_operands(world: &World) -> Result<(), String> {
    let page = world.page();
    write(page, 7);
    let shared = tdcall::shared_bit();
    for operand in [
        page | 2,
        page | 7,
        page | 8,
        page | 0x800,
        (page | 1) & !1 | 3,
        page | shared,
        world.ram.end,
        0xfec0_0000,
        shared - FRAME_SIZE,
        1 << tdcall::width(),
        u64::MAX,
        1 << 63 | page,
    ] {
        let found = tdcall::accept(operand, 0);
        expect!(format!("ACCEPT of {operand:#x}"), found & NAME, INVALID);
    }
    expect!("content", read(page), 7);
    Ok(())
}

/// A page that the guest has left shared does not become private by accepting it.
pub fn accept_shared(world: &World) -> Result<(), String> {
    let page = world.page();
    let shared = world.share(page, 1).map_err(|code| format!("share answers {code:#x}"))?;
    write(shared, 5);
    let found = tdcall::accept(page, 0);
    require!(found & status::ERROR != 0, "ACCEPT of a shared page answers {found:#x}");
    expect!("content", read(shared), 5);
    world.unshare(page, 1).map_err(|code| format!("unshare answers {code:#x}"))
}

/// Pages that hold something are never emptied by accepting them again.
pub fn accept_twice(world: &World) -> Result<(), String> {
    let page = world.page();
    write(page, 0x77);
    for level in [0, 0, 0] {
        let found = tdcall::accept(page, level);
        expect!("ACCEPT", found & NAME, status::PAGE_ALREADY_ACCEPTED);
        expect!("content", read(page), 0x77);
    }
    Ok(())
}

/// A raw write to a guest-supplied address would be a way to write anywhere.
pub fn report_addresses(world: &World) -> Result<(), String> {
    let (page, data) = (world.page(), world.page());
    write(data, 1);
    let bad = [
        page + 8,
        page + 512,
        world.ram.end,
        0xfec0_0000,
        1 << tdcall::width(),
        !0x3ff,
        u64::MAX,
        1 << 63 | page,
        world.ram.end | tdcall::shared_bit(),
    ];
    for address in bad {
        let found = tdcall::call(leaf::MR_REPORT, address, data, 0, 0)[RAX];
        expect!(format!("MR.REPORT at {address:#x}"), found & NAME, INVALID);
    }
    for address in bad.map(|address| if address == page + 512 { page + 32 } else { address }) {
        let found = tdcall::call(leaf::MR_REPORT, page, address, 0, 0)[RAX];
        expect!(format!("MR.REPORT with data at {address:#x}"), found & NAME, INVALID);
    }
    for subtype in [1, 255, u64::MAX] {
        let found = tdcall::call(leaf::MR_REPORT, page, data, subtype, 0)[RAX];
        expect!(format!("MR.REPORT of subtype {subtype:#x}"), found & NAME, INVALID);
    }
    Ok(())
}

pub fn rtmr_operands(world: &World) -> Result<(), String> {
    let page = world.page();
    for (address, index) in [
        (page, 4),
        (page, u64::MAX),
        (page + 8, 2),
        (world.ram.end, 2),
        (!63, 2),
        (0xfec0_0000, 2),
        (1 << tdcall::width(), 2),
    ] {
        let found = tdcall::call(leaf::MR_RTMR_EXTEND, address, index, 0, 0)[RAX];
        expect!(format!("RTMR.EXTEND of {index} at {address:#x}"), found & NAME, INVALID);
    }
    Ok(())
}

pub fn unknown_leaves(world: &World) -> Result<(), String> {
    for number in (9..=64).chain([0x8000, 0xffff]) {
        let found = tdcall::call(number, world.ram.start, 1, 2, 3)[RAX];
        expect!(format!("leaf {number}"), found, INVALID);
    }
    for number in [0u64, 1, 2, 3, 4, 6, 8] {
        for bits in [1 << 16, 0xff << 16, 1 << 24, 1 << 32, 1 << 63] {
            let found = tdcall::call(number | bits, 0, 0, 0, 0)[RAX];
            expect!(format!("leaf {:#x}", number | bits), found, INVALID);
        }
    }
    Ok(())
}

/// The mask of TDG.VP.VMCALL: RAX, RCX, RSP and vector registers may not be shown; what is not shown stays as it is.
pub fn register_mask(_: &World) -> Result<(), String> {
    for bit in [0, 1, 4].into_iter().chain(32..64) {
        let found = tdcall::call(leaf::VP_VMCALL, 0xfc00 | 1 << bit, 0, 0, 0)[RAX];
        expect!(format!("mask bit {bit}"), found, INVALID | RCX as u64);
    }
    let mut input = payloads::registers::pattern(9);
    (input[RAX], input[RCX], input[R10], input[R11]) = (leaf::VP_VMCALL, 0x0c00, 0, vmcall::GET_INFO);
    let output = around_tdcall(&input);
    expect!("TDG.VP.VMCALL", output[RAX], 0);
    for n in [RDX, RBX, RBP, RSI, RDI, R8, R9, R12, R13, R14, R15] {
        expect!(format!("register {n}, which was not shown"), output[n], input[n]);
    }
    // Nothing shown at all: whatever that means, the guest goes on.
    let _ = tdcall::call(leaf::VP_VMCALL, 0, 0, 0, 0);
    Ok(())
}

pub fn unknown_functions(_: &World) -> Result<(), String> {
    for function in [0, 1, 9, 11, 13, 33, 36, 39, 47, 49, 65, 0xffff, 0x1_0005, 0x1_0006, 0x1_ffff, u64::MAX] {
        let [code, ..] = tdcall::vmcall(function, [u64::MAX; 4]);
        expect!(format!("sub-function {function:#x}"), code, vmcall::SUBFUNC_UNSUPPORTED);
    }
    for function in [vmcall::CPUID, vmcall::IO, vmcall::RDMSR, vmcall::WRMSR, vmcall::MMIO, vmcall::GET_QUOTE] {
        let [code, ..] = tdcall::vmcall(function, [u64::MAX; 4]);
        require!(code != 0, "sub-function {function:#x} takes rubbish");
    }
    Ok(())
}

pub fn from_ring_3(_: &World) -> Result<(), String> {
    match ring3::attempt(ring3::Act::Tdcall) {
        Err(abort) if abort.is_protection() && abort.error() == 0 => Ok(()),
        other => Err(format!("TDCALL at privilege level 3 gives {other:x?}")),
    }
}

/// The host's calls are the host's.
pub fn host_calls(_: &World) -> Result<(), String> {
    for number in abi::host::BASE..abi::host::END {
        let found = hypercall::try_call(number);
        require!(found.is_err_and(|abort| abort.is_undefined()), "VMCALL {number:#x} gives {found:x?}");
    }
    match ring3::attempt(ring3::Act::Vmcall) {
        Err(abort) if abort.is_undefined() => Ok(()),
        other => Err(format!("VMCALL at privilege level 3 gives {other:x?}")),
    }
}
