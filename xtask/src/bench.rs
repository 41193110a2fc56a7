//! `cargo xtask bench`: instruction counts in the emulator and native measurements, beside targets and peers.

use crate::machine::{Event, Session};
use crate::paths;
use crate::progress::Step;
use crate::run::Bench;
use crate::scenarios::{Guest, PLAIN, Scenario};
use crate::setup::Dialect;
use crate::{stage, terminal};
use anyhow::{Result, bail};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Whether a figure should be small or large.
#[derive(Clone, Copy)]
enum Target {
    AtMost(f64),
    AtLeast(f64),
    None,
}

/// A figure that is printed.
struct Figure {
    name: &'static str,
    text: &'static str,
    unit: &'static str,
    target: Target,
    peer: &'static str,
}

/// Peers are mainline pKVM and plain KVM of Debian 7.2 in the same emulator, counted the same way.
const FIGURES: &[Figure] = &[
    Figure {
        name: "hypercall",
        text: "hypercall round trip (vendor-hyp FEATURES)",
        unit: "instructions",
        target: Target::AtMost(120.0),
        peer: "pKVM 186, Xen 430, KVM 9,800",
    },
    Figure {
        name: "share-unshare",
        text: "share + unshare of 4 KiB (both wipes included)",
        unit: "instructions",
        target: Target::AtMost(1200.0),
        peer: "pKVM 5,856 (wipes neither)",
    },
    Figure {
        name: "first-touch",
        text: "first touch of a 4 KiB page, test host",
        unit: "instructions",
        target: Target::AtMost(1500.0),
        peer: "pKVM 8,211, KVM 6,264 (Linux host)",
    },
    Figure {
        name: "mmio-write",
        text: "MMIO write served by the test host",
        unit: "instructions",
        target: Target::None,
        peer: "pKVM 7,723, KVM 25,000 (user space)",
    },
    Figure {
        name: "convert-2m",
        text: "private -> shared -> private of 2 MiB, realm",
        unit: "instructions",
        target: Target::None,
        peer: "pKVM: 512 hypercalls each way",
    },
    Figure {
        name: "longest-irqs-off",
        text: "longest section with interrupts off",
        unit: "instructions",
        target: Target::AtMost(20_000.0),
        peer: "not published",
    },
    Figure {
        name: "memory-set-aside",
        text: "memory set aside on a 2 GiB machine",
        unit: "bytes",
        target: Target::AtMost((6 << 20) as f64),
        peer: "pKVM 18 MiB",
    },
    Figure {
        name: "wipe-ratio",
        text: "native: wiping in 2 MiB conversions against memset",
        unit: "%",
        target: Target::AtLeast(90.0),
        peer: "memset 100",
    },
    Figure {
        name: "scaling",
        text: "native: conversions on 2 threads against 1",
        unit: "x",
        target: Target::AtLeast(1.9),
        peer: "global lock 1.0",
    },
];

/// The machine of the figures: 2 GiB and one CPU.
const SCENE: Scenario = Scenario {
    name: "bench",
    proves: "the figures",
    guest: Guest::Tiny,
    dialect: Dialect::Pkvm,
    memory_mib: 128,
    host_cpus: 1,
    host_mib: 2048 - 128,
    mode: "bench",
    arguments: "test=bench",
    timeout: 300,
    ..PLAIN
};

