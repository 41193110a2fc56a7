//! From the loader's jump to the program's `main`: boot header, relocation, stack, exceptions, paging.

use super::{Machine, cpu, descriptors, exception, mmu, startup};
use crate::percpu::{self, CPUS_MAX};
use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// What a program's `main` gets.
pub struct Boot {
    /// Memory of the loader's description that is still in use: none, all of it was copied.
    pub description: core::ops::Range<u64>,
    /// What it says.
    pub machine: Machine,
    /// Memory that this program occupies, its stack and uninitialised data included.
    pub image: core::ops::Range<u64>,
}

// The setup header (boot.rst, "The Real-Mode Kernel Header"): protocol 2.12, loaded high, relocatable on 2 MiB, a 64-bit
// entry point, 16 MiB preferred. There is no real-mode code: boot loaders that use the 32-bit or 64-bit entry need none.
global_asm!(
    r#"
    .section .header, "a"
    .org    0x1f1
    .byte   1
    .word   0
    .long   __paragraphs
    .word   0
    .word   0xffff
    .word   0
    .word   0xaa55
    .byte   0xeb, 0x66
    .ascii  "HdrS"
    .word   0x20c
    .long   0
    .word   0
    .word   0
    .byte   0
    .byte   1
    .word   0
    .long   0x100000
    .long   0
    .long   0
    .long   0
    .word   0
    .byte   0
    .byte   0
    .long   0
    .long   0x7fffffff
    .long   0x200000
    .byte   1
    .byte   21
    .word   1
    .long   {arguments_max}
    .long   0
    .quad   0
    .long   0
    .long   0
    .quad   0
    .quad   0x1000000
    .long   __image_size
    .long   0
    .org    0x400

    # 32-bit entry, ESI = boot parameters, whose field "scratch" serves as a stack: makes an identity map of 4 GiB and goes
    # on in 64-bit mode. Postern and the test host's VMM use the 64-bit entry.
    .section .head, "ax"
    .code32
    .global payload_start
payload_start:
    cli
    cld
    lea     esp, [esi + 0x1e8]
    call    1f
1:  pop     ebp
    sub     ebp, 13
    lea     edi, [ebp + __boot_tables_offset]
    mov     ebx, edi
    mov     ecx, 0x1800
    xor     eax, eax
    rep     stosd
    lea     eax, [ebx + 0x1003]
    mov     [ebx], eax
    lea     edx, [ebx + 0x2003]
    mov     ecx, 4
    lea     edi, [ebx + 0x1000]
2:  mov     [edi], edx
    add     edx, 0x1000
    add     edi, 8
    loop    2b
    lea     edi, [ebx + 0x2000]
    mov     eax, 0x83
    mov     ecx, 2048
3:  mov     [edi], eax
    add     eax, 0x200000
    add     edi, 8
    loop    3b
    mov     eax, cr4
    or      eax, 0x20
    mov     cr4, eax
    mov     cr3, ebx
    mov     ecx, 0xc0000080
    rdmsr
    or      eax, 0x100
    wrmsr
    lea     eax, [ebp + 0x1d0]
    mov     [ebp + 0x1ca], eax
    lgdt    [ebp + 0x1c8]
    mov     eax, cr0
    or      eax, 0x80000001
    mov     cr0, eax
    push    0x10
    lea     eax, [ebp + 0x200]
    push    eax
    retf
    .org    0x1c8
    .word   31
    .long   0
    .org    0x1d0
    .quad   0, 0, 0x00af9b000000ffff, 0x00cf93000000ffff

    # 64-bit entry, RSI = boot parameters. Relocations are of one type only, R_X86_64_RELATIVE: base + addend.
    .org    0x200
    .code64
    .global payload_start_64
payload_start_64:
    cli
    cld
    mov     r15, rsi
    lea     rbx, [rip + __image_start]
    sub     rbx, 0x1000
    lea     rcx, [rip + __rela_start]
    lea     rdx, [rip + __rela_end]
6:  cmp     rcx, rdx
    jae     7f
    mov     rax, [rcx]
    mov     r8d, [rcx + 8]
    mov     r9, [rcx + 16]
    add     rcx, 24
    cmp     r8d, 8
    jne     6b
    add     r9, rbx
    mov     [rbx + rax], r9
    jmp     6b
7:  lea     rdi, [rip + __bss_start]
    lea     rcx, [rip + __bss_end]
    sub     rcx, rdi
    shr     rcx, 3
    xor     eax, eax
    rep     stosq
    lea     rsp, [rip + __stack_top]
    xor     ebp, ebp
    mov     rdi, r15
    lea     rsi, [rip + __image_start]
    lea     rdx, [rip + __image_end]
    call    {boot}

    # A CPU that was woken through the mailbox, or comes from `startup`, in 64-bit mode; its area is in STARTING.
    .section .text.secondary, "ax"
    .global payload_secondary
payload_secondary:
    cli
    cld
    mov     rax, [rip + {root}]
    mov     cr3, rax
    mov     rdi, [rip + {starting}]
    mov     rsp, [rdi + {stack}]
    xor     ebp, ebp
    call    {secondary}
    "#,
    arguments_max = const 2047,
    boot = sym boot,
    secondary = sym secondary,
    starting = sym STARTING,
    root = sym ROOT,
    stack = const percpu::STACK_TOP,
);

unsafe extern "Rust" {
    /// Defined by [`crate::entry`].
    safe fn payload_main(boot: Boot) -> !;
}

