//! The host's VM: it runs on every CPU, starts and stops CPUs, and comes here when it does what it may not do alone.

use super::exits::{self, Io, ept_violation};
use super::host_policy::{self, Cpuid, MsrRead, MsrWrite, XAPIC_DISABLE};
use super::host_ports::{self, Out};
use super::inject::{Collision, Deliver, Event, VALID, Waiting, blocking, choose, collide, vector};
use super::percpu::{self, PerCpu};
use super::vectors::{self, Entered, Gprs, number};
use super::vmx::{self, field, primary, reason};
use super::{host_apic, host_vmcs, icr, power, section, timer, tlb, xapic};
use crate::{HostFault, PortAccess, kernel};
use core::arch::asm;
use core::arch::x86_64::__cpuid_count;
use core::sync::atomic::{AtomicU64, Ordering};
use guestmem::Space;

/// CPUID leaf 7, register EDX: IA32_ARCH_CAPABILITIES exists.
const HAS_CAPABILITIES: u32 = 1 << 29;
/// Interruption information and the qualification of an EPT violation: an IRET that faulted had unblocked NMIs.
const BY_IRET: u64 = 1 << 12;

/// What the host did and was refused, since boot.
static REFUSALS: AtomicU64 = AtomicU64::new(0);
/// As many of them are named in the log; the rest are counted.
const NAMED: u64 = 64;

/// What becomes of an exit.
enum Outcome {
    /// The host goes on where it is.
    Resume,
    /// It gets this.
    Fault(Event),
}

/// Runs the host's kernel on the boot CPU.
pub fn run(entry: u64, argument: u64) -> ! {
    host_vmcs::init();
    // SAFETY: nothing uses this CPU's own stack yet, and boot never comes back to the one it ran on.
    unsafe { vectors::switch_stack(entry, argument, percpu::this().stack.get(), run_kernel) }
}

extern "C" fn run_kernel(entry: u64, argument: u64) -> ! {
    let cpu = percpu::this();
    cpu.sipi.store(icr::RUNS, Ordering::SeqCst);
    vmx::load(cpu.host_vmcs.get());
    let gprs = host_vmcs::start_kernel(entry, argument);
    serve(cpu, gprs);
    park()
}

/// Waits for the host to start this CPU, runs it there, and waits again when it gets an INIT.
pub fn park() -> ! {
    let cpu = percpu::this();
    loop {
        let page = wait(cpu);
        // Not launched: the next entry is a VMLAUNCH.
        vmx::clear(cpu.host_vmcs.get());
        vmx::load(cpu.host_vmcs.get());
        let gprs = host_vmcs::start_real_mode(page);
        serve(cpu, gprs);
        host_apic::reset(cpu);
    }
}

/// Sleeps until a start-up IPI has come, and takes it: its vector.
fn wait(cpu: &PerCpu) -> u8 {
    loop {
        let word = cpu.sipi.load(Ordering::SeqCst);
        if let Some(page) = icr::vector(word)
            && cpu.sipi.compare_exchange(word, icr::RUNS, Ordering::SeqCst, Ordering::SeqCst).is_ok()
        {
            // NMIs to a CPU that waits are lost, as INIT would have lost them.
            cpu.host_nmi.store(false, Ordering::SeqCst);
            return page;
        }
        vectors::sleep(&cpu.sipi, icr::STARTUP);
    }
}

/// Makes this CPU's host VMCS the current one again.
pub fn restore() {
    vmx::load(percpu::this().host_vmcs.get());
}

/// Keeps an NMI for the host on this CPU.
pub fn pend_nmi(cpu: &PerCpu) {
    cpu.host_nmi.store(true, Ordering::SeqCst);
}

/// Whether the host's own CPU has something to look at: an NMI, or the end of its run.
pub fn is_wanted() -> bool {
    let cpu = percpu::this();
    cpu.host_nmi.load(Ordering::SeqCst) || cpu.sipi.load(Ordering::SeqCst) & icr::INIT != 0
}

/// A guest has left for an NMI; the host gets the CPU in any case, so always true.
pub fn nmi_exit() -> bool {
    tlb::nmi_arrived();
    power::stop_if_off();
    true
}

