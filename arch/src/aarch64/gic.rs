//! The physical GICv3, as far as Postern touches it: private interrupts that it borrows while a guest runs, the
//! hypervisor interface (ICH registers), and the redistributor registers that would let the host aim the controller at
//! memory (IHI 0069 sections 9.4, 12.4, 12.11).

use super::percpu::{self, Doorbell, PerCpu};
use super::sysreg::{field, instruction, isb, mrs, msr};
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
const ISPENDR0: u64 = 0x200;
const ICPENDR0: u64 = 0x280;
/// The hypervisor timer's interrupt doubles as a doorbell: it is enabled only while a guest runs, so that no host ever
/// sees it ring.
const BELL: u64 = 1 << 26;

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
    let frame = frame.ok_or(BootError::Node("redistributor for each CPU"))?;
    cpu.doorbell.gicr_sgi.store(frame + FRAME, Ordering::Relaxed);
    // SRE, DFB, DIB, Enable: system registers here, and the host may use them too (IHI 0069 section 12.2.22).
    msr!("icc_sre_el2", 0xf);
    isb();
    msr!("ich_hcr_el2", 0);
    // ICH_VTR_EL2: ListRegs + 1, and 2^(PREbits - 5).
    let vtr = mrs!("ich_vtr_el2");
    let lists = field(vtr, 0, 5) as usize + 1;
    cpu.interface.set((lists, 1 << (field(vtr, 26, 3) as usize + 1).saturating_sub(5).min(2)));
    // Unknown at reset; from here on they are empty while no guest runs.
    write_list(lists, &[0; 16]);
    Ok(())
}

/// Enables Postern's own private interrupts on this CPU while a guest runs; not the virtual timer's when its output is
/// high and the guest has been told.
pub fn borrow_ppis(cpu: &PerCpu, timer_high: bool) {
    let host = read32(cpu.doorbell.gicr_sgi.load(Ordering::Relaxed) + ISENABLER0) & BORROWED;
    cpu.host_ppis.set(host);
    cpu.guest_ppis.set(host);
    set_enabled(cpu, if timer_high { BORROWED & !TIMER } else { BORROWED });
}

/// Puts them back as the host had them.
pub fn return_ppis(cpu: &PerCpu) {
    set_enabled(cpu, cpu.host_ppis.get());
}

/// Enables or disables the physical interrupt of the virtual timer.
pub fn set_timer_interrupt(cpu: &PerCpu, enabled: bool) {
    let others = cpu.guest_ppis.get() & !TIMER;
    set_enabled(cpu, if enabled { others | TIMER } else { others });
}

/// Goes from what is enabled by Postern's own account, because reading a redistributor is slow; a host that changes it
/// meanwhile from another CPU takes interrupts from nobody but itself and its guests.
fn set_enabled(cpu: &PerCpu, wanted: u64) {
    let present = cpu.guest_ppis.replace(wanted);
    if wanted == present {
        return;
    }
    let base = cpu.doorbell.gicr_sgi.load(Ordering::Relaxed);
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

/// Makes a CPU leave the guest that it runs; one that runs none leaves the next one once more than it has to.
pub fn ring(doorbell: &Doorbell) {
    let base = doorbell.gicr_sgi.load(Ordering::Relaxed);
    if base == 0 {
        return;
    }
    // The reason is written before the interrupt can be taken.
    instruction!("dsb ishst");
    write32(base + ISPENDR0, BELL);
    // Afterwards: whoever finds the flag has the interrupt to clear. The other way round one could stay pending for ever.
    instruction!("dsb st");
    doorbell.rung.store(true, Ordering::Release);
}

/// Stops the bell, if it rings, before the caller looks for the reason.
pub fn answer(doorbell: &Doorbell) {
    if doorbell.rung.load(Ordering::Relaxed) && doorbell.rung.swap(false, Ordering::Acquire) {
        write32(doorbell.gicr_sgi.load(Ordering::Relaxed) + ICPENDR0, BELL);
        instruction!("dsb sy");
    }
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
    let cpu = percpu::this();
    let (_, priorities) = cpu.interface.get();
    write_ap0(priorities, &state.ap0r);
    write_ap1(priorities, &state.ap1r);
    write_lists(cpu, state);
}

/// Writes list registers, unless they were empty and stay so, and ICH_HCR.
pub fn write_lists(cpu: &PerCpu, state: &ListRegs) {
    let used = state.is_used();
    if used || cpu.lists_used.get() {
        write_list(state.count, &state.lr);
        cpu.lists_used.set(used);
    }
    msr!("ich_hcr_el2", state.hcr);
}

/// Reads list registers, unless they are empty.
pub fn read_lists(cpu: &PerCpu, state: &mut ListRegs) {
    if cpu.lists_used.get() {
        read_list(state.count, state.from_hardware());
    }
}

/// Takes a vCPU's interrupt state out of the CPU interface and turns it off.
pub fn save(cpu: &PerCpu, state: &mut ListRegs) {
    let (lists, priorities) = cpu.interface.get();
    read_lists(cpu, state);
    state.vmcr = mrs!("ich_vmcr_el2");
    read_ap0(priorities, &mut state.ap0r);
    read_ap1(priorities, &mut state.ap1r);
    if cpu.lists_used.replace(false) {
        write_list(lists, &[0; 16]);
    }
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
