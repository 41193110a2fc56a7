//! PSCI for guests (DEN0022): on and off of vCPUs and of the whole.

use super::Answer;
use crate::Postern;
use crate::vcpu::{Reason, VcpuPage, power};
use crate::vm::{Vm, ending};
use abi::psci::{self, *};
use core::sync::atomic::Ordering;

/// Answers a PSCI call, or says that there is no such call.
pub fn psci(postern: &Postern, vm: &Vm, page: &VcpuPage, function: u64, arguments: [u64; 3]) -> Answer {
    match function {
        psci::VERSION => Answer::Values([VERSION_1_1, 0, 0, 0]),
        psci::FEATURES => Answer::status(features(arguments[0])),
        psci::MIGRATE_INFO_TYPE => Answer::status(NO_TRUSTED_OS),
        psci::CPU_ON | psci::CPU_ON_32 => cpu_on(vm, page, arguments),
        psci::CPU_OFF => {
            page.power.store(power::OFF, Ordering::Release);
            Answer::Leave(Reason::CpuOff)
        }
        psci::AFFINITY_INFO | psci::AFFINITY_INFO_32 => Answer::status(affinity_info(vm, arguments)),
        psci::SYSTEM_OFF => end(vm, ending::OFF),
        psci::SYSTEM_RESET => end(vm, ending::RESET),
        _ => {
            postern.counters.count(abi::host::counter::GUEST_REFUSALS);
            Answer::status(NOT_SUPPORTED)
        }
    }
}

fn features(function: u64) -> i64 {
    match function {
        psci::VERSION
        | psci::FEATURES
        | psci::CPU_ON
        | psci::CPU_ON_32
        | psci::CPU_OFF
        | psci::AFFINITY_INFO
        | psci::AFFINITY_INFO_32
        | psci::SYSTEM_OFF
        | psci::SYSTEM_RESET
        | psci::MIGRATE_INFO_TYPE
        | abi::smccc::VERSION => SUCCESS,
        _ => NOT_SUPPORTED,
    }
}

/// vCPU n has the affinity 0.0.0.n.
fn target(vm: &Vm, affinity: u64) -> Option<u64> {
    (affinity < vm.config.vcpu_count).then_some(affinity)
}

fn cpu_on(vm: &Vm, caller: &VcpuPage, [affinity, entry, argument]: [u64; 3]) -> Answer {
    let Some(index) = target(vm, affinity) else { return Answer::status(INVALID_PARAMETERS) };
    // In RAM without the shared bit: a vCPU starts in private memory only.
    if vm.ram(entry).is_none() || !entry.is_multiple_of(4) {
        return Answer::status(INVALID_ADDRESS);
    }
    // The host may not have created it, and a vCPU cannot start itself.
    let Ok(page) = vm.vcpu(index) else { return Answer::status(INTERNAL_FAILURE) };
    if page.index == caller.index {
        return Answer::status(ALREADY_ON);
    }
    let turn = page.power.compare_exchange(power::OFF, power::PENDING, Ordering::AcqRel, Ordering::Acquire);
    match turn {
        Ok(_) => {}
        Err(power::PENDING) => return Answer::status(ON_PENDING),
        Err(_) => return Answer::status(ALREADY_ON),
    }
    let Some(mut registers) = page.own.try_lock() else {
        // It is on its way out of its last run, or the host tries to run what is off: again in a moment.
        page.power.store(power::OFF, Ordering::Release);
        return Answer::Again(None);
    };
    registers.0.start(&vm.arch.0, entry, argument);
    page.power.store(power::ON, Ordering::Release);
    Answer::ValuesThen([SUCCESS as u64, 0, 0, 0], Reason::CpuOn(page.index))
}

fn affinity_info(vm: &Vm, [affinity, level, _]: [u64; 3]) -> i64 {
    let Some(index) = target(vm, affinity).filter(|_| level == 0) else { return INVALID_PARAMETERS };
    match vm.vcpu(index).map(|page| page.power.load(Ordering::Acquire)) {
        Ok(power::ON) => AFFINITY_ON,
        Ok(power::PENDING) => AFFINITY_ON_PENDING,
        _ => AFFINITY_OFF,
    }
}

fn end(vm: &Vm, how: u64) -> Answer {
    Answer::Leave(Reason::Ended(vm.end(how)))
}
