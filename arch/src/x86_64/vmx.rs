//! VMX instructions, and what is the same for the host's and every guest's VMCS.

use super::inject::{Event, blocking};
use super::msr::number;
use super::percpu::{self, PerCpu};
use super::{descriptors, tlb, vectors, world};
use core::arch::asm;
use loader::BootError;
use x86_64::registers::control::{Cr0, Cr3, Cr4, Cr4Flags, Efer};
use x86_64::registers::model_specific::Msr;

pub use super::vmcs::{entry, exit, field, pin, primary, reason, secondary};

const FEATURE_CONTROL: u32 = 0x3a;
const LOCKED: u64 = 1;
const VMX_OUTSIDE_SMX: u64 = 1 << 2;
const BASIC: u32 = 0x480;
const CR0_FIXED0: u32 = 0x486;
const CR0_FIXED1: u32 = 0x487;
const CR4_FIXED0: u32 = 0x488;
const CR4_FIXED1: u32 = 0x489;
const PAT: u32 = 0x277;
const GS_BASE: u32 = 0xc000_0101;
/// Single-context type of INVEPT and INVVPID.
pub const SINGLE_CONTEXT: u64 = 1;
/// The highest EIP.
const EIP: u64 = 0xffff_ffff;
const RFLAGS_TF: u64 = 1 << 8;
const RFLAGS_RF: u64 = 1 << 16;
const DEBUGCTL_BTF: u64 = 1 << 1;
/// Of the pending debug exceptions: a single step.
const PENDING_STEP: u64 = 1 << 14;

/// Reads a model-specific register that this CPU has.
pub fn rdmsr(msr: u32) -> u64 {
    // SAFETY: reading has no effect on memory; the callers in this folder name registers that exist.
    unsafe { Msr::new(msr).read() }
}

/// Writes a model-specific register.
///
/// # Safety
/// The register exists, takes the value, and does not change what Postern's own code relies on.
pub unsafe fn wrmsr(msr: u32, value: u64) {
    // SAFETY: the caller's promise.
    unsafe { Msr::new(msr).write(value) };
}

/// The groups of controls (SDM volume 3, appendix A.3 to A.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Controls {
    /// Pin-based.
    Pin,
    /// Primary processor-based.
    Primary,
    /// Secondary processor-based.
    Secondary,
    /// VM exit.
    Exit,
    /// VM entry.
    Entry,
}

/// What of `wanted` this CPU can do, with the bits that have to be one. The registers that tell the true settings, which
/// allow some bits to be zero that are one by default, exist when bit 55 of `IA32_VMX_BASIC` is set.
pub fn adjust(controls: Controls, wanted: u32) -> u32 {
    let exact = rdmsr(BASIC) & 1 << 55 != 0;
    let register = match (controls, exact) {
        (Controls::Pin, false) => 0x481,
        (Controls::Primary, false) => 0x482,
        (Controls::Exit, false) => 0x483,
        (Controls::Entry, false) => 0x484,
        (Controls::Secondary, _) => 0x48b,
        (Controls::Pin, true) => 0x48d,
        (Controls::Primary, true) => 0x48e,
        (Controls::Exit, true) => 0x48f,
        (Controls::Entry, true) => 0x490,
    };
    let allowed = rdmsr(register);
    (wanted | allowed as u32) & (allowed >> 32) as u32
}

/// CR0 with the bits that VMX operation fixes; of an unrestricted guest PE and PG are free (SDM volume 3, "Restrictions on
/// VMX Operation").
pub fn fixed_cr0(value: u64) -> u64 {
    const FREE: u64 = 1 | 1 << 31;
    (value | rdmsr(CR0_FIXED0) & !FREE) & rdmsr(CR0_FIXED1)
}

/// CR4 with the bits that VMX operation fixes.
pub fn fixed_cr4(value: u64) -> u64 {
    (value | rdmsr(CR4_FIXED0)) & rdmsr(CR4_FIXED1)
}

