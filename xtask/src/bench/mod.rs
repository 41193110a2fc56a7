//! `cargo xtask bench`: instruction counts in the emulator and native measurements, beside targets and peers.

mod boot;
mod figures;
mod native;

use crate::arch::{Arch, Dialect};
use crate::machine::{Clock, Event, PC, PC_APICV, Session};
use crate::paths;
use crate::progress::Step;
use crate::run::Workbench;
use crate::scenarios::{Guest, PLAIN, Scenario};
use crate::{stage, terminal};
use anyhow::{Result, bail};
use figures::Figure;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// Instructions of the two wipes when a page of a TD is opened and closed: one for each eight bytes.
const WIPES: f64 = 2.0 * 512.0;

/// What a guest's interrupts cost: what a CPU with APICv changes.
const INTERRUPTS: [&str; 2] = ["tdx-self-ipi", "tdx-timer"];

/// What is wanted.
#[derive(clap::Args, Clone, Copy, Debug)]
pub struct Options {
    /// Architecture whose emulator counts.
    #[arg(long, value_enum, default_value_t = Arch::Aarch64)]
    arch: Arch,
    /// Leave the native measurements (conversions per second, wiping bandwidth, two threads) out.
    #[arg(long)]
    emulated_only: bool,
    /// Also compare the boot of a Debian guest with the same kernel's on the bare machine (x86_64; three minutes).
    #[arg(long)]
    long: bool,
}

impl Options {
    /// Refuses what there is not.
    pub fn check(&self) -> Result<(), String> {
        match self.arch {
            Arch::Aarch64 if self.long => Err("--long compares boots in Bochs alone: add --arch x86_64".into()),
            _ => Ok(()),
        }
    }
}

/// The machine of the figures: 2 GiB and one CPU.
fn scene(arch: Arch) -> Scenario {
    Scenario {
        name: "bench",
        proves: "the figures",
        guest: Guest::Tiny,
        dialect: if arch == Arch::Aarch64 { Dialect::Pkvm } else { Dialect::Tdx },
        machine: if arch == Arch::X86_64 { PC_APICV } else { arch.machine() },
        memory_mib: 128,
        host_cpus: 1,
        host_mib: 2048 - 128,
        mode: "bench",
        arguments: "test=bench",
        timeout: 300,
        ..PLAIN
    }
}

/// Measures and prints the table. Figures that miss their target are marked; only a missing figure is an error.
pub fn run(options: Options) -> Result<()> {
    let stop = terminal::stop_flag();
    let mut found = Vec::new();
    let mut figures: Vec<&Figure> = figures::emulated(options.arch).iter().collect();
    let bench = Workbench::prepare(options.arch, if options.long { &[Dialect::Tdx] } else { &[] })?;
    emulated(&bench, options.arch, &mut found, &stop)?;
    if options.long {
        found.push(("guest-boot".into(), boot::ratio(&bench, &stop)?));
        figures.extend(figures::BOOT);
    }
    let wanted = figures.clone();
    if !options.emulated_only {
        native::measure(&mut found);
        figures.extend(figures::NATIVE);
    }
    print(&figures, &found);
    if let Some(missing) = wanted.iter().find(|figure| !found.iter().any(|(name, _)| name == figure.name)) {
        bail!("no figure was measured for `{}`", missing.name);
    }
    Ok(())
}

/// Counts instructions, on x86-64 those of interrupts on a CPU without APICv, too.
fn emulated(bench: &Workbench, arch: Arch, found: &mut Vec<(String, f64)>, stop: &AtomicBool) -> Result<()> {
    count(bench, &scene(arch), found, stop)?;
    if arch == Arch::X86_64 {
        let mut all = Vec::new();
        count(bench, &Scenario { name: "bench-software", machine: PC, ..scene(arch) }, &mut all, stop)?;
        let interrupts = all.into_iter().filter(|(name, _)| INTERRUPTS.contains(&name.as_str()));
        found.extend(interrupts.map(|(name, value)| (name + "-software", value)));
    }
    Ok(())
}

/// The test host runs measuring guests in one boot.
fn count(bench: &Workbench, scene: &Scenario, found: &mut Vec<(String, f64)>, stop: &AtomicBool) -> Result<()> {
    let mut machine = stage::machine(bench, scene)?;
    machine.clock = Clock::Instructions;
    let step = Step::start("emulated figures");
    let session = Session::start(&bench.emulator, &machine)?;
    let mut log = String::new();
    let verdict = session.follow(Some(Duration::from_secs(scene.timeout)), stop, |event, _| {
        if let Event::Log(line) = event {
            log.push_str(line);
            log.push('\n');
            step.note(line);
        }
        true
    });
    let file = paths::target().join(format!("{}.log", scene.name));
    crate::bundle::write_if_changed(&file, log.as_bytes())?;
    collect(&log, found);
    if let Some((_, both)) = found.iter().find(|(name, _)| name == "tdx-share-unshare") {
        found.push(("tdx-convert".into(), both - WIPES));
    }
    if !verdict.is_ok() {
        bail!("the measurement did not end well: {verdict} (log: {})", file.display());
    }
    step.done("counted");
    Ok(())
}

