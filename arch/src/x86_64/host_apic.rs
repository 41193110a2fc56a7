//! What the host does to its local APIC that Postern has to see: commands, which could take a CPU out of its VM, changes of
//! the mode, and in xAPIC mode every access to the page with the registers.

use super::decode::{self, Move};
use super::features::{self, Feature};
use super::icr::{self, Command, Target};
use super::percpu::{self, PerCpu};
use super::vectors::{Gprs, number};
use super::vmx::{self, field};
use super::walk::Paging;
use super::xapic::{self, ENABLED, Mode, Register, X2APIC};
use super::{apic, exits, tlb};
use crate::kernel;
use core::sync::atomic::Ordering;

const X2APIC_COMMAND: u32 = 0x830;
const CR4_LA57: u64 = 1 << 12;

/// The mode of this CPU's APIC as the host has it.
fn mode(cpu: &PerCpu) -> Mode {
    match (cpu.apic_off.get(), apic::is_mapped()) {
        (true, _) => Mode::Off,
        (_, true) => Mode::Mapped,
        (_, false) => Mode::X2,
    }
}

/// IA32_APIC_BASE as the host sees it.
pub fn base(cpu: &PerCpu) -> u64 {
    let off = if cpu.apic_off.get() { ENABLED | X2APIC } else { 0 };
    apic::read_base() & !off
}

/// Whether the host cannot leave the mode that it is in: IA32_XAPIC_DISABLE_STATUS.
pub fn is_locked(cpu: &PerCpu) -> bool {
    mode(cpu) == Mode::X2
}

/// The host writes IA32_APIC_BASE; false: a general-protection fault.
pub fn set_base(cpu: &PerCpu, value: u64) -> bool {
    let before = mode(cpu);
    let Some(after) = Mode::change(base(cpu), value, features::has(Feature::X2apic)) else { return false };
    match after {
        _ if before == after => return true,
        // To hardware it stays on, or nobody could reach this CPU.
        Mode::Off => apic::reset(),
        Mode::Mapped => {}
        Mode::X2 => apic::leave_page(),
    }
    cpu.apic_off.set(after == Mode::Off);
    cpu.apic_command.set([0; 2]);
    true
}

/// What INIT does.
pub fn reset(cpu: &PerCpu) {
    apic::reset();
    cpu.apic_off.set(false);
    cpu.apic_command.set([0; 2]);
}

/// The host writes the command register of x2APIC mode; false: a general-protection fault.
pub fn command(cpu: &PerCpu, value: u64) -> bool {
    if mode(cpu) != Mode::X2 {
        return false;
    }
    match icr::decode(value) {
        Command::Refused => return false,
        // SAFETY: `decode` has checked the bits: an interrupt or an NMI. Postern has interrupts off, and NMIs are either
        // seen by the CPU's handler, which keeps them for the host, or make it leave.
        Command::Send => unsafe { vmx::wrmsr(X2APIC_COMMAND, value) },
        other => carry_out(cpu, other),
    }
    true
}

/// Carries out what is not the hardware's to send.
fn carry_out(cpu: &PerCpu, command: Command) {
    let others = |target: Target| {
        let this = cpu.index.get();
        tlb::cpus().filter(move |index| {
            let id = percpu::of(*index).apic_id.get() as u32;
            target.includes(id, *index == this)
        })
    };
    match command {
        Command::Init(target) => others(target).for_each(|index| send_init(percpu::of(index))),
        Command::Startup(target, page) => others(target).for_each(|index| send_startup(percpu::of(index), page)),
        Command::Send | Command::Nothing | Command::Refused => {}
    }
}

/// Tells a CPU to stop running the host: at its next look, which an NMI makes it take.
pub fn send_init(target: &PerCpu) {
    let before = target.sipi.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |word| Some(icr::after_init(word)));
    if before.is_ok_and(|word| word & icr::RUNS != 0) {
        tlb::kick(target.index.get());
    }
}

