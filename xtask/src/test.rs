//! `cargo xtask test`: all rings, from formatting to hostile hosts in the emulator.

use crate::arch::{Arch, Dialect};
use crate::image;
use crate::lint;
use crate::paths;
use crate::progress::Step;
use crate::run::Workbench;
use crate::scenarios::{self, Scenario};
use crate::setup::{self, Cache};
use crate::stage;
use crate::terminal;
use anyhow::{Result, bail};
use std::collections::VecDeque;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Which tests to run.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct Options {
    /// Only the checks and scenarios whose name is, or starts with, this.
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// Only this ring: 1 tables, records and properties, 2 interleavings, 3 call handlers and fuzz seeds, 4 emulator, 5
    /// attacks in the emulator.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=5))]
    ring: Option<u8>,
    /// Only the scenarios of this architecture [default: both].
    #[arg(long, value_enum)]
    arch: Option<Arch>,
    /// List everything there is and what it shows; run nothing.
    #[arg(long)]
    list: bool,
    /// Checks and emulators at a time.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=2))]
    jobs: u64,
}

impl Options {
    fn wants(&self, name: &str, ring: u8) -> bool {
        self.only.as_ref().is_none_or(|only| name.starts_with(only.as_str())) && self.ring.is_none_or(|r| r == ring)
    }

    /// Why these options select nothing.
    fn nothing(&self) -> String {
        let Some(only) = &self.only else {
            return "no test is in this ring and of this architecture: leave --ring or --arch out".into();
        };
        let named = || names().filter(|name| name.starts_with(only.as_str()));
        let others = match (self.ring, self.arch) {
            (Some(_), Some(_)) => "--ring or --arch",
            (Some(_), None) => "--ring",
            _ => "--arch",
        };
        if let Some(first) = named().next() {
            let more = named().count() - 1;
            let which = if more == 0 { format!("`{first}` is") } else { format!("`{first}` and {more} more are") };
            return format!("{which} not among what {others} selects: leave that out");
        }
        let near = near(only);
        let hint = if near.is_empty() { String::new() } else { format!(" (near: {})", near.join(", ")) };
        format!("no test's name starts with `{only}`{hint}; `cargo xtask test --list` shows all")
    }
}

/// How many things were tested.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    passed: u64,
    failed: u64,
}

