//! Builds the agent with the kernel half inside: `cargo xtask build`.
//!
//! Hands the kernel half to [`crate::ebpf`], then runs cargo on the agent, whose build script embeds the object.
//! [`crate::test`] takes its release agent from here.

use std::path::PathBuf;

use anyhow::Result;

use crate::repo::Repo;
use crate::{ebpf, process};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Optimise, as for an image or a measurement
    #[arg(long)]
    release: bool,
}

/// How much the compiler optimises.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    /// Quick to compile.
    Debug,
    /// Quick to run.
    Release,
}

/// Runs `cargo xtask build`.
pub(crate) fn command(repo: &Repo, options: &Options) -> Result<()> {
    ebpf::build(repo)?;
    let agent = agent(
        repo,
        if options.release {
            Profile::Release
        } else {
            Profile::Debug
        },
    )?;
    println!("  built {}", agent.display());
    Ok(())
}

/// Builds the agent around the object that is there, and returns where it is.
pub(crate) fn agent(repo: &Repo, profile: Profile) -> Result<PathBuf> {
    let mut cargo = repo.cargo();
    cargo.args(["build", "--locked", "--package", "mesh-agent"]);
    match profile {
        Profile::Debug => {
            process::run(&mut cargo)?;
            Ok(repo.debug_agent())
        }
        Profile::Release => {
            process::run(cargo.arg("--release"))?;
            Ok(repo.release_agent())
        }
    }
}

/// Builds the program that makes and checks traffic, which the harness takes from where it is.
pub(crate) fn traffic(repo: &Repo) -> Result<()> {
    let mut cargo = repo.cargo();
    process::run(cargo.args(["build", "--locked", "--package", "mesh-tests", "--bin", "traffic"]))
}
