//! PSCI abuse.

use crate::world::World;
use crate::{expect, require};
use abi::psci as ids;
use alloc::format;
use alloc::string::String;
use payloads::{cpu, percpu, psci, secondary_entry};

/// An affinity that no vCPU has.
const NOBODY: u64 = 0x55;

pub fn cpu_on_bad_entry(world: &World) -> Result<(), String> {
    let target = if world.machine.cpus.len() > 1 { percpu::affinity(1) } else { NOBODY };
    let wanted = if target == NOBODY { ids::INVALID_PARAMETERS } else { ids::INVALID_ADDRESS };
    for entry in [0x0900_0000, world.ram.end, 1 << 39 | world.ram.start, 1 << 40, u64::MAX, u64::MAX - 3] {
        let code = psci::cpu_on(target, entry, 0).err().unwrap_or(0);
        require!(code == wanted || code == ids::INVALID_PARAMETERS, "CPU_ON at {entry:#x} answers {code}");
    }
    if target != NOBODY {
        expect!("the target", psci::psci(ids::AFFINITY_INFO, target, 0, 0), ids::AFFINITY_OFF);
    }
    Ok(())
}

pub fn cpu_on_bad_target(_: &World) -> Result<(), String> {
    for target in [NOBODY, 8, 0x100, 1 << 32, 1 << 31, u64::MAX, 0xff_00ff_ffff] {
        let code = psci::cpu_on(target, secondary_entry(), 0).err().unwrap_or(0);
        expect!(format!("CPU_ON of {target:#x}"), code, ids::INVALID_PARAMETERS);
    }
    let code = psci::cpu_on(cpu::affinity(), secondary_entry(), 0).err().unwrap_or(0);
    expect!("CPU_ON of oneself", code, ids::ALREADY_ON);
    Ok(())
}

/// Functions that are not offered, and malformed ones that are.
pub fn garbage(_: &World) -> Result<(), String> {
    for function in
        [0x8400_0005, 0xc400_0005, ids::SYSTEM_SUSPEND, ids::SYSTEM_RESET2, 0x8400_0013, 0x8400_0015, 0x8400_00ff]
    {
        let code = psci::psci(function, u64::MAX, u64::MAX, u64::MAX);
        require!(code < 0, "PSCI function {function:#x} answers {code}");
    }
    for level in [1, 3, 4, u64::MAX] {
        let code = psci::psci(ids::AFFINITY_INFO, cpu::affinity(), level, 0);
        expect!(format!("AFFINITY_INFO at level {level}"), code, ids::INVALID_PARAMETERS);
    }
    expect!("AFFINITY_INFO of nobody", psci::psci(ids::AFFINITY_INFO, NOBODY, 0, 0), ids::INVALID_PARAMETERS);
    Ok(())
}

/// Starting and stopping a vCPU over and over, without waiting for it.
pub fn cpu_on_race(world: &World) -> Result<(), String> {
    fn nothing(_: usize) {}
    let Some(&target) = world.machine.cpus.get(1) else { return Ok(()) };
    let mut started = 0;
    for _ in 0..300 {
        match crate::smp::start(1, nothing) {
            Ok(()) => started += 1,
            Err(ids::ALREADY_ON | ids::ON_PENDING) => {}
            Err(code) => return Err(format!("CPU_ON answers {code}")),
        }
    }
    require!(started > 0, "the vCPU never started");
    for _ in 0..1000 {
        if psci::psci(ids::AFFINITY_INFO, target, 0, 0) == ids::AFFINITY_OFF {
            return Ok(());
        }
        payloads::timer::delay(2);
    }
    Err(String::from("the vCPU does not go off"))
}
