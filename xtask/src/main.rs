//! Everything around Postern that is not Postern: `cargo xtask --help` lists it.

// First, for its macro.
#[macro_use]
mod terminal;

mod arch;
mod bench;
mod build;
mod bundle;
mod check;
mod cpio;
mod demo;
mod firmware;
mod image;
mod lint;
mod machine;
mod measured;
mod paths;
mod progress;
mod run;
mod scenarios;
mod screen;
mod setup;
mod stage;
mod svg;
mod test;
mod trouble;
mod verdict;

use anyhow::{Result, anyhow};
use arch::Arch;
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};
use firmware::Firmware;
use std::process::ExitCode;

/// Exit status after standard output was closed, as a shell reports of a program that SIGPIPE ended.
const NOBODY_READS: u8 = 128 + 13;

/// Builds, runs, shows and tests Postern.
///
/// What is missing (emulator, guest kernels, bare-metal `core`) is fetched from Debian the first time, into a cache folder
/// ($POSTERN_CACHE, else ~/.cache/postern); later runs need no network. Start with `cargo xtask demo`.
///
/// Exit status of all commands: 0 when all went well, 1 when something failed, 2 when the command line is wrong.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Fetch and build what the other commands need, and say where it is.
    ///
    /// The other commands do this by themselves. Environment: POSTERN_CACHE names the cache folder, POSTERN_QEMU and POSTERN_BOCHS
    /// emulators, POSTERN_MIRROR a Debian mirror (default: the one this machine's apt uses).
    Setup(setup::Options),
    /// Build the hypervisor as tests use it and the test payloads, and say where Postern's image is.
    ///
    /// A bundle can crash this hypervisor for a test; `image` builds the one for real machines.
    Build {
        /// Architecture to build for.
        #[arg(long, value_enum, default_value_t = Arch::Aarch64)]
        arch: Arch,
    },
    /// Boot a kernel and initrd as a protected guest, its console on standard input and output.
    ///
    /// Examples:
    ///   cargo xtask run                                  a shell in Debian's kernel, as a realm
    ///   cargo xtask run --dialect pkvm --cpus 4
    ///   cargo xtask run --arch x86_64                    the same in Debian's x86-64 kernel, as a TDX guest
    ///   cargo xtask run --kernel Image --initrd rootfs.cpio.gz --cmdline "console=ttyAMA0" --log log.txt
    ///
    /// Standard input may be a pipe or a file: what it holds waits until the guest reads it. Its end does not end the run; let
    /// the last line power the guest off (`exit` in the default initrd), or use --timeout.
    ///
    /// Exit status: 0 when the guest powered off cleanly and the host got every frame back; 2 when the command line cannot be
    /// understood; otherwise 1. The last line on standard error says why (a `hint:` may come before it).
    #[command(verbatim_doc_comment)]
    Run(Box<run::Options>),
    /// Make a disk or CD that boots Postern on a real machine: a disk through UEFI, a CD (on x86_64) from the BIOS, too.
    ///
    /// A CD is a disk as well when it is written to one. docs/boot.md says more, and README.md what the machine needs. The
    /// hypervisor is built without what only tests ask for.
    Image(image::Options),
    /// Run all tests: formatting, lints, unit and property tests, interleavings, emulator scenarios, attacks.
    ///
    /// The last line on standard output is `N passed, N failed`; the exit status is 0 only when none failed.
    Test(test::Options),
    /// Watch a Debian guest being protected from its host, step by step (a minute or two once all is built).
    ///
    /// Writes target/demo/memory-map.svg (x86_64: memory-map-x86_64.svg): who owns the machine's memory before, during and
    /// after.
    Demo {
        /// Architecture of machine and guest.
        #[arg(long, value_enum, default_value_t = Arch::Aarch64)]
        arch: Arch,
        /// What boots the machine [default: direct on aarch64, grub-bios on x86_64].
        #[arg(long, value_enum)]
        firmware: Option<Firmware>,
    },
    /// Count instructions of the operations that matter, beside their targets and what other hypervisors need.
    Bench(bench::Options),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Task::Setup(options) => setup::run(options),
        Task::Build { arch } => build_all(arch),
        Task::Run(options) => {
            if let Err(text) = options.check() {
                misunderstood("run", text);
            }
            run::run(&options).and_then(verdict_to_result)
        }
        Task::Image(options) => image::run(&options),
        Task::Test(options) => match test::select(&options) {
            Ok(tests) => test::run(&options, &tests),
            Err(text) => misunderstood("test", text),
        },
        Task::Demo { arch, firmware } => match Firmware::choose(firmware, arch) {
            Ok(firmware) => demo::run(arch, firmware),
            Err(text) => misunderstood("demo", text),
        },
        Task::Bench(options) => match options.check() {
            Ok(()) => bench::run(options),
            Err(text) => misunderstood("bench", text),
        },
    };
    match result {
        _ if terminal::nobody_reads() => ExitCode::from(NOBODY_READS),
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Ends with the exit status of a command line that cannot be understood.
fn misunderstood(command: &str, text: String) -> ! {
    misunderstanding(command, text).exit()
}

/// The error as clap would word it, with the usage of the command it is about.
fn misunderstanding(command: &str, text: String) -> clap::Error {
    let mut all = Cli::command();
    all.build();
    all.find_subcommand_mut(command).expect("a command of this program").error(ErrorKind::ArgumentConflict, text)
}

fn build_all(arch: Arch) -> Result<()> {
    let toolchain = setup::toolchain::find(&setup::Cache::open()?, arch)?;
    let images = build::all(&toolchain)?;
    say!("{}", images.postern.display());
    Ok(())
}

fn verdict_to_result(verdict: verdict::Verdict) -> Result<()> {
    if verdict.is_ok() { Ok(()) } else { Err(anyhow!("{verdict}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_misunderstanding_shows_how_its_command_is_used() {
        for command in ["run", "demo", "test", "bench"] {
            let text = misunderstanding(command, "no".into()).to_string();
            assert!(text.contains(&format!("Usage: cargo xtask {command} [OPTIONS]")), "{text}");
        }
    }
}