/// Runs the host with the current VMCS until this CPU is sent an INIT.
fn serve(cpu: &PerCpu, mut gprs: Gprs) {
    let mut launched = false;
    let mut cause = u64::MAX;
    section::begin();
    while cpu.sipi.load(Ordering::SeqCst) & icr::INIT == 0 {
        deliver_nmi(cpu);
        section::end(timer::now(), cause);
        // SAFETY: whatever is not in the VMCS is the host's own on this CPU, or was put back before `restore`.
        let entered = unsafe { vectors::enter(&mut gprs, launched, tlb::index(Space::Host)) };
        section::begin();
        match entered {
            Entered::Exit => {
                launched = true;
                let reason = vmx::read(field::EXIT_REASON) as u32;
                // For the record of long sections: a call by its number, everything else by its reason.
                cause = if reason == reason::VMCALL { gprs.0[number::RAX] } else { u64::from(reason) };
                finish(cpu, exited(cpu, reason, &mut gprs));
            }
            Entered::Aborted => cause = u64::from(reason::EXCEPTION_OR_NMI),
            Entered::Failed => panic!("VM entry of the host: error {}", vmx::read(field::INSTRUCTION_ERROR)),
        }
    }
    cpu.sipi.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |word| Some(icr::waiting(word))).ok();
}

/// Delivers an NMI that the host has not had yet, or asks to be told when it can take it (SDM volume 3, "Virtual NMIs").
fn deliver_nmi(cpu: &PerCpu) {
    if !cpu.host_nmi.load(Ordering::SeqCst) {
        return;
    }
    let waiting = Waiting {
        queued: vmx::read(field::ENTRY_INTERRUPTION) as u32 & VALID != 0,
        nmi: true,
        interrupt: false,
        blocking: vmx::read(field::GUEST_INTERRUPTIBILITY),
        rflags: 0,
    };
    if choose(&waiting) == Deliver::Nmi {
        cpu.host_nmi.store(false, Ordering::SeqCst);
        vmx::deliver(&Event::NMI);
        vmx::modify(field::PRIMARY_CONTROLS, u64::from(primary::NMI_WINDOW), 0);
    } else {
        vmx::modify(field::PRIMARY_CONTROLS, 0, u64::from(primary::NMI_WINDOW));
    }
}

/// What was being delivered when the exit came goes on; or what came of it is delivered (SDM volume 3, "Information for VM
/// Exits That Occur During Event Delivery").
fn finish(cpu: &PerCpu, outcome: Outcome) {
    let information = vmx::read(field::IDT_VECTORING) as u32;
    if information & VALID == 0 {
        if let Outcome::Fault(event) = outcome {
            deliver(&event);
        }
        return;
    }
    let error = vmx::read(field::IDT_VECTORING_ERROR) as u32;
    let length = vmx::read(field::EXIT_INSTRUCTION_LENGTH) as u32;
    let Some(first) = Event::from_exit(information, error, length) else { return };
    if first == Event::NMI {
        // Its delivery has blocked others, and does so again.
        vmx::modify(field::GUEST_INTERRUPTIBILITY, blocking::NMI, 0);
    }
    let Outcome::Fault(second) = outcome else { return deliver(&first) };
    match collide(&first, &second) {
        Collision::DoubleFault => deliver(&fault(vector::DOUBLE_FAULT)),
        Collision::Shutdown => shutdown(),
        Collision::Keep if first == Event::NMI => {
            pend_nmi(cpu);
            deliver(&second);
        }
        // An interrupt whose handler cannot be reached is lost, as it is without Postern.
        Collision::Keep | Collision::Second => deliver(&second),
    }
}

/// Delivers an event at the next entry. It ends what STI, MOV SS and HLT had begun, and no state of the host's may make the
/// entry fail (SDM volume 3, "Checks on Guest Non-Register State").
fn deliver(event: &Event) {
    vmx::write(field::GUEST_ACTIVITY, 0);
    vmx::modify(field::GUEST_INTERRUPTIBILITY, blocking::STI | blocking::MOV_SS, 0);
    vmx::deliver(event);
}

fn fault(vector: u8) -> Event {
    Event::exception(vector, vmx::read(field::GUEST_CR0) & 1 != 0)
}

/// A fault that the host has earned, named in the log while there is room.
fn refuse(what: &str, value: u64, vector: u8) -> Outcome {
    refused(what, value);
    Outcome::Fault(fault(vector))
}

