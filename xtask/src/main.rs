//! The entrance: everything a person types to set up, build and test Nodemesh.
//!
//! `cargo xtask COMMAND` runs this program. Each command lives in a module of its own and is handed the
//! [`repo::Repo`] it works on; this file only parses and dispatches. To add a command: a module, a variant
//! of [`Command`], an arm in `run`.
//!
//! Invariant: a command either does all of what it says or ends with a non-zero exit code and a remedy.

mod bench;
mod compile;
mod demo;
mod ebpf;
mod fuzz;
mod layers;
mod process;
mod repo;
mod setup;
mod test;
mod toolchain;
mod vm;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::repo::Repo;

/// Set up, build and test Nodemesh.
#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    version,
    disable_help_subcommand = true
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what is missing on this machine to build, test and try Nodemesh
    Setup(setup::Options),
    /// Build the kernel half into target/ebpf/mesh-ebpf.o
    BuildEbpf(ebpf::Options),
    /// Build the kernel half and the agent that carries it
    Build(compile::Options),
    /// Run programs in four pods through the agents of two nodes, and look at it
    Demo(demo::Options),
    /// Measure what the agents cost, against plain networking on the same machine
    Bench(bench::Options),
    /// Throw random bytes at what reads from the network
    Fuzz(fuzz::Options),
    /// Run every check of the project: style, lints, docs, licences, layers, unit and integration tests, the kernel matrix
    Test(test::Options),
    /// Run the integration tests on stock distribution kernels, in virtual machines
    VmTest(vm::Options),
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Its own lines, without the backtrace that some machines ask of every program.
            eprintln!("\nerror: {failure}");
            for cause in failure.chain().skip(1) {
                eprintln!("  because: {cause}");
            }
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    ebpf::become_what_is_asked()?;
    let arguments = Arguments::parse();
    let repo = Repo::find()?;
    match arguments.command {
        Command::Setup(options) => setup::command(&repo, &options),
        Command::BuildEbpf(options) => ebpf::command(&repo, &options),
        Command::Build(options) => compile::command(&repo, &options),
        Command::Demo(options) => demo::command(&repo, &options),
        Command::Bench(options) => bench::command(&repo, &options),
        Command::Fuzz(options) => fuzz::command(&repo, &options),
        Command::Test(options) => test::command(&repo, &options),
        Command::VmTest(options) => vm::command(&repo, &options),
    }
}
