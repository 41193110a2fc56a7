//! `cargo xtask bench`: instruction counts in the emulator and native measurements, beside targets and peers.

use crate::arch::{Arch, Dialect};
use crate::machine::{Event, Session};
use crate::paths;
use crate::progress::Step;
use crate::run::Workbench;
use crate::scenarios::{Guest, PLAIN, Scenario};
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

impl Target {
    fn is_met(self, value: f64) -> bool {
        match self {
            Target::AtMost(limit) => value <= limit,
            Target::AtLeast(limit) => value >= limit,
            Target::None => true,
        }
    }

    fn text(self, unit: &str) -> String {
        match self {
            Target::AtMost(limit) => format!("<= {}", amount(limit, unit)),
            Target::AtLeast(limit) => format!(">= {}", amount(limit, unit)),
            Target::None => "-".into(),
        }
    }
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
        unit: "",
        target: Target::AtMost(120.0),
        peer: "pKVM 186, Xen 430, KVM 9,800",
    },
    Figure {
        name: "share-unshare",
        text: "share + unshare of 4 KiB, both wipes included",
        unit: "",
        target: Target::AtMost(1200.0),
        peer: "pKVM 5,856 (wipes neither)",
    },
    Figure {
        name: "first-touch",
        text: "first touch of a 4 KiB page, test host",
        unit: "",
        target: Target::AtMost(1500.0),
        peer: "pKVM 8,211, KVM 6,264 (Linux host)",
    },
    Figure {
        name: "mmio-write",
        text: "MMIO write served by the test host",
        unit: "",
        target: Target::None,
        peer: "pKVM 7,723, KVM 25,000 (user space)",
    },
    Figure { name: "realm-hypercall", text: "realm: RSI call round trip", unit: "", target: Target::None, peer: "" },
    Figure {
        name: "realm-share-unshare",
        text: "realm: share + unshare of 4 KiB, both wipes included",
        unit: "",
        target: Target::None,
        peer: "",
    },
    Figure {
        name: "realm-share-2m",
        text: "realm: share of 2 MiB in one call, wipe included",
        unit: "",
        target: Target::None,
        peer: "pKVM: 512 hypercalls",
    },
    Figure {
        name: "realm-unshare-2m",
        text: "realm: unshare of 2 MiB in one call, wipe included",
        unit: "",
        target: Target::None,
        peer: "pKVM: 512 hypercalls",
    },
    Figure {
        name: "longest-interrupts-off",
        text: "longest section with interrupts off",
        unit: "",
        target: Target::AtMost(20_000.0),
        peer: "not published",
    },
    Figure {
        name: "memory-set-aside-kib",
        text: "memory set aside on a 2 GiB machine",
        unit: "KiB",
        target: Target::AtMost((6 << 10) as f64),
        peer: "pKVM 18,432 KiB",
    },
    Figure {
        name: "native-wiping",
        text: "native: wiping in 2 MiB conversions against memset",
        unit: "%",
        target: Target::AtLeast(90.0),
        peer: "",
    },
    Figure {
        name: "native-pages-per-second",
        text: "native: conversions of 4 KiB per second, one thread",
        unit: "",
        target: Target::None,
        peer: "",
    },
    Figure {
        name: "native-scaling-4k",
        text: "native: 4 KiB conversions on 2 threads against 1",
        unit: "x",
        target: Target::AtLeast(1.9),
        peer: "global lock 1.00 x",
    },
    Figure {
        name: "native-scaling-2m",
        text: "native: 2 MiB conversions on 2 threads against 1",
        unit: "x",
        target: Target::AtLeast(1.9),
        peer: "global lock 1.00 x",
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
    let mut found = Vec::new();
    emulated(&mut found)?;
    if !emulated_only {
        native(&mut found);
    }
    print(&found);
    let wanted = FIGURES.iter().filter(|figure| !figure.name.starts_with("native-"));
    if let Some(missing) = wanted.into_iter().find(|figure| !found.iter().any(|(name, _)| name == figure.name)) {
        bail!("no figure was measured for `{}`", missing.name);
    }
    Ok(())
}

/// Counts instructions: the test host runs measuring guests of both dialects in one boot.
fn emulated(found: &mut Vec<(String, f64)>) -> Result<()> {
    let stop = terminal::stop_flag();
    let bench = Workbench::prepare(Arch::Aarch64, &[])?;
    let mut machine = stage::machine(&bench, &SCENE)?;
    machine.clock = crate::machine::Clock::Instructions;
    let step = Step::start("emulated figures");
    let session = Session::start(&bench.emulator, &machine)?;
    let mut log = String::new();
    let verdict = session.follow(Some(Duration::from_secs(SCENE.timeout)), &stop, |event, _| {
        if let Event::Log(line) = event {
            log.push_str(line);
            log.push('\n');
            step.note(line);
        }
        true
    });
    let file = paths::target().join("bench.log");
    crate::bundle::write_if_changed(&file, log.as_bytes())?;
    collect(&log, found);
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

/// How often the native benchmark runs. The best run counts: whatever else the machine does can only slow one down, and two
/// threads most of all.
const NATIVE_RUNS: u32 = 3;

/// Runs guestmem's native benchmark.
fn native(found: &mut Vec<(String, f64)>) {
    let step = Step::start("native figures");
    let mut times = Vec::new();
    for run in 1..=NATIVE_RUNS {
        step.note(&format!("run {run} of {NATIVE_RUNS}"));
        match native_run() {
            Ok(rows) => keep_best(&mut times, rows),
            Err(error) => return step.done(&format!("not to be had: {error:#}")),
        }
    }
    let time = |name: &str, threads: u32| times.iter().find(|t| t.0 == name && t.1 == threads).map(|t| t.2);
    let mut add = |name: &str, value: Option<f64>| found.extend(value.map(|value| (name.to_owned(), value)));
    // Each of two threads does as much as the one did alone.
    let scaling = |name| Some(2.0 * time(name, 1)? / time(name, 2)?);
    add("native-wiping", time("memset", 1).and_then(|memset| Some(100.0 * memset / time("block_aliased", 1)?)));
    add("native-pages-per-second", time("page", 1).map(|nanoseconds| 2e9 / nanoseconds));
    add("native-scaling-4k", scaling("page"));
    add("native-scaling-2m", scaling("block_aliased"));
    step.done(&format!("medians, best of {NATIVE_RUNS} runs of cargo bench -p guestmem"));
}

fn native_run() -> Result<Vec<Row>> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["bench", "--package", "guestmem", "--bench", "conversions"]);
    let out = cargo.current_dir(paths::root()).stdin(Stdio::null()).output()?;
    if !out.status.success() {
        bail!("cargo bench ended with {}", out.status);
    }
    Ok(divan_medians(&String::from_utf8_lossy(&out.stdout)))
}

