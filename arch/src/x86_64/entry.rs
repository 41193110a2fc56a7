//! First instructions on every CPU: the multiboot2 header, relocation, and the way from protected or real mode to 64-bit
//! mode and into Rust.
//!
//! The Multiboot2 Specification, section 3.3, says what a boot loader guarantees: EAX = its magic number, EBX = its
//! information, 32-bit protected mode with flat segments, paging off, interrupts off, no stack. How 64-bit mode is
//! switched on: SDM volume 3, "Initializing IA-32e Mode".

use super::descriptors::{CODE, CODE32, DATA, FLAT};
use core::arch::global_asm;

/// Bytes of the boot CPU's stack, which lies in the image above a guard page.
pub const BOOT_STACK_SIZE: usize = 64 << 10;
/// Address the image is linked at; where it runs is found out by the code below.
const LINKED_AT: u32 = 0x20_0000;
/// CR0: protected mode, monitor coprocessor, extension type, numeric error, write protect, paging.
const CR0: u32 = 1 | 1 << 1 | 1 << 4 | 1 << 5 | 1 << 16 | 1 << 31;
/// CR4: physical address extension.
const CR4: u32 = 1 << 5;
/// IA32_EFER, and its long mode enable and no-execute enable bits.
const EFER: u32 = 0xc000_0080;
const EFER_LME: u32 = 1 << 8;
const EFER_NXE: u32 = 1 << 11;