impl Count {
    fn add(&mut self, other: Count) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

/// A check that runs on this machine, without an emulator.
struct Check {
    name: &'static str,
    proves: &'static str,
    ring: u8,
    /// Builds in folders of its own, and so need not wait for the other checks.
    apart: bool,
    run: fn(&Step) -> Result<Count, String>,
}

const CHECKS: &[Check] = &[
    Check { name: "format", proves: "the code is formatted as rustfmt does it", ring: 1, apart: false, run: format },
    Check {
        name: "lint",
        proves: "house rules: architecture code in its place, file lengths, no addresses",
        ring: 1,
        apart: false,
        run: house_rules,
    },
    Check { name: "clippy", proves: "no warnings in what builds for this machine", ring: 1, apart: false, run: clippy },
    Check {
        name: "clippy-bare",
        proves: "no warnings in what builds for bare metal, on both architectures",
        ring: 1,
        apart: true,
        run: clippy_bare,
    },
    Check {
        name: "unit",
        proves: "unit, table, model and property tests of all crates",
        ring: 1,
        apart: false,
        run: unit,
    },
    Check {
        name: "images",
        proves: "every image is the same when it is made again; nothing in it is for tests, or both written and executed",
        ring: 1,
        apart: true,
        run: images,
    },
    Check {
        name: "worlds",
        proves: "every state of a small world, every event in it",
        ring: 2,
        apart: false,
        run: worlds,
    },
    Check {
        name: "loom",
        proves: "the record locks and counters under all interleavings",
        ring: 2,
        apart: false,
        run: loom,
    },
    Check {
        name: "handlers",
        proves: "call handlers on the fake machine, fuzz targets with fixed seeds",
        ring: 3,
        apart: false,
        run: handlers,
    },
    Check {
        name: "serial-lines",
        proves: "both serial lines of the x86-64 emulator lose nothing",
        ring: 4,
        apart: false,
        run: serial_lines,
    },
];

/// The tests of a run.
pub struct Tests {
    checks: Vec<&'static Check>,
    scenarios: Vec<&'static Scenario>,
}

/// What the options select.
///
/// # Errors
/// Nothing: what to change.
pub fn select(options: &Options) -> Result<Tests, String> {
    let checks: Vec<_> = CHECKS.iter().filter(|c| options.arch.is_none() && options.wants(c.name, c.ring)).collect();
    let of_arch = |scenario: &Scenario| options.arch.is_none_or(|arch| arch == scenario.arch());
    let scenarios: Vec<_> = scenarios::all().filter(|s| of_arch(s) && options.wants(s.name, s.ring)).collect();
    if checks.is_empty() && scenarios.is_empty() {
        return Err(options.nothing());
    }
    Ok(Tests { checks, scenarios })
}

/// Runs the tests; the last line on standard output is `N passed, N failed`.
pub fn run(options: &Options, Tests { checks, scenarios }: &Tests) -> Result<()> {
    if options.list {
        let all = checks.iter().map(|c| (c.ring, c.name, c.proves));
        for (ring, name, proves) in all.chain(scenarios.iter().map(|s| (s.ring, s.name, s.proves))) {
            say!("{ring}  {name:<22} {proves}");
        }
        return Ok(());
    }
    let stop = terminal::stop_flag();
    let mut count = all_checks(checks, options.jobs, &stop);
    if !scenarios.is_empty() && !stop.load(Ordering::Relaxed) {
        count.add(all_scenarios(scenarios, options.jobs, &stop));
    }
    say!("{} passed, {} failed", count.passed, count.failed);
    if stop.load(Ordering::Relaxed) {
        bail!("interrupted");
    }
    if count.failed > 0 {
        bail!("{} failed (transcripts of scenarios are in {})", count.failed, stage::transcripts().display());
    }
    Ok(())
}

/// Names of all tests.
fn names() -> impl Iterator<Item = &'static str> {
    CHECKS.iter().map(|check| check.name).chain(scenarios::all().map(|scenario| scenario.name))
}

/// At most so many names are offered in place of a wrong one.
const OFFERED: usize = 4;

/// Names that somebody who writes this may mean, the likeliest first: those that contain it, then those that are spelled much
/// the same.
fn near(text: &str) -> Vec<&'static str> {
    let likeness = |name: &str| if name.contains(text) { 1.0 } else { strsim::jaro_winkler(text, name) };
    let mut all: Vec<_> = names().map(|name| (likeness(name), name)).filter(|(likeness, _)| *likeness > 0.8).collect();
    all.sort_by(|(one, _), (other, _)| other.total_cmp(one));
    all.into_iter().map(|(_, name)| name).take(OFFERED).collect()
}

/// Dialects of one architecture whose kernels the scenarios boot.
fn dialects(scenarios: &[&Scenario], arch: Arch) -> Vec<Dialect> {
    use scenarios::Guest;
    let boots = |s: &&&Scenario| matches!(s.guest, Guest::Linux | Guest::OlderLinux | Guest::Bare | Guest::Shipped);
    let wanted = |dialect| scenarios.iter().filter(boots).any(|s| s.dialect == dialect);
    let all = [Dialect::Realm, Dialect::Pkvm, Dialect::Tdx];
    all.into_iter().filter(|dialect| dialect.arch() == arch && wanted(*dialect)).collect()
}

fn report(verdict: &str, name: &str, text: &str, time: Duration) {
    say!("{verdict}  {name:<22} {text} ({:.1} s)", time.as_secs_f32());
}

