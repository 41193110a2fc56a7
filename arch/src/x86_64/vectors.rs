//! The way into VMX non-root operation and out again, and what an NMI does to it (SDM volume 3, "VM Entries", "VM Exits").
//!
//! Interrupts stay off in root operation; NMIs do not. An NMI is how another CPU says that this one has something to look
//! at, so none may be lost between the last look and the entry. The last looks and the entry are a window of instructions: an
//! NMI that interrupts it does not return there but where the entry is given up. Nothing has to be undone: until the
//! entry succeeds the registers in memory are the valid ones.

use super::mitigate::Returns;
use super::percpu::{self, PerCpu};
use super::{descriptors, power, tlb};
use core::arch::{global_asm, naked_asm};
use core::mem::offset_of;
use core::sync::atomic::{AtomicU64, Ordering};

/// General registers of whoever runs in non-root operation, in the order that hardware numbers them; layout known to the
/// assembly. RSP is in the VMCS, element 4 is nothing.
#[repr(C)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gprs(pub [u64; 16]);

/// Hardware's numbers of registers.
#[allow(missing_docs)]
pub mod number {
    pub const RAX: usize = 0;
    pub const RCX: usize = 1;
    pub const RDX: usize = 2;
    pub const RBX: usize = 3;
    pub const RSP: usize = 4;
    pub const RSI: usize = 6;
    pub const RDI: usize = 7;
    pub const R8: usize = 8;
    pub const R9: usize = 9;
}

/// How an attempt to enter ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entered {
    /// Somebody ran; or the entry failed on the guest's state, which the exit reason says.
    Exit,
    /// Nobody ran: an NMI came. What it was about has to be looked at before the next attempt.
    Aborted,
    /// The VMCS is not what Postern wanted it to be: the instruction error says what is wrong.
    Failed,
}

/// Entries of the longest return stack buffer of those CPUs (Intel, "Retpoline: A Branch Target Injection Mitigation").
const RETURN_PREDICTIONS: u64 = 32;

const EXITED: u64 = 0;
const ABORTED: u64 = 1;
const FAILED: u64 = 2;

global_asm!(
    r#"
    .text
    .balign 64
    // RDI: registers, RSI: not 0 if the VMCS is launched, RDX: index of the space.
    .global postern_enter
postern_enter:
    push    rbx
    push    rbp
    push    r12
    push    r13
    push    r14
    push    r15
    push    rdi
    mov     eax, {host_rsp}
    vmwrite rax, rsp
    // A locked instruction: `tlb` sees it, or this CPU sees the generation that `tlb` has made (SDM volume 3, "Memory
    // Ordering": loads may pass older stores, but not locked instructions).
    lea     rax, [rdx + 1]
    xchg    gs:[{running}], rax

    .global postern_enter_window
postern_enter_window:
    cmp     byte ptr gs:[{attention}], 0
    jne     postern_enter_aborted
    lea     rax, [rip + {generation}]
    mov     rax, [rax + rdx * 8]
    cmp     rax, gs:[{seen} + rdx * 8]
    jne     4f
1:  test    rsi, rsi
    // None of these changes the flags.
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
    jnz     2f
    vmlaunch
    jmp     3f
2:  vmresume
    jmp     3f
    // Forgets what this CPU must not use in the space any more, and then says that it has (SDM volume 3, "Serializing
    // Instructions": INVEPT is one). RAX: the generation, from before EPTP is read. Whoever makes another one from now on
    // sees that this CPU has not got it, and sends an NMI. Those have a stack of their own, so there is room below RSP.
4:  lea     rcx, [rip + {eptp}]
    mov     rcx, [rcx + rdx * 8]
    mov     [rsp - 16], rcx
    mov     qword ptr [rsp - 8], 0
    mov     ecx, {single_context}
    invept  rcx, [rsp - 16]
    xchg    gs:[{seen} + rdx * 8], rax
    jmp     1b
    .global postern_enter_window_end
postern_enter_window_end:
3:  mov     eax, {failed}
    jmp     4f
    .global postern_enter_aborted
postern_enter_aborted:
    mov     eax, {aborted}
    jmp     4f

    .balign 64
    // Exits on CPUs that would predict Postern's returns by the calls of whoever ran: all, or the first. What such a return does
    // by mistake ends at a breakpoint.
    .global postern_exit_all
postern_exit_all:
    .rept   {predictions} - 1
    call    2f
    int3
2:
    .endr
    add     rsp, ({predictions} - 1) * 8
    .global postern_exit_first
postern_exit_first:
    call    2f
    int3
2:  add     rsp, 8
    lfence
    .global postern_exit
postern_exit:
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
    // Speculation in Postern finds nothing in the registers that whoever ran could have chosen. The others are popped.
    xor     ecx, ecx
    xor     edx, edx
    xor     esi, esi
    xor     r8d, r8d
    xor     r9d, r9d
    xor     r10d, r10d
    xor     r11d, r11d
    mov     eax, {exited}
4:  mov     qword ptr gs:[{running}], 0
    pop     rdi
    pop     r15
    pop     r14
    pop     r13
    pop     r12
    pop     rbp
    pop     rbx
    ret

    // RDI: a word, RSI: bits. Sleeps until an NMI comes, unless one of the bits is set. HLT with interrupts off ends with an
    // NMI (SDM volume 2, "HLT").
    .global postern_sleep
postern_sleep:
    test    [rdi], rsi
    jnz     postern_sleep_end
    hlt
    .global postern_sleep_end
postern_sleep_end:
    ret
"#,
    host_rsp = const super::vmx::field::HOST_RSP,
    running = const offset_of!(PerCpu, running),
    attention = const offset_of!(PerCpu, attention),
    seen = const offset_of!(PerCpu, seen),
    generation = sym tlb::GENERATION,
    exited = const EXITED,
    aborted = const ABORTED,
    failed = const FAILED,
    eptp = sym tlb::EPTP,
    single_context = const super::vmx::SINGLE_CONTEXT,
    predictions = const RETURN_PREDICTIONS,
);

