//! Segments, interrupt gates and the stacks they switch to (SDM volume 3, "Protected-Mode Memory Management" and
//! "Interrupt and Exception Handling").
//!
//! Interrupts stay off in Postern, so what comes through a gate is an exception, which is always a bug or broken hardware,
//! or an NMI. Each kind has a stack of its own from the interrupt stack table, because the stack pointer may be what failed.

use super::{crash, percpu, vectors};
use core::arch::global_asm;
use core::cell::UnsafeCell;
use loader::machine::CPUS_MAX;
use x86_64::VirtAddr;
use x86_64::instructions::tables::load_tss;
use x86_64::structures::gdt::{Descriptor, GlobalDescriptorTable, SegmentSelector};
use x86_64::structures::idt::InterruptDescriptorTable;
use x86_64::structures::tss::TaskStateSegment;

/// Selector of the 64-bit code segment.
pub const CODE: u16 = 0x08;
/// Selector of the data segment.
pub const DATA: u16 = 0x10;
/// Selector of the flat 32-bit code segment, which only start-up uses.
pub const CODE32: u16 = 0x18;
/// Selector of the task state segment, in a CPU's own table.
pub const TSS: u16 = 0x20;

/// Null, 64-bit code, data, 32-bit code: all flat, accessed.
pub static FLAT: [u64; 4] = [0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0x00cf_9b00_0000_ffff];

/// Stacks of the interrupt stack table, in its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stack {
    /// Exceptions of Postern's own, which end in a crash record.
    Fault,
    /// NMIs.
    Nmi,
    /// Double faults.
    DoubleFault,
    /// Machine checks.
    MachineCheck,
}

/// Bytes of each of the stacks above.
pub const STACK_SIZE: u64 = 8 << 10;
/// How many they are.
pub const STACKS: u64 = 4;
/// Bytes of the entry code of each vector.
const ENTRY_SIZE: u64 = 16;

struct Tables {
    gdt: GlobalDescriptorTable,
    task: TaskStateSegment,
}

struct PerCpuTables(UnsafeCell<Tables>);

// SAFETY: written by the CPU they belong to, and otherwise only read by its hardware.
unsafe impl Sync for PerCpuTables {}

static TABLES: [PerCpuTables; CPUS_MAX] = [const {
    PerCpuTables(UnsafeCell::new(Tables { gdt: GlobalDescriptorTable::empty(), task: TaskStateSegment::new() }))
}; CPUS_MAX];

struct Gates(UnsafeCell<InterruptDescriptorTable>);

// SAFETY: written by the boot CPU before there is another, and only read by hardware afterwards.
unsafe impl Sync for Gates {}

static GATES: Gates = Gates(UnsafeCell::new(InterruptDescriptorTable::new()));

/// Where a CPU's tables are, as the host-state area of a VMCS wants to know.
#[derive(Clone, Copy, Debug)]
pub struct HostTables {
    /// Base of the segment descriptors.
    pub gdt: u64,
    /// Base of the gates.
    pub idt: u64,
    /// Base of the task state segment.
    pub tss: u64,
}

/// The tables of CPU `index`, which has installed them.
pub fn tables(index: usize) -> HostTables {
    // SAFETY: what is read here is written only by `install`, which has run.
    let tables = unsafe { &*TABLES[index].0.get() };
    let gdt = tables.gdt.entries().as_ptr() as u64;
    HostTables { gdt, idt: GATES.0.get() as u64, tss: &raw const tables.task as u64 }
}

/// Sets gates to the entry code of their vectors, on a stack of the interrupt stack table.
macro_rules! set_gates {
    ($gates:ident, $($name:ident = $vector:literal on $stack:ident),* $(,)?) => {
        $(
            let entry = VirtAddr::new(&raw const postern_exceptions as u64 + $vector * ENTRY_SIZE);
            // SAFETY: the entry code takes this vector's frame, and the stack is one that `install` sets.
            unsafe { $gates.$name.set_handler_addr(entry).set_stack_index(Stack::$stack as u16) };
        )*
    };
}

