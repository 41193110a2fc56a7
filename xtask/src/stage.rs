//! Plays one scenario in the emulator and judges it.

use crate::bundle::{self, Bundle};
use crate::cpio::Archive;
use crate::image::Content;
use crate::machine::eye::Eye;
use crate::machine::{Clock, Emulator, Event, Machine, PC, Session};
use crate::measured;
use crate::paths;
use crate::run::{Workbench, console, default_cmdline};
use crate::scenarios::{End, Flaw, Guest, Scenario};
use crate::screen;
use crate::verdict::{BOOT_REFUSED, Verdict};
use abi::bundle::END_MARKER;
use anyhow::Result;
use loader::tpm::Values;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

/// Everything that was printed.
#[derive(Default)]
pub struct Transcript {
    /// Lines of the hypervisor's and host's log.
    pub log: String,
    /// The guest's console.
    pub console: String,
    /// Whether the screen showed what it has to when the host began to run, or nothing could be booted.
    pub screen: Option<Result<(), String>>,
    /// What its TPM held when the machine was gone.
    pub registers: Option<Result<Values, String>>,
}

/// How long a line that is on the serial port may take to the screen.
const DRAWING: Duration = Duration::from_secs(2);

/// Folder of the transcripts.
pub fn transcripts() -> PathBuf {
    paths::target().join("scenarios")
}

/// Plays a scenario; the error is the one line that says why it failed.
pub fn play(bench: &Workbench, scenario: &Scenario, stop: &AtomicBool) -> Result<(), String> {
    let machine = machine(bench, scenario).map_err(|error| format!("{error:#}"))?;
    let (transcript, verdict) = boot(bench, &machine, scenario, stop).map_err(|error| format!("{error:#}"))?;
    let folder = transcripts();
    let _ = fs::create_dir_all(&folder);
    let _ = fs::write(folder.join(format!("{}.log", scenario.name)), &transcript.log);
    let _ = fs::write(folder.join(format!("{}.console", scenario.name)), &transcript.console);
    judge(scenario, &transcript, &verdict)?;
    let Some(registers) = transcript.registers else { return Ok(()) };
    let (volume, registers) = (loaded(bench, &machine, scenario)?, registers?);
    match scenario.end {
        End::Ok => measured::judge(&transcript.log, &volume, &registers),
        _ => measured::judge_alone(&volume, &registers),
    }
}

/// What a volume has for the application to load.
fn loaded(bench: &Workbench, machine: &Machine, scenario: &Scenario) -> Result<Vec<Content>, String> {
    match bench.emulator_for(scenario.firmware, scenario.machine) {
        Emulator::Uefi(_, chain) => chain.contents(machine).map_err(|error| format!("{error:#}")),
        _ => Err("only UEFI measures".into()),
    }
}

/// Packs the bundle of a scenario.
pub fn machine(bench: &Workbench, scenario: &Scenario) -> Result<Machine> {
    let linux = || match (scenario.guest, &bench.older) {
        (Guest::OlderLinux, Some(kernel)) => Ok(kernel.clone()),
        _ => bench.kernel(scenario.dialect).map(PathBuf::from),
    };
    let mut machine = Machine {
        kernel: bench.images.postern.clone(),
        initrd: Some(bench.initrd.clone()),
        machine: scenario.machine,
        cpus: scenario.host_cpus,
        memory_mib: scenario.memory_mib + scenario.host_mib,
        clock: Clock::Free,
        append: None,
        load_only: false,
        trouble: scenario.trouble,
        extras: scenario.extras,
    };
    if scenario.guest == Guest::Bare {
        machine.kernel = linux()?;
        machine.append = Some(format!("{} {}", console(scenario.dialect), scenario.arguments));
        return Ok(machine);
    }
    if scenario.guest == Guest::Shipped {
        machine.initrd = None;
        return Ok(machine);
    }
    if let Guest::Flawed(flaw) = scenario.guest {
        machine.initrd = flawed(scenario.name, flaw)?;
        return Ok(machine);
    }
    let mut bundle = Bundle { host: bench.images.payloads.get("host")?, ..Bundle::default() };
    bundle.set("mode", scenario.mode);
    bundle.set("dialect", scenario.dialect.name());
    bundle.set("cpus", scenario.cpus);
    bundle.set("memory", scenario.memory_mib << 20);
    for (key, value) in scenario.config {
        bundle.set(key, value);
    }
    let words = |base: &str| Some(format!("{base} {}", scenario.arguments).trim().to_owned());
    bundle.kernel = Some(match scenario.guest {
        Guest::Linux | Guest::OlderLinux => {
            bundle.initrd = Some(bench.initrd.clone());
            bundle.cmdline = words(default_cmdline(scenario.dialect));
            linux()?
        }
        Guest::Garbage => {
            let file = paths::bare().join("garbage");
            bundle::write_if_changed(&file, &[0x5a; 8192])?;
            file
        }
        _ => {
            bundle.cmdline = words("");
            bench.images.payloads.get("guest")?
        }
    });
    if scenario.mode == "demo" {
        bundle.extra.push((abi::bundle::GUEST_TINY.into(), bench.images.payloads.get("guest")?));
    }
    machine.initrd = Some(bundle.write(scenario.name)?);
    Ok(machine)
}