/// Puts this CPU into VMX root operation (SDM volume 3, "Enabling and Entering VMX Operation"), where it stays.
///
/// # Errors
/// Firmware has locked VMX off, or the CPU refuses.
pub fn enable(cpu: &PerCpu) -> Result<(), BootError> {
    let control = rdmsr(FEATURE_CONTROL);
    if control & LOCKED == 0 {
        // SAFETY: CPUID has said that there is VMX, so the register exists; unlocked it takes these bits.
        unsafe { wrmsr(FEATURE_CONTROL, control | LOCKED | VMX_OUTSIDE_SMX) };
    } else if control & VMX_OUTSIDE_SMX == 0 {
        return Err(BootError::Cpu("firmware has locked VMX off: turn virtualisation on in its set-up"));
    }
    let (cr0, cr4) = (Cr0::read_raw(), Cr4::read_raw() | Cr4Flags::VIRTUAL_MACHINE_EXTENSIONS.bits());
    // SAFETY: bits that VMX needs and that were one already but for NE and VMXE, which change nothing by themselves.
    unsafe {
        Cr0::write_raw((cr0 | rdmsr(CR0_FIXED0)) & rdmsr(CR0_FIXED1));
        Cr4::write_raw(fixed_cr4(cr4));
    }
    let region = cpu.vmxon.get();
    write_revision(region);
    // SAFETY: the region is a zeroed frame of this CPU's own with the revision in front.
    let carried = unsafe { instruction_vmxon(region) };
    if !carried {
        return Err(BootError::Cpu("VMXON fails: another hypervisor, or firmware, has the CPU in VMX operation"));
    }
    // SAFETY: a descriptor of the type that `features` has checked. What this CPU's TLB holds from before is unknown (SDM
    // volume 3, "Guidelines for Use of the INVEPT Instruction").
    unsafe { invalidate_all() };
    let control = world::cpu().barriers.control;
    if control != 0 {
        // The host goes on with what firmware has left.
        cpu.runs.value.set(rdmsr(number::SPEC_CTRL));
        cpu.root.value.set(control);
        // The first exit would; but a CPU that waits to be started may have the host beside it, on the other hyperthread.
        // SAFETY: the register exists and takes these bits.
        unsafe { wrmsr(number::SPEC_CTRL, control) };
    }
    prepare(cpu.host_vmcs.get());
    tlb::join(cpu.index.get());
    Ok(())
}

/// Writes the revision of this CPU's VMCS format, which has to be in front of every region.
fn write_revision(region: u64) {
    let revision = rdmsr(BASIC) as u32 & 0x7fff_ffff;
    // SAFETY: the callers' regions are frames of Postern's, mapped at their physical address, not in use by any CPU.
    unsafe { (region as *mut u32).write_volatile(revision) };
}

unsafe fn instruction_vmxon(region: u64) -> bool {
    let failed: u8;
    // SAFETY: the caller's promise; CF or ZF say that it failed (SDM volume 3, "Conventions").
    unsafe { asm!("vmxon [{}]", "setbe {}", in(reg) &region, out(reg_byte) failed, options(nostack)) };
    failed == 0
}

unsafe fn invalidate_all() {
    const ALL_CONTEXTS: u64 = 2;
    let descriptor = [0u64; 2];
    // SAFETY: the caller's promise.
    unsafe {
        asm!("invept {}, [{}]", in(reg) ALL_CONTEXTS, in(reg) &descriptor, options(nostack));
        asm!("invvpid {}, [{}]", in(reg) ALL_CONTEXTS, in(reg) &descriptor, options(nostack));
    }
}

/// Makes a zeroed frame a VMCS that is clear, inactive and not current.
pub fn prepare(vmcs: u64) {
    write_revision(vmcs);
    clear(vmcs);
}

/// VMCLEAR: writes what the CPU keeps of the VMCS at `vmcs` (physical address) to memory. Before another CPU loads it, or
/// its frame is used for something else (SDM volume 3, "Software Use of Virtual-Machine Control Structures").
pub fn clear(vmcs: u64) {
    let failed: u8;
    // SAFETY: a frame of Postern's that `prepare` has written.
    unsafe { asm!("vmclear [{}]", "setbe {}", in(reg) &vmcs, out(reg_byte) failed, options(nostack)) };
    assert!(failed == 0, "VMCLEAR of {vmcs:#x}");
}

