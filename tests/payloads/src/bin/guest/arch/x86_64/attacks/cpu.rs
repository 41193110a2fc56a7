//! Instructions and registers that are not the guest's.

use crate::require;
use crate::world::World;
use alloc::format;
use alloc::string::String;
use core::arch::{asm, naked_asm};
use payloads::exception::{self, Abort};
use payloads::{apic, attempt, cpu as instructions, percpu, say, timer};

use super::devices::timer_still_works;

fn undefined_or_refused(name: &str, found: Result<(), Abort>) -> Result<(), String> {
    match found {
        Err(abort) if abort.is_undefined() || abort.is_protection() => Ok(()),
        other => Err(format!("{name} gives {other:x?}")),
    }
}

pub fn vmx_instructions(_: &World) -> Result<(), String> {
    let mut operand = [0u64; 2];
    let p = &raw mut operand;
    undefined_or_refused("VMXOFF", attempt!("vmxoff";))?;
    undefined_or_refused("VMXON", attempt!("vmxon [{p}]"; p = in(reg) p,))?;
    undefined_or_refused("VMPTRLD", attempt!("vmptrld [{p}]"; p = in(reg) p,))?;
    undefined_or_refused("VMREAD", attempt!("vmread {a}, {b}"; a = out(reg) _, b = in(reg) 0x681eu64,))?;
    undefined_or_refused("VMLAUNCH", attempt!("vmlaunch";))?;
    undefined_or_refused("VMCALL", attempt!("vmcall"; inout("rax") 0u64 => _,))?;
    undefined_or_refused("INVEPT", attempt!("invept {t}, [{p}]"; t = in(reg) 2u64, p = in(reg) p,))?;
    undefined_or_refused("INVVPID", attempt!("invvpid {t}, [{p}]"; t = in(reg) 2u64, p = in(reg) p,))?;
    undefined_or_refused("VMFUNC", attempt!("vmfunc"; inout("eax") 0u32 => _, in("ecx") 0u32,))?;
    undefined_or_refused("SEAMCALL", attempt!(".byte 0x66, 0x0f, 0x01, 0xcf"; inout("rax") 0u64 => _,))?;
    undefined_or_refused("GETSEC", attempt!("getsec"; inout("eax") 0u32 => _,))?;
    undefined_or_refused("RSM", attempt!("rsm";))
}

/// Leaves in and between all ranges; what is offered may not promise what is not there.
pub fn cpuid_everything(_: &World) -> Result<(), String> {
    for base in [0u32, 0x4000_0000, 0x8000_0000, 0xc000_0000, u32::MAX - 64] {
        for (leaf, subleaf) in (0..64).flat_map(|leaf| [0, 1, 2, 63, u32::MAX].map(|subleaf| (base + leaf, subleaf))) {
            core::hint::black_box(instructions::cpuid(leaf, subleaf));
        }
    }
    let features = instructions::cpuid(1, 0).ecx;
    require!(features & 3 << 5 == 0, "VMX or SMX is offered: {features:#x}");
    Ok(())
}

fn try_wrmsr(index: u32, value: u64) -> Result<(), Abort> {
    attempt!("wrmsr"; in("ecx") index, in("eax") value as u32, in("edx") (value >> 32) as u32,)
}

