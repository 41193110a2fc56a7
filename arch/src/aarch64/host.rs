//! The host's VM: its registers, and its exceptions to EL2.

use super::entry::{Launch, postern_secondary_entry};
use super::features::{self, Feature};
use super::idregs::{self, Reader};
use super::sysreg::{field, isb, mrs, msr};
use super::syndrome::{self, Fault, class, ec};
use super::percpu::{self, PerCpu};
use super::vcpu::{CNTHCTL_HOST, HCR_FWB};
use super::vectors::{self, HostRegs};
use super::{boot, cache, fwcfg, gic, inject, psci, section, stage2, tlb, world};
use crate::{HostFault, kernel};
use abi::{psci as numbers, smccc};
use core::sync::atomic::{AtomicBool, Ordering};
use guestmem::Space;
use loader::machine::CPUS_MAX;

/// HCR_EL2 while the host runs: VM, SWIO, TID3, TSC, TIDCP, TACR, RW, APK, API. Interrupts go straight to the host. Through
/// implementation-defined registers a CPU can be told to ignore TLB maintenance, so they are not the host's.
const HCR_HOST: u64 = 1 | 1 << 1 | 0b1111 << 18 | 1 << 31 | 0b11 << 40;
/// HCRX_EL2.MSCEn: memory copy and set instructions, which need no state.
const HCRX: u64 = 1 << 11;

/// Sets this CPU's EL2 controls once (Linux booting.rst says what an EL1 kernel may expect).
pub fn init_cpu() {
    msr!("actlr_el2", 0);
    msr!("vtcr_el2", stage2::vtcr(features::ipa_bits()));
    if features::has(Feature::Sve) {
        // ZCR_EL2.LEN: the longest vectors there are.
        msr!("cptr_el2", world::cptr_host());
        isb();
        msr!("s3_4_c1_c2_0", 0xf);
    }
    if features::has(Feature::ExtendedHcr) {
        msr!("s3_4_c1_c2_2", HCRX);
    }
    if features::has(Feature::FineGrainedTraps) {
        // HFGRTR, HFGWTR, HFGITR, HDFGRTR, HDFGWTR: unknown at reset. Zero traps nothing but what is hidden anyway.
        msr!("s3_4_c1_c1_4", 0);
        msr!("s3_4_c1_c1_5", 0);
        msr!("s3_4_c1_c1_6", 0);
        msr!("s3_4_c3_c1_4", 0);
        msr!("s3_4_c3_c1_5", 0);
    }
    if features::has(Feature::FineGrainedTraps2) {
        // HDFGRTR2, HDFGWTR2, HFGRTR2, HFGWTR2, HFGITR2: likewise.
        msr!("s3_4_c3_c1_0", 0);
        msr!("s3_4_c3_c1_1", 0);
        msr!("s3_4_c3_c1_2", 0);
        msr!("s3_4_c3_c1_3", 0);
        msr!("s3_4_c3_c1_7", 0);
    }
    if features::has(Feature::TraceFilter) {
        // TRFCR_EL2: no trace of EL2, and no context numbers in anybody's.
        msr!("s3_4_c1_c2_1", 0);
    }
    if features::has(Feature::Mpam) {
        forbid_partitions();
    }
    // The same for host and guests. HSTR_EL2.T15: what is left of AArch32's registers that its makers define.
    msr!("vpidr_el2", mrs!("midr_el1"));
    msr!("hstr_el2", 1 << 15);
    msr!("cntvoff_el2", 0);
    let cpu = percpu::this();
    cpu.mdcr.set(mdcr());
    restore_controls(cpu);
    world::El1State::reset().restore();
    msr!("cntv_ctl_el0", 0);
    msr!("cnthp_ctl_el2", 0);
    isb();
    // What a TLB holds when its CPU starts is unknown (Arm ARM D8.17): of the host's VMID, and of any guest's.
    tlb::forget_all();
}