/// VMPTRLD: makes the VMCS at `vmcs` (physical address) this CPU's current one.
pub fn load(vmcs: u64) {
    let failed: u8;
    // SAFETY: as for `clear`; the VMCS is active on no other CPU.
    unsafe { asm!("vmptrld [{}]", "setbe {}", in(reg) &vmcs, out(reg_byte) failed, options(nostack)) };
    assert!(failed == 0, "VMPTRLD of {vmcs:#x}");
}

/// A field of the current VMCS, which every CPU that Postern runs on has.
#[inline(always)]
pub fn read(field: u32) -> u64 {
    let value;
    if !cfg!(debug_assertions) {
        // SAFETY: as below.
        unsafe { asm!("vmread {}, {}", out(reg) value, in(reg) u64::from(field), options(nomem, nostack)) };
        return value;
    }
    let failed: u8;
    // SAFETY: reads no memory of ours.
    unsafe {
        asm!(
            "vmread {}, {}", "setbe {}",
            inout(reg) 0u64 => value, in(reg) u64::from(field), out(reg_byte) failed, options(nomem, nostack),
        );
    }
    assert!(failed == 0, "VMREAD of field {field:#x}");
    value
}

/// Changes a field of the current VMCS.
#[inline(always)]
pub fn write(field: u32, value: u64) {
    if !cfg!(debug_assertions) {
        // SAFETY: as below.
        unsafe { asm!("vmwrite {}, {}", in(reg) u64::from(field), in(reg) value, options(nomem, nostack)) };
        return;
    }
    let failed: u8;
    // SAFETY: what Postern writes there, it means; VM entry checks that the state is consistent.
    unsafe {
        asm!("vmwrite {}, {}", "setbe {}", in(reg) u64::from(field), in(reg) value, out(reg_byte) failed, options(nostack));
    }
    assert!(failed == 0, "VMWRITE of field {field:#x}");
}

/// Clears and sets bits of a field of the current VMCS.
pub fn modify(field: u32, clear: u64, set: u64) {
    write(field, read(field) & !clear | set);
}

/// Forgets on this CPU what it caches of linear addresses under `vpid` (SDM volume 3, "Operations that Invalidate Cached
/// Mappings").
pub fn invvpid(vpid: u16) {
    let descriptor = [u64::from(vpid), 0];
    // SAFETY: only caches; `features` has checked the type.
    unsafe { asm!("invvpid {}, [{}]", in(reg) SINGLE_CONTEXT, in(reg) &descriptor, options(nostack)) };
}

