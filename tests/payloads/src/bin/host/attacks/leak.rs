//! What the host's registers and the run page show after the guest has run. The victim keeps patterns of its own in
//! every register while it exits.

use super::scene::Scene;
use super::{Attack, attack};
use crate::exits::{self, Next};
use crate::remote;
use abi::host::{self, OK};
use abi::run;
use alloc::format;
use alloc::string::String;
use payloads::mailbox::VICTIM_SEED;
use payloads::registers::{self, General, Vector};
use payloads::{cpu, hostcall, timer};

pub const ATTACKS: &[Attack] = &[
    attack("registers-after-exit", "guest registers in the host's after a run", &[OK], general),
    attack("fp-after-exit", "guest FP and SIMD registers in the host's after a run", &[OK], vectors),
    attack(
        "fault-address-after-exit",
        "the address of a guest's last fault in the host's register",
        &[OK],
        fault_address,
    ),
    attack("run-page-after-exit", "guest registers in the run page", &[OK], run_page),
    attack("run-page-garbage", "a run page full of rubbish before each run", &[OK], garbage),
];

/// Runs of the victim that each attack looks at.
const RUNS: u64 = 40;

/// Runs the victim with the host's registers filled, then handles the exit as a VMM has to.
pub fn run_victim(scene: &Scene, seed: u64) -> (General, General) {
    let vcpu = &scene.victim.vcpus[0];
    let mut input: General = registers::pattern(seed);
    let [number, handle, index] = registers::ARGUMENTS;
    (input[number], input[handle], input[index]) = (host::VCPU_RUN, scene.victim.handle, vcpu.index);
    timer::fire_at(timer::now() + timer::ticks(2));
    let output = registers::around_host_call(&input);
    timer::stop();
    remote::service_interrupts();
    let [status, reason, ..] = registers::RESULTS;
    exits::handle(&scene.victim, vcpu, output[status] as i64, output[reason]);
    (input, output)
}

fn general(scene: &mut Scene) -> Result<i64, String> {
    let secret: General = registers::pattern(VICTIM_SEED);
    for round in 0..RUNS {
        let (input, output) = run_victim(scene, round + 1);
        for n in (0..output.len()).filter(|n| !registers::RESULTS.contains(n)) {
            if output[n] != input[n] && output[n] != 0 {
                return Err(format!("{} holds {:#x} after run {round}", registers::name(n), output[n]));
            }
        }
        if let Some(n) = output.iter().position(|value| secret.contains(value)) {
            return Err(format!("{} holds a guest register after run {round}", registers::name(n)));
        }
    }
    Ok(OK)
}

fn vectors(scene: &mut Scene) -> Result<i64, String> {
    for round in 0..RUNS {
        let mine: Vector = registers::pattern(round + 500);
        registers::load_vectors(&mine);
        run_victim(scene, round + 1);
        let found = registers::store_vectors();
        if let Some(n) = (0..mine.len()).find(|n| found[*n] != mine[*n]) {
            return Err(format!("vector {} changed in run {round}", n / 2));
        }
    }
    Ok(OK)
}

/// The victim has faulted somewhere: the host may not learn where, and keeps what it had.
fn fault_address(scene: &mut Scene) -> Result<i64, String> {
    let vcpu = &scene.victim.vcpus[0];
    for round in 0..RUNS {
        let mine = round << 40 | 0xbeef_0000;
        timer::fire_at(timer::now() + timer::ticks(2));
        cpu::set_fault_address(mine);
        let reply = hostcall::vcpu_run(scene.victim.handle, vcpu.index);
        let found = cpu::fault_address();
        timer::stop();
        remote::service_interrupts();
        exits::handle(&scene.victim, vcpu, reply.status, reply.values[0]);
        if found != mine {
            return Err(format!("it went from {mine:#x} to {found:#x} in run {round}"));
        }
    }
    Ok(OK)
}

fn run_page(scene: &mut Scene) -> Result<i64, String> {
    let general: General = registers::pattern(VICTIM_SEED);
    let vector: Vector = registers::pattern(VICTIM_SEED + 1);
    let vcpu = &scene.victim.vcpus[0];
    for round in 0..RUNS {
        run_victim(scene, round + 1);
        for word in 0..512 {
            let value = vcpu.word(word);
            if general.contains(&value) || vector.contains(&value) {
                return Err(format!("word {word} of the run page holds a guest register"));
            }
        }
    }
    Ok(OK)
}

/// Rubbish in the run page is the host's right: at worst the guest reads rubbish from devices.
fn garbage(scene: &mut Scene) -> Result<i64, String> {
    let vcpu = &scene.victim.vcpus[0];
    for round in 0..RUNS {
        (0..512).for_each(|word| vcpu.set_word(word, u64::MAX << (round % 64)));
        timer::fire_at(timer::now() + timer::ticks(2));
        let next = exits::run_once(&scene.victim, vcpu);
        timer::stop();
        remote::service_interrupts();
        if scene.victim.ended() && next == Next::Again {
            return Err(format!("the victim ended: {:?}", scene.victim.end()));
        }
    }
    (0..512).for_each(|word| vcpu.set_word(word, 0));
    vcpu.set_word(run::MMIO_VALUE, 0);
    Ok(OK)
}
