//! The machine itself: privileged instructions, registers and messages between CPUs that could reach Postern.

mod acpi;
mod local_apic;

use crate::attacks::scene::{Scene, TOY_MEMORY, TOY_META, Toy};
use crate::attacks::{Attack, all_same, attack, status};
use crate::platform::{GICD_BASE, GICR_BASE};
use crate::{frames, remote, teardown};
use abi::host::{self, INVALID, NO_SUCH, NOT_SUPPORTED, OK, VmConfig};
use abi::run::exit;
use alloc::format;
use alloc::string::String;
use payloads::exception::Abort;
use payloads::{apic, attempt, cpu, exception, hostcall, hypercall, percpu, ring3, startup, timer};

pub const ATTACKS: &[Attack] = &[
    attack("unknown-host-calls", "calls that do not exist", &[NOT_SUPPORTED], unknown_calls),
    attack("host-call-from-ring-3", "a host call by a program of the host's", &[OK], call_from_ring_3),
    attack("vmx-instructions", "all VMX instructions", &[OK], vmx_instructions),
    attack("vmx-on", "VMX switched on in CR4", &[OK], vmx_on),
    attack("vmx-registers", "VMX capability registers and IA32_FEATURE_CONTROL", &[OK], vmx_registers),
    attack("apic-base", "the local APIC moved, and switched to modes that do not follow", &[OK], local_apic::base),
    attack("apic-modes", "the local APIC off and through its modes", &[OK], local_apic::modes),
    attack("apic-page", "the local APIC's page: odd accesses and every command", &[OK], local_apic::page),
    attack("control-registers", "reserved and fixed bits of CR0 and CR4, XCR0 and EFER", &[OK], control_registers),
    attack("cpuid-everything", "every CPUID leaf in sight", &[OK], cpuid_everything),
    attack("registers-everywhere", "reads of model-specific registers in and out of every range", &[OK], msr_reads),
    attack("startup-messages", "start-up messages to running and absent CPUs", &[OK], startup_messages),
    attack("init-and-startup", "a CPU reset and started again and again", &[OK], init_and_startup),
    attack("startup-in-private", "a CPU started in a guest's page", &[OK], startup_in_private),
    attack("command-garbage", "rubbish in the interrupt command register", &[OK], command_garbage),
    attack("irq-exceptions", "exceptions sent to a guest as device interrupts", &[INVALID], irq_exceptions),
    attack("irq-no-such-vcpu", "a device interrupt for a vCPU that is not there", &[INVALID, NO_SUCH], irq_no_vcpu),
    attack("nmi-to-all", "non-maskable interrupts to every CPU", &[OK], nmi_to_all),
    attack("debug-exceptions", "breakpoints by address and INT1, which Postern sees first", &[OK], debug_exceptions),
    attack("init-storm", "thousands of INIT and start-up messages of every kind", &[OK], init_storm),
    attack(
        "registers-ignored",
        "registers whose writes are ignored, and ones that are hidden",
        &[OK],
        ignored_registers,
    ),
    attack("reset-by-port", "resets by port while there is a guest, and firmware's DMA", &[OK], reset_by_port),
    attack("suspend-by-acpi", "the machine suspended, by every type of sleep but off", &[OK], acpi::suspend),
    attack("reset-by-acpi", "the reset that ACPI's tables name, while there is a guest", &[OK], acpi::reset),
    attack("run-page-vmcs", "a run page that looks like a VMCS", &[OK], vmcs_in_run_page),
    attack("metadata-vmcs", "metadata that looks like a VMCS when it is given", &[OK], vmcs_in_metadata),
];

/// Interrupt controllers that no guest can have: there is none at an address on x86-64.
pub const BAD_CONTROLLERS: &[fn(&mut VmConfig)] = &[
    |config| config.gicd_base = 1,
    |config| config.gicr_base = 1,
    |config| config.gicd_base = 0xfec0_0000,
    |config| config.gicr_base = u64::MAX,
];

/// Attacks that end the machine: each runs only when it is named, and alone.
pub const LAST: &[Attack] = &[
    attack("triple-fault", "a host that shuts down, which Postern answers by switching off", &[], triple_fault),
    attack("off-by-acpi", "the machine switched off as ACPI has it, which Postern does", &[], acpi::off),
];

