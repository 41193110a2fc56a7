//! The registers of whoever owns the CPU, host or vCPU, that a VMCS has no fields for.
//!
//! Not in the list, and so neither saved nor reachable: state whose XCR0 bits a guest has not (protection keys, AMX: it
//! stays in the CPU, where a guest's instructions cannot touch it), and registers that exit (`msr`).

use super::cpuid::{self, Leaf, XCR0_BASE};
use super::mitigate::Barriers;
use super::msr::{Present, number};
use super::percpu;
use super::vmx::{rdmsr, wrmsr};
use abi::FRAME_SIZE;
use core::arch::asm;
use core::arch::x86_64::__cpuid_count;
use spin::Once;

/// IA32_PERF_GLOBAL_CTRL: which performance counters run.
const PERF_GLOBAL_CTRL: u32 = 0x38f;
const VMX_MISC: u32 = 0x485;
/// Commands of IA32_PRED_CMD and IA32_FLUSH_CMD.
const BARRIER: u64 = 1;
/// MXCSR after reset, and where it is in an XSAVE area (SDM volume 1, "Legacy Region of an XSAVE Area").
const MXCSR_RESET: u32 = 0x1f80;
const MXCSR_OFFSET: u64 = 24;

/// What the CPUs of this machine have, as far as worlds are concerned.
#[derive(Debug)]
pub struct Cpu {
    /// Registers that a guest may have for itself.
    pub present: Present,
    /// Extended state that a guest may have, for XCR0.
    pub features: u64,
    /// The preemption timer counts once when this bit of the time stamp counter changes.
    pub timer_rate: u32,
    /// What it needs against speculation.
    pub barriers: Barriers,
    perf: bool,
    xss: bool,
}

static CPU: Once<Cpu> = Once::new();

/// CPUID.
pub fn native(function: u32, index: u32) -> Leaf {
    let found = __cpuid_count(function, index);
    Leaf { eax: found.eax, ebx: found.ebx, ecx: found.ecx, edx: found.edx }
}

/// What this CPU needs against speculation, and IA32_ARCH_CAPABILITIES, 0 where that does not exist.
fn barriers() -> (Barriers, u64) {
    let leaf7 = if native(0, 0).eax >= 7 { native(7, 0) } else { Leaf::default() };
    let leaf7_2 = if leaf7.eax >= 2 { native(7, 2) } else { Leaf::default() };
    let capabilities = if leaf7.edx & 1 << 29 != 0 { rdmsr(number::ARCH_CAPABILITIES) } else { 0 };
    (Barriers::needed(leaf7.edx, leaf7_2.edx, capabilities), capabilities)
}

/// Whether what is done against speculation for the boot CPU is possible here, and enough. With other microcode it may not
/// be: an exit that cannot load IA32_SPEC_CTRL is a VMX abort (SDM volume 3, "VMX Aborts").
pub fn same_here() -> bool {
    cpu().barriers.serve(&barriers().0)
}

/// This machine's; all its CPUs are alike, or refused.
pub fn cpu() -> &'static Cpu {
    CPU.call_once(|| {
        let last = native(0, 0).eax;
        let perf = if last >= 0xa { native(0xa, 0).eax & 0xff } else { 0 };
        let (barriers, capabilities) = barriers();
        let speculation = barriers.control != 0;
        let features = cpuid::extended_features(&native);
        // A save area is one frame.
        let fits = u64::from(cpuid::standard_size(features, &native)) <= FRAME_SIZE;
        Cpu {
            present: Present {
                spec_ctrl: speculation,
                pred_cmd: speculation,
                tsc_aux: native(0x8000_0001, 0).edx & 1 << 27 != 0,
                arch_capabilities: capabilities,
            },
            features: if fits { features } else { XCR0_BASE },
            timer_rate: rdmsr(VMX_MISC) as u32 & 0x1f,
            barriers,
            perf: perf >= 2,
            xss: native(0xd, 1).eax & 1 << 3 != 0,
        }
    })
}

