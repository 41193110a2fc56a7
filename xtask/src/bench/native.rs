//! Native measurements: guestmem's own benchmark on this machine.

use crate::paths;
use crate::progress::Step;
use anyhow::{Result, bail};
use std::process::{Command, Stdio};

/// How often the native benchmark runs. The best run counts: whatever else the machine does can only slow one down, and two
/// threads most of all.
const NATIVE_RUNS: u32 = 3;

/// Runs guestmem's native benchmark.
pub fn measure(found: &mut Vec<(String, f64)>) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_run_counts() {
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