unsafe extern "C" {
    fn postern_enter(gprs: &mut Gprs, launched: u64, space: u64) -> u64;
    fn postern_sleep(word: &AtomicU64, bits: u64);
    static postern_enter_window: u8;
    static postern_enter_window_end: u8;
    static postern_enter_aborted: u8;
    static postern_exit: u8;
    static postern_exit_first: u8;
    static postern_exit_all: u8;
    static postern_sleep_end: u8;
}

/// Where a VM exit goes on, for the host-state area.
pub fn exit_address(returns: Returns) -> u64 {
    match returns {
        Returns::None => &raw const postern_exit as u64,
        Returns::First => &raw const postern_exit_first as u64,
        Returns::All => &raw const postern_exit_all as u64,
    }
}

/// Enters non-root operation with the current VMCS and comes back when whoever runs leaves it. `launched`: not the first
/// time since VMCLEAR; `space`: [`tlb::index`] of the space that the VMCS's EPTP is of.
///
/// # Safety
/// This CPU's controls, extended state and registers that no VMCS holds are those of whoever is entered.
pub unsafe fn enter(gprs: &mut Gprs, launched: bool, space: usize) -> Entered {
    // SAFETY: the caller's promise; `space` is an index of `tlb`'s.
    match unsafe { postern_enter(gprs, u64::from(launched), space as u64) } {
        EXITED => Entered::Exit,
        ABORTED => {
            percpu::this().attention.store(false, Ordering::SeqCst);
            power::stop_if_off();
            Entered::Aborted
        }
        _ => Entered::Failed,
    }
}

/// An NMI has interrupted Postern at `rip`; returns where to go on. Called by the gate's code, on a stack of its own.
pub extern "C" fn nmi(rip: u64) -> u64 {
    tlb::nmi_arrived();
    percpu::this().attention.store(true, Ordering::SeqCst);
    let (enter, sleep) = (&raw const postern_enter_window as u64, postern_sleep as *const () as u64);
    let (enter_end, sleep_end) = (&raw const postern_enter_window_end as u64, &raw const postern_sleep_end as u64);
    if (enter..enter_end).contains(&rip) {
        &raw const postern_enter_aborted as u64
    } else if (sleep..sleep_end).contains(&rip) {
        sleep_end
    } else {
        rip
    }
}

/// Sleeps until an NMI comes, or returns at once when one of `bits` is set in `word`.
pub fn sleep(word: &AtomicU64, bits: u64) {
    unblock_nmis();
    // SAFETY: reads the word and waits.
    unsafe { postern_sleep(word, bits) };
}

/// Goes on in `next`, on an empty stack with its top at `stack`.
///
/// # Safety
/// `stack` is the top of a stack that nothing uses.
#[unsafe(naked)]
pub unsafe extern "C" fn switch_stack(a: u64, b: u64, stack: u64, next: extern "C" fn(u64, u64) -> !) -> ! {
    naked_asm!("mov rsp, rdx", "xor ebp, ebp", "call rcx", "ud2")
}

/// After a VM exit for an NMI more of them are blocked until an IRET or a VM entry (SDM volume 3, "Nonmaskable Interrupts in
/// VMX Operation", "Handling Multiple NMIs"). This is the IRET.
#[unsafe(naked)]
pub extern "C" fn unblock_nmis() {
    naked_asm!(
        "mov rax, rsp",
        "push {data}",
        "push rax",
        "pushfq",
        "push {code}",
        "lea rax, [rip + 2f]",
        "push rax",
        "iretq",
        "2: ret",
        data = const descriptors::DATA,
        code = const descriptors::CODE,
    )
}