/// Reads everywhere; rubbish into what is not the program's own.
pub fn msr_everything(_: &World) -> Result<(), String> {
    let starts = [0u32, 0x100, 0x170, 0x200, 0x400, 0x480, 0x560, 0x600, 0x6c0, 0x700, 0x900, 0xd80, 0x1f00];
    let high = [0x2000, 0x4000_0000, 0x4b56_4d00, 0xc000_0000, 0xc000_0080, 0xc000_0100, 0xc001_0000, 0xffff_ff00];
    for index in starts.into_iter().chain(high).flat_map(|start| start..=start + 0xff) {
        let _ = attempt!("rdmsr"; in("ecx") index, out("eax") _, out("edx") _,);
    }
    // VMX, feature control, SMM, microcode, PMU, PT, debug store, MTRRs, machine check, power.
    let targets =
        [0x3au32, 0x79, 0x9b, 0xc1, 0x186, 0x1d9, 0x200, 0x2ff, 0x38d, 0x38f, 0x400, 0x480, 0x570, 0x600, 0x770];
    for index in targets {
        for value in [0, 1, u64::MAX, 0x5555_5555_5555_5555] {
            let _ = try_wrmsr(index, value);
        }
    }
    let base = instructions::rdmsr(apic::BASE);
    for value in [0, base & !apic::X2APIC, base & !(1 << 10), base ^ 0x1000, u64::MAX] {
        require!(try_wrmsr(apic::BASE, value).is_err(), "IA32_APIC_BASE takes {value:#x}");
    }
    timer_still_works()
}

macro_rules! flip {
    ($register:literal, $kept:expr) => {{
        let before: u64;
        // SAFETY: reads a register.
        unsafe {
            core::arch::asm!(concat!("mov {0}, ", $register), out(reg) before, options(nomem, nostack, preserves_flags))
        };
        for bit in (0..64).filter(|bit| !$kept.contains(bit)) {
            let _ = attempt!(concat!("mov ", $register, ", {v}"); v = in(reg) before ^ 1 << bit,);
            let back = attempt!(concat!("mov ", $register, ", {v}"); v = in(reg) before,);
            require!(back.is_ok(), "{} cannot be put back after bit {bit}: {back:x?}", $register);
        }
    }};
}

/// Every bit that the program does not live on, flipped and put back; XCR0 and EFER.
pub fn control_registers(_: &World) -> Result<(), String> {
    // PE, PG; PAE, LA57, SMEP, SMAP.
    flip!("cr0", [0, 31]);
    flip!("cr4", [5, 12, 20, 21]);
    for value in [0u64, 2, 1 << 9 | 7, 1 << 17 | 7, u64::MAX, 1 << 63] {
        let found = attempt!("xsetbv"; in("ecx") 0u32, in("eax") value as u32, in("edx") (value >> 32) as u32,);
        require!(found.is_err(), "XCR0 takes {value:#x}");
    }
    const EFER: u32 = 0xc000_0080;
    let efer = instructions::rdmsr(EFER);
    for bit in (0..64).filter(|bit| ![8, 10].contains(bit)) {
        let _ = try_wrmsr(EFER, efer ^ 1 << bit);
        let _ = try_wrmsr(EFER, efer);
    }
    timer_still_works()
}

pub fn debug_registers(_: &World) -> Result<(), String> {
    // Breakpoints everywhere but where the program is, then off again.
    let _ = attempt!("mov dr0, {v}"; v = in(reg) 0x20_0000u64,);
    let _ = attempt!("mov dr6, {v}"; v = in(reg) u64::MAX,);
    let _ = attempt!("mov dr7, {v}"; v = in(reg) u64::MAX,);
    let _ = attempt!("mov dr7, {v}"; v = in(reg) 0x2400u64,);
    let _ = attempt!("mov {v}, dr0"; v = out(reg) _,);
    let _ = attempt!("mov dr7, {v}"; v = in(reg) 0x400u64,);
    let _ = attempt!("mov dr0, {v}"; v = in(reg) 0u64,);
    let _ = attempt!("mov dr6, {v}"; v = in(reg) 0xffff_0ff0u64,);
    // BTF, LBR and the like.
    for value in [1, 2, 1 << 14, u64::MAX, 0] {
        let _ = try_wrmsr(0x1d9, value);
    }
    timer_still_works()
}

