//! Segments, one set for each CPU (SDM volume 3, "Segment Descriptors").

use crate::percpu::CPUS_MAX;
use core::arch::asm;

/// 64-bit code.
pub const CODE: u16 = 0x10;
/// Data.
pub const DATA: u16 = 0x18;
/// Data for privilege level 3.
pub const USER_DATA: u16 = 0x20 | 3;
/// 64-bit code for privilege level 3.
pub const USER_CODE: u16 = 0x28 | 3;
const TASK: u16 = 0x30;

/// Task state: of it only the stack for exceptions from privilege level 3 is used.
#[repr(C, packed(4))]
struct Task {
    reserved: u32,
    stack: u64,
    rest: [u32; 23],
}

#[repr(C, align(16))]
struct Table([u64; 8]);
#[repr(C, align(16))]
struct Stack([u8; 4096]);

static mut TABLES: [Table; CPUS_MAX] = [const { Table([0; 8]) }; CPUS_MAX];
static mut TASKS: [Task; CPUS_MAX] = [const { Task { reserved: 0, stack: 0, rest: [0; 23] } }; CPUS_MAX];
static mut STACKS: [Stack; CPUS_MAX] = [const { Stack([0; 4096]) }; CPUS_MAX];

/// What LGDT and LIDT read.
#[repr(C, packed(2))]
pub struct Pointer {
    /// Bytes less one.
    pub limit: u16,
    /// Address.
    pub base: u64,
}

/// Gives the calling CPU, number `index`, its segments.
pub fn install(index: usize) {
    let limit = size_of::<Task>() as u64 - 1;
    // SAFETY: each CPU writes the tables of its own number, once, before it uses them.
    unsafe {
        let task = &raw mut TASKS[index];
        (&raw mut (*task).stack).write_unaligned(&raw const STACKS[index] as u64 + size_of::<Stack>() as u64);
        // No port is open to privilege level 3: the map lies beyond the limit.
        (&raw mut (*task).rest[22]).write_unaligned((limit as u32 + 1) << 16);
        let base = task as u64;
        let low = limit | (base & 0xff_ffff) << 16 | 0x89 << 40 | (base >> 24 & 0xff) << 56;
        let table = [
            0,
            0,
            0x00af_9b00_0000_ffff,
            0x00cf_9300_0000_ffff,
            0x00cf_f300_0000_ffff,
            0x00af_fb00_0000_ffff,
            low,
            base >> 32,
        ];
        (&raw mut TABLES[index].0).write(table);
        let pointer = Pointer { limit: size_of::<Table>() as u16 - 1, base: &raw const TABLES[index] as u64 };
        asm!(
            "lgdt [{pointer}]",
            "push {code}", "lea {t}, [rip + 2f]", "push {t}", "retfq", "2:",
            "mov ds, {data:x}", "mov es, {data:x}", "mov ss, {data:x}", "mov fs, {zero:x}", "mov gs, {zero:x}",
            "ltr {task:x}",
            pointer = in(reg) &raw const pointer,
            code = const CODE, data = in(reg) u64::from(DATA), zero = in(reg) 0u64, task = in(reg) u64::from(TASK),
            t = out(reg) _,
        );
    }
}
