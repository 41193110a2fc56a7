//! What a guest's vCPUs run first. As after a TD's reset they come in 32-bit protected mode, with paging off, ECX = the
//! kernel's 64-bit entry and ESI = the vCPU's number. The first goes on to the kernel, the others wait to be woken through
//! the mailbox (ACPI specification, "Multiprocessor Wakeup Structure"), in 64-bit mode and with this identity map.

use abi::FRAME_SIZE;
use alloc::vec;
use alloc::vec::Vec;
use core::arch::global_asm;
use payloads::pc::{BOOT_PARAMS, IDLE, MAILBOX, PAGE_TABLES, STUB};

// Copied to STUB, so every address is written out. CR0: protected mode, paging, write protection, native FPU errors; EFER:
// long mode, and SYSCALL and NX, so that Linux need not change it.
global_asm!(
    r#"
    .section .rodata.stub, "a"
    .global host_stub
    .global host_stub_end
host_stub:
    .code32
    cli
    cld
    mov     edi, ecx
    mov     eax, cr4
    or      eax, 0x20
    mov     cr4, eax
    mov     eax, {tables}
    mov     cr3, eax
    mov     ecx, 0xc0000080
    rdmsr
    or      eax, 0x901
    wrmsr
    mov     eax, cr0
    or      eax, 0x80010023
    mov     cr0, eax
    lgdt    [{stub} + 0x80]
    .byte   0xea
    .long   {stub} + 0x100
    .word   0x10
    .org    0x80
    .word   31
    .long   {stub} + 0x90
    .org    0x90
    .quad   0, 0, 0x00af9b000000ffff, 0x00cf93000000ffff
    .org    0x100
    .code64
    mov     eax, 0x18
    mov     ds, eax
    mov     es, eax
    mov     ss, eax
    mov     fs, eax
    mov     gs, eax
    test    esi, esi
    jnz     2f
    mov     esi, {parameters}
    jmp     rdi
2:  mov     ebx, {mailbox}
    mov     edx, {idle}
3:  cmp     word ptr [rbx], 1
    jne     4f
    cmp     dword ptr [rbx + 4], esi
    jne     4f
    mov     rax, [rbx + 8]
    mov     word ptr [rbx], 0
    jmp     rax
4:  in      al, dx
    jmp     3b
host_stub_end:
    .text
    "#,
    tables = const PAGE_TABLES,
    stub = const STUB,
    parameters = const BOOT_PARAMS,
    mailbox = const MAILBOX,
    idle = const IDLE,
);

unsafe extern "C" {
    static host_stub: u8;
    static host_stub_end: u8;
}

/// The code, for [`STUB`].
pub fn code() -> &'static [u8] {
    // SAFETY: both symbols are in one section, in this order.
    unsafe {
        let start = &raw const host_stub;
        core::slice::from_raw_parts(start, (&raw const host_stub_end).addr() - start.addr())
    }
}

/// Page tables for [`PAGE_TABLES`]: the first 4 GiB at their own addresses, in pages of 2 MiB.
pub fn page_tables() -> Vec<u8> {
    const TABLE: u64 = 3;
    const PAGE: u64 = 0x83;
    let frame = FRAME_SIZE as usize;
    let mut out = vec![0; 6 * frame];
    let mut put = |at: usize, value: u64| out[at..at + 8].copy_from_slice(&value.to_le_bytes());
    put(0, (PAGE_TABLES + FRAME_SIZE) | TABLE);
    for gib in 0..4 {
        put(frame + gib * 8, (PAGE_TABLES + (2 + gib as u64) * FRAME_SIZE) | TABLE);
        for block in 0..512 {
            put((2 + gib) * frame + block * 8, (gib as u64) << 30 | (block as u64) << 21 | PAGE);
        }
    }
    out
}