/// Runs the checks, with two jobs those that build apart beside the others: a build's end leaves one CPU idle.
fn all_checks(checks: &[&Check], jobs: u64, stop: &AtomicBool) -> Count {
    let in_turn = |checks: Vec<&&Check>| {
        let mut count = Count::default();
        for check in checks {
            if !stop.load(Ordering::Relaxed) {
                count.add(run_check(check));
            }
        }
        count
    };
    if jobs < 2 {
        return in_turn(checks.iter().collect());
    }
    let (apart, others) = checks.iter().partition(|check| check.apart);
    std::thread::scope(|scope| {
        let beside = scope.spawn(|| in_turn(apart));
        let mut count = in_turn(others);
        count.add(beside.join().expect("no panics here"));
        count
    })
}

fn run_check(check: &Check) -> Count {
    let started = Instant::now();
    let step = Step::start(check.name);
    let result = (check.run)(&step);
    let report = |verdict, text: &str| step.hidden(|| report(verdict, check.name, text, started.elapsed()));
    match result {
        Ok(count) => {
            let verdict = if count.failed == 0 { "pass" } else { "FAIL" };
            let text = format!("{} ({} passed, {} failed)", check.proves, count.passed, count.failed);
            report(verdict, if count.passed + count.failed > 1 { &text } else { check.proves });
            count
        }
        Err(reason) => {
            report("FAIL", reason.lines().next().unwrap_or_default());
            Count { passed: 0, failed: 1 }
        }
    }
}

/// Gets ready for the scenarios of each architecture, and plays them all.
fn all_scenarios(scenarios: &[&Scenario], jobs: u64, stop: &AtomicBool) -> Count {
    let mut count = Count::default();
    let mut benches = Vec::new();
    for arch in Arch::ALL {
        let number = scenarios.iter().filter(|scenario| scenario.arch() == arch).count() as u64;
        if number == 0 {
            continue;
        }
        match workbench(scenarios, arch) {
            Ok(bench) => benches.push((arch, bench)),
            Err(error) => {
                report("FAIL", "set-up", &format!("{} scenarios: {error:#}", arch.name()), Duration::ZERO);
                count.failed += number;
            }
        }
    }
    let bench = |arch| benches.iter().find(|(of, _)| *of == arch).map(|(_, bench)| bench);
    let mut ready: Vec<_> = scenarios.iter().filter_map(|s| Some((bench(s.arch())?, *s))).collect();
    // The long ones first, so that no emulator is left to work alone in the end.
    ready.sort_by_key(|(_, scenario)| std::cmp::Reverse(scenario.timeout));
    count.add(run_scenarios(&ready, jobs, stop));
    count
}

/// All that the scenarios of an architecture take.
fn workbench(scenarios: &[&Scenario], arch: Arch) -> Result<Workbench> {
    let mut bench = Workbench::prepare(arch, &dialects(scenarios, arch))?;
    for scenario in scenarios.iter().filter(|scenario| scenario.arch() == arch) {
        bench.get_ready_for(scenario.firmware, scenario.machine, arch)?;
    }
    Ok(bench)
}

/// Plays scenarios, at most `jobs` at a time.
fn run_scenarios(scenarios: &[(&Workbench, &Scenario)], jobs: u64, stop: &AtomicBool) -> Count {
    let queue = Mutex::new(scenarios.iter().collect::<VecDeque<_>>());
    let total = Mutex::new(Count::default());
    let step = Step::start("scenarios");
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    // Not in the loop's condition, which would hold the lock while a scenario plays.
                    let next = queue.lock().expect("no panics here").pop_front();
                    let Some((bench, scenario)) = next else { return };
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    step.note(scenario.name);
                    let started = Instant::now();
                    let result = stage::play(bench, scenario, stop);
                    let mut count = total.lock().expect("no panics here");
                    let (verdict, text) = match &result {
                        Ok(()) => ("pass", scenario.proves),
                        Err(reason) => ("FAIL", reason.as_str()),
                    };
                    count.add(Count { passed: result.is_ok().into(), failed: result.is_err().into() });
                    step.hidden(|| report(verdict, scenario.name, text, started.elapsed()));
                    step.advance(count.passed + count.failed, scenarios.len() as u64);
                }
            });
        }
    });
    total.into_inner().expect("no panics here")
}

