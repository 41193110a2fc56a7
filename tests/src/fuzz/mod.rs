//! Fuzzing, one target for each call handler: a scene of three VMs, one call after the other with arguments that are
//! chosen to hurt, and all invariants after each.
//!
//! The tests run every target with fixed seeds; `tests/fuzz` hands the same functions to a fuzzer.

mod guest_calls;
mod scene;

use crate::{Noise, World};
use hypervisor::call::host::CALLS;
use scene::Scene;

/// What one step of a target does.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Makes this host call.
    Host(u64),
    /// Makes this guest call in one of the VMs.
    Guest(u64),
    /// Touches memory and devices as a guest.
    Abort,
    /// Makes any host call.
    AnyHost,
    /// Makes any guest call.
    AnyGuest,
}

/// Names of all targets: the host calls as in [`CALLS`], the guest calls, and mixtures.
pub fn targets() -> impl Iterator<Item = &'static str> {
    CALLS.iter().map(|call| call.name).chain(guest_calls::NAMES.iter().map(|(name, _)| *name)).chain(MIXTURES)
}

const MIXTURES: [&str; 3] = ["abort", "any_host", "any_guest"];

fn step_of(target: &str) -> Option<Step> {
    let host = CALLS.iter().find(|call| call.name.eq_ignore_ascii_case(target)).map(|call| Step::Host(call.number));
    let guest = || {
        let named = guest_calls::NAMES.iter().find(|(name, _)| name.eq_ignore_ascii_case(target));
        named.map(|(_, function)| Step::Guest(*function))
    };
    host.or_else(guest).or(match target {
        "abort" => Some(Step::Abort),
        "any_host" => Some(Step::AnyHost),
        "any_guest" => Some(Step::AnyGuest),
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
        let step = match noise.below(8) {
            0 => Step::AnyHost,
            1 => Step::AnyGuest,
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
