//! Exception handlers. An exception that the program has announced is recorded and survived; any other one is reported
//! as a panic. Interrupts are counted per CPU.

use super::descriptors::{self, Pointer};
use super::{apic, cpu, tdcall};
use crate::percpu;
use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

// One stub of 16 bytes for each vector, which all call the same code: the return address tells which. Exceptions that
// push no error code get a zero in its place (SDM volume 3, table "Protected-Mode Exceptions and Interrupts").
global_asm!(
    r#"
    .section .text.vectors, "ax"
    .balign 16
    .global payload_vectors
payload_vectors:
    .set payload_vector, 0
    .rept 256
    .balign 16
    .if (payload_vector == 8) || (payload_vector == 17) || (payload_vector == 21) || (payload_vector == 29) || (payload_vector == 30)
    .elseif (payload_vector >= 10) && (payload_vector <= 14)
    .else
    push    0
    .endif
    call    payload_trap
    .set payload_vector, payload_vector + 1
    .endr

    .balign 16
payload_trap:
    push    rax
    push    rbx
    push    rcx
    push    rdx
    push    rsi
    push    rdi
    push    rbp
    push    r8
    push    r9
    push    r10
    push    r11
    push    r12
    push    r13
    push    r14
    push    r15
    cld
    mov     rdi, rsp
    mov     rbx, rsp
    and     rsp, -16
    call    {trap}
    mov     rsp, rbx
    pop     r15
    pop     r14
    pop     r13
    pop     r12
    pop     r11
    pop     r10
    pop     r9
    pop     r8
    pop     rbp
    pop     rdi
    pop     rsi
    pop     rdx
    pop     rcx
    pop     rbx
    pop     rax
    add     rsp, 16
    iretq
    "#,
    trap = sym trap,
);

/// What the handler finds on its stack.
#[repr(C)]
struct Frame {
    /// R15 first, RAX last.
    general: [u64; 15],
    stub: u64,
    error: u64,
    rip: u64,
    cs: u64,
    flags: u64,
    rsp: u64,
    ss: u64,
}

/// Vectors of exceptions (SDM volume 3, "Exception and Interrupt Vectors").
pub mod vector {
    /// Debug.
    pub const DEBUG: u64 = 1;
    /// Non-maskable interrupt.
    pub const NMI: u64 = 2;
    /// Invalid opcode.
    pub const UNDEFINED: u64 = 6;
    /// General protection.
    pub const PROTECTION: u64 = 13;
    /// Page fault.
    pub const PAGE: u64 = 14;
    /// Virtualization exception.
    pub const VIRTUALIZATION: u64 = 20;
}

/// An exception that a program provoked on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abort {
    /// Vector << 32 | error code; for a virtualization exception the exit reason takes the error code's place.
    syndrome: u64,
    /// CR2 for a page fault, the guest physical address for a virtualization exception.
    pub address: u64,
}

impl Abort {
    /// From what the handler noted.
    pub fn new(syndrome: u64, address: u64) -> Self {
        Self { syndrome, address }
    }

    /// The exception's vector.
    pub fn vector(&self) -> u64 {
        self.syndrome >> 32 & 0xff
    }

    /// The error code, or the exit reason of a virtualization exception.
    pub fn error(&self) -> u64 {
        self.syndrome & 0xffff_ffff
    }

    /// Whether this is how Postern refuses an access: #GP(0) for the host, an EPT violation's #VE for a guest.
    pub fn is_refused(&self) -> bool {
        matches!((self.vector(), self.error()), (vector::PROTECTION, 0) | (vector::VIRTUALIZATION, 48))
    }

    /// Whether this is an access to `address` that Postern has refused; #GP does not tell the address.
    pub fn is_refused_at(&self, address: u64) -> bool {
        self.is_refused() && (self.vector() == vector::PROTECTION || (self.address ^ address) & !0xfff == 0)
    }

    /// Whether this is a walk that was stopped at the page table itself.
    pub fn is_refused_walk(&self) -> bool {
        self.is_refused()
    }

    /// All of it in one number, never zero.
    pub fn code(&self) -> u64 {
        self.syndrome
    }

    /// Whether this is an undefined instruction.
    pub fn is_undefined(&self) -> bool {
        self.vector() == vector::UNDEFINED
    }

    /// Whether this is a general-protection exception.
    pub fn is_protection(&self) -> bool {
        self.vector() == vector::PROTECTION
    }
}

impl core::fmt::Display for Abort {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "exception {} error {:#x} address {:#x}", self.vector(), self.error(), self.address)
    }
}