fn cargo(arguments: &[&str]) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(arguments).current_dir(paths::root());
    cargo
}

const ONE: Count = Count { passed: 1, failed: 0 };

fn format(step: &Step) -> Result<Count, String> {
    execute(cargo(&["fmt", "--all", "--", "--check", "-l"]), step).map(|_| ONE)
}

fn clippy(step: &Step) -> Result<Count, String> {
    execute(cargo(&["clippy", "--quiet", "--all-targets", "--", "-D", "warnings"]), step).map(|_| ONE)
}

fn clippy_bare(step: &Step) -> Result<Count, String> {
    for arch in Arch::ALL {
        let toolchain =
            Cache::open().and_then(|cache| setup::toolchain::find(&cache, arch)).map_err(|e| format!("{e:#}"))?;
        let packages = ["--package", "hypervisor", "--package", "payloads"];
        let mut command = cargo(&["clippy", "--quiet", "--release"]);
        command.args(packages).arg("--target-dir").arg(paths::bare());
        toolchain.apply(&mut command);
        command.args(["--", "-D", "warnings"]);
        execute(command, step)?;
    }
    Ok(ONE)
}

fn unit(step: &Step) -> Result<Count, String> {
    let apart = ["--exclude", "payloads", "--exclude", "tests"];
    let mut count = tests(cargo(&[&["test", "--no-fail-fast", "--workspace"], &apart[..]].concat()), step)?;
    // Its programs are for bare metal only.
    count.add(tests(cargo(&["test", "--package", "payloads", "--lib"]), step)?);
    Ok(count)
}

fn handlers(step: &Step) -> Result<Count, String> {
    tests(cargo(&["test", "--no-fail-fast", "--package", "tests"]), step)
}

/// Those that need an emulator, which other unit tests do not wait for.
fn serial_lines(step: &Step) -> Result<Count, String> {
    tests(cargo(&["test", "--package", "xtask", "--", "--ignored"]), step)
}

fn images(step: &Step) -> Result<Count, String> {
    let passed = image::check::repeat(step).map_err(|error| format!("{error:#}"))?;
    Ok(Count { passed, failed: 0 })
}

/// The searches that go on to their ends, which unit tests do not wait for.
fn worlds(step: &Step) -> Result<Count, String> {
    tests(cargo(&["test", "--package", "guestmem", "--test", "ownership", "--", "--ignored"]), step)
}

fn loom(step: &Step) -> Result<Count, String> {
    let mut command = cargo(&["test", "--package", "guestmem", "--test", "loom"]);
    // Loom's atomics replace the real ones everywhere in this build, which therefore has a folder of its own.
    command.env("RUSTFLAGS", "--cfg loom").arg("--target-dir").arg(paths::target().join("loom"));
    tests(command, step)
}

fn house_rules(step: &Step) -> Result<Count, String> {
    let findings = lint::check().map_err(|error| format!("{error:#}"))?;
    for warning in &findings.warnings {
        step.println(&format!("      note: {warning}"));
    }
    for error in &findings.errors {
        step.println(&format!("      {error}"));
    }
    match findings.errors.len() {
        0 => Ok(ONE),
        n => Err(format!("{n} violations, the first: {}", findings.errors[0])),
    }
}

/// Runs `cargo test` and counts its tests.
fn tests(command: Command, step: &Step) -> Result<Count, String> {
    match execute(command, step) {
        Ok(output) => match counted(&output) {
            // What a filter, a flag or a moved file has lost.
            Count { passed: 0, failed: 0 } => Err(format!("no test ran\n{output}")),
            count => Ok(count),
        },
        Err(reason) => {
            let count = counted(&reason);
            // A build that fails has counted nothing.
            if count.failed > 0 { Ok(count) } else { Err(reason) }
        }
    }
}

