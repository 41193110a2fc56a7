//! The physical GICv3, as far as Postern touches it: private interrupts that it borrows while a guest runs, the
//! hypervisor interface (ICH registers), and the redistributor registers that would let the host aim the controller at
//! memory (IHI 0069 sections 9.4, 12.4, 12.11).

use super::percpu::PerCpu;
use super::sysreg::{field, isb, mrs, msr};
use super::vgic::ListRegs;
use core::sync::atomic::{AtomicU64, Ordering};
use loader::machine::{CPUS_MAX, Machine};
use loader::{BootError, Bytes};

/// Private interrupts of EL2: maintenance, hypervisor physical timer, virtual timer.
const BORROWED: u64 = 1 << 25 | 1 << 26 | TIMER;
/// The virtual timer's.
const TIMER: u64 = 1 << 27;

const FRAME: u64 = 0x1_0000;
const TYPER: u64 = 0x8;
/// GICR_TYPER.VLPIS.
const VLPIS: u64 = 1 << 1;
const ISENABLER0: u64 = 0x100;
const ICENABLER0: u64 = 0x180;

/// RD frames of the redistributors, by CPU found; the host reaches them only through [`host_access`].
static FRAMES: [AtomicU64; CPUS_MAX] = [const { AtomicU64::new(0) }; CPUS_MAX];

fn read32(address: u64) -> u64 {
    // SAFETY: a register of the GIC, mapped as device memory at boot.
    u64::from(unsafe { (address as *const u32).read_volatile() })
}

fn write32(address: u64, value: u64) {
    // SAFETY: as above.
    unsafe { (address as *mut u32).write_volatile(value as u32) };
}

/// Lists the redistributors.
///
/// # Errors
/// More of them than CPUs that Postern can manage.
pub fn init(machine: &Machine) -> Result<(), BootError> {
    let mut count = 0;
    for region in &machine.redistributors {
        let mut at = region.start;
        while at + 2 * FRAME <= region.end {
            let slot = FRAMES.get(count).ok_or(BootError::TooMany("redistributors"))?;
            slot.store(at, Ordering::Relaxed);
            count += 1;
            let typer = read32(at + TYPER);
            // VLPIS: two more frames for virtual LPIs.
            at += if typer & VLPIS != 0 { 4 * FRAME } else { 2 * FRAME };
            if typer & 1 << 4 != 0 {
                break;
            }
        }
    }
    Ok(())
}

fn frames() -> impl Iterator<Item = u64> {
    FRAMES.iter().map(|frame| frame.load(Ordering::Relaxed)).filter(|at| *at != 0)
}

/// Frames that the host's stage 2 must not have: RD, and with GICv4 those of virtual LPIs, whose tables are physical
/// addresses too.
pub fn hidden_frames() -> impl Iterator<Item = Bytes> {
    let virtual_lpis = frames().filter(|at| read32(at + TYPER) & VLPIS != 0).map(|at| at + 2 * FRAME..at + 4 * FRAME);
    frames().map(|at| at..at + FRAME).chain(virtual_lpis)
}

/// Finds this CPU's redistributor and prepares the CPU interface.
///
/// # Errors
/// There is none with this CPU's affinity.
pub fn init_cpu(cpu: &PerCpu) -> Result<(), BootError> {
    let mpidr = mrs!("mpidr_el1");
    let affinity = field(mpidr, 32, 8) << 24 | mpidr & 0xff_ffff;
    let frame = frames().find(|at| read32(at + TYPER + 4) == affinity);
    cpu.gicr_sgi.set(frame.ok_or(BootError::Node("redistributor for each CPU"))? + FRAME);
    // SRE, DFB, DIB, Enable: system registers here, and the host may use them too (IHI 0069 section 12.2.22).
    msr!("icc_sre_el2", 0xf);
    isb();
    msr!("ich_hcr_el2", 0);
    Ok(())
}

/// Enables Postern's own private interrupts on this CPU while a guest runs; not the virtual timer's when its output is
/// high and the guest has been told.
pub fn borrow_ppis(cpu: &PerCpu, timer_high: bool) {
    cpu.host_ppis.set(read32(cpu.gicr_sgi.get() + ISENABLER0) & BORROWED);
    let wanted = if timer_high { BORROWED & !TIMER } else { BORROWED };
    set_enabled(cpu, wanted);
}

/// Puts them back as the host had them.
pub fn return_ppis(cpu: &PerCpu) {
    set_enabled(cpu, cpu.host_ppis.get());
}

/// Enables or disables the physical interrupt of the virtual timer.
pub fn set_timer_interrupt(cpu: &PerCpu, enabled: bool) {
    let others = read32(cpu.gicr_sgi.get() + ISENABLER0) & BORROWED & !TIMER;
    set_enabled(cpu, if enabled { others | TIMER } else { others });
}

fn set_enabled(cpu: &PerCpu, wanted: u64) {
    let base = cpu.gicr_sgi.get();
    let present = read32(base + ISENABLER0) & BORROWED;
    if wanted & !present != 0 {
        write32(base + ISENABLER0, wanted & !present);
    }
    if present & !wanted != 0 {
        write32(base + ICENABLER0, present & !wanted);
        // Disabling has taken effect once GICR_CTLR.RWP reads 0 (IHI 0069 section 12.11.2). Bounded: a controller that
        // never says so costs a spurious interrupt, not the machine.
        for _ in 0..1000 {
            if read32(base - FRAME) & 1 << 3 == 0 {
                break;
            }
        }
    }
}