/// Area of the CPU that is being started.
static STARTING: AtomicU64 = AtomicU64::new(0);
/// The top page table, for CPUs that start.
static ROOT: AtomicU64 = AtomicU64::new(0);
static MAILBOX: AtomicU64 = AtomicU64::new(0);

/// Rust's part of the first CPU's start, still on the loader's page tables.
extern "C" fn boot(parameters: *const u8, start: u64, end: u64) -> ! {
    cpu_start(0);
    mmu::build();
    mmu::enable();
    ROOT.store(mmu::root(), Ordering::Release);
    // SAFETY: the boot protocol promises boot parameters.
    let machine = unsafe { Machine::parse(parameters) };
    percpu::set_affinities(&machine.cpus);
    MAILBOX.store(machine.mailbox, Ordering::Release);
    payload_main(Boot { description: 0..0, machine, image: start..end })
}

fn cpu_start(index: usize) {
    descriptors::install(index);
    percpu::install(index);
    exception::install();
}

/// What each CPU is to run; zero while it is off.
static MAIN: [AtomicUsize; CPUS_MAX] = [const { AtomicUsize::new(0) }; CPUS_MAX];
/// CPUs that have left the state in which the machine starts them.
static STARTED: [AtomicBool; CPUS_MAX] = [const { AtomicBool::new(false) }; CPUS_MAX];
static OFF: [AtomicBool; CPUS_MAX] = [const { AtomicBool::new(true) }; CPUS_MAX];

/// Starts CPU `index` (of the machine's list), which runs `main` with its index.
///
/// # Errors
/// -1 when it is on, -2 when the mailbox does not answer.
pub fn start_cpu(index: usize, main: fn(usize) -> !) -> Result<(), i64> {
    if !OFF[index].swap(false, Ordering::AcqRel) {
        return Err(-1);
    }
    MAIN[index].store(main as usize, Ordering::Release);
    let target = percpu::affinity(index);
    if STARTED[index].swap(true, Ordering::AcqRel) {
        crate::interrupt::send(crate::interrupt::WAKE, index);
        return Ok(());
    }
    STARTING.store(percpu::prepare(index), Ordering::Release);
    match MAILBOX.load(Ordering::Acquire) {
        0 => startup::start(target, secondary_entry(), mmu::root()),
        mailbox => wake(mailbox, target)?,
    }
    Ok(())
}

/// CPU `index` was sent INIT: it has to be started like one that never ran.
pub fn forget(index: usize) {
    STARTED[index].store(false, Ordering::Release);
    OFF[index].store(true, Ordering::Release);
}

/// The Multiprocessor Wakeup Structure's mailbox (ACPI specification): the command is written last and cleared by whoever
/// has taken it.
fn wake(mailbox: u64, target: u64) -> Result<(), i64> {
    // SAFETY: ACPI says that this is the mailbox; it is memory that nothing else uses.
    unsafe {
        let command = mailbox as *mut u16;
        ((mailbox + 4) as *mut u32).write_volatile(target as u32);
        ((mailbox + 8) as *mut u64).write_volatile(secondary_entry());
        cpu::barrier();
        command.write_volatile(1);
        let end = super::timer::now() + super::timer::ticks(5000);
        while command.read_volatile() != 0 {
            if super::timer::now() > end {
                return Err(-2);
            }
            core::hint::spin_loop();
        }
    }
    Ok(())
}

/// Address at which a secondary CPU starts, in 64-bit mode.
pub fn secondary_entry() -> u64 {
    let entry: u64;
    // SAFETY: only computes the address of a symbol.
    unsafe { asm!("lea {0}, [rip + payload_secondary]", out(reg) entry, options(nomem, nostack, preserves_flags)) };
    entry
}

extern "C" fn secondary(area: *const percpu::PerCpu) -> ! {
    // SAFETY: `area` is what `start_cpu` stored: an element of the static array of per-CPU areas.
    let index = unsafe { (*area).index() };
    cpu_start(index);
    mmu::enable();
    run(index)
}

extern "C" fn run(index: usize) -> ! {
    // SAFETY: `start_cpu` stored a function of this type.
    let main: fn(usize) -> ! = unsafe { core::mem::transmute(MAIN[index].load(Ordering::Acquire)) };
    main(index)
}

/// Rests until [`start_cpu`] is called for this CPU again.
pub(super) fn rest() -> ! {
    let index = percpu::index();
    MAIN[index].store(0, Ordering::Release);
    OFF[index].store(true, Ordering::Release);
    cpu::sleep_until(|| MAIN[index].load(Ordering::Acquire) != 0);
    cpu::mask_interrupts();
    // SAFETY: the stack is this CPU's own, and nothing on it is used any more.
    unsafe {
        asm!("mov rsp, {stack}", "xor ebp, ebp", "call {run}", stack = in(reg) percpu::of(index).stack_top(),
            in("rdi") index, run = sym run, options(noreturn))
    }
}

/// Whether CPU `index` is off.
pub(super) fn is_off(index: usize) -> bool {
    OFF[index].load(Ordering::Acquire)
}

/// Defines the entry point of a payload: `entry!(main, heap_bytes)`.
#[macro_export]
macro_rules! entry {
    ($main:path, $heap:expr) => {
        #[unsafe(no_mangle)]
        extern "Rust" fn payload_main(boot: $crate::Boot) -> ! {
            static HEAP: $crate::heap::Space<{ $heap }> = $crate::heap::Space::new();
            HEAP.give_to_allocator();
            $main(boot)
        }
    };
}
