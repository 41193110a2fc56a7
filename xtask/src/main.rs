//! Everything around Postern that is not Postern: `cargo xtask --help` lists it.

mod bench;
mod build;
mod bundle;
mod cpio;
mod demo;
mod lint;
mod machine;
mod paths;
mod progress;
mod run;
mod scenarios;
mod setup;
mod stage;
mod svg;
mod terminal;
mod test;
mod verdict;

use anyhow::{Result, anyhow};
use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Builds, runs, shows and tests Postern.
///
/// What is missing (emulator, guest kernels, bare-metal `core`) is fetched from Debian the first time, into a cache folder
/// ($POSTERN_CACHE, else ~/.cache/postern); later runs need no network. Start with `cargo xtask demo`.
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
    /// The other commands do this by themselves. Environment: POSTERN_CACHE names the cache folder, POSTERN_QEMU an emulator,
    /// POSTERN_MIRROR a Debian mirror (default: the one this machine's apt uses).
    Setup {
        /// Read everything in the cache and compare checksums.
        #[arg(long)]
        verify: bool,
        /// Forget what is there and get the newest of everything.
        #[arg(long)]
        refresh: bool,
    },
    /// Build the hypervisor and the test payloads for bare metal.
    Build,
    /// Boot a kernel and initrd as a protected guest, its console on standard input and output.
    ///
    /// Examples:
    ///   cargo xtask run                                  a shell in Debian's kernel, as a realm
    ///   cargo xtask run --dialect pkvm --cpus 4
    ///   cargo xtask run --kernel Image --initrd rootfs.cpio.gz --cmdline "console=ttyAMA0" --log log.txt
    ///
    /// Exit status: 0 when the guest powered off cleanly and the host got every frame back; otherwise 1, and the last line
    /// on standard error says why.
    #[command(verbatim_doc_comment)]
    Run(Box<run::Options>),
    /// Run all tests: formatting, lints, unit and property tests, interleavings, emulator scenarios, attacks.
    ///
    /// The last line on standard output is `N passed, N failed`; the exit status is 0 only when none failed.
    Test(test::Options),
    /// Watch a Debian guest being protected from its host, step by step (under a minute).
    ///
    /// Writes target/demo/memory-map.svg: who owns the machine's memory before, during and after.
    Demo,
    /// Count instructions of the operations that matter, beside their targets and what other hypervisors need.
    Bench {
        /// Leave the native measurements (conversions per second, wiping bandwidth, two threads) out.
        #[arg(long)]
        emulated_only: bool,
    },
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Task::Setup { verify, refresh } => setup::everything(verify, refresh),
        Task::Build => build_all(),
        Task::Run(options) => run::run(&options).and_then(verdict_to_result),
        Task::Test(options) => test::run(&options),
        Task::Demo => demo::run(),
        Task::Bench { emulated_only } => bench::run(emulated_only),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn build_all() -> Result<()> {
    let toolchain = setup::toolchain::find(&setup::Cache::open()?)?;
    let images = build::all(&toolchain)?;
    println!("{}", images.postern.display());
    Ok(())
}

fn verdict_to_result(verdict: verdict::Verdict) -> Result<()> {
    if verdict.is_ok() { Ok(()) } else { Err(anyhow!("{verdict}")) }
}