/// Memory partitioning (DDI 0598): everybody has the default partition, and EL1 cannot choose another, by whose use of the
/// caches it could watch Postern and guests. The ID registers hide it, and what is hidden traps.
fn forbid_partitions() {
    // MPAM2_EL2: TRAPMPAM0EL1, TRAPMPAM1EL1; partition 0 for EL2.
    let trap = 0b11 << 48;
    let identity = mrs!("s3_0_c10_c4_4");
    // MPAMIDR_EL1.HAS_TIDR: the identification traps by MPAM2_EL2.TIDR; HAS_HCR: by MPAMHCR_EL2.TRAP_MPAMIDR_EL1.
    let tidr = if identity & 1 << 58 != 0 { 1 << 58 } else { 0 };
    msr!("s3_4_c10_c5_0", trap | tidr);
    if identity & 1 << 17 != 0 {
        msr!("s3_4_c10_c4_0", 1 << 31);
    }
}

/// MDCR_EL2 for host and guest: HPMN gives all event counters to EL1; TPMS and TTRF trap statistical profiling and trace
/// control, which the host could otherwise leave running while a guest runs, to watch it.
fn mdcr() -> u64 {
    let counters = if features::has(Feature::Pmu) { field(mrs!("pmcr_el0"), 11, 5) } else { 0 };
    counters | 1 << 14 | 1 << 19
}

/// Sets the registers that say that the host runs.
pub fn restore_controls(cpu: &PerCpu) {
    msr!("vttbr_el2", tlb::vttbr(Space::Host));
    let forced = if features::has(Feature::ForcedWriteBack) { HCR_FWB } else { 0 };
    msr!("hcr_el2", HCR_HOST | forced);
    msr!("cptr_el2", world::cptr_host());
    msr!("mdcr_el2", cpu.mdcr.get());
    msr!("vmpidr_el2", mrs!("mpidr_el1"));
    msr!("cnthctl_el2", CNTHCTL_HOST);
    msr!("vbar_el2", vectors::host_vectors as *const () as u64);
}

/// Every synchronous exception of the host, and SErrors that reach EL2 while it runs.
pub extern "C" fn host_sync(regs: &mut HostRegs) {
    section::begin();
    let esr = mrs!("esr_el2");
    // For the record of long sections: a call by its number, everything else by its syndrome.
    let cause = if class(esr) == ec::HVC { regs.x[0] } else { esr };
    match class(esr) {
        ec::HVC if esr & 0xffff == 0 => call(regs),
        ec::SMC => {
            let x0 = if esr & 0xffff == 0 { firmware_call(regs) } else { u64::MAX };
            regs.x[..4].copy_from_slice(&[x0, 0, 0, 0]);
            skip();
        }
        ec::HVC => regs.x[0] = u64::MAX,
        ec::SYSREG => system_register(regs, esr),
        ec::DATA_ABORT | ec::INSTRUCTION_ABORT => abort(regs, esr),
        _ => undefined(),
    }
    section::end(cause);
}

fn call(regs: &mut HostRegs) {
    // The hint about SVE is not part of the number (DEN0028 section 2.5).
    let number = regs.x[0] & !smccc::SVE_HINT;
    if number == smccc::VENDOR_UID {
        regs.x[..4].copy_from_slice(&smccc::POSTERN_UID);
        return;
    }
    let [_, a1, a2, a3, a4, a5, a6, ..] = regs.x;
    let [status, r1, r2, r3] = kernel().host_call(number, [a1, a2, a3, a4, a5, a6]);
    (regs.x[0], regs.x[1], regs.x[2], regs.x[3]) = (status, r1, r2, r3);
}

fn skip() {
    msr!("elr_el2", mrs!("elr_el2").wrapping_add(4));
}

fn undefined() {
    let (mut pc, mut pstate) = (mrs!("elr_el2"), mrs!("spsr_el2"));
    inject::undefined(&mut pc, &mut pstate);
    msr!("elr_el2", pc);
    msr!("spsr_el2", pstate);
}

fn system_register(regs: &mut HostRegs, esr: u64) {
    let access = syndrome::sysreg(esr);
    match access.register {
        (3, 0, 0, crm @ 1..=7, op2) if access.read => {
            let value = idregs::read(crm, op2, Reader::Host);
            if let Some(register) = regs.x.get_mut(access.rt) {
                *register = value;
            }
            skip();
        }
        // ACTLR_EL1 and registers that the CPU's maker defines: read as zero, writes ignored.
        (3, 0, 1, 0, 1) | (3, _, 11 | 15, ..) => {
            if access.read
                && let Some(register) = regs.x.get_mut(access.rt)
            {
                *register = 0;
            }
            skip();
        }
        _ => undefined(),
    }
}

