//! Exception vectors (Arm ARM D1.4) and the two ways out of EL2: back to the host, and into a guest and out again.
//!
//! The host and a guest have a table of vectors each, switched with the rest of the world, so that neither path has to
//! find out who was running.

use core::arch::{global_asm, naked_asm};

/// Registers of the host at an exception; layout known to the assembly.
#[repr(C)]
#[derive(Debug)]
pub struct HostRegs {
    /// x0 to x30.
    pub x: [u64; 31],
    _pad: u64,
}

/// Registers of a guest, and the syndrome of its last exit; layout known to the assembly.
#[repr(C)]
#[derive(Clone, Debug)]
pub struct GuestRegs {
    /// x0 to x30.
    pub x: [u64; 31],
    /// ELR_EL2.
    pub pc: u64,
    /// SPSR_EL2.
    pub pstate: u64,
    /// ESR_EL2.
    pub esr: u64,
    /// FAR_EL2.
    pub far: u64,
    /// HPFAR_EL2.
    pub hpfar: u64,
}

const _: () = assert!(core::mem::offset_of!(GuestRegs, pc) == 248 && core::mem::offset_of!(GuestRegs, hpfar) == 280);

global_asm!(
    r#"
    .macro SAVE_HOST
    sub     sp, sp, #256
    stp     x0, x1, [sp]
    stp     x2, x3, [sp, #16]
    stp     x4, x5, [sp, #32]
    stp     x6, x7, [sp, #48]
    stp     x8, x9, [sp, #64]
    stp     x10, x11, [sp, #80]
    stp     x12, x13, [sp, #96]
    stp     x14, x15, [sp, #112]
    stp     x16, x17, [sp, #128]
    stp     x18, x19, [sp, #144]
    stp     x20, x21, [sp, #160]
    stp     x22, x23, [sp, #176]
    stp     x24, x25, [sp, #192]
    stp     x26, x27, [sp, #208]
    stp     x28, x29, [sp, #224]
    str     x30, [sp, #240]
    .endm

    .macro OWN_FAULT kind
    .balign 128
    mov     x0, #\kind
    b       postern_own_fault
    .endm

    .macro GUEST_EXIT kind
    .balign 128
    stp     x0, x1, [sp, #-16]!
    mov     x1, #\kind
    b       postern_guest_exit
    .endm

    .text
    .balign 2048
    .global postern_host_vectors
postern_host_vectors:
    OWN_FAULT 0
    OWN_FAULT 1
    OWN_FAULT 2
    OWN_FAULT 3
    OWN_FAULT 4
    OWN_FAULT 5
    OWN_FAULT 6
    OWN_FAULT 7
    .balign 128
    SAVE_HOST
    mov     x0, sp
    bl      {host_sync}
    b       postern_host_return
    OWN_FAULT 9
    OWN_FAULT 10
    OWN_FAULT 11
    .balign 128
    SAVE_HOST
    mov     x0, sp
    bl      {host_sync}
    b       postern_host_return
    OWN_FAULT 13
    OWN_FAULT 14
    OWN_FAULT 15

    .balign 2048
    .global postern_guest_vectors
postern_guest_vectors:
    OWN_FAULT 0
    OWN_FAULT 1
    OWN_FAULT 2
    OWN_FAULT 3
    OWN_FAULT 4
    OWN_FAULT 5
    OWN_FAULT 6
    OWN_FAULT 7
    .balign 128
    stp     x0, x1, [sp, #-16]!
    b       postern_guest_sync
    GUEST_EXIT 1
    GUEST_EXIT 1
    GUEST_EXIT 2
    .balign 128
    stp     x0, x1, [sp, #-16]!
    b       postern_guest_sync
    GUEST_EXIT 1
    GUEST_EXIT 1
    GUEST_EXIT 2

    .balign 64
postern_host_return:
    ldp     x2, x3, [sp, #16]
    ldp     x4, x5, [sp, #32]
    ldp     x6, x7, [sp, #48]
    ldp     x8, x9, [sp, #64]
    ldp     x10, x11, [sp, #80]
    ldp     x12, x13, [sp, #96]
    ldp     x14, x15, [sp, #112]
    ldp     x16, x17, [sp, #128]
    ldp     x18, x19, [sp, #144]
    ldp     x20, x21, [sp, #160]
    ldp     x22, x23, [sp, #176]
    ldp     x24, x25, [sp, #192]
    ldp     x26, x27, [sp, #208]
    ldp     x28, x29, [sp, #224]
    ldr     x30, [sp, #240]
    ldp     x0, x1, [sp], #256
    eret
    // Speculation must not run past ERET with the host's registers (Arm ARM, straight-line speculation).
    dsb     nsh
    isb

    .macro SAVE_VOLATILE
    // The stack holds the guest's x0, x1, then what `enter_guest` saved: the guest's registers' address first.
    ldr     x0, [sp, #16]
    stp     x2, x3, [x0, #16]
    stp     x4, x5, [x0, #32]
    stp     x6, x7, [x0, #48]
    stp     x8, x9, [x0, #64]
    stp     x10, x11, [x0, #80]
    stp     x12, x13, [x0, #96]
    stp     x14, x15, [x0, #112]
    stp     x16, x17, [x0, #128]
    str     x18, [x0, #144]
    str     x30, [x0, #240]
    ldp     x2, x3, [sp], #16
    stp     x2, x3, [x0]
    .endm

    // Calls are what a guest leaves for most, and the quick ones need no more than the registers that a Rust function
    // may change: x19 to x29 stay the guest's in the CPU, and so do ELR and SPSR.
postern_guest_sync:
    SAVE_VOLATILE
    mrs     x1, esr_el2
    lsr     x2, x1, #26
    sub     x2, x2, #0x16           // HVC; 0x17 is SMC
    cmp     x2, #1
    mov     x2, #0
    b.hi    postern_guest_leave
    ldp     x3, x2, [sp, #104]      // the function and its context, from `enter_guest`
    blr     x3
    mov     x2, #0
    ldr     x1, [sp]
    cbz     x0, 1f
    ldp     x2, x3, [x1, #16]
    ldp     x4, x5, [x1, #32]
    ldp     x6, x7, [x1, #48]
    ldp     x8, x9, [x1, #64]
    ldp     x10, x11, [x1, #80]
    ldp     x12, x13, [x1, #96]
    ldp     x14, x15, [x1, #112]
    ldp     x16, x17, [x1, #128]
    ldr     x18, [x1, #144]
    ldr     x30, [x1, #240]
    ldp     x0, x1, [x1]
    eret
    dsb     nsh
    isb
1:  mov     x0, x1
    b       postern_guest_leave

postern_guest_exit:
    // The guest's x1 is on the stack; x1 itself says which vector it was, and survives the macro.
    SAVE_VOLATILE
    mov     x2, x1

    // x0: the guest's registers, with x0 to x18 and x30 saved; x2: what to return.
postern_guest_leave:
    str     x19, [x0, #152]
    stp     x20, x21, [x0, #160]
    stp     x22, x23, [x0, #176]
    stp     x24, x25, [x0, #192]
    stp     x26, x27, [x0, #208]
    stp     x28, x29, [x0, #224]
    mrs     x4, elr_el2
    mrs     x5, spsr_el2
    mrs     x6, esr_el2
    mrs     x7, far_el2
    mrs     x8, hpfar_el2
    stp     x4, x5, [x0, #248]
    stp     x6, x7, [x0, #264]
    str     x8, [x0, #280]
    ldr     x19, [sp, #8]
    ldp     x20, x21, [sp, #16]
    ldp     x22, x23, [sp, #32]
    ldp     x24, x25, [sp, #48]
    ldp     x26, x27, [sp, #64]
    ldp     x28, x29, [sp, #80]
    ldr     x30, [sp, #96]
    add     sp, sp, #128
    mov     x0, x2
    ret

postern_own_fault:
    // Ours: the stack pointer may be what failed, so the crash path gets a stack of its own.
    mrs     x1, esr_el2
    mrs     x2, elr_el2
    mrs     x3, far_el2
    mov     x4, sp
    adrp    x5, {crash_stack}
    add     x5, x5, :lo12:{crash_stack}
    add     x5, x5, #{crash_stack_size}
    mov     sp, x5
    b       {own_fault}
"#,
    host_sync = sym super::host::host_sync,
    own_fault = sym super::crash::own_fault,
    crash_stack = sym super::crash::CRASH_STACK,
    crash_stack_size = const super::crash::CRASH_STACK_SIZE,
);

unsafe extern "C" {
    #[link_name = "postern_host_vectors"]
    pub fn host_vectors();
    #[link_name = "postern_guest_vectors"]
    pub fn guest_vectors();
}

/// Answers a call without leaving the guest's world: `(registers, ESR_EL2, context)`, where only x0 to x18 and x30 of the
/// registers are current. Returns 0 when the call needs the long way; nothing has changed then.
pub type QuickCall<C> = extern "C" fn(&mut GuestRegs, u64, &C) -> u64;

/// Enters the guest and comes back when it leaves: 0 synchronous, 1 interrupt, 2 SError. Calls go to `quick` first.
///
/// # Safety
/// The EL1 registers, stage 2 and vectors of this CPU are those of the guest that `regs` belongs to.
pub unsafe fn enter_guest<C>(regs: &mut GuestRegs, quick: QuickCall<C>, context: &C) -> u64 {
    // SAFETY: the caller's promise; the assembly passes `context` on to `quick` only while this call lasts.
    unsafe { enter(regs, quick as *const (), core::ptr::from_ref(context).cast()) }
}

#[unsafe(naked)]
unsafe extern "C" fn enter(regs: *mut GuestRegs, quick: *const (), context: *const ()) -> u64 {
    naked_asm!(
        "sub sp, sp, #128",
        "stp x0, x19, [sp]",
        "stp x20, x21, [sp, #16]",
        "stp x22, x23, [sp, #32]",
        "stp x24, x25, [sp, #48]",
        "stp x26, x27, [sp, #64]",
        "stp x28, x29, [sp, #80]",
        "stp x30, x1, [sp, #96]",
        "str x2, [sp, #112]",
        "ldp x30, x2, [x0, #240]",
        "ldr x3, [x0, #256]",
        "msr elr_el2, x2",
        "msr spsr_el2, x3",
        "ldp x2, x3, [x0, #16]",
        "ldp x4, x5, [x0, #32]",
        "ldp x6, x7, [x0, #48]",
        "ldp x8, x9, [x0, #64]",
        "ldp x10, x11, [x0, #80]",
        "ldp x12, x13, [x0, #96]",
        "ldp x14, x15, [x0, #112]",
        "ldp x16, x17, [x0, #128]",
        "ldp x18, x19, [x0, #144]",
        "ldp x20, x21, [x0, #160]",
        "ldp x22, x23, [x0, #176]",
        "ldp x24, x25, [x0, #192]",
        "ldp x26, x27, [x0, #208]",
        "ldp x28, x29, [x0, #224]",
        "ldp x0, x1, [x0]",
        "eret",
        "dsb nsh",
        "isb",
    )
}

/// Leaves EL2 for the host's first instruction on this CPU, on an empty stack at `stack`.
///
/// # Safety
/// The EL1 registers, stage 2 and vectors of this CPU are set for the host; `stack` is the top of this CPU's stack.
#[unsafe(naked)]
pub unsafe extern "C" fn enter_host(entry: u64, argument: u64, stack: u64) -> ! {
    naked_asm!(
        "mov sp, x2",
        "msr elr_el2, x0",
        "mov x2, #0x3c5", // EL1h, D, A, I and F masked (Arm ARM C5.2.19)
        "msr spsr_el2, x2",
        "mov x0, x1",
        "mov x1, xzr",
        "mov x2, xzr",
        "mov x3, xzr",
        "mov x4, xzr",
        "mov x5, xzr",
        "mov x6, xzr",
        "mov x7, xzr",
        "mov x8, xzr",
        "mov x9, xzr",
        "mov x10, xzr",
        "mov x11, xzr",
        "mov x12, xzr",
        "mov x13, xzr",
        "mov x14, xzr",
        "mov x15, xzr",
        "mov x16, xzr",
        "mov x17, xzr",
        "mov x18, xzr",
        "mov x19, xzr",
        "mov x20, xzr",
        "mov x21, xzr",
        "mov x22, xzr",
        "mov x23, xzr",
        "mov x24, xzr",
        "mov x25, xzr",
        "mov x26, xzr",
        "mov x27, xzr",
        "mov x28, xzr",
        "mov x29, xzr",
        "mov x30, xzr",
        "eret",
        "dsb nsh",
        "isb",
    )
}