fn refused(what: &str, value: u64) {
    if REFUSALS.fetch_add(1, Ordering::Relaxed) < NAMED {
        log::debug!("host refused: {what} {value:#x}, RIP {:#x}", vmx::read(field::GUEST_RIP));
    }
}

fn done() -> Outcome {
    vmx::step_over();
    Outcome::Resume
}

fn exited(cpu: &PerCpu, reason: u32, gprs: &mut Gprs) -> Outcome {
    match reason {
        reason::EXCEPTION_OR_NMI => exception(),
        reason::TRIPLE_FAULT => shutdown(),
        // From a device: what reaches the hardware is no different from what a host CPU sends.
        reason::INIT => {
            host_apic::send_init(cpu);
            Outcome::Resume
        }
        // The host took an NMI, or can take one now: `deliver_nmi` sees.
        reason::NMI_WINDOW => {
            vmx::modify(field::PRIMARY_CONTROLS, u64::from(primary::NMI_WINDOW), 0);
            Outcome::Resume
        }
        // In 64-bit mode there are none; before, the host can do without.
        reason::TASK_SWITCH => refuse("task switch", 0, vector::GENERAL_PROTECTION),
        reason::CPUID => cpuid(gprs),
        reason::IO => port(gprs),
        // It would throw away what Postern and guests have written, and writing all of it back would take milliseconds. A host
        // that means to write back has WBINVD, which does not exit.
        reason::INVD => done(),
        reason::VMCALL => call(gprs),
        reason::CONTROL_REGISTER => control_register(gprs),
        reason::RDMSR => rdmsr(cpu, gprs),
        reason::WRMSR => wrmsr(cpu, gprs),
        reason::EPT_VIOLATION => violation(cpu, gprs),
        reason::XSETBV => xsetbv(gprs),
        reason::EPT_MISCONFIGURATION => {
            panic!("misconfigured table of the host at {:#x}", vmx::read(field::GUEST_PHYSICAL_ADDRESS))
        }
        reason if reason & reason::ENTRY_FAILED != 0 => entry_failed(reason),
        // VMX and SMX instructions, TDCALL and SEAMCALL: they do not exist here.
        _ => refuse("exit reason", u64::from(reason), vector::INVALID_OPCODE),
    }
}

fn entry_failed(reason: u32) -> ! {
    panic!(
        "VM entry of the host fails: reason {}, qualification {:#x}, RIP {:#x}, CR0 {:#x}, CR4 {:#x}, EFER {:#x}, \
         RFLAGS {:#x}, interruptibility {:#x}",
        reason & 0xffff,
        vmx::read(field::EXIT_QUALIFICATION),
        vmx::read(field::GUEST_RIP),
        vmx::read(field::GUEST_CR0),
        vmx::read(field::GUEST_CR4),
        vmx::read(field::GUEST_EFER),
        vmx::read(field::GUEST_RFLAGS),
        vmx::read(field::GUEST_INTERRUPTIBILITY),
    )
}

/// The host cannot go on. Off, not reset: whoever is booted next must not find the guests' memory as it was.
fn shutdown() -> ! {
    log::error!("the host has triple-faulted at {:#x}: switching off", vmx::read(field::GUEST_RIP));
    power::off()
}

fn exception() -> Outcome {
    let information = vmx::read(field::EXIT_INTERRUPTION);
    let error = vmx::read(field::EXIT_ERROR_CODE) as u32;
    let length = vmx::read(field::EXIT_INSTRUCTION_LENGTH) as u32;
    match Event::from_exit(information as u32, error, length) {
        None => Outcome::Resume,
        Some(event) if event == Event::NMI => {
            nmi_exit();
            Outcome::Resume
        }
        Some(event) => {
            block_nmis_again(information);
            if event.vector == vector::DEBUG {
                debug_exception();
            }
            Outcome::Fault(event)
        }
    }
}

/// An IRET that faults has ended the blocking of NMIs too early (SDM volume 3, "Information for VM Exits Due to Vectored
/// Events").
fn block_nmis_again(information: u64) {
    if information & BY_IRET != 0 && vmx::read(field::IDT_VECTORING) as u32 & VALID == 0 {
        vmx::modify(field::GUEST_INTERRUPTIBILITY, 0, blocking::NMI);
    }
}