/// Registers that a guest has for itself and that are switched here; TSC_AUX and, in [`percpu`], SPEC_CTRL where they exist.
const SWITCHED: [u32; 5] = [number::STAR, number::LSTAR, number::CSTAR, number::FMASK, number::KERNEL_GS_BASE];

/// One world's registers while the other has the CPU.
#[derive(Clone, Debug)]
pub struct World {
    msrs: [u64; SWITCHED.len()],
    tsc_aux: u64,
    spec_ctrl: u64,
    /// IA32_XSS; a guest has nothing in it.
    xss: u64,
    /// A guest has no counters.
    perf: u64,
    /// DR0 to DR3, and DR6. DR7 is in the VMCS.
    debug: [u64; 5],
    /// CR2: where the last page fault was, which its handler may not have asked about yet.
    cr2: u64,
    /// XCR0.
    pub xcr0: u64,
}

/// DR6 after reset (SDM volume 3, "Processor State After Reset").
const DR6_RESET: u64 = 0xffff_0ff0;

impl World {
    /// After reset.
    pub const RESET: Self = Self {
        msrs: [0; SWITCHED.len()],
        tsc_aux: 0,
        spec_ctrl: 0,
        xss: 0,
        perf: 0,
        debug: [0, 0, 0, 0, DR6_RESET],
        cr2: 0,
        xcr0: 1,
    };

    fn save(&mut self, cpu: &Cpu) {
        for (value, number) in self.msrs.iter_mut().zip(SWITCHED) {
            *value = rdmsr(number);
        }
        let read = |present, number| if present { rdmsr(number) } else { 0 };
        self.tsc_aux = read(cpu.present.tsc_aux, number::TSC_AUX);
        self.spec_ctrl = percpu::this().runs.value.get();
        self.xss = read(cpu.xss, number::XSS);
        self.perf = read(cpu.perf, PERF_GLOBAL_CTRL);
        self.debug = debug_registers();
        self.cr2 = fault_address();
        self.xcr0 = xgetbv();
    }

    /// Loads what differs from `other`, which is what the CPU has: writing is what takes time.
    fn restore(&self, other: &Self, cpu: &Cpu) {
        let write = |number, value, other| {
            if value != other {
                // SAFETY: a register of the world that gets the CPU, with a value that the CPU took from that world. Root
                // operation uses none of them.
                unsafe { wrmsr(number, value) };
            }
        };
        for ((number, value), other) in SWITCHED.into_iter().zip(self.msrs).zip(other.msrs) {
            write(number, value, other);
        }
        if cpu.present.tsc_aux {
            write(number::TSC_AUX, self.tsc_aux, other.tsc_aux);
        }
        percpu::this().runs.value.set(self.spec_ctrl);
        if cpu.xss {
            write(number::XSS, self.xss, other.xss);
        }
        if cpu.perf {
            write(PERF_GLOBAL_CTRL, self.perf, other.perf);
        }
        if self.cr2 != other.cr2 {
            set_fault_address(self.cr2);
        }
        // Not `!=`, which is a call to a loop over bytes here.
        if self.debug.iter().zip(other.debug).fold(0, |differs, (a, b)| differs | (a ^ b)) != 0 {
            set_debug_registers(&self.debug);
        }
    }
}

/// Gives the CPU to another world: saves what it has into `from` and loads `to`, with extended state at these addresses.
///
/// # Safety
/// Both areas are frames of Postern's, or larger, that nobody else uses; `to_area` has been filled by this function or by
/// [`reset_area`].
pub unsafe fn switch(from: &mut World, from_area: u64, to: &World, to_area: u64) {
    let cpu = cpu();
    from.save(cpu);
    // All that a guest can have, whether or not the one or the other has it switched on just now.
    set_xcr0(from.xcr0, cpu.features);
    // SAFETY: the caller's promise; XCR0 has the bits.
    unsafe {
        xsave(from_area, cpu.features);
        xrstor(to_area, cpu.features);
    }
    set_xcr0(cpu.features, to.xcr0);
    to.restore(from, cpu);
    forget(&cpu.barriers);
}

