//! TDCALLs that were there a moment ago. Postern remembers where it has found one; what is there now counts.

use crate::require;
use crate::world::{World, read, write};
use abi::FRAME_SIZE;
use alloc::format;
use alloc::string::String;
use payloads::exception::try_execute;
use payloads::{cpu, mmu, ring3};

/// MOV EAX, 1 (TDG.VP.INFO); TDCALL; RET. Then the same with UD2 for TDCALL.
const CALL: [u8; 10] = [0xb8, 1, 0, 0, 0, 0x66, 0x0f, 0x01, 0xcc, 0xc3];
const OTHER: [u8; 10] = [0xb8, 1, 0, 0, 0, 0x0f, 0x0b, 0x90, 0x90, 0xc3];
/// Present, writable, open to privilege level 3, accessed, dirty.
const ENTRY: u64 = 0x67;
/// Where the window is in its tables, from the last to the first.
const INDICES: [u64; 4] = [0, 0, 0, mmu::WINDOW >> 39];

fn put(at: u64, code: [u8; 10]) {
    for (at, byte) in (at..).zip(code) {
        let (word, shift) = (at & !7, at % 8 * 8);
        write(word, read(word) & !(0xff << shift) | u64::from(byte) << shift);
    }
    cpu::synchronise_code();
}

/// Code at an offset in the window that makes a call.
fn calls(offset: u64, when: &str) -> Result<(), String> {
    // Once to be found, and again where it was.
    for _ in 0..3 {
        try_execute(mmu::WINDOW + offset).map_err(|abort| format!("TDCALL {when}: {abort}"))?;
    }
    Ok(())
}

fn is_undefined(when: &str) -> Result<(), String> {
    let found = try_execute(mmu::WINDOW);
    require!(found.is_err_and(|abort| abort.is_undefined()), "an undefined instruction {when} gives {found:x?}");
    Ok(())
}

/// Tables of its own, in which the window is two pages at `pages`; from the last table to the first.
fn tables(world: &World, pages: u64) -> [u64; 4] {
    let mut next = pages;
    let tables = INDICES.map(|index| {
        let table = world.page();
        write(table + 8 * index, next | ENTRY);
        next = table;
        table
    });
    write(tables[0] + 8, (pages + FRAME_SIZE) | ENTRY);
    for at in (0..FRAME_SIZE).step_by(8).filter(|at| *at != 8 * INDICES[3]) {
        write(tables[3] + at, read(mmu::root() + at));
    }
    tables
}

/// The code is changed, each of the entries of tables that lead to it, CR3, and the privilege level.
pub fn changed(world: &World) -> Result<(), String> {
    let [call, other] = [CALL, OTHER].map(|code| {
        let pages = world.pages(2, FRAME_SIZE);
        put(pages, code);
        pages
    });
    let (way, elsewhere) = (tables(world, call), tables(world, other));
    mmu::switch(way[3]);
    let result = with_tables(call, other, way, elsewhere);
    mmu::switch(mmu::root());
    result
}

fn with_tables(call: u64, other: u64, way: [u64; 4], elsewhere: [u64; 4]) -> Result<(), String> {
    calls(0, "at first")?;
    put(call, OTHER);
    is_undefined("in its place")?;
    put(call, CALL);
    calls(0, "put back")?;
    for level in 0..4 {
        let at = way[level] + 8 * INDICES[level];
        let (there, away) = if level == 0 { (call, other) } else { (way[level - 1], elsewhere[level - 1]) };
        write(at, away | ENTRY);
        mmu::switch(way[3]);
        is_undefined(&format!("in other tables from level {} on", level + 1))?;
        write(at, there | ENTRY);
        mmu::switch(way[3]);
        calls(0, "where it was")?;
    }
    mmu::switch(elsewhere[3]);
    is_undefined("with another CR3")?;
    mmu::switch(way[3]);
    calls(0, "with its CR3")?;
    let found = ring3::attempt(ring3::Act::Jump(mmu::WINDOW));
    require!(found.is_err_and(|abort| abort.is_protection()), "the same TDCALL at privilege level 3 gives {found:x?}");
    // TDCALL as the last of a page, and in two.
    for offset in [FRAME_SIZE - 9, FRAME_SIZE - 7] {
        put(call + offset, CALL);
        calls(offset, "at the end of a page")?;
    }
    Ok(())
}
