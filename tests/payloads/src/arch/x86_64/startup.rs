//! Starting a CPU with INIT and start-up messages: it begins in real mode in a page below 1 MiB (SDM volume 3,
//! "Multiple-Processor (MP) Initialization").

use super::apic::{self, command};
use super::timer;
use core::arch::global_asm;
use core::sync::atomic::{Ordering, fence};

/// The page; the boot parameters' memory map leaves it to the host.
pub const PAGE: u64 = 0x8000;
/// Where the code expects the top page table and its destination.
const ROOT: usize = 0xf0;
const DESTINATION: usize = 0xf8;

// Copied to PAGE, so every address is written out. Real mode has CS = PAGE >> 4, IP = 0.
global_asm!(
    r#"
    .section .rodata.startup, "a"
    .global payload_startup
    .global payload_startup_end
payload_startup:
    .code16
    cli
    mov     ax, cs
    mov     ds, ax
    .byte   0x66, 0x0f, 0x01, 0x16, 0xc0, 0x00
    mov     eax, cr0
    or      eax, 1
    mov     cr0, eax
    .byte   0x66, 0xea
    .long   {page} + 0x40
    .word   0x18
    .org    0x40
    .code32
    mov     ax, 0x20
    mov     ds, ax
    mov     es, ax
    mov     ss, ax
    mov     eax, cr4
    or      eax, 0x620
    mov     cr4, eax
    mov     eax, [{page} + {root}]
    mov     cr3, eax
    mov     ecx, 0xc0000080
    rdmsr
    or      eax, 0x100
    wrmsr
    mov     eax, cr0
    or      eax, 0x80000021
    and     eax, 0x9fffffff
    mov     cr0, eax
    .byte   0xea
    .long   {page} + 0xa0
    .word   0x10
    .org    0xa0
    .code64
    mov     rax, [{page} + {destination}]
    jmp     rax
    .org    0xc0
    .word   39
    .long   {page} + 0xc8
    .org    0xc8
    .quad   0, 0, 0x00af9b000000ffff, 0x00cf9b000000ffff, 0x00cf93000000ffff
    .org    0xf0
    .quad   0, 0
payload_startup_end:
    .code64
    .text
    "#,
    page = const PAGE,
    root = const ROOT,
    destination = const DESTINATION,
);

unsafe extern "C" {
    static payload_startup: u8;
    static payload_startup_end: u8;
}

/// Puts the code into [`PAGE`].
pub fn prepare(destination: u64, root: u64) {
    // SAFETY: the page is ordinary memory that the machine's list sets aside for this.
    unsafe {
        let (start, end) = (&raw const payload_startup, &raw const payload_startup_end);
        let page = PAGE as *mut u8;
        core::ptr::copy_nonoverlapping(start, page, end.addr() - start.addr());
        page.add(ROOT).cast::<u64>().write_volatile(root);
        page.add(DESTINATION).cast::<u64>().write_volatile(destination);
    }
    fence(Ordering::SeqCst);
}

/// Starts the CPU with APIC identifier `target`, which jumps to `destination` on the page tables at `root`.
pub(super) fn start(target: u64, destination: u64, root: u64) {
    prepare(destination, root);
    apic::send(command::INIT, target);
    timer::delay(10);
    apic::send(command::STARTUP | PAGE >> 12, target);
    timer::delay(1);
    apic::send(command::STARTUP | PAGE >> 12, target);
}