/// Extended state after reset.
///
/// # Safety
/// `area` is a frame of Postern's that nobody else uses.
pub unsafe fn reset_area(area: u64) {
    // SAFETY: the caller's promise; frames are mapped at their physical address.
    unsafe {
        (area as *mut u8).write_bytes(0, FRAME_SIZE as usize);
        ((area + MXCSR_OFFSET) as *mut u32).write(MXCSR_RESET);
    }
}

fn forget(barriers: &Barriers) {
    // SAFETY: commands that only make the CPU forget; each exists when it is needed.
    unsafe {
        if barriers.predictions {
            wrmsr(number::PRED_CMD, BARRIER);
        }
        if barriers.data_cache {
            wrmsr(number::FLUSH_CMD, BARRIER);
        }
        if barriers.buffers {
            let selector = super::descriptors::DATA;
            asm!("verw word ptr [{}]", in(reg) &selector, options(nostack, readonly));
        }
    }
}

fn xgetbv() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reads a register; CR4.OSXSAVE is set in root operation.
    unsafe { asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags)) };
    u64::from(high) << 32 | u64::from(low)
}

/// Sets XCR0, which is `now`.
pub fn set_xcr0(now: u64, value: u64) {
    if value != now {
        // SAFETY: values that the CPU had from the host, that `exits::xcr0` has checked, or all that a guest can have. Root
        // operation uses no extended state.
        unsafe {
            asm!("xsetbv", in("ecx") 0, in("eax") value as u32, in("edx") (value >> 32) as u32, options(nostack, preserves_flags));
        }
    }
}

unsafe fn xsave(area: u64, features: u64) {
    // SAFETY: the caller gives an area that is large enough and aligned to 64 bytes.
    unsafe {
        asm!("xsave64 [{}]", in(reg) area, in("eax") features as u32, in("edx") (features >> 32) as u32,
            options(nostack, preserves_flags));
    }
}

unsafe fn xrstor(area: u64, features: u64) {
    // SAFETY: as above; its header is one that XSAVE has written, or zero.
    unsafe {
        asm!("xrstor64 [{}]", in(reg) area, in("eax") features as u32, in("edx") (features >> 32) as u32,
            options(nostack, preserves_flags));
    }
}

fn debug_registers() -> [u64; 5] {
    let (a, b, c, d, status): (u64, u64, u64, u64, u64);
    // SAFETY: reads registers. DR7 is 0x400 in root operation, so nothing traps.
    unsafe {
        asm!("mov {}, dr0", "mov {}, dr1", "mov {}, dr2", "mov {}, dr3", "mov {}, dr6",
            out(reg) a, out(reg) b, out(reg) c, out(reg) d, out(reg) status, options(nomem, nostack, preserves_flags));
    }
    [a, b, c, d, status]
}

fn set_debug_registers(values: &[u64; 5]) {
    let [a, b, c, d, status] = *values;
    // SAFETY: DR7 is 0x400 in root operation, so the addresses mean nothing there.
    unsafe {
        asm!("mov dr0, {}", "mov dr1, {}", "mov dr2, {}", "mov dr3, {}", "mov dr6, {}",
            in(reg) a, in(reg) b, in(reg) c, in(reg) d, in(reg) status, options(nomem, nostack, preserves_flags));
    }
}

fn fault_address() -> u64 {
    let address: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, cr2", out(reg) address, options(nomem, nostack, preserves_flags)) };
    address
}

fn set_fault_address(address: u64) {
    // SAFETY: it only reports: root operation has no page faults that it survives.
    unsafe { asm!("mov cr2, {}", in(reg) address, options(nomem, nostack, preserves_flags)) };
}

/// Sets DR6 of the world that has the CPU.
pub fn set_debug_status(clear: u64, set: u64) {
    let mut values = debug_registers();
    values[4] = values[4] & !clear | set;
    set_debug_registers(&values);
}