/// Runs one instruction, or a few, that may raise an exception: `Ok` when it did not.
///
/// The operands are those of `asm!`; they must be named. The instructions must leave the stack as it is and must not
/// break what compiled code relies on.
#[macro_export]
macro_rules! attempt {
    ($($instruction:expr),+ ; $($operands:tt)*) => {{
        let area = $crate::percpu::this();
        area.arm();
        // SAFETY: an exception within the instructions continues at label 99; the caller promises the rest.
        unsafe {
            core::arch::asm!(
                "lea {resume}, [rip + 99f]", "mov gs:[0], {resume}",
                $($instruction,)+
                "99:", "mov qword ptr gs:[0], 0",
                resume = out(reg) _, $($operands)*
            )
        };
        match area.taken() {
            None => Ok(()),
            Some((syndrome, address)) => Err($crate::exception::Abort::new(syndrome, address)),
        }
    }};
}

/// Reads eight bytes at `address`, wherever that is.
///
/// # Errors
/// The exception the read raised.
pub fn try_read(address: u64) -> Result<u64, Abort> {
    let mut value = 0u64;
    attempt!("mov {value}, [{address}]"; value = inout(reg) value, address = in(reg) address,)?;
    Ok(value)
}

/// Reads four bytes.
///
/// # Errors
/// The exception the read raised.
pub fn try_read32(address: u64) -> Result<u32, Abort> {
    let mut value = 0u32;
    attempt!("mov {value:e}, [{address}]"; value = inout(reg) value, address = in(reg) address,)?;
    Ok(value)
}

/// Writes eight bytes at `address`. The caller has to know what that destroys.
///
/// # Errors
/// The exception the write raised.
pub fn try_write(address: u64, value: u64) -> Result<(), Abort> {
    attempt!("mov [{address}], {value}"; value = in(reg) value, address = in(reg) address,)
}

/// Writes four bytes.
///
/// # Errors
/// The exception the write raised.
pub fn try_write32(address: u64, value: u32) -> Result<(), Abort> {
    attempt!("mov [{address}], {value:e}"; value = in(reg) value, address = in(reg) address,)
}

/// Calls the code at `address`, which has to return at once if it can be fetched at all.
///
/// # Errors
/// The exception the fetch or the code raised.
pub fn try_execute(address: u64) -> Result<(), Abort> {
    let area = percpu::this();
    area.arm();
    // SAFETY: an exception continues at label 99 with the stack as it was before the call.
    unsafe {
        asm!(
            "mov r12, rsp", "and rsp, -16",
            "lea r13, [rip + 99f]", "mov gs:[0], r13",
            "call r14",
            "99:", "mov qword ptr gs:[0], 0", "mov rsp, r12",
            in("r14") address, out("r12") _, out("r13") _, clobber_abi("C"),
        )
    };
    match area.taken() {
        None => Ok(()),
        Some((syndrome, address)) => Err(Abort::new(syndrome, address)),
    }
}

/// Accesses at `address` by instructions that are not plain loads and stores; what each raised.
pub fn try_odd_accesses(p: u64) -> [Result<(), Abort>; 8] {
    [
        attempt!("movups xmm0, [{p}]"; p = in(reg) p,),
        attempt!("movups [{p}], xmm0"; p = in(reg) p,),
        attempt!("lock xadd [{p}], {a}"; a = inout(reg) 1u64 => _, p = in(reg) p,),
        attempt!("movnti [{p}], {a}"; a = in(reg) 1u64, p = in(reg) p,),
        attempt!("rep movsb"; inout("rcx") 16u64 => _, inout("rsi") p => _, inout("rdi") p => _,),
        attempt!("xchg [{p}], {a}"; a = inout(reg) 1u64 => _, p = in(reg) p,),
        attempt!("lock cmpxchg [{p}], {a}"; a = in(reg) 1u64, p = in(reg) p, out("rax") _,),
        attempt!("fxsave64 [{p}]"; p = in(reg) p & !15,),
    ]
}

/// An entry of the interrupt descriptor table.
#[repr(C)]
#[derive(Clone, Copy)]
struct Gate(u64, u64);
#[repr(C, align(16))]
struct Gates([Gate; 256]);
static mut GATES: Gates = Gates([Gate(0, 0); 256]);
static BUILT: AtomicBool = AtomicBool::new(false);