global_asm!(
    r#"
    .section .head, "ax"
    .balign 8
2:  .long   0xe85250d6, 0, 3f - 2b, 0x100000000 - 0xe85250d6 - (3f - 2b)
    // Where the parts of the file go. Without this the boot loader would read the file as an ELF, of which GRUB refuses
    // any that has relocations, and loads the debugging sections of all others.
    .short  2, 0
    .long   24, {linked_at}, {linked_at}, __file_end - 2b + {linked_at}, __image_end - 2b + {linked_at}
    .short  3, 0
    .long   12, postern_entry - 2b + {linked_at}, 0
    // May be loaded elsewhere: at a multiple of 2 MiB below 4 GiB, as low as possible.
    .short  10, 0
    .long   24, {linked_at}, 0xffffffff, 0x200000, 1
    // A screen, in whatever mode suits it, with elements of 32 bits; optional. A BIOS' GRUB leaves a text mode otherwise.
    .short  5, 1
    .long   20, 0, 0, 32, 0
    // Modules start at page boundaries.
    .short  6, 0
    .long   8
    .short  0, 0
    .long   8
3:

    .code32
    .global postern_entry
postern_entry:
    cli
    cld
    mov     esi, eax
    mov     edx, ebx
    // The call needs four bytes of stack. The boot loader's information has a reserved word for it; without the magic
    // number EBX means nothing, and conventional memory has to do.
    lea     esp, [ebx + 8]
    cmp     eax, {magic}
    je      2f
    mov     esp, 0x7c00
2:  call    4f
    // Where things are, from here.
3:  .long   __bss_start - 3b, __bss_end - 3b, {boot_stack} - 3b, {boot_tables} - 3b
    .long   {gdt} - 3b, postern_entry64 - 3b, 9f - 3b, __image_start - 3b
4:  pop     ebp
    mov     edi, [ebp]
    add     edi, ebp
    mov     ecx, [ebp + 4]
    add     ecx, ebp
    sub     ecx, edi
    shr     ecx, 2
    xor     eax, eax
    rep     stosd
    mov     esp, [ebp + 8]
    lea     esp, [esp + ebp + {stack_top}]
    push    edx
    push    esi

    // Bit 29 of the extended feature bits is 64-bit mode (SDM volume 2, CPUID).
    mov     eax, 0x80000000
    cpuid
    cmp     eax, 0x80000001
    jb      8f
    mov     eax, 0x80000001
    cpuid
    bt      edx, 29
    jnc     8f

    // 4 GiB at their own addresses, in pages of 2 MiB: top table, the one below, four directories.
    mov     edi, [ebp + 12]
    add     edi, ebp
    lea     eax, [edi + 0x1000 + 3]
    mov     [edi], eax
    lea     eax, [edi + 0x2000 + 3]
    xor     ecx, ecx
2:  mov     [edi + ecx * 8 + 0x1000], eax
    add     eax, 0x1000
    inc     ecx
    cmp     ecx, 4
    jne     2b
    mov     eax, 0x83
    xor     ecx, ecx
2:  mov     [edi + ecx * 8 + 0x2000], eax
    add     eax, 0x200000
    inc     ecx
    cmp     ecx, 2048
    jne     2b

    mov     eax, {cr4}
    mov     cr4, eax
    mov     cr3, edi
    mov     ecx, {efer}
    rdmsr
    or      eax, {lme}
    wrmsr
    pop     esi
    pop     edi
    mov     eax, {cr0}
    mov     cr0, eax
    mov     eax, [ebp + 16]
    add     eax, ebp
    push    eax
    push    0x1f0000                // the limit, in the upper half
    lgdt    [esp + 2]
    add     esp, 8
    mov     eax, [ebp + 20]
    add     eax, ebp
    push    {code}
    push    eax
    retf

    // No 64-bit mode: the one refusal that has to be made here. COM1, 8 bits at 115200 baud, polled, but not for ever.
8:  mov     esi, [ebp + 24]
    add     esi, ebp
    mov     dx, 0x3fb
    mov     al, 0x83
    out     dx, al
    mov     dx, 0x3f8
    mov     ax, 1
    out     dx, ax
    mov     dx, 0x3fb
    mov     al, 3
    out     dx, al
2:  lodsb
    test    al, al
    jz      6f
    mov     dx, 0x3f8
    out     dx, al
    mov     ecx, 100000
    mov     dx, 0x3fd
5:  in      al, dx
    test    al, 0x40                // the transmitter is empty
    loopz   5b
    jmp     2b
    // Bochs' way to switch off; nothing anywhere else.
6:  mov     ecx, 8
    mov     dx, 0x8900
    rep     outsb
7:  hlt
    jmp     7b
9:  .asciz  "postern: cannot boot: the CPU has no 64-bit mode\r\n"
    .ascii  "Shutdown"

    .code64
postern_entry64:
    mov     eax, {data}
    mov     ds, eax
    mov     es, eax
    mov     ss, eax
    xor     eax, eax
    mov     fs, eax
    mov     gs, eax
    mov     esi, esi
    mov     edi, edi

    // R_X86_64_RELATIVE (System V ABI, AMD64 supplement, "Relocation Types") is the only relocation in a static
    // position-independent image.
    mov     ebp, ebp
    movsxd  rbx, dword ptr [rbp + 28]
    lea     rbx, [rbx + rbp - {linked_at}]
    lea     rax, [rip + __rela_start]
    lea     rcx, [rip + __rela_end]
2:  cmp     rax, rcx
    jae     3f
    cmp     dword ptr [rax + 8], 8
    jne     5f
    mov     rdx, [rax]
    mov     r8, [rax + 16]
    add     r8, rbx
    mov     [rdx + rbx], r8
5:  add     rax, 24
    jmp     2b

3:  lea     rsp, [rip + {boot_stack}]
    add     rsp, {stack_top}
    xchg    rdi, rsi
    xor     ebp, ebp
    call    {start}
6:  hlt
    jmp     6b

    // A CPU that SIPI started comes here from the trampoline: protected mode, paging off, EBX = the trampoline,
    // of which only the record at its end is needed from here on.
    .code32
    .global postern_secondary_entry
postern_secondary_entry:
    mov     eax, {data}
    mov     ds, eax
    mov     es, eax
    mov     ss, eax
    mov     eax, {cr4}
    mov     cr4, eax
    mov     eax, [ebx + {root}]
    mov     cr3, eax
    mov     ecx, {efer}
    rdmsr
    or      eax, {lme} | {nxe}
    wrmsr
    mov     eax, {cr0}
    mov     cr0, eax
    jmp     fword ptr [ebx + {far64}]

    .code64
    .global postern_secondary_entry64
postern_secondary_entry64:
    xor     eax, eax
    mov     fs, eax
    mov     gs, eax
    mov     ebx, ebx
    mov     rsp, [rbx + {stack}]
    mov     rdi, [rbx + {cpu}]
    xor     ebp, ebp
    call    {secondary}
7:  hlt
    jmp     7b

    // Copied to a page below 1 MiB; SIPI starts a CPU there in real mode with CS = its address >> 4, IP = 0.
    .code16
    .global postern_trampoline
postern_trampoline:
    cli
    cld
    mov     ax, cs
    mov     ds, ax
    movzx   ebx, ax
    shl     ebx, 4
    lgdtd   [{gdt_pointer}]
    mov     eax, 0x11               // protected mode, extension type; CD and NW off
    mov     cr0, eax
    jmp     fword ptr [{far32}]
    .global postern_trampoline_end
postern_trampoline_end:

    .code64
    .text
"#,
    linked_at = const LINKED_AT,
    boot_stack = sym BOOT_STACK,
    stack_top = const size_of::<Stack>(),
    magic = const super::boot::MAGIC,
    gdt = sym super::descriptors::FLAT,
    boot_tables = sym BOOT_TABLES,
    cr0 = const CR0,
    cr4 = const CR4,
    efer = const EFER,
    lme = const EFER_LME,
    nxe = const EFER_NXE,
    code = const CODE,
    data = const DATA,
    start = sym super::boot::start,
    secondary = sym super::boot::secondary,
    gdt_pointer = const LAUNCH_AT + core::mem::offset_of!(Launch, gdt_limit),
    far32 = const LAUNCH_AT + core::mem::offset_of!(Launch, entry32),
    far64 = const LAUNCH_AT + core::mem::offset_of!(Launch, entry64),
    root = const LAUNCH_AT + core::mem::offset_of!(Launch, root),
    stack = const LAUNCH_AT + core::mem::offset_of!(Launch, stack),
    cpu = const LAUNCH_AT + core::mem::offset_of!(Launch, cpu),
);

