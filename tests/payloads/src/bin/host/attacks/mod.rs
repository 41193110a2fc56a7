//! `mode=hostile`: a host that tries everything. Each attack is one small function that answers the status it got; the
//! table says which ones are right. After each, Postern has to answer and its books have to be in order.

mod access;
mod create;
mod donate;
mod info;
pub mod leak;
mod lifecycle;
mod load;
mod pins;
mod race;
pub mod scene;
mod vcpu;

use crate::arch::machine;
use crate::bundle::Bundle;
use abi::host;
use alloc::format;
use alloc::string::String;
use payloads::{Boot, hostcall, say};
use scene::Scene;

/// An attack: its name, what it does, the statuses that refuse it as documented, and the deed.
pub struct Attack {
    name: &'static str,
    what: &'static str,
    expected: &'static [i64],
    act: fn(&mut Scene) -> Result<i64, String>,
}

/// A line of a table of attacks.
pub const fn attack(
    name: &'static str,
    what: &'static str,
    expected: &'static [i64],
    act: fn(&mut Scene) -> Result<i64, String>,
) -> Attack {
    Attack { name, what, expected, act }
}

/// All attacks, file by file.
const TABLES: &[&[Attack]] = &[
    machine::ATTACKS,
    create::ATTACKS,
    donate::ATTACKS,
    load::ATTACKS,
    vcpu::ATTACKS,
    lifecycle::ATTACKS,
    access::ATTACKS,
    pins::ATTACKS,
    info::ATTACKS,
    leak::ATTACKS,
    race::ATTACKS,
];

/// Runs the attacks that `test` names, separated by commas, or `all` of them.
///
/// # Errors
/// A sentence with the number of attacks that were not refused as they should.
pub fn run(bundle: &Bundle, boot: &Boot) -> Result<(), String> {
    let wanted = bundle.config.get("test").unwrap_or("all");
    let mut scene = Scene::new(bundle, boot)?;
    let (mut passed, mut failed) = (0, 0);
    let named = |attack: &&Attack| wanted.split(',').any(|name| name == attack.name);
    let tables = TABLES.iter().flat_map(|table| table.iter()).filter(|attack| wanted == "all" || named(attack));
    for attack in tables.chain(machine::LAST.iter().filter(named)) {
        match judge(attack, &mut scene) {
            Ok(()) => {
                say!("attack: pass {}", attack.name);
                passed += 1;
            }
            Err(reason) => {
                say!("attack: FAIL {} ({}): {reason}", attack.name, attack.what);
                failed += 1;
            }
        }
    }
    scene.leave()?;
    say!("attack: done, {passed} passed, {failed} failed");
    match (passed, failed) {
        (0, 0) => Err(format!("there is no attack named {wanted}")),
        (_, 0) => Ok(()),
        _ => Err(format!("{failed} attacks were not refused as they should")),
    }
}

fn judge(attack: &Attack, scene: &mut Scene) -> Result<(), String> {
    let status = (attack.act)(scene)?;
    if !attack.expected.contains(&status) {
        return Err(format!("status {status} instead of {:?}", attack.expected));
    }
    if hostcall::version().status != host::OK {
        return Err(String::from("Postern does not answer any more"));
    }
    match hostcall::audit() {
        Ok(0) => Ok(()),
        other => Err(format!("audit afterwards: {other:?}")),
    }
}

/// The status of all of `statuses`, when they are the same; else which one differs.
pub fn all_same(statuses: impl IntoIterator<Item = i64>) -> Result<i64, String> {
    let mut first = None;
    for (n, status) in statuses.into_iter().enumerate() {
        if *first.get_or_insert(status) != status {
            return Err(format!("case {n} answers {status}, the ones before {first:?}"));
        }
    }
    first.ok_or_else(|| String::from("no case at all"))
}

/// The status of a call that has a result.
pub fn status<T>(result: Result<T, i64>) -> i64 {
    result.err().unwrap_or(host::OK)
}