/// Name, threads and median in nanoseconds.
type Row = (String, u32, f64);

fn keep_best(best: &mut Vec<Row>, rows: Vec<Row>) {
    for row in rows {
        match best.iter_mut().find(|old| (&old.0, old.1) == (&row.0, row.1)) {
            Some(old) => old.2 = old.2.min(row.2),
            None => best.push(row),
        }
    }
}

/// Name, threads and median in nanoseconds of each row of divan's table.
fn divan_medians(text: &str) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut group = String::new();
    for line in text.lines() {
        let cells: Vec<&str> = line.trim_start_matches(['│', '├', '╰', '─', ' ']).split('│').collect();
        let mut words = cells[0].split_whitespace();
        // Rows of rates start with a number; only the rows of times count.
        let Some(name) = words.next().filter(|word| !word.starts_with(|c: char| c.is_ascii_digit())) else { continue };
        let median = cells.get(2).and_then(|cell| nanoseconds(cell));
        match (name.strip_prefix("t=").and_then(|n| n.parse().ok()), median) {
            (Some(threads), Some(median)) => rows.push((group.clone(), threads, median)),
            (None, Some(median)) if words.next().is_some_and(|w| w.starts_with(|c: char| c.is_ascii_digit())) => {
                rows.push((name.to_owned(), 1, median));
            }
            _ => group = name.to_owned(),
        }
    }
    rows
}

/// `54.11 µs` as 54,110.
fn nanoseconds(cell: &str) -> Option<f64> {
    let mut words = cell.split_whitespace();
    let value: f64 = words.next()?.parse().ok()?;
    let unit = match words.next()? {
        "ps" => 1e-3,
        "ns" => 1.0,
        "µs" => 1e3,
        "ms" => 1e6,
        "s" => 1e9,
        _ => return None,
    };
    Some(value * unit)
}

fn print(found: &[(String, f64)]) {
    say!("{:<52} {:>12} {:>12}  {:<7} others", "figure (instructions, unless said)", "measured", "target", "");
    let mut misses = Vec::new();
    for figure in FIGURES {
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
        say!("{:<52} {measured:>12} {target:>12}  {mark:<7} {}", figure.text, figure.peer);
    }
    let others: Vec<_> = found.iter().filter(|(name, _)| !FIGURES.iter().any(|f| f.name == name)).collect();
    if !others.is_empty() {
        say!("\nAlso counted, without a target:");
    }
    for (name, value) in others {
        say!("{name:<52} {:>12}", raw(name, *value));
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
    fn misses_are_said_and_the_best_run_counts() {
        assert!(judgement(&[]).starts_with("All targets"));
        assert_eq!(judgement(&["a (3 for <= 2)".into()]), "One target is missed: a (3 for <= 2).");
        assert!(judgement(&["a".into(), "b".into()]).starts_with("2 targets are missed: a; b"));
        assert_eq!((raw("pool-free-kib", 4096.0), raw("longest-cause", 18.0)), ("4,096 KiB".into(), "0x12".into()));
        let mut best = vec![("page".to_owned(), 2, 9.0)];
        keep_best(&mut best, vec![("page".into(), 2, 7.0), ("page".into(), 1, 5.0)]);
        keep_best(&mut best, vec![("page".into(), 2, 8.0)]);
        assert_eq!(best, [("page".to_owned(), 2, 7.0), ("page".into(), 1, 5.0)]);
    }

    #[test]
    fn the_native_table_is_read() {
        let table = "conversions        fastest       │ slowest       │ median        │ mean          │ samples │ iters\n\
                     ├─ memset                       │               │               │               │         │\n\
                     │  ├─ t=1         36.55 µs      │ 150.1 µs      │ 37.34 µs      │ 39.47 µs      │ 100     │ 100\n\
                     │  │              114.7 GB/s    │ 27.94 GB/s    │ 112.3 GB/s    │ 106.2 GB/s    │         │\n\
                     │  ╰─ t=2         37.16 µs      │ 142.9 µs      │ 50.7 µs       │ 53.08 µs      │ 100     │ 100\n\
                     ╰─ page_unwiped   62.84 ns      │ 86.94 ns      │ 73.64 ns      │ 73.82 ns      │ 100     │ 3200\n";
        let rows = divan_medians(table);
        let expected =
            [("memset".to_owned(), 1, 37_340.0), ("memset".into(), 2, 50_700.0), ("page_unwiped".into(), 1, 73.64)];
        assert_eq!(rows, expected);
    }
}