/// Sums the `test result:` lines of cargo.
fn counted(output: &str) -> Count {
    let mut count = Count::default();
    for line in output.lines().filter_map(|line| line.trim().strip_prefix("test result: ")) {
        let number = |what: &str| -> u64 {
            let part = line.split(['.', ';']).find_map(|part| part.trim().strip_suffix(what));
            part.and_then(|n| n.trim().parse().ok()).unwrap_or(0)
        };
        count.add(Count { passed: number("passed"), failed: number("failed") });
    }
    count
}

/// Runs a command without input. The error is the line that tells most, then all its output, which is shown as well.
fn execute(mut command: Command, step: &Step) -> Result<String, String> {
    let started = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = started.map_err(|error| format!("{} does not start: {error}", command.get_program().display()))?;
    let errors = child.stderr.take().expect("piped");
    let text = Mutex::new(String::new());
    let collect = |stream: &mut dyn BufRead| {
        for line in stream.lines().map_while(Result::ok) {
            step.note(line.trim());
            let mut text = text.lock().expect("no panics here");
            text.push_str(&line);
            text.push('\n');
        }
    };
    let output = child.stdout.take().expect("piped");
    std::thread::scope(|scope| {
        scope.spawn(|| collect(&mut BufReader::new(errors)));
        collect(&mut BufReader::new(output));
    });
    let text = text.into_inner().expect("no panics here");
    match child.wait() {
        Ok(status) if status.success() => Ok(text),
        Ok(status) => {
            let dull = |line: &&str| line.trim_start().starts_with("Compiling ") || line.ends_with(" ... ok");
            text.lines().filter(|line| !dull(line)).for_each(|line| step.println(line));
            let telling =
                |line: &&str| ["error", "/"].iter().any(|start| line.starts_with(start)) || line.contains("panicked");
            Err(format!("{}\n{text}", text.lines().find(telling).unwrap_or(&status.to_string())))
        }
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_summed() {
        let output = "test result: ok. 14 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s\n\
                      noise\ntest result: FAILED. 3 passed; 2 failed; 1 ignored; 0 measured\n";
        assert_eq!(counted(output), Count { passed: 17, failed: 2 });
        assert_eq!(counted("error: could not compile"), Count::default());
    }

    #[test]
    fn a_selection_of_nothing_says_what_to_change() {
        let said = |only: Option<&str>, ring, arch| {
            let options = Options { only: only.map(str::to_owned), ring, arch, ..Options::default() };
            select(&options).map(|_| ()).unwrap_err()
        };
        let near = said(Some("relm-linux"), None, None);
        assert!(near.contains("starts with `relm-linux` (near: realm-linux") && near.contains("--list"), "{near}");
        assert!(said(Some("linux"), None, None).contains("near: realm-linux"), "a part of a name");
        assert!(!said(Some("zzzzzzzz"), None, None).contains("near"));
        assert!(said(Some("unit"), None, Some(Arch::X86_64)).contains("`unit` is not among what --arch selects"));
        assert!(said(Some("realm-linux"), Some(1), None).contains("not among what --ring selects"));
        assert!(said(Some("realm"), Some(1), Some(Arch::Aarch64)).contains("more are not among what --ring or --arch"));
        assert!(said(None, Some(1), Some(Arch::X86_64)).contains("leave --ring or --arch out"));
        assert!(select(&Options::default()).is_ok());
    }

    #[test]
    fn names_are_unique_and_selected_by_prefix_and_ring() {
        let names: Vec<_> = names().collect();
        for (index, name) in names.iter().enumerate() {
            assert!(!names[..index].contains(name), "{name}");
        }
        let options = Options { only: Some("realm".into()), ring: Some(4), ..Options::default() };
        assert!(options.wants("realm-linux", 4));
        assert!(!options.wants("realm-linux", 5) && !options.wants("pkvm-linux", 4));
    }
}