fn send_startup(target: &PerCpu, page: u8) {
    let change = |word| Some(icr::after_startup(word, page)).filter(|after| *after != word);
    if target.sipi.fetch_update(Ordering::SeqCst, Ordering::SeqCst, change).is_ok() {
        tlb::kick(target.index.get());
    }
}

/// The host touched the page at `address`: does it for it, and returns the bytes of the instruction. `None`: it is not the
/// host's to do, in this mode or at all.
pub fn access(cpu: &PerCpu, gprs: &mut Gprs, qualification: u64, address: u64) -> Option<usize> {
    const VALID: u64 = 1 << 31;
    let touched = exits::ept_violation(qualification);
    // Not by an instruction's operand: a fetch, a walk of tables, the delivery of an event.
    let indirect = touched.fetch || touched.walk || !touched.linear || vmx::read(field::IDT_VECTORING) & VALID != 0;
    let offset = address.checked_sub(xapic::PAGE).filter(|offset| *offset < abi::FRAME_SIZE && offset % 16 == 0)?;
    if mode(cpu) != Mode::Mapped || indirect {
        return None;
    }
    let (moved, length) = instruction()?;
    match (moved, touched.write) {
        (Move::Load(to), false) => *register(gprs, to)? = read(cpu, offset).into(),
        (Move::Store(from), true) => {
            let value = *register(gprs, from)? as u32;
            write(cpu, offset, value);
        }
        (Move::Constant(value), true) => write(cpu, offset, value),
        (Move::Exchange(with), true) => {
            let old = read(cpu, offset);
            let value = register(gprs, with)?;
            let new = core::mem::replace(value, old.into()) as u32;
            write(cpu, offset, new);
        }
        _ => return None,
    }
    Some(length)
}

/// A register of the host's, but for RSP, which is not with the others and which nobody uses for this.
fn register(gprs: &mut Gprs, which: usize) -> Option<&mut u64> {
    gprs.0.get_mut(which).filter(|_| which != number::RSP)
}

/// The instruction that the host executes, in its kernel, in 64-bit mode and with four levels of tables.
fn instruction() -> Option<(Move, usize)> {
    let cr4 = vmx::read(field::GUEST_CR4);
    if !vmx::is_kernel64() || cr4 & CR4_LA57 != 0 {
        return None;
    }
    let paging = Paging {
        cr3: vmx::read(field::GUEST_CR3),
        smep: cr4 & exits::CR4_SMEP != 0,
        user: false,
        physical_bits: features::ipa_bits() as u32,
    };
    let mut bytes = [0; decode::LONGEST];
    let read = |address| kernel().read_host(address);
    let count = paging.code(vmx::read(field::GUEST_RIP), &mut bytes, read);
    decode::decode(&bytes[..count])
}

/// The number of the register at `offset`.
fn numbered(offset: u64) -> u32 {
    (offset >> 4) as u32
}

fn read(cpu: &PerCpu, offset: u64) -> u32 {
    match xapic::read(offset) {
        Register::Native => apic::read_mapped(numbered(offset)),
        // Postern uses the register too, so what the host has written is kept here.
        Register::Command => cpu.apic_command.get()[1] | apic::pending_mapped(),
        Register::Destination => cpu.apic_command.get()[0],
        Register::Nothing => 0,
    }
}

fn write(cpu: &PerCpu, offset: u64, value: u32) {
    match xapic::write(offset) {
        // SAFETY: a register that sends nothing.
        Register::Native => unsafe { apic::write_mapped(numbered(offset), value) },
        Register::Destination => cpu.apic_command.set([xapic::sent(value, 0)[0], cpu.apic_command.get()[1]]),
        Register::Command => {
            let [high, low] = xapic::sent(cpu.apic_command.get()[0], value);
            cpu.apic_command.set([high, low]);
            match xapic::command(high, low) {
                // SAFETY: an interrupt or an NMI, see `command`.
                Command::Send => unsafe { apic::send_mapped(high, low) },
                other => carry_out(cpu, other),
            }
        }
        Register::Nothing => {}
    }
}