/// Fills the gates: once, on the boot CPU. What is not listed cannot happen, or becomes a general protection fault.
pub fn init() {
    // SAFETY: no gate is in use yet, and there is one CPU.
    let gates = unsafe { &mut *GATES.0.get() };
    set_gates!(gates,
        divide_error = 0 on Fault, debug = 1 on Fault, non_maskable_interrupt = 2 on Nmi, breakpoint = 3 on Fault,
        overflow = 4 on Fault, bound_range_exceeded = 5 on Fault, invalid_opcode = 6 on Fault,
        device_not_available = 7 on Fault, double_fault = 8 on DoubleFault, invalid_tss = 10 on Fault,
        segment_not_present = 11 on Fault, stack_segment_fault = 12 on Fault, general_protection_fault = 13 on Fault,
        page_fault = 14 on Fault, x87_floating_point = 16 on Fault, alignment_check = 17 on Fault,
        machine_check = 18 on MachineCheck, simd_floating_point = 19 on Fault, virtualization = 20 on Fault,
        cp_protection_exception = 21 on Fault,
    );
}

/// Makes the tables of CPU `index` this CPU's; the tops of its exception stacks are given in [`Stack`]'s order. May be
/// repeated with other stacks.
pub fn install(index: usize, stacks: [u64; STACKS as usize]) {
    // SAFETY: this CPU's own tables. If it uses them already it is in none of the stacks, and the descriptors become what
    // they were, the task state segment available again.
    let tables = unsafe { &mut *TABLES[index].0.get() };
    let mut table = tables.task.interrupt_stack_table;
    table[..STACKS as usize].copy_from_slice(&stacks.map(VirtAddr::new));
    tables.task.interrupt_stack_table = table;
    tables.gdt = GlobalDescriptorTable::from_raw_entries(&FLAT);
    // SAFETY: the flat segments are those that are loaded, so no selector changes its meaning; the tables are statics.
    unsafe {
        tables.gdt.append(Descriptor::tss_segment_unchecked(&raw const tables.task));
        tables.gdt.load_unsafe();
        (*GATES.0.get()).load_unsafe();
        load_tss(SegmentSelector(TSS));
    }
}

/// What the CPU and the entry code leave on the stack.
#[repr(C)]
#[derive(Debug)]
pub struct Frame {
    /// Vector number.
    pub vector: u64,
    /// Error code, or 0.
    pub error: u64,
    /// Interrupted instruction.
    pub rip: u64,
    /// Its code segment.
    pub cs: u64,
    /// Its flags.
    pub rflags: u64,
    /// Its stack pointer.
    pub rsp: u64,
    /// Its stack segment.
    pub ss: u64,
}

/// An NMI while Postern ran: where to go on.
extern "C" fn nmi(rip: u64) -> u64 {
    if percpu::installed() {
        let count = &percpu::this().nmis;
        count.set(count.get() + 1);
        return vectors::nmi(rip);
    }
    rip
}

global_asm!(
    r#"
    .text
    .balign 16
    .global postern_exceptions
postern_exceptions:
    .set vector, 0
    .rept 32
    .balign 16
    // These push an error code themselves (SDM volume 3, "Error Code").
    .if vector == 2
    jmp     postern_nmi
    .elseif vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21 || vector == 29 || vector == 30
    .byte   0x6a, vector            // push
    jmp     postern_own_fault
    .else
    push    0
    .byte   0x6a, vector
    jmp     postern_own_fault
    .endif
    .set vector, vector + 1
    .endr

postern_own_fault:
    cld
    mov     rdi, rsp
    mov     rsi, cr2
    and     rsp, -16
    call    {own_fault}
    ud2

    // An NMI may come between any two instructions, so everything that the handler may change is kept. IRET unblocks NMIs.
postern_nmi:
    push    rax
    push    rcx
    push    rdx
    push    rsi
    push    rdi
    push    r8
    push    r9
    push    r10
    push    r11
    cld
    mov     rdi, [rsp + 72]
    // RSP was 16-byte aligned before the CPU pushed five words (SDM volume 3, "64-Bit Mode Stack Frame"), and nine more
    // keep it so.
    call    {nmi}
    mov     [rsp + 72], rax
    pop     r11
    pop     r10
    pop     r9
    pop     r8
    pop     rdi
    pop     rsi
    pop     rdx
    pop     rcx
    pop     rax
    iretq
"#,
    own_fault = sym crash::own_fault,
    nmi = sym nmi,
);

unsafe extern "C" {
    static postern_exceptions: u8;
}