/// Writes the host-state area of the current VMCS: how a VM exit finds this CPU (SDM volume 3, "Host-State Area"; VM entry
/// checks it, "Checks on Host Control Registers, MSRs, and SSP" and the sections after it). RSP is written at each entry.
///
/// A VM exit sets the limits of GDTR and IDTR to 0xffff, DR7 to 0x400 and `IA32_DEBUGCTL` to 0 ("Loading Host Control
/// Registers, Debug Registers, MSRs", "Loading Host Segment and Descriptor-Table Registers"): no entry beyond the real
/// limits is ever used, because selectors and vectors are Postern's own.
pub fn write_host_state() {
    let cpu = percpu::this();
    let tables = descriptors::tables(cpu.index.get());
    let (frame, flags) = Cr3::read_raw();
    write(field::HOST_CR0, Cr0::read_raw());
    write(field::HOST_CR3, frame.start_address().as_u64() | u64::from(flags));
    write(field::HOST_CR4, Cr4::read_raw());
    write(field::HOST_EFER, Efer::read_raw());
    write(field::HOST_PAT, rdmsr(PAT));
    write(field::HOST_CS_SELECTOR, u64::from(descriptors::CODE));
    for selector in [field::HOST_ES_SELECTOR, field::HOST_SS_SELECTOR, field::HOST_DS_SELECTOR] {
        write(selector, u64::from(descriptors::DATA));
    }
    write(field::HOST_FS_SELECTOR, 0);
    write(field::HOST_GS_SELECTOR, 0);
    write(field::HOST_TR_SELECTOR, u64::from(descriptors::TSS));
    write(field::HOST_FS_BASE, 0);
    write(field::HOST_GS_BASE, rdmsr(GS_BASE));
    write(field::HOST_TR_BASE, tables.tss);
    write(field::HOST_GDTR_BASE, tables.gdt);
    write(field::HOST_IDTR_BASE, tables.idt);
    // Postern does not use SYSENTER; what the guest had there must not stay.
    write(field::HOST_SYSENTER_CS, 0);
    write(field::HOST_SYSENTER_ESP, 0);
    write(field::HOST_SYSENTER_EIP, 0);
    let barriers = world::cpu().barriers;
    write(field::HOST_RIP, vectors::exit_address(barriers.returns));
    // Only where there is something to load: each list makes all entries or exits slower.
    let count = u64::from(barriers.control != 0);
    let lists = [
        (field::EXIT_MSR_STORE, field::EXIT_MSR_STORE_COUNT, &cpu.runs),
        (field::EXIT_MSR_LOAD, field::EXIT_MSR_LOAD_COUNT, &cpu.root),
        (field::ENTRY_MSR_LOAD, field::ENTRY_MSR_LOAD_COUNT, &cpu.runs),
    ];
    for (address, length, entry) in lists {
        write(address, core::ptr::from_ref(entry) as u64);
        write(length, count);
    }
}

/// Goes on after the instruction that caused the exit: it has been carried out for whoever runs. STI and MOV SS block
/// interrupts for one instruction only, and a single step is due after it (SDM volume 3, "Pending Debug Exceptions").
pub fn step_over() {
    step_over_bytes(read(field::EXIT_INSTRUCTION_LENGTH));
}

/// The same, where the exit does not say how long the instruction is.
pub fn step_over_bytes(length: u64) {
    let from = read(field::GUEST_RIP);
    let to = from.wrapping_add(length);
    // Outside 64-bit mode RIP has 32 bits, and an entry with more of them fails. CS.L alone does not say so: in legacy mode it
    // is whatever the descriptor has.
    let wraps = from <= EIP && to > EIP && !is_64bit();
    write(field::GUEST_RIP, if wraps { to & EIP } else { to });
    let blocked = read(field::GUEST_INTERRUPTIBILITY);
    if blocked & (blocking::STI | blocking::MOV_SS) != 0 {
        write(field::GUEST_INTERRUPTIBILITY, blocked & !(blocking::STI | blocking::MOV_SS));
    }
    // The resume flag is for one instruction, too. With IA32_DEBUGCTL.BTF a step is a branch, which this was not.
    let flags = read(field::GUEST_RFLAGS);
    if flags & RFLAGS_RF != 0 {
        write(field::GUEST_RFLAGS, flags & !RFLAGS_RF);
    }
    if flags & RFLAGS_TF != 0 && read(field::GUEST_DEBUGCTL) & DEBUGCTL_BTF == 0 {
        modify(field::GUEST_PENDING_DEBUG, 0, PENDING_STEP);
    }
}

/// Delivers an event to whoever runs, as part of the next entry.
pub fn deliver(event: &Event) {
    write(field::ENTRY_ERROR_CODE, u64::from(event.error.unwrap_or(0)));
    write(field::ENTRY_INSTRUCTION_LENGTH, u64::from(event.length));
    write(field::ENTRY_INTERRUPTION, u64::from(event.information()));
}

/// Whether whoever runs is the operating system in 64-bit mode: CS.L, and ring 0 as SS has it (SDM volume 3, "Guest Register
/// State": the CPL is SS.DPL).
pub fn is_kernel64() -> bool {
    is_64bit() && read(field::GUEST_SS_RIGHTS) >> 5 & 3 == 0
}

/// Whether whoever runs is in 64-bit mode.
fn is_64bit() -> bool {
    read(field::GUEST_EFER) & 1 << 10 != 0 && read(field::GUEST_CS_RIGHTS) & 1 << 13 != 0
}