#[repr(C, align(4096))]
struct Stack {
    guard: [u8; abi::FRAME_SIZE as usize],
    room: [u8; BOOT_STACK_SIZE],
}

static mut BOOT_STACK: Stack = Stack { guard: [0; abi::FRAME_SIZE as usize], room: [0; BOOT_STACK_SIZE] };

#[repr(C, align(4096))]
struct Tables([u64; 6 * 512]);

static mut BOOT_TABLES: Tables = Tables([0; 6 * 512]);

/// Offset of the launch record in the trampoline's page.
pub const LAUNCH_AT: usize = 0x800;

/// What a CPU needs between real mode and Rust; layout known to the assembly above.
#[repr(C, packed)]
#[derive(Clone, Copy, Debug)]
pub struct Launch {
    /// Operand of LGDT: limit of the flat descriptors,
    gdt_limit: u16,
    /// and where they are.
    gdt_base: u32,
    /// Far pointer to the 32-bit code: offset,
    entry32: u32,
    /// and selector.
    selector32: u16,
    /// Far pointer to the 64-bit code: offset,
    entry64: u32,
    /// and selector.
    selector64: u16,
    /// CR3.
    root: u32,
    /// Top of its stack.
    stack: u64,
    /// Index of the CPU.
    cpu: u64,
}

unsafe extern "C" {
    /// First instruction at SIPI, and the end of the code that has to be copied.
    static postern_trampoline: u8;
    static postern_trampoline_end: u8;
    static postern_secondary_entry: u8;
    static postern_secondary_entry64: u8;
    static __image_start: u8;
    static __text_end: u8;
    static __rodata_end: u8;
    static __image_end: u8;
}

/// Physical extent of Postern's image: start, end of text, end of read-only data, end; multiples of 4 KiB.
pub fn image() -> [u64; 4] {
    [&raw const __image_start, &raw const __text_end, &raw const __rodata_end, &raw const __image_end]
        .map(|symbol| symbol as u64)
}

/// The page below the boot CPU's stack, which is to have no translation.
pub fn boot_stack_guard() -> loader::Bytes {
    let guard = &raw const BOOT_STACK as u64;
    guard..guard + abi::FRAME_SIZE
}

/// The code that SIPI starts, to be copied to a page below 1 MiB.
pub fn trampoline() -> &'static [u8] {
    let (start, end) = (&raw const postern_trampoline, &raw const postern_trampoline_end);
    // SAFETY: both symbols are in the text of the image, the second after the first.
    unsafe { core::slice::from_raw_parts(start, end as usize - start as usize) }
}

impl Launch {
    /// The record for CPU `cpu` with its stack's top at `stack` and page tables at `root`.
    pub fn new(cpu: usize, stack: u64, root: u32) -> Self {
        // The image lies below 4 GiB: the boot loader entered it in 32-bit mode.
        let low = |symbol: *const u8| symbol as u32;
        Self {
            gdt_limit: size_of_val(&FLAT) as u16 - 1,
            gdt_base: low((&raw const FLAT).cast()),
            entry32: low(&raw const postern_secondary_entry),
            selector32: CODE32,
            entry64: low(&raw const postern_secondary_entry64),
            selector64: CODE,
            root,
            stack,
            cpu: cpu as u64,
        }
    }
}