/// A debug exception right behind MOV SS or STI while single-stepping: what a hypervisor that hands it on must set straight
/// (Linux commit b9bed78e2fa9), or the next entry fails. User programs can do the first.
pub fn debug_in_shadow(_: &World) -> Result<(), String> {
    let behind_mov_ss = attempt!(
        "pushfq", "or qword ptr [rsp], 0x100", "mov {s:e}, ss", "popfq", "mov ss, {s:e}", ".byte 0xf1"; s = out(reg) _,
    );
    let behind_sti = attempt!("cli", "pushfq", "or qword ptr [rsp], 0x100", "popfq", "sti", ".byte 0xf1";);
    for (name, found) in [("MOV SS", behind_mov_ss), ("STI", behind_sti)] {
        require!(found.err().is_some_and(|abort| abort.vector() == 1), "INT1 behind {name}: {found:x?}");
    }
    timer_still_works()
}

/// Says how many interrupts have come right behind an STI since there were `before`. With more than one CPU Bochs lets them in
/// (docs/caveats.md), so it is for who starts the machine to judge.
fn tell_early(before: usize) {
    match exception::early() - before {
        0 => {}
        early => say!("guest: {early} interrupts came right behind STI"),
    }
}

/// An exit behind STI, for a page that is not there yet, while an interrupt waits: it comes after that instruction.
pub fn interrupt_in_shadow(world: &World) -> Result<(), String> {
    let early = exception::early();
    for _ in 0..4 {
        let page = world.pages(1, abi::BLOCK_SIZE);
        let before = percpu::this().counted(timer::INTID);
        instructions::mask_interrupts();
        timer::fire_at(timer::now());
        let access: u64;
        // SAFETY: only computes the address of the label below.
        unsafe {
            asm!("lea {}, [rip + payload_behind_sti]", out(reg) access, options(nomem, nostack, preserves_flags))
        };
        exception::watch(access);
        behind_sti(page);
        exception::watch(0);
        require!(percpu::this().counted(timer::INTID) == before + 1, "the timer's interrupt does not come");
    }
    tell_early(early);
    timer_still_works()
}

/// Lets interrupts in behind a write to `page`.
#[unsafe(naked)]
extern "C" fn behind_sti(page: u64) {
    naked_asm!("sti", "payload_behind_sti: mov qword ptr [rdi], 1", "nop", "ret")
}

pub fn cache_instructions(world: &World) -> Result<(), String> {
    let page = world.page();
    (0..512).for_each(|n| crate::world::write(page + n * 8, n ^ 0x77));
    for _ in 0..20 {
        let _ = attempt!("wbinvd";);
        let _ = attempt!("invd";);
        let _ = attempt!("clflush [{p}]"; p = in(reg) page,);
        let _ = attempt!("invlpg [{p}]"; p = in(reg) page,);
        let _ = attempt!("mov {t}, cr3", "mov cr3, {t}"; t = out(reg) _,);
    }
    for n in 0..512 {
        crate::expect!("content", crate::world::read(page + n * 8), n ^ 0x77);
    }
    Ok(())
}

pub fn halt_storm(_: &World) -> Result<(), String> {
    let early = exception::early();
    for round in 0..300u64 {
        // Masked: an interrupt that comes before HLT still ends it.
        instructions::mask_interrupts();
        timer::fire_at(timer::now() + round * 8);
        instructions::wait_for_interrupt();
        instructions::unmask_interrupts();
        let _ = attempt!("pause";);
        let _ = attempt!("mwait"; in("eax") 0u32, in("ecx") 0u32,);
    }
    timer::stop();
    tell_early(early);
    timer_still_works()
}

/// Instructions that are undefined stay so, bytes that look like a call's beginning too.
pub fn undefined(_: &World) -> Result<(), String> {
    undefined_or_refused("UD2", attempt!("ud2";))?;
    undefined_or_refused("UD1", attempt!(".byte 0x0f, 0xb9, 0xc0";))?;
    undefined_or_refused("0F 01 CC", attempt!(".byte 0xf2, 0x0f, 0x01, 0xcc";))?;
    undefined_or_refused("LOCK UD2", attempt!(".byte 0xf0, 0x0f, 0x0b";))?;
    Ok(())
}