/// Takes `bench: <name> <value>` lines; the worse of two values for one name counts.
fn collect(log: &str, found: &mut Vec<(String, f64)>) {
    for line in log.lines() {
        let Some((_, text)) = line.split_once("bench: ") else { continue };
        let mut words = text.split_whitespace();
        let (Some(name), Some(value)) = (words.next(), words.next()) else { continue };
        let hexadecimal = value.strip_prefix("0x").and_then(|digits| u64::from_str_radix(digits, 16).ok());
        let Some(value) = hexadecimal.map(|v| v as f64).or_else(|| value.parse().ok()) else { continue };
        match found.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => *old = old.max(value),
            None => found.push((name.to_owned(), value)),
        }
    }
}

fn print(figures: &[&Figure], found: &[(String, f64)]) {
    say!("{:<54} {:>12} {:>12}  {:<7} others", "figure (instructions, unless said)", "measured", "target", "");
    let mut misses = Vec::new();
    for figure in figures {
        let value = found.iter().find(|(name, _)| name == figure.name).map(|(_, value)| *value);
        let measured = value.map_or_else(|| "-".into(), |v| amount(v, figure.unit));
        let target = figure.target.text(figure.unit);
        let mark = match value.map(|value| figure.target.is_met(value)) {
            Some(true) => "",
            Some(false) => {
                misses.push(format!("{} ({measured} for {target})", figure.text));
                "MISSED"
            }
            None => "absent",
        };
        say!("{:<54} {measured:>12} {target:>12}  {mark:<7} {}", figure.text, figure.peer);
    }
    let others: Vec<_> = found.iter().filter(|(name, _)| !figures.iter().any(|f| f.name == name)).collect();
    if !others.is_empty() {
        say!("\nAlso counted, without a target:");
    }
    for (name, value) in others {
        say!("{name:<54} {:>12}", raw(name, *value));
    }
    say!("\n{}", judgement(&misses));
}

/// All targets in one sentence.
fn judgement(misses: &[String]) -> String {
    match misses {
        [] => "All targets that were measured are met.".into(),
        [one] => format!("One target is missed: {one}."),
        more => format!("{} targets are missed: {}.", more.len(), more.join("; ")),
    }
}

/// A figure that only the test host knows more of, in the unit that its name ends with.
fn raw(name: &str, value: f64) -> String {
    if name.ends_with("-kib") {
        amount(value, "KiB")
    } else if name == "longest-cause" {
        format!("{:#x}", value as u64)
    } else {
        amount(value, "")
    }
}

/// A number for people.
fn amount(value: f64, unit: &str) -> String {
    match unit {
        "KiB" => format!("{} KiB", amount(value, "")),
        "%" => format!("{value:.0} %"),
        "x" => format!("{value:.2} x"),
        _ => {
            let digits = format!("{value:.0}");
            let mut text = String::new();
            for (index, digit) in digits.chars().enumerate() {
                if index > 0 && (digits.len() - index) % 3 == 0 {
                    text.push(',');
                }
                text.push(digit);
            }
            text
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_long_part_is_of_one_architecture() {
        let options = |arch, long| Options { arch, emulated_only: true, long };
        assert!(options(Arch::Aarch64, true).check().unwrap_err().contains("--arch x86_64"));
        assert!(options(Arch::X86_64, true).check().is_ok() && options(Arch::Aarch64, false).check().is_ok());
    }

    #[test]
    fn figures_are_read_and_the_worse_of_two_counts() {
        let mut found = Vec::new();
        collect(
            "host: bench: hypercall 100\nbench: hypercall 120.5 x\nbench: hypercall 90\nbench: x\nbench: y z\n",
            &mut found,
        );
        assert_eq!(found, [("hypercall".to_owned(), 120.5)]);
    }

    #[test]
    fn numbers_are_readable() {
        assert_eq!(amount(1_234_567.0, ""), "1,234,567");
        assert_eq!(amount(99.0, ""), "99");
        assert_eq!(amount(6144.0, "KiB"), "6,144 KiB");
    }

    #[test]
    fn misses_are_said() {
        assert!(judgement(&[]).starts_with("All targets"));
        assert_eq!(judgement(&["a (3 for <= 2)".into()]), "One target is missed: a (3 for <= 2).");
        assert!(judgement(&["a".into(), "b".into()]).starts_with("2 targets are missed: a; b"));
        assert_eq!((raw("pool-free-kib", 4096.0), raw("longest-cause", 18.0)), ("4,096 KiB".into(), "0x12".into()));
    }
}