fn unknown_calls(scene: &mut Scene) -> Result<i64, String> {
    let numbers = [host::BASE - 1, host::END, 0, 1, u64::MAX, 1 << 63, host::VERSION | 1 << 32];
    all_same(numbers.map(|number| hypercall::call(number, [scene.private; 6]).0 as i64))
}

fn call_from_ring_3(_: &mut Scene) -> Result<i64, String> {
    match ring3::attempt(ring3::Act::Vmcall) {
        Err(abort) if abort.is_undefined() => Ok(OK),
        other => Err(format!("{other:x?}")),
    }
}

fn undefined(name: &str, found: Result<(), Abort>) -> Result<(), String> {
    match found {
        Err(abort) if abort.is_undefined() => Ok(()),
        other => Err(format!("{name} gives {other:x?}")),
    }
}

/// How often a model-specific register may be refused: always, with a general-protection exception.
fn refused(name: &str, found: Result<(), Abort>) -> Result<(), String> {
    match found {
        Err(abort) if abort.is_protection() => Ok(()),
        other => Err(format!("{name} gives {other:x?}")),
    }
}

fn vmx_instructions(scene: &mut Scene) -> Result<i64, String> {
    let mut operand = [scene.postern, scene.private];
    let p = &raw mut operand;
    undefined("VMXOFF", attempt!("vmxoff";))?;
    undefined("VMXON", attempt!("vmxon [{p}]"; p = in(reg) p,))?;
    undefined("VMCLEAR", attempt!("vmclear [{p}]"; p = in(reg) p,))?;
    undefined("VMPTRLD", attempt!("vmptrld [{p}]"; p = in(reg) p,))?;
    undefined("VMPTRST", attempt!("vmptrst [{p}]"; p = in(reg) p,))?;
    undefined("VMREAD", attempt!("vmread {a}, {b}"; a = out(reg) _, b = in(reg) 0x681eu64,))?;
    undefined("VMWRITE", attempt!("vmwrite {b}, {a}"; a = in(reg) 0u64, b = in(reg) 0x681eu64,))?;
    undefined("VMLAUNCH", attempt!("vmlaunch";))?;
    undefined("VMRESUME", attempt!("vmresume";))?;
    undefined("INVEPT", attempt!("invept {t}, [{p}]"; t = in(reg) 2u64, p = in(reg) p,))?;
    undefined("INVVPID", attempt!("invvpid {t}, [{p}]"; t = in(reg) 2u64, p = in(reg) p,))?;
    undefined("VMFUNC", attempt!("vmfunc"; inout("eax") 0u32 => _, in("ecx") 0u32,))?;
    // TDCALL, SEAMCALL, SEAMRET, SEAMOPS.
    undefined("TDCALL", attempt!(".byte 0x66, 0x0f, 0x01, 0xcc"; inout("rax") 1u64 => _,))?;
    undefined("SEAMCALL", attempt!(".byte 0x66, 0x0f, 0x01, 0xcf"; inout("rax") 1u64 => _,))?;
    undefined("SEAMRET", attempt!(".byte 0x66, 0x0f, 0x01, 0xcd"; inout("rax") 1u64 => _,))?;
    undefined("SEAMOPS", attempt!(".byte 0x66, 0x0f, 0x01, 0xce"; inout("rax") 1u64 => _,))?;
    Ok(OK)
}

