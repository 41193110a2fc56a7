//! The whole register file around one instruction, to see what a call or an exit does to it; and SSE registers, which
//! compiled code here never touches (soft float), so that they keep what these functions put there.

use super::mmu;
use abi::tdx::register::{RAX, RCX};
use abi::tdx::{leaf, vmcall};
use core::arch::global_asm;

/// General registers in the hardware's order: RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15. RSP is left alone.
pub type General = [u64; 16];
/// XMM0 to XMM15, two words each.
pub type Vector = [u64; 32];

/// Where a host call has its number and its first two arguments.
pub const ARGUMENTS: [usize; 3] = [0, 7, 6];
/// Where a host call has its status and its results.
pub const RESULTS: [usize; 4] = [0, 7, 6, 2];

/// The name of register `n`.
pub fn name(n: usize) -> &'static str {
    const NAMES: [&str; 16] =
        ["rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"];
    NAMES[n]
}

// The registers that the calling convention preserves are saved; the output pointer waits on the stack.
global_asm!(
    r#"
    .macro around name, instruction:vararg
    .section .text.around, "ax"
    .global \name
\name:
    push    rbx
    push    rbp
    push    r12
    push    r13
    push    r14
    push    r15
    push    rsi
    mov     rax, [rdi]
    mov     rcx, [rdi + 8]
    mov     rdx, [rdi + 16]
    mov     rbx, [rdi + 24]
    mov     rbp, [rdi + 40]
    mov     rsi, [rdi + 48]
    mov     r8, [rdi + 64]
    mov     r9, [rdi + 72]
    mov     r10, [rdi + 80]
    mov     r11, [rdi + 88]
    mov     r12, [rdi + 96]
    mov     r13, [rdi + 104]
    mov     r14, [rdi + 112]
    mov     r15, [rdi + 120]
    mov     rdi, [rdi + 56]
    \instruction
    push    rdi
    mov     rdi, [rsp + 8]
    mov     [rdi], rax
    mov     [rdi + 8], rcx
    mov     [rdi + 16], rdx
    mov     [rdi + 24], rbx
    mov     [rdi + 40], rbp
    mov     [rdi + 48], rsi
    mov     [rdi + 64], r8
    mov     [rdi + 72], r9
    mov     [rdi + 80], r10
    mov     [rdi + 88], r11
    mov     [rdi + 96], r12
    mov     [rdi + 104], r13
    mov     [rdi + 112], r14
    mov     [rdi + 120], r15
    pop     rax
    mov     [rdi + 56], rax
    pop     rsi
    pop     r15
    pop     r14
    pop     r13
    pop     r12
    pop     rbp
    pop     rbx
    ret
    .endm
    around payload_around_vmcall, vmcall
    around payload_around_tdcall, .byte 0x66, 0x0f, 0x01, 0xcc
    around payload_around_wait, call payload_wait

payload_wait:
    sti
    hlt
    cli
    ret

    .section .text.vector, "ax"
    .global payload_load_vectors
payload_load_vectors:
    movups  xmm0, [rdi]
    movups  xmm1, [rdi + 16]
    movups  xmm2, [rdi + 32]
    movups  xmm3, [rdi + 48]
    movups  xmm4, [rdi + 64]
    movups  xmm5, [rdi + 80]
    movups  xmm6, [rdi + 96]
    movups  xmm7, [rdi + 112]
    movups  xmm8, [rdi + 128]
    movups  xmm9, [rdi + 144]
    movups  xmm10, [rdi + 160]
    movups  xmm11, [rdi + 176]
    movups  xmm12, [rdi + 192]
    movups  xmm13, [rdi + 208]
    movups  xmm14, [rdi + 224]
    movups  xmm15, [rdi + 240]
    ret
    .global payload_store_vectors
payload_store_vectors:
    movups  [rdi], xmm0
    movups  [rdi + 16], xmm1
    movups  [rdi + 32], xmm2
    movups  [rdi + 48], xmm3
    movups  [rdi + 64], xmm4
    movups  [rdi + 80], xmm5
    movups  [rdi + 96], xmm6
    movups  [rdi + 112], xmm7
    movups  [rdi + 128], xmm8
    movups  [rdi + 144], xmm9
    movups  [rdi + 160], xmm10
    movups  [rdi + 176], xmm11
    movups  [rdi + 192], xmm12
    movups  [rdi + 208], xmm13
    movups  [rdi + 224], xmm14
    movups  [rdi + 240], xmm15
    ret
    "#,
);

unsafe extern "C" {
    fn payload_around_vmcall(input: *const General, output: *mut General);
    fn payload_around_tdcall(input: *const General, output: *mut General);
    fn payload_around_wait(input: *const General, output: *mut General);
    fn payload_load_vectors(input: *const Vector);
    fn payload_store_vectors(output: *mut Vector);
}

/// Registers after `VMCALL` entered with `input`.
pub fn around_host_call(input: &General) -> General {
    let mut output = *input;
    // SAFETY: the routine keeps the calling convention; the call's effects are those of `hypercall::call`.
    unsafe { payload_around_vmcall(input, &mut output) };
    output
}

/// Registers after `TDCALL` entered with `input`.
pub fn around_tdcall(input: &General) -> General {
    let mut output = *input;
    // SAFETY: as above; the caller knows what the call does.
    unsafe { payload_around_tdcall(input, &mut output) };
    output
}

/// Prepares `input` for [`around_load`]: eight bytes of a device register at `address`. Answers which registers have to
/// come back as they were.
pub fn prepare_load(input: &mut General, address: u64) -> &'static [usize] {
    // No more than the call's own registers are open to the host: R10 to R15.
    input[RAX] = leaf::VP_VMCALL;
    input[RCX] = 0x3f << 10;
    input[10..15].copy_from_slice(&[0, vmcall::MMIO, 8, 0, mmu::guest_physical(address)]);
    &[1, 2, 3, 5, 6, 7, 8, 9]
}

/// Registers after the device access that `input` was prepared for.
pub fn around_load(input: &General) -> General {
    around_tdcall(input)
}

/// Registers after waiting for an interrupt with `input`.
pub fn around_wait(input: &General) -> General {
    let mut output = *input;
    // SAFETY: as above; the interrupt's handler keeps all registers.
    unsafe { payload_around_wait(input, &mut output) };
    output
}

/// Fills XMM0 to XMM15.
pub fn load_vectors(input: &Vector) {
    // SAFETY: compiled code does not use the registers.
    unsafe { payload_load_vectors(input) };
}

/// Reads XMM0 to XMM15.
pub fn store_vectors() -> Vector {
    let mut output = [0; 32];
    // SAFETY: writes the array only.
    unsafe { payload_store_vectors(&mut output) };
    output
}

pub use crate::pattern;
