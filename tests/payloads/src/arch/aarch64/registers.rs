//! The whole register file around one instruction, to see what a call or an exit does to it; and FP/SIMD registers,
//! which compiled code here never touches (soft float), so that they keep what these functions put there.

use core::arch::global_asm;

/// Where a host call has its number and its first two arguments.
pub const ARGUMENTS: [usize; 3] = [0, 1, 2];
/// Where a host call has its status and its results.
pub const RESULTS: [usize; 4] = [0, 1, 2, 3];

/// The name of register `n`.
pub fn name(n: usize) -> &'static str {
    const NAMES: [&str; 29] = [
        "x0", "x1", "x2", "x3", "x4", "x5", "x6", "x7", "x8", "x9", "x10", "x11", "x12", "x13", "x14", "x15", "x16",
        "x17", "x18", "x19", "x20", "x21", "x22", "x23", "x24", "x25", "x26", "x27", "x28",
    ];
    NAMES[n]
}

/// x0..x28.
pub type General = [u64; 29];
/// v0..v31, two words each.
pub type Vector = [u64; 64];

// x29, x30, x19..x28 are saved as the procedure call standard wants; the output pointer waits on the stack.
global_asm!(
    r#"
    .macro around name, instruction
    .section .text.around, "ax"
    .global \name
\name:
    stp     x29, x30, [sp, #-112]!
    stp     x19, x20, [sp, #16]
    stp     x21, x22, [sp, #32]
    stp     x23, x24, [sp, #48]
    stp     x25, x26, [sp, #64]
    stp     x27, x28, [sp, #80]
    str     x1, [sp, #96]
    str     x18, [sp, #104]
    mov     x30, x0
    ldp     x0, x1, [x30]
    ldp     x2, x3, [x30, #16]
    ldp     x4, x5, [x30, #32]
    ldp     x6, x7, [x30, #48]
    ldp     x8, x9, [x30, #64]
    ldp     x10, x11, [x30, #80]
    ldp     x12, x13, [x30, #96]
    ldp     x14, x15, [x30, #112]
    ldp     x16, x17, [x30, #128]
    ldp     x18, x19, [x30, #144]
    ldp     x20, x21, [x30, #160]
    ldp     x22, x23, [x30, #176]
    ldp     x24, x25, [x30, #192]
    ldp     x26, x27, [x30, #208]
    ldr     x28, [x30, #224]
    \instruction
    ldr     x30, [sp, #96]
    stp     x0, x1, [x30]
    stp     x2, x3, [x30, #16]
    stp     x4, x5, [x30, #32]
    stp     x6, x7, [x30, #48]
    stp     x8, x9, [x30, #64]
    stp     x10, x11, [x30, #80]
    stp     x12, x13, [x30, #96]
    stp     x14, x15, [x30, #112]
    stp     x16, x17, [x30, #128]
    stp     x18, x19, [x30, #144]
    stp     x20, x21, [x30, #160]
    stp     x22, x23, [x30, #176]
    stp     x24, x25, [x30, #192]
    stp     x26, x27, [x30, #208]
    str     x28, [x30, #224]
    ldr     x18, [sp, #104]
    ldp     x27, x28, [sp, #80]
    ldp     x25, x26, [sp, #64]
    ldp     x23, x24, [sp, #48]
    ldp     x21, x22, [sp, #32]
    ldp     x19, x20, [sp, #16]
    ldp     x29, x30, [sp], #112
    ret
    .endm
    around payload_around_hvc, "hvc #0"
    around payload_around_load, "ldr x0, [x1]"
    around payload_around_wfi, "wfi"

    .section .text.vector, "ax"
    .arch_extension fp
    .arch_extension simd
    .global payload_load_vectors
payload_load_vectors:
    ldp     q0, q1, [x0, #0]
    ldp     q2, q3, [x0, #32]
    ldp     q4, q5, [x0, #64]
    ldp     q6, q7, [x0, #96]
    ldp     q8, q9, [x0, #128]
    ldp     q10, q11, [x0, #160]
    ldp     q12, q13, [x0, #192]
    ldp     q14, q15, [x0, #224]
    ldp     q16, q17, [x0, #256]
    ldp     q18, q19, [x0, #288]
    ldp     q20, q21, [x0, #320]
    ldp     q22, q23, [x0, #352]
    ldp     q24, q25, [x0, #384]
    ldp     q26, q27, [x0, #416]
    ldp     q28, q29, [x0, #448]
    ldp     q30, q31, [x0, #480]
    ret
    .global payload_store_vectors
payload_store_vectors:
    stp     q0, q1, [x0, #0]
    stp     q2, q3, [x0, #32]
    stp     q4, q5, [x0, #64]
    stp     q6, q7, [x0, #96]
    stp     q8, q9, [x0, #128]
    stp     q10, q11, [x0, #160]
    stp     q12, q13, [x0, #192]
    stp     q14, q15, [x0, #224]
    stp     q16, q17, [x0, #256]
    stp     q18, q19, [x0, #288]
    stp     q20, q21, [x0, #320]
    stp     q22, q23, [x0, #352]
    stp     q24, q25, [x0, #384]
    stp     q26, q27, [x0, #416]
    stp     q28, q29, [x0, #448]
    stp     q30, q31, [x0, #480]
    ret
    "#,
);

unsafe extern "C" {
    fn payload_around_hvc(input: *const General, output: *mut General);
    fn payload_around_load(input: *const General, output: *mut General);
    fn payload_around_wfi(input: *const General, output: *mut General);
    fn payload_load_vectors(input: *const Vector);
    fn payload_store_vectors(output: *mut Vector);
}

/// Registers after `HVC #0` entered with `input`.
pub fn around_host_call(input: &General) -> General {
    let mut output = [0; 29];
    // SAFETY: the routine keeps the procedure call standard; the call's effects are those of `smccc::hvc`.
    unsafe { payload_around_hvc(input, &mut output) };
    output
}

/// Prepares `input` for [`around_load`]: eight bytes of a device register at `address`. Answers which registers have to
/// come back as they were.
pub fn prepare_load(input: &mut General, address: u64) -> &'static [usize] {
    const KEPT: [usize; 28] = {
        let mut kept = [0; 28];
        let mut n = 0;
        while n < kept.len() {
            kept[n] = n + 1;
            n += 1;
        }
        kept
    };
    input[1] = address;
    &KEPT
}

/// Registers after `LDR x0, [x1]` entered with `input`.
pub fn around_load(input: &General) -> General {
    let mut output = [0; 29];
    // SAFETY: as above; the caller puts the address of a device register into x1.
    unsafe { payload_around_load(input, &mut output) };
    output
}

/// Registers after `WFI` entered with `input`.
pub fn around_wait(input: &General) -> General {
    let mut output = [0; 29];
    // SAFETY: as above.
    unsafe { payload_around_wfi(input, &mut output) };
    output
}

/// Fills v0..v31.
pub fn load_vectors(input: &Vector) {
    // SAFETY: compiled code does not use the registers.
    unsafe { payload_load_vectors(input) };
}

/// Reads v0..v31.
pub fn store_vectors() -> Vector {
    let mut output = [0; 64];
    // SAFETY: writes the array only.
    unsafe { payload_store_vectors(&mut output) };
    output
}

pub use crate::pattern;