/// A bundle with one thing wrong.
fn flawed(name: &str, flaw: Flaw) -> Result<Option<PathBuf>> {
    let mut archive = Archive::default();
    if flaw != Flaw::NoHost {
        archive.file(abi::bundle::HOST_KERNEL, &[0x5a; 8192]);
    }
    archive.file(abi::bundle::CONFIG, b"mode=run\n");
    let mut bytes = archive.finish();
    match flaw {
        Flaw::Absent => return Ok(None),
        Flaw::Junk => bytes = vec![0x5a; 8192],
        Flaw::Cut => bytes.truncate(4096),
        Flaw::NoHost | Flaw::HostJunk => {}
    }
    let file = paths::bare().join("bundles").join(format!("{name}.cpio"));
    bundle::write_if_changed(&file, &bytes)?;
    Ok(Some(file))
}

fn boot(bench: &Workbench, machine: &Machine, scenario: &Scenario, stop: &AtomicBool) -> Result<(Transcript, Verdict)> {
    let mut transcript = Transcript::default();
    let mut session = Session::start(&bench.emulator_for(scenario.firmware, scenario.machine), machine)?;
    let tpm = session.take_tpm();
    let keyboard = session.keyboard();
    let mut dialogue = scenario.dialogue.iter();
    let mut next = dialogue.next();
    // Where on the console the next text is looked for: each answer is to a new question.
    let mut seen = 0;
    let eye = session.eye();
    // A machine with a TPM does not end by itself.
    let is_last = |line: &str| tpm.is_some() && [END_MARKER, BOOT_REFUSED].iter().any(|end| line.starts_with(end));
    let verdict = session.follow(Some(Duration::from_secs(scenario.timeout)), stop, |event, _| {
        let mut go_on = true;
        match event {
            Event::Log(line) => {
                transcript.log.push_str(line);
                transcript.log.push('\n');
                // Once the host runs, Postern writes no more.
                let is_full =
                    transcript.screen.is_none() && ["host: ", BOOT_REFUSED].iter().any(|it| line.starts_with(it));
                if let Some(eye) = eye.as_ref().filter(|_| is_full) {
                    transcript.screen = Some(look(eye, &transcript.log));
                }
                go_on = !is_last(line);
            }
            Event::Console(bytes) => transcript.console.push_str(&String::from_utf8_lossy(bytes)),
            Event::ConsoleLine(_) | Event::SwitchedOff { .. } => {}
        }
        if let Some((question, answer)) = next
            && let Some(at) = transcript.console[seen..].find(question)
        {
            seen += at + question.len();
            keyboard.type_in(answer.as_bytes());
            next = dialogue.next();
        }
        go_on
    });
    transcript.registers = tpm.map(|tpm| tpm.registers().map_err(|error| format!("{error:#}")));
    if let Some((question, _)) = next {
        transcript.log.push_str(&format!("(the console never said {question:?})\n"));
    }
    Ok((transcript, verdict))
}

