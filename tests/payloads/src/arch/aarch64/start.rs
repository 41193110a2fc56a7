//! From the loader's jump to the program's `main`: image header, relocation, stack, exception vectors, paging.

use super::devicetree::Machine;
use super::{exception, mmu, psci};
use crate::percpu;
use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicUsize, Ordering};

/// What a program's `main` gets.
pub struct Boot {
    /// Memory of the device tree, which stays there.
    pub description: core::ops::Range<u64>,
    /// What it says.
    pub machine: Machine,
    /// Memory that this program occupies, its stack and uninitialised data included.
    pub image: core::ops::Range<u64>,
}

// The header is Linux's arm64 `Image` header (Documentation/arch/arm64/booting.rst): flags 0xa = little endian, 4 KiB
// pages, may be placed anywhere. Relocations are of one type only, R_AARCH64_RELATIVE: base + addend.
global_asm!(
    r#"
    .section .head, "ax"
    .global _start
_start:
    b       1f
    .long   0
    .quad   0
    .quad   __image_size
    .quad   0xa
    .quad   0
    .quad   0
    .quad   0
    .ascii  "ARM\x64"
    .long   0
1:  msr     daifset, #15
    mov     x20, x0
    adrp    x19, _start
    adrp    x1, __rela_start
    add     x1, x1, :lo12:__rela_start
    adrp    x2, __rela_end
    add     x2, x2, :lo12:__rela_end
2:  cmp     x1, x2
    b.hs    3f
    ldp     x3, x4, [x1], #16
    ldr     x5, [x1], #8
    cmp     w4, #1027
    b.ne    2b
    add     x5, x5, x19
    str     x5, [x19, x3]
    b       2b
3:  adrp    x1, __bss_start
    add     x1, x1, :lo12:__bss_start
    adrp    x2, __bss_end
    add     x2, x2, :lo12:__bss_end
4:  cmp     x1, x2
    b.hs    5f
    stp     xzr, xzr, [x1], #16
    b       4b
5:  adrp    x1, __stack_top
    add     x1, x1, :lo12:__stack_top
    mov     sp, x1
    mov     x29, xzr
    mov     x30, xzr
    mov     x0, x20
    adrp    x1, __image_start
    adrp    x2, __image_end
    b       {boot}

    .section .text.secondary, "ax"
    .global secondary_start
secondary_start:
    msr     daifset, #15
    ldr     x1, [x0, #{stack}]
    mov     sp, x1
    mov     x29, xzr
    mov     x30, xzr
    b       {secondary}
    "#,
    boot = sym boot,
    secondary = sym secondary,
    stack = const percpu::STACK_TOP,
);

unsafe extern "Rust" {
    /// Defined by [`crate::entry`].
    safe fn payload_main(boot: Boot) -> !;
}

/// Rust's part of the boot CPU's start; paging is still off.
extern "C" fn boot(blob: *const u8, start: u64, end: u64) -> ! {
    percpu::install(0);
    exception::install();
    enable_fp();
    // SAFETY: the boot protocol promises a device tree at x0; `Fdt` checks magic and bounds before anything else.
    let blob = unsafe { super::devicetree::blob(blob) };
    let machine = Machine::parse(blob);
    percpu::set_affinities(&machine.cpus);
    psci::set_conduit(machine.psci_by_smc);
    mmu::build(&machine.memory);
    mmu::enable();
    let at = blob.as_ptr() as u64;
    payload_main(Boot { description: at..at + blob.len() as u64, machine, image: start..end })
}

/// The function that a secondary CPU is to run, for [`start_cpu`].
static SECONDARY_MAIN: AtomicUsize = AtomicUsize::new(0);

/// Starts CPU `index` (of the device tree's list), which runs `main` with its index.
///
/// # Errors
/// The PSCI code of `CPU_ON`.
pub fn start_cpu(index: usize, main: fn(usize) -> !) -> Result<(), i64> {
    SECONDARY_MAIN.store(main as usize, Ordering::Release);
    let context = percpu::prepare(index);
    psci::cpu_on(percpu::affinity(index), secondary_entry(), context)
}

/// Address at which a secondary CPU starts.
pub fn secondary_entry() -> u64 {
    let entry: u64;
    // SAFETY: only computes the address of a symbol.
    unsafe { asm!("adrp {0}, secondary_start", "add {0}, {0}, :lo12:secondary_start", out(reg) entry) };
    entry
}

extern "C" fn secondary(area: *const percpu::PerCpu) -> ! {
    // SAFETY: `area` is what `start_cpu` passed: an element of the static array of per-CPU areas.
    let index = unsafe { (*area).index() };
    percpu::install(index);
    exception::install();
    enable_fp();
    mmu::enable();
    // SAFETY: `start_cpu` stored a function of this type before it started the CPU.
    let main: fn(usize) -> ! = unsafe { core::mem::transmute(SECONDARY_MAIN.load(Ordering::Acquire)) };
    main(index)
}

/// Lets EL1 use FP and SIMD registers: the code is soft-float, but some tests fill the registers by hand.
fn enable_fp() {
    // SAFETY: CPACR_EL1.FPEN = 3 traps nothing and changes no state that compiled code relies on.
    unsafe { asm!("msr cpacr_el1, {0}", "isb", in(reg) 3u64 << 20) };
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