fn stubs() -> u64 {
    let address: u64;
    // SAFETY: only computes the address of a symbol.
    unsafe { asm!("lea {0}, [rip + payload_vectors]", out(reg) address, options(nomem, nostack, preserves_flags)) };
    address
}

/// Makes this CPU use the handlers. The first CPU builds the table while it is alone.
pub(super) fn install() {
    // SAFETY: interrupt gates to code that lives as long as the program; the table is only written by the first CPU.
    unsafe {
        if !BUILT.swap(true, Ordering::AcqRel) {
            for vector in 0..256u64 {
                let stub = stubs() + vector * 16;
                let low =
                    stub & 0xffff | u64::from(descriptors::CODE) << 16 | 0x8e00 << 32 | (stub >> 16 & 0xffff) << 48;
                (&raw mut GATES.0[vector as usize]).write(Gate(low, stub >> 32));
            }
        }
        let pointer = Pointer { limit: size_of::<Gates>() as u16 - 1, base: &raw const GATES as u64 };
        asm!("lidt [{0}]", in(reg) &raw const pointer, options(readonly, nostack));
    }
}

/// What to call for each interrupt; zero for nothing.
static HANDLER: AtomicUsize = AtomicUsize::new(0);

/// Has `handler` called with the vector of each interrupt, before its end.
pub fn on_interrupt(handler: fn(u32)) {
    HANDLER.store(handler as usize, Ordering::Release);
}

fn interrupt(vector: u32) {
    percpu::this().count(vector);
    let handler = HANDLER.load(Ordering::Acquire);
    if handler != 0 {
        // SAFETY: only `on_interrupt` stores there, functions of this type.
        let handler: fn(u32) = unsafe { core::mem::transmute(handler) };
        handler(vector);
    }
    apic::end();
}

/// RFLAGS.TF.
const TRAP: u64 = 1 << 8;
/// Bytes of HLT.
const HLT_LENGTH: u64 = 1;

/// An instruction that a test watches.
static WATCHED: AtomicU64 = AtomicU64::new(0);
/// Interrupts that came just before it, or before the HLT that was to wait for them.
static EARLY: AtomicUsize = AtomicUsize::new(0);

/// Has interrupts counted that come just before the instruction at `address`.
pub fn watch(address: u64) {
    WATCHED.store(address, Ordering::Relaxed);
}

/// How many interrupts came just before an instruction that was watched, or before the HLT of `cpu::wait_for_interrupt`: behind
/// an STI that lets interrupts in none may.
pub fn early() -> usize {
    EARLY.load(Ordering::Relaxed)
}

unsafe extern "C" {
    /// The HLT of `cpu::wait_for_interrupt`.
    static payload_sleep: u8;
}

extern "C" fn trap(frame: &mut Frame) {
    let number = (frame.stub - stubs()) / 16;
    match number {
        32.. => {
            let sleeps = frame.rip == &raw const payload_sleep as u64;
            if sleeps || frame.rip == WATCHED.load(Ordering::Relaxed) {
                EARLY.fetch_add(1, Ordering::Relaxed);
            }
            if sleeps {
                // What was waited for is there. Bochs with more than one CPU lets it in here (docs/caveats.md).
                frame.rip += HLT_LENGTH;
            }
            return interrupt(number as u32);
        }
        vector::NMI => return percpu::this().count(number as u32),
        _ => {}
    }
    let (error, address) = match number {
        vector::PAGE => (frame.error, page_fault_address()),
        vector::VIRTUALIZATION => {
            let info = tdcall::exception_info();
            (info.reason, info.address)
        }
        _ => (frame.error, 0),
    };
    match percpu::this().take_resume() {
        0 => fatal(frame, number, error, address),
        resume => {
            frame.rip = resume;
            // An exception at privilege level 3 was raised by a test, which goes on at level 0.
            frame.cs = descriptors::CODE.into();
            frame.ss = descriptors::DATA.into();
            // A step that a test asked for was one.
            frame.flags &= !TRAP;
            percpu::this().note(1 << 63 | number << 32 | error & 0xffff_ffff, address);
        }
    }
}

fn page_fault_address() -> u64 {
    let address: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mov {0}, cr2", out(reg) address, options(nomem, nostack, preserves_flags)) };
    address
}

fn fatal(frame: &Frame, number: u64, error: u64, address: u64) -> ! {
    let base = cpu::image_base();
    panic!(
        "unexpected exception {number}: error {error:#x} rip {:#x} (image + {:#x}) address {address:#x} rsp {:#x}",
        frame.rip,
        frame.rip.wrapping_sub(base),
        frame.rsp
    )
}
