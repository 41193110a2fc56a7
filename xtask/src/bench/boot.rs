//! What a protected guest's boot costs against the same kernel's on the bare machine, in the emulator's own count.

use crate::arch::{Arch, Dialect};
use crate::machine::{Clock, Event, Machine, Session};
use crate::progress::Step;
use crate::run::Workbench;
use crate::scenarios::{End, Guest, PLAIN, Scenario};
use crate::stage;
use crate::verdict::Verdict;
use anyhow::{Context, Result, bail};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// What the test host says when a guest has ended.
const RAN: &str = "host: guest ran for ";
/// A shell says how the kernel is called; then power-off.
const SCENE: Scenario = Scenario {
    name: "bench-boot",
    proves: "what a boot costs",
    dialect: Dialect::Tdx,
    host_cpus: 1,
    arguments: "postern.script=smoke",
    end: End::Ok,
    timeout: 300,
    ..PLAIN
};

/// Instructions of a guest's life from its first to its power-off, for each of the bare kernel's.
pub fn ratio(bench: &Workbench, stop: &AtomicBool) -> Result<f64> {
    let step = Step::start("guest boot");
    let scene = Scenario { machine: Arch::X86_64.machine(), ..SCENE };
    let machine = |guest| {
        let mut machine = stage::machine(bench, &Scenario { guest, ..scene })?;
        machine.clock = Clock::Instructions;
        anyhow::Ok(machine)
    };
    let bare = machine(Guest::Bare)?;
    let load = Machine { load_only: true, ..bare.clone() };
    step.note("GRUB alone");
    let (_, loaded) = play(bench, &load, stop)?;
    step.note("the bare kernel");
    let (_, all) = play(bench, &bare, stop)?;
    step.note("the guest");
    let (log, _) = play(bench, &machine(Guest::Linux)?, stop)?;
    let text = log.lines().find_map(|line| line.strip_prefix(RAN)).context("the host does not say how long it ran")?;
    let guest: u64 = text.split_whitespace().next().unwrap_or_default().parse().context("the host's count")?;
    let alone = all.saturating_sub(loaded).max(1);
    step.done(&format!("{} million instructions against {} million", guest / 1_000_000, alone / 1_000_000));
    Ok(guest as f64 / alone as f64)
}

/// The log, and how many instructions there were until the machine was switched off.
fn play(bench: &Workbench, machine: &Machine, stop: &AtomicBool) -> Result<(String, u64)> {
    let (mut log, mut ticks) = (String::new(), None);
    let session = Session::start(&bench.emulator, machine)?;
    let verdict = session.follow(Some(Duration::from_secs(SCENE.timeout)), stop, |event, _| {
        match event {
            Event::Log(line) => log = log.clone() + line + "\n",
            Event::SwitchedOff { ticks: count } => ticks = Some(count),
            Event::Console(_) | Event::ConsoleLine(_) => {}
        }
        true
    });
    match (verdict, ticks) {
        (Verdict::Ok | Verdict::Died(_), Some(ticks)) => Ok((log, ticks)),
        (verdict, _) => bail!("a boot did not end well: {verdict}"),
    }
}
