//! One instruction at privilege level 3.

use super::{cpu, descriptors};
use crate::exception::Abort;
use crate::percpu;
use core::arch::asm;

/// The instruction.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// VMCALL.
    Vmcall,
    /// TDCALL.
    Tdcall,
    /// HLT, which level 3 may not.
    Halt,
    /// Whatever is at the address.
    Jump(u64),
}

/// Runs it with RAX = 0; whatever it does, an exception has to end it. `Ok` when it was carried out: the instruction after
/// it is undefined.
///
/// # Errors
/// The exception that the instruction itself raised.
pub fn attempt(act: Act) -> Result<(), Abort> {
    let (which, target) = match act {
        Act::Vmcall => (0, 0),
        Act::Tdcall => (1, 0),
        Act::Halt => (2, 0),
        Act::Jump(target) => (3, target),
    };
    let area = percpu::this();
    area.arm();
    let carried_out: u64;
    // SAFETY: the code between the labels touches no memory; exceptions there go on at label 99 at level 0, whose stack is
    // restored. Interrupts are out, as the task state has no stack for more than that.
    unsafe {
        asm!(
            "pushfq", "cli", "push rbx", "push rbp", "mov rbp, rsp",
            "lea rax, [rip + 99f]", "mov gs:[0], rax",
            "push {user_data}", "push rbp", "push 2", "push {user_code}", "lea rax, [rip + 2f]", "push rax",
            "xor ebx, ebx", "xor eax, eax", "iretq",
            "2:",
            "cmp ecx, 1", "je 3f", "cmp ecx, 2", "je 4f", "cmp ecx, 3", "je 6f",
            "vmcall", "jmp 5f",
            "3: .byte 0x66, 0x0f, 0x01, 0xcc", "jmp 5f",
            "6: jmp rdx",
            "4: hlt",
            "5: mov ebx, 1", "ud2",
            "99:", "mov qword ptr gs:[0], 0", "mov rsp, rbp", "mov rdx, rbx", "pop rbp", "pop rbx", "popfq",
            user_data = const descriptors::USER_DATA, user_code = const descriptors::USER_CODE,
            inout("ecx") which => _, inout("rdx") target => carried_out, out("rax") _, out("rsi") _, out("rdi") _,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        )
    };
    cpu::barrier();
    match area.taken() {
        Some((syndrome, address)) if carried_out == 0 => Err(Abort::new(syndrome, address)),
        _ => Ok(()),
    }
}
