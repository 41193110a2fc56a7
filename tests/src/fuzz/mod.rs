//! Fuzzing, one target for each call handler: a scene of four VMs, one call after the other with arguments that are
//! chosen to hurt, and all invariants after each.
//!
//! The tests run every target with fixed seeds; `tests/fuzz` hands the same functions to a fuzzer.

mod guest_calls;
mod scene;
mod td_calls;

use crate::{Noise, World};
use hypervisor::call::host::CALLS;
use scene::Scene;

/// What one step of a target does.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Makes this host call.
    Host(u64),
    /// Makes this guest call in one of the VMs that call by SMCCC.
    Guest(u64),
    /// Makes this call in the TD.
    Td(td_calls::Function),
    /// Touches memory and devices as a guest.
    Abort,
    /// Makes any host call.
    AnyHost,
    /// Makes any guest call.
    AnyGuest,
    /// Makes any call of the TD's.
    AnyTd,
}

/// Names of all targets: the host calls as in [`CALLS`], the guest calls, and mixtures.
pub fn targets() -> impl Iterator<Item = &'static str> {
    let guests = guest_calls::NAMES.iter().map(|(name, _)| *name);
    let td = td_calls::NAMES.iter().map(|(name, _)| *name);
    CALLS.iter().map(|call| call.name).chain(guests).chain(td).chain(MIXTURES)
}

const MIXTURES: [&str; 4] = ["abort", "any_host", "any_guest", "any_td"];

fn step_of(target: &str) -> Option<Step> {
    let host = CALLS.iter().find(|call| call.name.eq_ignore_ascii_case(target)).map(|call| Step::Host(call.number));
    let guest = || {
        let named = guest_calls::NAMES.iter().find(|(name, _)| name.eq_ignore_ascii_case(target));
        named.map(|(_, function)| Step::Guest(*function))
    };
    let td = || {
        let named = td_calls::NAMES.iter().find(|(name, _)| name.eq_ignore_ascii_case(target));
        named.map(|(_, function)| Step::Td(*function))
    };
    host.or_else(guest).or_else(td).or(match target {
        "abort" => Some(Step::Abort),
        "any_host" => Some(Step::AnyHost),
        "any_guest" => Some(Step::AnyGuest),
        "any_td" => Some(Step::AnyTd),
        _ => None,
    })
}

/// Runs a target on one scene, for at most `steps` steps. Panics when an invariant is broken.
///
/// # Panics
/// That is what it is for; and when there is no such target.
pub fn run(target: &str, noise: &mut Noise<'_>, steps: usize) {
    let step = step_of(target).unwrap_or_else(|| panic!("no fuzz target {target}"));
    let world = World::new();
    let mut scene = Scene::new(&world);
    for _ in 0..steps {
        if noise.is_over() {
            break;
        }
        // Now and then something else, or what is fuzzed sees only what the scene began with.
        let step = match noise.below(12) {
            0 => Step::AnyHost,
            1 => Step::AnyGuest,
            2 => Step::AnyTd,
            _ => step,
        };
        match step {
            Step::Host(number) => scene.host_call(number, noise),
            Step::AnyHost => {
                let call = &CALLS[noise.below(CALLS.len() as u64) as usize];
                scene.host_call(call.number, noise);
            }
            Step::Guest(function) => scene.guest_call(function, noise),
            Step::AnyGuest => scene.guest_call(guest_calls::any(noise), noise),
            Step::Td(function) => scene.td_call(function, noise),
            Step::AnyTd => scene.td_call(td_calls::any(noise), noise),
            Step::Abort => scene.abort(noise),
        }
        scene.check(noise);
    }
    scene.end();
}

/// [`run`], with a fuzzer's bytes.
pub fn run_bytes(target: &str, bytes: &[u8]) {
    run(target, &mut Noise::bytes(bytes), 200);
}