/// Whether the screen shows what the log says, within a while.
fn look(eye: &Eye, log: &str) -> Result<(), String> {
    let started = Instant::now();
    loop {
        let picture = eye.look().map_err(|error| format!("{error:#}"));
        let result = picture.and_then(|picture| screen::judge(log, &picture));
        if result.is_ok() || started.elapsed() > DRAWING {
            return result;
        }
    }
}

/// What speaks against a scenario having passed.
fn judge(scenario: &Scenario, transcript: &Transcript, verdict: &Verdict) -> Result<(), String> {
    let ended_well = match (scenario.end, verdict) {
        (End::Ok, Verdict::Ok) => true,
        (End::Reason(text), Verdict::Ended(reason)) => reason.contains(text),
        (End::Panic(text), Verdict::Panic(reason)) => reason.contains(text),
        (End::Crash(text), Verdict::Crash(record)) => record.iter().any(|line| line.contains(text)),
        (End::PowerOff, Verdict::Died(reason)) => !reason.starts_with("exit") && !reason.starts_with("signal"),
        _ => false,
    };
    let forbidden = |text: &&&str| transcript.log.contains(**text) || transcript.console.contains(**text);
    if let Some(text) = scenario.never.iter().find(forbidden) {
        let all = transcript.log.lines().chain(transcript.console.lines());
        let line = all.into_iter().find(|line| line.contains(text)).unwrap_or(text);
        return Err(format!("printed: {}", line.trim()));
    }
    if !ended_well {
        return Err(verdict.to_string());
    }
    if let Some(text) = scenario.console.iter().find(|text| !transcript.console.contains(**text)) {
        return Err(format!("the guest's console never said {text:?}"));
    }
    if let Some(text) = scenario.log.iter().find(|text| !transcript.log.contains(**text)) {
        return Err(format!("the log never said {text:?}"));
    }
    match &transcript.screen {
        Some(result) => result.clone()?,
        None if scenario.extras.screen && scenario.machine == PC => screen::judge_by_host(&transcript.log)?,
        None if scenario.extras.screen => return Err("nobody has looked at the screen".into()),
        None => {}
    }
    for (text, least) in scenario.at_least {
        match number_after(transcript, text) {
            Some(number) if number >= *least => {}
            Some(number) => return Err(format!("{text:?} is followed by {number}, not by at least {least}")),
            None => return Err(format!("nothing ever said {text:?} and a number")),
        }
    }
    Ok(())
}

/// The number that follows a text on the console or in the log.
fn number_after(transcript: &Transcript, text: &str) -> Option<u64> {
    let after = |all: &str| {
        let rest = &all[all.find(text)? + text.len()..];
        rest[..rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len())].parse().ok()
    };
    after(&transcript.console).or_else(|| after(&transcript.log))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenarios;

    #[test]
    fn a_scenario_passes_only_with_all_it_expects() {
        let scenario = scenarios::all().find(|s| s.name == "functional-realm").unwrap();
        let transcript = |console: &str| Transcript { console: console.into(), ..Transcript::default() };
        let good = transcript("guest: pass a\nguest: done, 1 passed, 0 failed\n");
        assert_eq!(judge(scenario, &good, &Verdict::Ok), Ok(()));
        assert!(judge(scenario, &transcript(""), &Verdict::Ok).is_err(), "silence is no pass");
        assert!(
            judge(scenario, &transcript("guest: done, 0 passed, 0 failed"), &Verdict::Ok).is_err(),
            "nor is nothing"
        );
        assert!(judge(scenario, &good, &Verdict::Timeout(9)).is_err());
        assert!(judge(scenario, &good, &Verdict::Crash(vec!["x".into()])).is_err());
        assert!(judge(scenario, &good, &Verdict::Ended("guest reset".into())).is_err());
        let bad = transcript("guest: FAIL a: because\nguest: done, 1 passed, 0 failed\n");
        assert_eq!(judge(scenario, &bad, &Verdict::Ok), Err("printed: guest: FAIL a: because".into()));
    }
}
