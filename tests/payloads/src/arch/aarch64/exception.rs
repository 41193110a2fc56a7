//! Exception vectors. A synchronous exception that the program has announced is recorded and survived; any other one
//! is reported as a panic. Interrupts are counted per CPU.

use super::gic;
use crate::percpu;
use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicUsize, Ordering};

// Vector offsets: Arm ARM D1.3.1; only exceptions from EL1 with SP_EL1 can happen here. An illegal exception return
// leaves PSTATE.IL set, which is cleared on the way back.
global_asm!(
    r#"
    .section .text.vectors, "ax"
    .balign 2048
    .global payload_vectors
payload_vectors:
    .rept 4
    b       unexpected
    .balign 128
    .endr
    b       synchronous
    .balign 128
    b       interrupt
    .balign 128
    .rept 10
    b       unexpected
    .balign 128
    .endr

synchronous:
    stp     x0, x1, [sp, #-16]!
    mrs     x0, tpidr_el1
    ldr     x1, [x0]
    cbz     x1, 1f
    msr     elr_el1, x1
    str     xzr, [x0]
    mrs     x1, spsr_el1
    bic     x1, x1, #(1 << 20)
    msr     spsr_el1, x1
    mrs     x1, esr_el1
    str     x1, [x0, #{esr}]
    mrs     x1, far_el1
    str     x1, [x0, #{far}]
    ldp     x0, x1, [sp], #16
    eret
1:  ldp     x0, x1, [sp], #16
unexpected:
    mrs     x0, esr_el1
    mrs     x1, elr_el1
    mrs     x2, far_el1
    mov     x3, x30
    mov     x4, sp
    bl      {fatal}
    b       .

interrupt:
    sub     sp, sp, #192
    stp     x0, x1, [sp]
    stp     x2, x3, [sp, #16]
    stp     x4, x5, [sp, #32]
    stp     x6, x7, [sp, #48]
    stp     x8, x9, [sp, #64]
    stp     x10, x11, [sp, #80]
    stp     x12, x13, [sp, #96]
    stp     x14, x15, [sp, #112]
    stp     x16, x17, [sp, #128]
    stp     x18, x30, [sp, #144]
    mrs     x0, elr_el1
    mrs     x1, spsr_el1
    stp     x0, x1, [sp, #160]
    bl      {irq}
    ldp     x0, x1, [sp, #160]
    msr     elr_el1, x0
    msr     spsr_el1, x1
    ldp     x0, x1, [sp]
    ldp     x2, x3, [sp, #16]
    ldp     x4, x5, [sp, #32]
    ldp     x6, x7, [sp, #48]
    ldp     x8, x9, [sp, #64]
    ldp     x10, x11, [sp, #80]
    ldp     x12, x13, [sp, #96]
    ldp     x14, x15, [sp, #112]
    ldp     x16, x17, [sp, #128]
    ldp     x18, x30, [sp, #144]
    add     sp, sp, #192
    eret
    "#,
    esr = const percpu::ESR,
    far = const percpu::FAR,
    fatal = sym fatal,
    irq = sym irq,
);

/// A synchronous exception that a program provoked on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abort {
    /// ESR_EL1 (Arm ARM D24.2.40).
    pub esr: u64,
    /// FAR_EL1.
    pub far: u64,
}

impl Abort {
    /// Exception class: 0 undefined instruction, 0x21 instruction abort, 0x25 data abort.
    pub fn class(&self) -> u64 {
        self.esr >> 26
    }

    /// Whether this is a synchronous external abort: what Postern answers to an access to memory that is not one's own.
    pub fn is_refused(&self) -> bool {
        matches!(self.class(), 0x21 | 0x25) && self.esr & 0x3f == 0x10
    }

    /// Whether this is an access to `address` that Postern has refused.
    pub fn is_refused_at(&self, address: u64) -> bool {
        self.is_refused() && (self.far ^ address) & !0xfff == 0
    }

    /// Whether this is a walk that was stopped at the page table itself: an external abort on level 0 to 3 of a walk (DFSC
    /// 0x14 to 0x17), or a plain one.
    pub fn is_refused_walk(&self) -> bool {
        self.esr & 0x3c == 0x14 || self.is_refused()
    }

    /// All of it in one number, never zero.
    pub fn code(&self) -> u64 {
        self.esr
    }

    /// Whether this is an undefined instruction.
    pub fn is_undefined(&self) -> bool {
        self.class() == 0
    }
}

impl core::fmt::Display for Abort {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "exception esr {:#x} far {:#x}", self.esr, self.far)
    }
}

/// Runs one instruction, or a few, that may raise a synchronous exception: `Ok` when it did not.
///
/// The operands are those of `asm!`; they must be named. The instructions must leave the stack alone and must not
/// break what compiled code relies on.
#[macro_export]
macro_rules! attempt {
    ($($instruction:expr),+ ; $($operands:tt)*) => {{
        let area = $crate::percpu::this();
        area.arm();
        // SAFETY: a synchronous exception within the instructions continues at label 99; the caller promises the rest.
        unsafe {
            core::arch::asm!(
                "adr {resume}, 99f", "str {resume}, [{area}]",
                $($instruction,)+
                "99:", "str xzr, [{area}]",
                resume = out(reg) _, area = in(reg) area, $($operands)*
            )
        };
        match area.taken() {
            None => Ok(()),
            Some((esr, far)) => Err($crate::exception::Abort { esr, far }),
        }
    }};
}

/// Reads eight bytes at `address`, wherever that is.
///
/// # Errors
/// The exception the read raised.
pub fn try_read(address: u64) -> Result<u64, Abort> {
    let mut value = 0;
    attempt!("ldr {value}, [{address}]"; value = inout(reg) value, address = in(reg) address)?;
    Ok(value)
}

/// Reads four bytes, for device registers.
///
/// # Errors
/// The exception the read raised.
pub fn try_read32(address: u64) -> Result<u32, Abort> {
    let mut value = 0;
    attempt!("ldr {value:w}, [{address}]"; value = inout(reg) value, address = in(reg) address)?;
    Ok(value)
}

/// Writes eight bytes at `address`. The caller has to know what that destroys.
///
/// # Errors
/// The exception the write raised.
pub fn try_write(address: u64, value: u64) -> Result<(), Abort> {
    attempt!("str {value}, [{address}]", "dsb sy"; value = in(reg) value, address = in(reg) address)
}

/// Writes four bytes, for device registers.
///
/// # Errors
/// The exception the write raised.
pub fn try_write32(address: u64, value: u32) -> Result<(), Abort> {
    attempt!("str {value:w}, [{address}]", "dsb sy"; value = in(reg) value, address = in(reg) address)
}

/// Calls the code at `address`, which has to return at once if it can be fetched at all.
///
/// # Errors
/// The exception the fetch or the code raised.
pub fn try_execute(address: u64) -> Result<(), Abort> {
    attempt!(
        "blr {address}";
        address = in(reg) address,
        out("x0") _, out("x1") _, out("x2") _, out("x3") _, out("x4") _, out("x5") _, out("x6") _, out("x7") _,
        out("x8") _, out("x9") _, out("x10") _, out("x11") _, out("x12") _, out("x13") _, out("x14") _, out("x15") _,
        out("x16") _, out("x17") _, out("x30") _,
    )
}

/// Accesses at `address` by instructions that are not plain loads and stores; what each raised.
pub fn try_odd_accesses(p: u64) -> [Result<(), Abort>; 8] {
    let found = [
        attempt!("ldp {a}, {b}, [{p}]"; a = out(reg) _, b = out(reg) _, p = in(reg) p),
        attempt!("stp {a}, {a}, [{p}]"; a = in(reg) 1u64, p = in(reg) p),
        attempt!("ldxr {a}, [{p}]", "clrex"; a = out(reg) _, p = in(reg) p),
        attempt!("ldar {a}, [{p}]"; a = out(reg) _, p = in(reg) p),
        attempt!("stlr {a}, [{p}]"; a = in(reg) 1u64, p = in(reg) p),
        attempt!("dc zva, {p}"; p = in(reg) p),
        attempt!("ldr {a}, [{p}], #8"; a = out(reg) _, p = inout(reg) p => _),
        // EL0-style accesses may be stopped by stage 1 before.
        attempt!("ldtr {a}, [{p}]"; a = out(reg) _, p = in(reg) p),
    ];
    // Cleaning and invalidating by address may be refused or do nothing.
    let _ = attempt!("dc civac, {p}", "dc ivac, {p}", "dc cvac, {p}"; p = in(reg) p);
    found
}

/// Makes this CPU use the vectors.
pub(super) fn install() {
    // SAFETY: the vectors are aligned code that lives as long as the program.
    unsafe {
        asm!("adrp {0}, payload_vectors", "add {0}, {0}, :lo12:payload_vectors", "msr vbar_el1, {0}", "isb", out(reg) _)
    };
}

/// What to call for each interrupt; zero for nothing.
static HANDLER: AtomicUsize = AtomicUsize::new(0);

/// Has `handler` called with the INTID of each interrupt, between its acknowledgement and its end.
pub fn on_interrupt(handler: fn(u32)) {
    HANDLER.store(handler as usize, Ordering::Release);
}

extern "C" fn irq() {
    let intid = gic::acknowledge();
    if intid < gic::SPURIOUS {
        percpu::this().count(intid);
        if intid == super::timer::INTID {
            super::timer::stop();
        }
        let handler = HANDLER.load(Ordering::Acquire);
        if handler != 0 {
            // SAFETY: only `on_interrupt` stores there, functions of this type.
            let handler: fn(u32) = unsafe { core::mem::transmute(handler) };
            handler(intid);
        }
        gic::end(intid);
    }
}

extern "C" fn fatal(esr: u64, elr: u64, far: u64, lr: u64, sp: u64) -> ! {
    let base = super::cpu::image_base();
    panic!(
        "unexpected exception: esr {esr:#x} elr {elr:#x} (image + {:#x}) far {far:#x} lr (image + {:#x}) sp {sp:#x}",
        elr.wrapping_sub(base),
        lr.wrapping_sub(base)
    )
}