/// List registers and active-priority registers that this CPU implements: (ICH_VTR_EL2.ListRegs + 1, 2^(PREbits - 5)).
pub fn implemented() -> (usize, usize) {
    let vtr = mrs!("ich_vtr_el2");
    (field(vtr, 0, 5) as usize + 1, 1 << (field(vtr, 26, 3) as usize + 1).saturating_sub(5).min(2))
}

/// A pair of functions for registers that only their names number: the first `count` of them from and to a slice.
macro_rules! indexed {
    ($read:ident, $write:ident, [$($number:literal = $name:literal),*]) => {
        #[inline(always)]
        fn $read(count: usize, into: &mut [u64]) {
            $(if count == $number { return; } into[$number] = mrs!($name);)*
        }
        #[inline(always)]
        fn $write(count: usize, from: &[u64]) {
            $(if count == $number { return; } msr!($name, from[$number]);)*
        }
    };
}

indexed!(read_list, write_list, [
    0 = "ich_lr0_el2", 1 = "ich_lr1_el2", 2 = "ich_lr2_el2", 3 = "ich_lr3_el2", 4 = "ich_lr4_el2", 5 = "ich_lr5_el2",
    6 = "ich_lr6_el2", 7 = "ich_lr7_el2", 8 = "ich_lr8_el2", 9 = "ich_lr9_el2", 10 = "ich_lr10_el2",
    11 = "ich_lr11_el2", 12 = "ich_lr12_el2", 13 = "ich_lr13_el2", 14 = "ich_lr14_el2", 15 = "ich_lr15_el2"
]);
indexed!(read_ap0, write_ap0, [
    0 = "ich_ap0r0_el2", 1 = "ich_ap0r1_el2", 2 = "ich_ap0r2_el2", 3 = "ich_ap0r3_el2"
]);
indexed!(read_ap1, write_ap1, [
    0 = "ich_ap1r0_el2", 1 = "ich_ap1r1_el2", 2 = "ich_ap1r2_el2", 3 = "ich_ap1r3_el2"
]);

/// Loads a vCPU's interrupt state into the CPU interface; order of IHI 0069 section 4.7 as KVM found it to matter:
/// ICC_SRE_EL1 before VMCR.
pub fn load(state: &ListRegs) {
    msr!("icc_sre_el1", 7);
    isb();
    // Enable = 0: the guest's own accesses to ICC_SRE_EL1 trap (IHI 0069, ICC_SRE_EL2).
    msr!("icc_sre_el2", 0x7);
    isb();
    msr!("ich_vmcr_el2", state.vmcr);
    let (lists, priorities) = implemented();
    write_ap0(priorities, &state.ap0r);
    write_ap1(priorities, &state.ap1r);
    write_lists(state, lists);
}

/// Writes list registers and ICH_HCR only.
pub fn write_lists(state: &ListRegs, lists: usize) {
    write_list(lists, &state.lr);
    msr!("ich_hcr_el2", state.hcr);
}

/// Reads list registers only.
pub fn read_lists(state: &mut ListRegs, lists: usize) {
    read_list(lists, &mut state.lr);
}

/// Takes a vCPU's interrupt state out of the CPU interface and turns it off.
pub fn save(state: &mut ListRegs) {
    let (lists, priorities) = implemented();
    read_lists(state, lists);
    state.vmcr = mrs!("ich_vmcr_el2");
    read_ap0(priorities, &mut state.ap0r);
    read_ap1(priorities, &mut state.ap1r);
    write_list(lists, &[0; 16]);
    msr!("ich_hcr_el2", 0);
    msr!("icc_sre_el2", 0xf);
    isb();
}

/// Whether a maintenance interrupt is asserted.
pub fn maintenance() -> bool {
    mrs!("ich_misr_el2") != 0
}

/// Whether a physical interrupt is pending for the host (ISR_EL1 at EL2 shows physical interrupts).
#[inline(always)]
pub fn interrupt_pending() -> bool {
    mrs!("isr_el1") & 0xc0 != 0
}

/// The host's access to an RD frame: passed on, but without LPIs, whose tables are physical addresses that the GIC
/// reads and writes past stage 2. `write` is the value of a write. `None` when `address` is not in an RD frame.
pub fn host_access(address: u64, size: u32, write: Option<u64>) -> Option<u64> {
    frames().find(|at| (*at..at + FRAME).contains(&address))?;
    let offset = address % FRAME;
    // SETLPIR, CLRLPIR, PROPBASER, PENDBASER, INVLPIR, INVALLR.
    let lpi = matches!(offset, 0x40..0x50 | 0x70..0x80 | 0xa0..0xa8 | 0xb0..0xb8);
    if lpi || !address.is_multiple_of(u64::from(size)) || !matches!(size, 4 | 8) {
        return Some(0);
    }
    match (offset, write) {
        // GICR_CTLR.EnableLPIs
        (0, Some(value)) => write32(address, value & !1),
        (_, Some(value)) if size == 4 => write32(address, value),
        (_, Some(_)) => {}
        (_, None) => {
            let low = read32(address);
            let value = if size == 8 { low | read32(address + 4) << 32 } else { low };
            // TYPER: no physical or virtual LPIs, no direct injection.
            return Some(if offset == TYPER { value & !0b1011 } else { value });
        }
    }
    Some(0)
}