fn cr4() -> u64 {
    let value: u64;
    // SAFETY: reads a register.
    unsafe { core::arch::asm!("mov {0}, cr4", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

fn vmx_on(_: &mut Scene) -> Result<i64, String> {
    const VMXE: u64 = 1 << 13;
    let before = cr4();
    let found = attempt!("mov cr4, {v}"; v = in(reg) before | VMXE,);
    refused("CR4.VMXE", found)?;
    if cr4() != before { Err(format!("CR4 is {:#x}, it was {before:#x}", cr4())) } else { Ok(OK) }
}

fn try_rdmsr(index: u32) -> Result<u64, Abort> {
    let (mut low, mut high) = (0u32, 0u32);
    attempt!("rdmsr"; in("ecx") index, inout("eax") low, inout("edx") high,)?;
    Ok(u64::from(high) << 32 | u64::from(low))
}

fn try_wrmsr(index: u32, value: u64) -> Result<(), Abort> {
    attempt!("wrmsr"; in("ecx") index, in("eax") value as u32, in("edx") (value >> 32) as u32,)
}

fn vmx_registers(_: &mut Scene) -> Result<i64, String> {
    const FEATURE_CONTROL: u32 = 0x3a;
    for index in 0x480..=0x493 {
        refused("a VMX capability register", try_rdmsr(index).map(drop))?;
        refused("a VMX capability register", try_wrmsr(index, u64::MAX))?;
    }
    let control = try_rdmsr(FEATURE_CONTROL);
    if !control.is_ok_and(|value| value & 7 == 1) {
        return Err(format!("IA32_FEATURE_CONTROL gives {control:x?}"));
    }
    refused("a write to IA32_FEATURE_CONTROL", try_wrmsr(FEATURE_CONTROL, 7))?;
    Ok(OK)
}

/// Every single bit flipped, one at a time: it takes or raises #GP, and is put back.
fn control_registers(_: &mut Scene) -> Result<i64, String> {
    let (cr0, cr4): (u64, u64) = (read_cr0(), cr4());
    // Protection, paging and what the code lives on are left alone: PE, PG; PAE, LA57, SMEP, SMAP.
    for bit in (0..64).filter(|bit| ![0, 31].contains(bit)) {
        let _ = attempt!("mov cr0, {v}"; v = in(reg) cr0 ^ 1 << bit,);
        let _ = attempt!("mov cr0, {v}"; v = in(reg) cr0,);
    }
    for bit in (0..64).filter(|bit| ![5, 12, 20, 21].contains(bit)) {
        let _ = attempt!("mov cr4, {v}"; v = in(reg) cr4 ^ 1 << bit,);
        let _ = attempt!("mov cr4, {v}"; v = in(reg) cr4,);
    }
    if (read_cr0(), self::cr4()) != (cr0, cr4) {
        return Err(format!("CR0 {:#x}, CR4 {:#x}: they were {cr0:#x}, {cr4:#x}", read_cr0(), self::cr4()));
    }
    for value in [0u64, 2, u64::MAX, 1 << 63, 1 << 17] {
        let found = attempt!("xsetbv"; in("ecx") 0u32, in("eax") value as u32, in("edx") (value >> 32) as u32,);
        if found.is_ok() {
            return Err(format!("XCR0 takes {value:#x}"));
        }
    }
    let _ = attempt!("xsetbv"; in("ecx") 1u32, in("eax") 1u32, in("edx") 0u32,);
    const EFER: u32 = 0xc000_0080;
    let efer = cpu::rdmsr(EFER);
    for bit in (0..64).filter(|bit| ![8, 10].contains(bit)) {
        let _ = try_wrmsr(EFER, efer ^ 1 << bit);
        let _ = try_wrmsr(EFER, efer);
    }
    if cpu::rdmsr(EFER) == efer { Ok(OK) } else { Err(format!("EFER is {:#x}", cpu::rdmsr(EFER))) }
}

fn read_cr0() -> u64 {
    let value: u64;
    // SAFETY: reads a register.
    unsafe { core::arch::asm!("mov {0}, cr0", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

fn cpuid_everything(_: &mut Scene) -> Result<i64, String> {
    const VMX: u32 = 1 << 5;
    const SMX: u32 = 1 << 6;
    for base in [0u32, 0x4000_0000, 0x8000_0000, 0xc000_0000, u32::MAX - 40] {
        for (leaf, subleaf) in (0..40).flat_map(|leaf| (0..4).map(move |subleaf| (base + leaf, subleaf))) {
            core::hint::black_box(cpu::cpuid(leaf, subleaf));
        }
    }
    let features = cpu::cpuid(1, 0).ecx;
    if features & (VMX | SMX) != 0 { Err(format!("VMX or SMX is offered: {features:#x}")) } else { Ok(OK) }
}

/// Any answer is right as long as there is one.
fn msr_reads(_: &mut Scene) -> Result<i64, String> {
    let near =
        [0u32, 0x1000, 0x1fff, 0x2000, 0x4000_0000, 0x4000_00f0, 0xbfff_ff00, 0xc000_0000, 0xc000_1000, 0xc000_2000];
    for index in near.into_iter().flat_map(|start| start..start + 0x100).chain([u32::MAX]) {
        core::hint::black_box(try_rdmsr(index).is_ok());
    }
    for index in [0x4000_0000, 0xbfff_ffff, 0xc000_2000, 0x2000, u32::MAX] {
        refused("a register that does not exist", try_wrmsr(index, 0))?;
    }
    Ok(OK)
}

/// Whether all CPUs still do what they are told.
fn all_alive() -> Result<(), String> {
    for index in 1..remote::cpus() {
        remote::run_on(index, || ());
        remote::wait_for(index, 2000).map_err(|()| format!("CPU {index} does not answer any more"))?;
    }
    Ok(())
}

fn startup_messages(_: &mut Scene) -> Result<i64, String> {
    for round in 0..200u64 {
        for index in 0..remote::cpus() {
            apic::send(apic::command::STARTUP | round & 0xff, percpu::affinity(index));
        }
        // In xAPIC mode a destination has 8 bits.
        for target in [0x77, 0xfe, 0xff_ff00, 0x7fff_ffff].into_iter().filter(|id| !apic::is_mapped() || *id < 0xff) {
            apic::send(apic::command::STARTUP | round & 0xff, target);
            apic::send(apic::command::INIT, target);
        }
    }
    all_alive().map(|()| OK)
}

/// The last CPU, if there is more than one.
fn last() -> Option<usize> {
    Some(remote::cpus() - 1).filter(|last| *last != 0)
}

fn init_and_startup(_: &mut Scene) -> Result<i64, String> {
    let Some(last) = last() else { return Ok(OK) };
    for _ in 0..10 {
        remote::park_one();
        apic::send(apic::command::INIT, percpu::affinity(last));
        apic::send(apic::command::INIT, percpu::affinity(last));
        timer::delay(1);
        payloads::forget_cpu(last);
        remote::unpark()?;
    }
    all_alive().map(|()| OK)
}

/// A start in low memory that is a guest's: the CPU has to fault there and harm nobody; it can be reset afterwards.
fn startup_in_private(scene: &mut Scene) -> Result<i64, String> {
    let Some(last) = last() else { return Ok(OK) };
    let mut toy = scene.toy()?;
    // A page of the firmware's area that nobody uses: the one that start-up code has is as good as any.
    let page = startup::PAGE + abi::FRAME_SIZE;
    let given = toy.donate(page, 0);
    if given != OK {
        return Err(format!("VM_DONATE of a low page answers {given}"));
    }
    remote::park_one();
    apic::send(apic::command::INIT, percpu::affinity(last));
    timer::delay(1);
    apic::send(apic::command::STARTUP | page >> 12, percpu::affinity(last));
    timer::delay(5);
    apic::send(apic::command::INIT, percpu::affinity(last));
    timer::delay(1);
    payloads::forget_cpu(last);
    remote::unpark()?;
    toy.destroy()?;
    all_alive().map(|()| OK)
}

/// Every reserved bit and delivery mode, to targets that are not there; those that could reach somebody are in the other
/// attacks.
fn command_garbage(_: &mut Scene) -> Result<i64, String> {
    for bit in 0..32u32 {
        let _ = try_wrmsr(apic::register::COMMAND, 0x77 << 32 | 1 << bit & !(3 << 18) | 0x40);
        let _ = try_wrmsr(apic::register::COMMAND, 0x77 << 32 | 3 << 8 | 1 << bit & !(3 << 18) | 0x40);
    }
    for index in [0x802u32, 0x803, 0x80a, 0x80d, 0x831, 0x83f, 0x8ff] {
        let _ = try_wrmsr(index, u64::MAX);
    }
    payloads::interrupt::init_cpu();
    all_alive().map(|()| OK)
}

fn irq_exceptions(scene: &mut Scene) -> Result<i64, String> {
    all_same((0..32).map(|vector| status(hostcall::vm_irq(scene.victim.handle, vector, true))))
}

fn irq_no_vcpu(scene: &mut Scene) -> Result<i64, String> {
    let intids = [1u32 << 8, 7 << 8, 8 << 8, 0xff << 8, 0x100 << 8, 0xff_ffff << 8];
    all_same(intids.map(|intid| status(hostcall::vm_irq(scene.victim.handle, intid | 0x40, true))))
}

fn nmi_to_all(scene: &mut Scene) -> Result<i64, String> {
    let _ = scene;
    let counted =
        || (0..remote::cpus()).map(|index| percpu::of(index).counted(exception::vector::NMI as u32)).sum::<u32>();
    let before = counted();
    for _ in 0..100 {
        (0..remote::cpus()).for_each(|index| apic::send(apic::command::NMI, percpu::affinity(index)));
    }
    timer::delay(2);
    all_alive()?;
    if counted() == before { Err(String::from("not one arrived")) } else { Ok(OK) }
}

/// A breakpoint by address, and INT1: Postern sees both before the host does.
fn debug_exceptions(_: &mut Scene) -> Result<i64, String> {
    let debug = |found: Result<(), Abort>| found.err().map(|abort| abort.vector());
    let status = || {
        let value: u64;
        // SAFETY: reads a register.
        unsafe { core::arch::asm!("mov {0}, dr6", out(reg) value, options(nomem, nostack, preserves_flags)) };
        value
    };
    for round in 0..50 {
        let found = debug(attempt!(
            "lea {a}, [rip + 77f]", "mov dr0, {a}", "mov {a:e}, 0x401", "mov dr7, {a}", "77:", "nop";
            a = out(reg) _,
        ));
        let cause = status();
        let _ = attempt!("mov dr7, {a}", "mov dr6, {b}"; a = in(reg) 0x400u64, b = in(reg) 0xffff_0ff0u64,);
        if found != Some(1) || cause & 0xf != 1 {
            return Err(format!("round {round}: a breakpoint gives {found:?}, DR6 {cause:#x}"));
        }
        let found = debug(attempt!(".byte 0xf1";));
        if found != Some(1) {
            return Err(format!("round {round}: INT1 gives {found:?}"));
        }
    }
    Ok(OK)
}

/// Both CPUs' worth of INIT and start-up messages with any vector and any way to say whom, thousands of them.
fn init_storm(_: &mut Scene) -> Result<i64, String> {
    let Some(last) = last() else { return Ok(OK) };
    let others = 3u64 << 18;
    remote::park_one();
    let mut state = 88_172_645_463_325_252u64;
    for _ in 0..3000 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        // Pages in the first 64 KiB, all zeroes or firmware's: whatever runs there faults or spins.
        let page = state >> 8 & 7;
        let id = percpu::affinity(last);
        match state & 7 {
            0 => apic::send(apic::command::INIT | others, 0),
            1 => apic::send(apic::command::STARTUP | others | 0x90 | page, 0),
            2 => apic::send(apic::command::STARTUP | 0x90 | page, id),
            3 => apic::send(apic::command::INIT | 1 << 11, id >> 4 << 16 | 1 << (id & 15)),
            4 => apic::send(apic::command::NMI, id),
            _ => apic::send(apic::command::INIT, id),
        }
    }
    apic::send(apic::command::INIT, percpu::affinity(last));
    timer::delay(2);
    payloads::forget_cpu(last);
    remote::unpark()?;
    all_alive().map(|()| OK)
}

/// Writes that real machines take, and that would let the host change Postern's time or memory types.
fn ignored_registers(_: &mut Scene) -> Result<i64, String> {
    let before = cpu::rdmsr(0x10);
    for index in [0x10u32, 0x3b, 0x79, 0x1a0, 0x2ff, 0x200, 0x26f] {
        try_wrmsr(index, 0x1234).map_err(|abort| format!("{index:#x}: {abort}"))?;
    }
    for (index, value) in [(0x570u32, 1u64), (0x560, 0x1000), (0x17d0, 0x1000), (0x3f1, 1), (0x600, 0), (0x3a, 5)] {
        refused("a register", try_wrmsr(index, value))?;
    }
    if cpu::rdmsr(0x10) < before { Err(String::from("the TSC went back")) } else { Ok(OK) }
}

/// The PC's ways to reset CPUs and keep memory: whoever is alive afterwards has seen none of them work.
fn reset_by_port(_: &mut Scene) -> Result<i64, String> {
    cpu::outb(0x64, 0xfe);
    cpu::outb(0x64, 0xf0);
    cpu::outb(0x92, cpu::inb(0x92) | 1);
    cpu::outw(0x91, 0x0300);
    cpu::outb(0xcf9, 2);
    cpu::outb(0xcf9, 6);
    cpu::outw(0xcf8, 0x0e00);
    cpu::outl(0x514, 0);
    cpu::outl(0x518, 0);
    let dma = cpu::inl(0x514);
    // PCI's configuration address shares a port with a reset, and works.
    cpu::outl(0xcf8, 0x8000_0000);
    let (address, bridge) = (cpu::inl(0xcf8), cpu::inl(0xcfc));
    if (dma, address) == (u32::MAX, 0x8000_0000) && bridge != u32::MAX {
        return Ok(OK);
    }
    Err(format!("port 0x514 reads {dma:#x}, 0xcf8 {address:#x}, the register there {bridge:#x}"))
}

/// A page that a CPU would take for a VMCS: the revision, and fields full of what would matter most if it were one.
fn fill_like_vmcs(page: u64, postern: u64) {
    // Revisions of real and emulated CPUs: Bochs, KVM, Intel's from Nehalem on.
    const REVISIONS: [u64; 5] = [0x2b, 0x11e5_7ed0, 4, 0xe, 0x12];
    for word in 0..abi::FRAME_SIZE / 8 {
        let value = match word {
            0 => REVISIONS[(page >> 12) as usize % REVISIONS.len()],
            _ if word % 3 == 0 => postern,
            _ if word % 3 == 1 => u64::MAX,
            _ => 0x681e_0000_681e ^ word << 48,
        };
        frames::write(page + word * 8, value);
    }
}

/// The victim runs on, its run page rewritten before each run.
fn vmcs_in_run_page(scene: &mut Scene) -> Result<i64, String> {
    let page = scene.run_page;
    let statuses = (0..50).map(|_| {
        fill_like_vmcs(page, scene.postern);
        timer::fire_at(timer::now() + timer::ticks(1));
        let reply = hostcall::vcpu_run(scene.victim.handle, 0);
        remote::service_interrupts();
        reply.status
    });
    let found = all_same(statuses);
    timer::stop();
    (0..abi::FRAME_SIZE / 8).for_each(|word| frames::write(page + word * 8, 0));
    found
}

/// The frames become VMCS, tables and register pages of a guest: what the host has left in them may not count.
fn vmcs_in_metadata(scene: &mut Scene) -> Result<i64, String> {
    let mut spare = scene.toy()?;
    let pages = [spare.frame()?, spare.frame()?, spare.frame()?];
    let meta = frames::contiguous(TOY_META).ok_or("out of memory")?;
    (0..TOY_META).for_each(|n| fill_like_vmcs(meta + n * abi::FRAME_SIZE, scene.postern));
    let config = [scene.dialect, 2, Toy::RAM, TOY_MEMORY, GICD_BASE, GICR_BASE];
    (0..).step_by(8).zip(config).for_each(|(at, word)| frames::write(pages[2] + at, word));
    let step = host::FRAMES_PER_CALL;
    let handle = hostcall::vm_create(pages[2], meta, step).map_err(|status| format!("VM_CREATE answers {status}"))?;
    for n in (step..TOY_META).step_by(step as usize) {
        hostcall::vm_donate_meta(handle, meta + n * abi::FRAME_SIZE, step)
            .map_err(|status| format!("VM_DONATE_META answers {status}"))?;
    }
    let ran = run_empty(handle, [pages[0], pages[1]]);
    teardown::destroy(handle)?;
    for frame in (meta..).step_by(abi::FRAME_SIZE as usize).take(TOY_META as usize) {
        teardown::check_returned(frame)?;
    }
    frames::free_contiguous(meta, TOY_META);
    ran.map(|()| OK)
}

/// Runs both vCPUs of a VM that has no memory at all: the first instruction is asked for.
fn run_empty(handle: u64, run_pages: [u64; 2]) -> Result<(), String> {
    for (index, page) in (0..).zip(run_pages) {
        let status = hostcall::vcpu_create(handle, index, page);
        if status != OK {
            return Err(format!("VCPU_CREATE answers {status}"));
        }
    }
    let sealed = hostcall::vm_seal(handle, Toy::RAM, 0);
    if sealed != OK {
        return Err(format!("VM_SEAL answers {sealed}"));
    }
    for index in [0, 1, 0, 1] {
        let reply = hostcall::vcpu_run(handle, index);
        remote::service_interrupts();
        if reply.status != OK || ![exit::MEMORY_FAULT, exit::INTERRUPT].contains(&reply.values[0]) {
            return Err(format!("a run of vCPU {index} answers {} {}", reply.status, reply.values[0]));
        }
    }
    Ok(())
}

/// Not survived; Postern's log has the last word.
fn triple_fault(_: &mut Scene) -> Result<i64, String> {
    payloads::doom::triple_fault()
}