/// Does for a debug exception what its delivery would have done but for the exit (SDM volume 3, "Architectural State Before
/// a VM Exit", "Debug Exceptions"): DR6, DR7.GD, and the bits of `IA32_DEBUGCTL` that it clears.
fn debug_exception() {
    let cause = vmx::read(field::EXIT_QUALIFICATION);
    // B0 to B3, BD, BS are set; BLD and RTM have the opposite sense.
    let (set, cleared) = (cause & 0x600f, cause & 0x1_0800);
    // SAFETY: DR6 only reports.
    unsafe {
        let mut status: u64;
        asm!("mov {}, dr6", out(reg) status, options(nostack, preserves_flags));
        status = (status & !0xf | set) & !cleared;
        asm!("mov dr6, {}", in(reg) status, options(nostack, preserves_flags));
    }
    vmx::modify(field::GUEST_DR7, 1 << 13, 0);
    vmx::modify(field::GUEST_DEBUGCTL, 0b11, 0);
}

fn cpuid(gprs: &mut Gprs) -> Outcome {
    let (leaf, subleaf) = (gprs.0[number::RAX] as u32, gprs.0[number::RCX] as u32);
    let native = __cpuid_count(leaf, subleaf);
    let native = Cpuid { eax: native.eax, ebx: native.ebx, ecx: native.ecx, edx: native.edx };
    let out = host_policy::cpuid(leaf, subleaf, native, vmx::read(field::GUEST_CR4));
    gprs.0[number::RAX] = u64::from(out.eax);
    gprs.0[number::RBX] = u64::from(out.ebx);
    gprs.0[number::RCX] = u64::from(out.ecx);
    gprs.0[number::RDX] = u64::from(out.edx);
    done()
}

/// An access to one of the ports of [`host_ports`].
fn port(gprs: &mut Gprs) -> Outcome {
    let qualification = vmx::read(field::EXIT_QUALIFICATION);
    let Io::Single(PortAccess { port, size, value }) = exits::io(qualification, gprs.0[number::RAX]) else {
        // Nobody has a reason to.
        return refuse("string access to a guarded port", qualification >> 16, vector::GENERAL_PROTECTION);
    };
    let Some(value) = value else {
        let found = if host_ports::is_hidden(port, size) { u32::MAX } else { power::read_port(port, size) };
        gprs.0[number::RAX] = exits::port_result(gprs.0[number::RAX], size, found.into());
        return done();
    };
    match host_ports::write(port, size, value, power::acpi()) {
        Out::Native => power::write_port(port, size, value),
        Out::Reset => {
            if !kernel().while_idle(&mut || power::write_port(port, size, value)) {
                refused("reset while there is a guest, by port", port.into());
            }
        }
        Out::Off => {
            log::info!("the host switches the machine off");
            power::off();
        }
        Out::Suspend => refused("suspend, by port", port.into()),
        Out::Dropped => refused("write to a port that is not there", port.into()),
    }
    done()
}

/// A host call: number in RAX, arguments in RDI, RSI, RDX, RCX, R8, R9; status in RAX, results in RDI, RSI, RDX.
fn call(gprs: &mut Gprs) -> Outcome {
    if !vmx::is_kernel64() {
        return refuse("VMCALL outside a 64-bit kernel", 0, vector::INVALID_OPCODE);
    }
    vmx::step_over();
    let x = &mut gprs.0;
    let arguments = [number::RDI, number::RSI, number::RDX, number::RCX, number::R8, number::R9].map(|at| x[at]);
    let results = kernel().host_call(x[number::RAX], arguments);
    for (at, value) in [number::RAX, number::RDI, number::RSI, number::RDX].into_iter().zip(results) {
        x[at] = value;
    }
    Outcome::Resume
}

/// MOV to CR0 that changes a bit that is Postern's, or to CR4 that sets one.
fn control_register(gprs: &Gprs) -> Outcome {
    let qualification = vmx::read(field::EXIT_QUALIFICATION);
    let source = (qualification >> 8 & 0xf) as usize;
    let value = if source == number::RSP { vmx::read(field::GUEST_RSP) } else { gprs.0[source] };
    match (qualification & 0xf, qualification >> 4 & 3) {
        // The read shadow agrees now, so the instruction is executed again and does not exit: the hardware checks and does
        // everything that depends on the other bits, and leaves Postern's alone.
        (0, 0) => {
            vmx::modify(field::CR0_SHADOW, host_vmcs::CR0_MASK, value & host_vmcs::CR0_MASK);
            Outcome::Resume
        }
        _ => refuse("control register access", qualification, vector::GENERAL_PROTECTION),
    }
}

