//! `cargo xtask demo`: a Debian guest and a host that is not to see its memory, told step by step.

use crate::arch::Arch;
use crate::firmware::Firmware;
use crate::machine::{Event, Session};
use crate::paths;
use crate::run::Workbench;
use crate::scenarios::{End, Guest, PLAIN, Scenario};
use crate::{bundle, stage, svg, terminal};
use anyhow::{Result, bail};
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

/// What must have been observed, and how the summary calls it.
const REQUIRED: [(&str, &str); 9] = [
    ("guest-up", "an unmodified Debian runs as a protected guest"),
    ("host-refused-read", "the host tried to read a private page and got an exception"),
    ("host-refused-write", "the host tried to write a private page and got an exception"),
    ("shared-both-read", "the guest shared a page, and both sides read it"),
    ("unshared-wiped", "the guest took the page back, and it came back wiped"),
    ("refused-again", "the host tried once more and was refused"),
    ("power-off", "the guest powered off"),
    ("reclaimed", "the host got every frame back, wiped but for what it could read anyway"),
    ("audit-clean", "Postern's books agree with all page tables"),
];

/// The story's Debian, in the dialect of the architecture.
fn scene(arch: Arch, firmware: Firmware) -> Scenario {
    Scenario {
        name: "demo",
        proves: "the demo",
        guest: Guest::Linux,
        dialect: arch.default_dialect(),
        machine: arch.machine(),
        firmware,
        mode: "demo",
        cpus: 2,
        host_cpus: arch.cpus(),
        arguments: "postern.script=demo",
        end: End::Ok,
        timeout: 400,
        ..PLAIN
    }
}

/// Plays the demo.
pub fn run(arch: Arch, firmware: Firmware) -> Result<()> {
    let stop = terminal::stop_flag();
    let scene = scene(arch, firmware);
    let mut bench = Workbench::prepare(arch, &[scene.dialect])?;
    bench.boot_through(firmware, arch)?;
    let machine = stage::machine(&bench, &scene)?;
    let colours = Colours::new();
    say!(
        "{}",
        colours.bold(
            "Postern boots first, then a host it does not trust, then a guest that the host may run but not read."
        )
    );
    say!("");
    let mut seen = Vec::new();
    let mut map = svg::Map::default();
    let mut log = String::new();
    let mut console = String::new();
    let session = Session::start(&bench.emulator, &machine)?;
    let verdict = session.follow(Some(Duration::from_secs(scene.timeout)), &stop, |event, _| {
        match event {
            Event::Log(line) => {
                log.push_str(line);
                log.push('\n');
                narrate(line.strip_prefix("host: ").unwrap_or(line), &colours, &mut seen, &mut map);
            }
            Event::ConsoleLine(line) => {
                if is_worth_telling(line, &console) {
                    say!("  {}", colours.dim(&format!("guest console | {line}")));
                }
                console.push_str(line);
                console.push('\n');
            }
            Event::Console(_) | Event::SwitchedOff { .. } => {}
        }
        true
    });
    let host_log = file(arch, "host", "log");
    let picture = file(arch, "memory-map", "svg");
    bundle::write_if_changed(&host_log, log.as_bytes())?;
    bundle::write_if_changed(&file(arch, "guest-console", "txt"), console.as_bytes())?;
    bundle::write_if_changed(&picture, map.render().as_bytes())?;

    say!("");
    let observed = |name: &str| seen.iter().any(|s| s == name);
    for (name, text) in REQUIRED {
        let mark = if observed(name) { colours.good("observed    ") } else { colours.bad("NOT OBSERVED") };
        say!("{mark}  {text}");
    }
    let phases = map.phases();
    say!("\nWho owned the memory before, during and after: {}", picture.display());
    if !verdict.is_ok() {
        bail!("the demo did not end well: {verdict} (log: {})", host_log.display());
    }
    if let Some((name, _)) = REQUIRED.iter().find(|(name, _)| !observed(name)) {
        bail!("the demo ended without showing `{name}` (log: {})", host_log.display());
    }
    if phases < svg::PHASES.len() {
        bail!("the host reported only {phases} of {} memory maps", svg::PHASES.len());
    }
    Ok(())
}

/// A file that the demo of an architecture leaves: the default one's has the plain name.
fn file(arch: Arch, name: &str, suffix: &str) -> PathBuf {
    let of = match arch {
        Arch::Aarch64 => String::new(),
        Arch::X86_64 => format!("-{}", arch.name()),
    };
    paths::target().join("demo").join(format!("{name}{of}.{suffix}"))
}

/// Lines of the guest's console that belong to the story. What `console` has of the kernel's is not told again: Linux repeats it
/// when its proper console takes over from the early one.
fn is_worth_telling(line: &str, console: &str) -> bool {
    let own = ["guest: ", "postern-guest: "].iter().any(|start| line.starts_with(start));
    let kernel = ["RME: ", "tdx: Guest detected", "Features active: Intel TDX"].iter().any(|text| line.contains(text));
    own || kernel && console.lines().all(|before| before != line)
}

/// Turns a line of the test host into something to read.
fn narrate(line: &str, colours: &Colours, seen: &mut Vec<String>, map: &mut svg::Map) {
    if let Some(name) = line.strip_prefix("demo-ok: ") {
        seen.push(name.trim().to_owned());
    } else if let Some(text) = line.strip_prefix("demo: ") {
        let (step, text) = text.split_once(": ").unwrap_or(("", text));
        say!("{} {text}", colours.step(&format!("{step:>14}")));
    } else if let Some(run) = line.strip_prefix("map: ") {
        map.add(run);
    }
}

/// Colours on a terminal, plain text elsewhere.
struct Colours(bool);

impl Colours {
    fn new() -> Self {
        Colours(std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none())
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn bold(&self, text: &str) -> String {
        self.paint("1", text)
    }

    fn dim(&self, text: &str) -> String {
        self.paint("2", text)
    }

    fn step(&self, text: &str) -> String {
        self.paint("1;36", text)
    }

    fn good(&self, text: &str) -> String {
        self.paint("32", text)
    }

    fn bad(&self, text: &str) -> String {
        self.paint("1;31", text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn narration_is_understood() {
        let (mut seen, mut map) = (Vec::new(), svg::Map::default());
        let colours = Colours(false);
        for line in
            ["demo: read: the host reads", "demo-ok: guest-up", "map: before 0x40000000 0x50000000 host", "noise"]
        {
            narrate(line, &colours, &mut seen, &mut map);
        }
        assert_eq!(seen, ["guest-up"]);
        let line = "[    0.000000] RME: Using RSI version 1.0";
        assert!(is_worth_telling(line, "x\n") && !is_worth_telling(line, &format!("x\n{line}\n")), "a repetition");
        assert!(is_worth_telling("guest: up", "guest: up\n") && !is_worth_telling("x", ""));
        assert_eq!(file(Arch::Aarch64, "memory-map", "svg"), paths::target().join("demo/memory-map.svg"));
        assert_ne!(file(Arch::Aarch64, "host", "log"), file(Arch::X86_64, "host", "log"));
        assert_eq!(map.phases(), 1);
    }
}