fn abort(regs: &mut HostRegs, esr: u64) {
    let far = mrs!("far_el2");
    let fetch = class(esr) == ec::INSTRUCTION_ABORT;
    let write = esr & 1 << 6 != 0;
    let decoded = syndrome::abort(esr, far, mrs!("hpfar_el2"), |rt| regs.x.get(rt).copied().unwrap_or(0));
    let denied = match syndrome::fault(esr) {
        Fault::Translation => {
            if let Some(access) = decoded.access
                && let Some(value) = gic::host_access(decoded.address, access.size, access.value)
                    .or_else(|| fwcfg::host_access(decoded.address))
            {
                if access.value.is_none()
                    && let Some(register) = regs.x.get_mut(access.rt)
                {
                    *register = syndrome::extend(&access, value);
                }
                return skip();
            }
            kernel().host_fault(decoded.address, write, fetch) == HostFault::Deny
        }
        // Executing a device; and external aborts, which the host would have got itself.
        Fault::Permission | Fault::Other => true,
    };
    if denied {
        let (mut pc, mut pstate) = (mrs!("elr_el2"), mrs!("spsr_el2"));
        inject::external_abort(&mut pc, &mut pstate, far, fetch, write);
        msr!("elr_el2", pc);
        msr!("spsr_el2", pstate);
    }
}

/// The host's calls to firmware: PSCI as far as Postern can vouch for it, and nothing else.
fn firmware_call(regs: &HostRegs) -> u64 {
    let [function, a, b, c] = [regs.x[0], regs.x[1], regs.x[2], regs.x[3]];
    let not_supported = numbers::NOT_SUPPORTED as u64;
    match function & !smccc::SVE_HINT {
        smccc::VERSION => smccc::VERSION_1_2,
        numbers::FEATURES => match a {
            smccc::VERSION
            | numbers::VERSION
            | numbers::FEATURES
            | numbers::CPU_ON
            | numbers::CPU_OFF
            | numbers::AFFINITY_INFO
            | numbers::SYSTEM_OFF
            | numbers::SYSTEM_RESET => 0,
            _ => not_supported,
        },
        numbers::CPU_ON => cpu_on(a, b, c),
        numbers::SYSTEM_RESET => {
            // A reset leaves memory as it is, and what boots next would find the guests' in it.
            let mut status = numbers::DENIED as u64;
            kernel().while_idle(&mut || status = psci::call(numbers::SYSTEM_RESET, 0, 0, 0));
            status
        }
        // They start nothing, and take no address.
        number @ (numbers::VERSION
        | numbers::CPU_OFF
        | numbers::AFFINITY_INFO
        | numbers::AFFINITY_INFO_32
        | numbers::MIGRATE_INFO_TYPE
        | numbers::SYSTEM_OFF) => psci::call(number, a, b, 0),
        _ => not_supported,
    }
}

static STARTING: [AtomicBool; CPUS_MAX] = [const { AtomicBool::new(false) }; CPUS_MAX];

/// Starts a CPU for the host: at EL2 first, so that it never runs outside its VM.
fn cpu_on(target: u64, entry: u64, argument: u64) -> u64 {
    if target & !0xff_00ff_ffff != 0 {
        return numbers::INVALID_PARAMETERS as u64;
    }
    let Some(index) = boot::cpu_index(target) else { return numbers::INVALID_PARAMETERS as u64 };
    if kernel().host_fault(entry, false, true) == HostFault::Deny {
        return numbers::INVALID_ADDRESS as u64;
    }
    if STARTING[index].swap(true, Ordering::Acquire) {
        return numbers::ON_PENDING as u64;
    }
    let launch = boot::prepare_launch(index, entry, argument);
    let start = postern_secondary_entry as *const () as u64;
    cache::clean_invalidate(launch, launch + size_of::<Launch>() as u64);
    // SAFETY: the CPU starts in `entry.rs`, which runs with the MMU off on what `prepare_launch` has written.
    let status = unsafe { psci::smc(numbers::CPU_ON, target, start, launch) };
    if status != 0 {
        STARTING[index].store(false, Ordering::Release);
    }
    status
}

/// A CPU has read its launch record; the next `CPU_ON` may write it.
pub fn started(index: usize) {
    STARTING[index].store(false, Ordering::Release);
}