fn rdmsr(cpu: &PerCpu, gprs: &mut Gprs) -> Outcome {
    let msr = gprs.0[number::RCX] as u32;
    let value = match host_policy::read(msr) {
        MsrRead::Value(value) => value,
        MsrRead::Capabilities => {
            let native = __cpuid_count(7, 0).edx & HAS_CAPABILITIES != 0;
            (if native { vmx::rdmsr(0x10a) } else { 0 }) | XAPIC_DISABLE
        }
        MsrRead::ApicBase => host_apic::base(cpu),
        MsrRead::ApicLock => host_apic::is_locked(cpu).into(),
        MsrRead::Native | MsrRead::Refused => return refuse("RDMSR of", u64::from(msr), vector::GENERAL_PROTECTION),
    };
    gprs.0[number::RAX] = value & 0xffff_ffff;
    gprs.0[number::RDX] = value >> 32;
    done()
}

fn wrmsr(cpu: &PerCpu, gprs: &Gprs) -> Outcome {
    let msr = gprs.0[number::RCX] as u32;
    let value = gprs.0[number::RDX] << 32 | gprs.0[number::RAX] & 0xffff_ffff;
    let accepted = match host_policy::write(msr, value) {
        MsrWrite::Ignored => {
            refused("WRMSR without effect, of", u64::from(msr));
            true
        }
        MsrWrite::ApicBase => host_apic::set_base(cpu, value),
        MsrWrite::Command => host_apic::command(cpu, value),
        MsrWrite::States => set_states(msr, value),
        MsrWrite::Native | MsrWrite::Refused => false,
    };
    if accepted { done() } else { refuse("WRMSR of", u64::from(msr), vector::GENERAL_PROTECTION) }
}

/// IA32_XSS: which components XSAVES and XRSTORS work on; false when the host may not have one of them.
fn set_states(msr: u32, value: u64) -> bool {
    /// CPUID leaf 0xD.1, EAX: XSAVES, and with it the register.
    const HAS_XSAVES: u32 = 1 << 3;
    let components = __cpuid_count(0xd, 1);
    let supported = u64::from(components.edx) << 32 | u64::from(components.ecx);
    let taken = components.eax & HAS_XSAVES != 0 && host_policy::xss_is_valid(value, supported);
    if taken {
        // SAFETY: a value that the CPU takes. Root operation executes neither instruction.
        unsafe { vmx::wrmsr(msr, value) };
    }
    taken
}

/// The host touched what its table does not hold, or executed a device.
fn violation(cpu: &PerCpu, gprs: &mut Gprs) -> Outcome {
    let qualification = vmx::read(field::EXIT_QUALIFICATION);
    let decoded = ept_violation(qualification);
    let address = vmx::read(field::GUEST_PHYSICAL_ADDRESS);
    block_nmis_again(qualification);
    if xapic::WINDOW.contains(&address) {
        let Some(length) = host_apic::access(cpu, gprs, qualification, address) else {
            return refuse("access to the local APIC at", address, vector::GENERAL_PROTECTION);
        };
        vmx::step_over_bytes(length as u64);
        return Outcome::Resume;
    }
    // Bits 3 to 5: what the translation allowed. When it allowed something, only executing was denied.
    let present = qualification >> 3 & 7 != 0;
    if !present && kernel().host_fault(address, decoded.write, decoded.fetch) == HostFault::Retry {
        return Outcome::Resume;
    }
    refuse("access to", address, vector::GENERAL_PROTECTION)
}

fn xsetbv(gprs: &Gprs) -> Outcome {
    let value = gprs.0[number::RDX] << 32 | gprs.0[number::RAX] & 0xffff_ffff;
    let components = __cpuid_count(0xd, 0);
    let supported = u64::from(components.edx) << 32 | u64::from(components.eax);
    if gprs.0[number::RCX] as u32 != 0 || !host_policy::xcr0_is_valid(value, supported) {
        return refuse("XSETBV of", value, vector::GENERAL_PROTECTION);
    }
    // SAFETY: a value that the CPU takes. Postern's code uses none of what it enables, and switches worlds by what it finds.
    unsafe {
        asm!("xsetbv", in("ecx") 0, in("eax") value as u32, in("edx") (value >> 32) as u32, options(nostack, preserves_flags));
    }
    done()
}