/// Measures and prints the table. Figures that miss their target are marked; only a missing figure is an error.
pub fn run(emulated_only: bool) -> Result<()> {
    let stop = terminal::stop_flag();
    let bench = Bench::prepare(&[])?;
    let mut found: Vec<(String, f64)> = Vec::new();
    for dialect in [Dialect::Pkvm, Dialect::Realm] {
        let scene = Scenario { dialect, ..SCENE };
        let mut machine = stage::machine(&bench, &scene)?;
        machine.count_instructions = true;
        let step = Step::start("emulated figures");
        let session = Session::start(&bench.emulator, &machine)?;
        let mut log = String::new();
        let verdict = session.follow(Some(Duration::from_secs(scene.timeout)), &stop, |event, _| {
            if let Event::Log(line) = event {
                log.push_str(line);
                log.push('\n');
                step.note(line);
            }
            true
        });
        crate::bundle::write_if_changed(
            &paths::target().join(format!("bench-{}.log", dialect.name())),
            log.as_bytes(),
        )?;
        collect(&log, &mut found);
        if !verdict.is_ok() {
            bail!("the {} measurement did not end well: {verdict}", dialect.name());
        }
        step.done(dialect.name());
    }
    if !emulated_only {
        native(&mut found);
    }
    print(&found);
    let emulated = |f: &&Figure| !f.text.starts_with("native");
    if let Some(missing) = FIGURES.iter().filter(emulated).find(|f| !found.iter().any(|(name, _)| name == f.name)) {
        bail!("no figure was measured for `{}`", missing.name);
    }
    Ok(())
}

/// Takes `bench: <name> <value>` lines; a name that was seen before keeps its first value unless the new one is worse.
fn collect(log: &str, found: &mut Vec<(String, f64)>) {
    for line in log.lines() {
        let Some((_, text)) = line.split_once("bench: ") else { continue };
        let mut words = text.split_whitespace();
        let (Some(name), Some(Ok(value))) = (words.next(), words.next().map(str::parse::<f64>)) else { continue };
        match found.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => *old = old.max(value),
            None => found.push((name.to_owned(), value)),
        }
    }
}

/// Runs guestmem's native benchmark, where there is one.
fn native(found: &mut Vec<(String, f64)>) {
    let step = Step::start("native figures");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["bench", "--package", "guestmem"]).current_dir(paths::root()).stdin(Stdio::null());
    match cargo.output() {
        Ok(out) if out.status.success() => {
            let text = String::from_utf8_lossy(&out.stdout);
            for line in text.lines().filter(|l| !l.starts_with("bench: ") && !l.trim().is_empty()) {
                step.println(&format!("  {line}"));
            }
            collect(&text, found);
            step.done("cargo bench -p guestmem");
        }
        Ok(out) => step.done(&format!("not to be had: cargo bench ended with {}", out.status)),
        Err(error) => step.done(&format!("not to be had: {error}")),
    }
}

fn print(found: &[(String, f64)]) {
    println!("{:<52} {:>12} {:>12}  {:<7} others", "figure", "measured", "target", "");
    for figure in FIGURES {
        let value = found.iter().find(|(name, _)| name == figure.name).map(|(_, value)| *value);
        let measured = value.map_or_else(|| "-".into(), |v| amount(v, figure.unit));
        let (target, met) = match (figure.target, value) {
            (Target::AtMost(limit), value) => (format!("<= {}", amount(limit, figure.unit)), value.map(|v| v <= limit)),
            (Target::AtLeast(limit), value) => {
                (format!(">= {}", amount(limit, figure.unit)), value.map(|v| v >= limit))
            }
            (Target::None, _) => ("-".into(), Some(true)),
        };
        let mark = match met {
            Some(true) => "",
            Some(false) => "MISSED",
            None => "absent",
        };
        println!("{:<52} {measured:>12} {target:>12}  {mark:<7} {}", figure.text, figure.peer);
    }
    for (name, value) in found.iter().filter(|(name, _)| !FIGURES.iter().any(|f| f.name == name)) {
        println!("{name:<52} {:>12}", amount(*value, ""));
    }
}

/// A number for people.
fn amount(value: f64, unit: &str) -> String {
    match unit {
        "bytes" if value >= f64::from(1 << 20) => format!("{:.2} MiB", value / f64::from(1 << 20)),
        "bytes" => format!("{:.0} KiB", value / 1024.0),
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
        assert_eq!(amount(1_234_567.0, "instructions"), "1,234,567");
        assert_eq!(amount(99.0, ""), "99");
        assert_eq!(amount(f64::from(6 << 20), "bytes"), "6.00 MiB");
    }
}
