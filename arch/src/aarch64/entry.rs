//! First instructions on every CPU: the arm64 Linux `Image` header, relocation, and the way into Rust.
//!
//! Linux `Documentation/arch/arm64/booting.rst` says what a boot loader guarantees: x0 = device tree, MMU off, the image
//! clean to the point of coherency, interrupts masked.

use core::arch::global_asm;

/// Bytes of the boot CPU's stack, which lies in the image above a guard page.
pub const BOOT_STACK_SIZE: usize = 64 << 10;

global_asm!(
    r#"
    .section .head, "ax"
    .global _start
_start:
    b       1f
    .long   0
    .quad   0                       // text_offset
    .quad   __image_size           
    .quad   0xa                     // little endian, 4 KiB pages, anywhere in memory
    .quad   __file_size             // reserved, zero in Linux: a loader that knows Postern sees a file cut short
    .quad   0
    .quad   0
    .long   0x644d5241              // "ARM\x64"
    .long   0
1:  msr     daifset, #0xf
    mov     x19, x0
    adrp    x20, __image_start
    add     x20, x20, :lo12:__image_start

    // Everything up to the end of .bss is written with the caches off below. Lines that the caches hold of it are
    // clean (booting.rst), and must go before the caches are on, or they would hide what is written now.
    adrp    x0, __image_end
    add     x0, x0, :lo12:__image_end
    mrs     x1, ctr_el0
    ubfx    x1, x1, #16, #4
    mov     x2, #4
    lsl     x2, x2, x1
    sub     x3, x2, #1
    bic     x1, x20, x3
2:  dc      ivac, x1
    add     x1, x1, x2
    cmp     x1, x0
    b.lo    2b
    dsb     sy

    // R_AARCH64_RELATIVE (AAELF64 section 5.7.16) is the only relocation in a static position-independent image.
    adrp    x0, __rela_start
    add     x0, x0, :lo12:__rela_start
    adrp    x1, __rela_end
    add     x1, x1, :lo12:__rela_end
3:  cmp     x0, x1
    b.hs    4f
    ldp     x2, x3, [x0]
    ldr     x4, [x0, #16]
    add     x0, x0, #24
    cmp     w3, #1027
    b.ne    3b
    add     x4, x4, x20
    str     x4, [x2, x20]
    b       3b

4:  adrp    x0, __bss_start
    add     x0, x0, :lo12:__bss_start
    adrp    x1, __bss_end
    add     x1, x1, :lo12:__bss_end
5:  stp     xzr, xzr, [x0], #16
    cmp     x0, x1
    b.lo    5b

    mrs     x0, CurrentEL
    cmp     x0, #8
    b.ne    6f
    adrp    x0, {host_vectors}
    add     x0, x0, :lo12:{host_vectors}
    msr     vbar_el2, x0
    isb
6:  msr     spsel, #1
    adrp    x0, {boot_stack}
    add     x0, x0, :lo12:{boot_stack}
    add     x0, x0, #{stack_frames}, lsl #12
    mov     sp, x0
    mov     x29, xzr
    mov     x30, xzr
    mov     x0, x19
    bl      {start}
7:  wfe
    b       7b

    // A CPU that PSCI CPU_ON started: x0 is the address of its `Launch`, cleaned to the point of coherency.
    .global postern_secondary_entry
postern_secondary_entry:
    msr     daifset, #0xf
    ldp     x1, x2, [x0]            // ttbr0, tcr
    ldp     x3, x4, [x0, #16]       // mair, sctlr
    ldr     x5, [x0, #32]           // stack
    msr     ttbr0_el2, x1
    msr     tcr_el2, x2
    msr     mair_el2, x3
    adrp    x6, {host_vectors}
    add     x6, x6, :lo12:{host_vectors}
    msr     vbar_el2, x6
    // Nothing of this translation regime may be left from whoever ran before (Arm ARM D8.17).
    ic      iallu
    tlbi    alle2
    dsb     nsh
    isb
    msr     sctlr_el2, x4
    isb
    msr     spsel, #1
    mov     sp, x5
    mov     x29, xzr
    mov     x30, xzr
    bl      {secondary}
8:  wfe
    b       8b
"#,
    host_vectors = sym super::vectors::host_vectors,
    boot_stack = sym BOOT_STACK,
    stack_frames = const size_of::<Stack>() >> 12,
    start = sym super::boot::start,
    secondary = sym super::boot::secondary,
);

#[repr(C, align(4096))]
struct Stack {
    guard: [u8; abi::FRAME_SIZE as usize],
    room: [u8; BOOT_STACK_SIZE],
}

static mut BOOT_STACK: Stack = Stack { guard: [0; abi::FRAME_SIZE as usize], room: [0; BOOT_STACK_SIZE] };

/// What a secondary CPU needs before it can run Rust; layout known to the assembly above.
#[repr(C, align(64))]
pub struct Launch {
    /// TTBR0_EL2.
    pub ttbr0: u64,
    /// TCR_EL2.
    pub tcr: u64,
    /// MAIR_EL2.
    pub mair: u64,
    /// SCTLR_EL2.
    pub sctlr: u64,
    /// Top of its stack.
    pub stack: u64,
    /// Index of the CPU.
    pub cpu: u64,
    /// Where the host starts it.
    pub entry: u64,
    /// The host's argument, x0.
    pub argument: u64,
}

impl Launch {
    /// An empty record.
    pub const ZERO: Self = Self { ttbr0: 0, tcr: 0, mair: 0, sctlr: 0, stack: 0, cpu: 0, entry: 0, argument: 0 };
}

unsafe extern "C" {
    /// Where PSCI starts a CPU; see above.
    pub fn postern_secondary_entry();
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
