//! `mesh-agent bpf`: what is in the kernel, read from the pins, so that it also works when no agent runs.
//!
//! Invariant: it only looks; every object is let go again.

mod attach;
mod fdinfo;
mod links;
mod maps;
mod progs;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};

use super::{agent::BPFFS, failure::Failure, output::OutputArgs};
use crate::kernel::pins::Pins;

/// What `bpf` shows.
#[derive(Debug, Subcommand)]
pub(super) enum BpfCommand {
    /// Programs that the pinned links run, or that use the pinned maps
    #[command(
        visible_alias = "programs",
        after_help = "Example:\n  mesh-agent bpf progs -o wide"
    )]
    Progs(BpfArgs),
    /// Maps, and how full they are
    #[command(
        after_help = "Example:\n  mesh-agent bpf maps -o json | jq '.maps[] | select(.name == \"PODS\")'"
    )]
    Maps(BpfArgs),
    /// Links, and what they are attached to
    #[command(after_help = "Example:\n  mesh-agent bpf links")]
    Links(BpfArgs),
}

/// What each of them takes.
#[derive(Args, Debug)]
pub(super) struct BpfArgs {
    /// Directory of the pins
    #[arg(long, value_name = "DIR", default_value = BPFFS)]
    bpffs: PathBuf,
    #[command(flatten)]
    output: OutputArgs,
}

impl BpfCommand {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self {
            Self::Progs(args) => args.output.show(&progs::Programs::of(&Pins::below(&args.bpffs))?),
            Self::Maps(args) => args.output.show(&maps::Maps::of(&Pins::below(&args.bpffs))?),
            Self::Links(args) => args.output.show(&links::Links::of(&Pins::below(&args.bpffs))?),
        }
    }
}

/// Names of the programs in the kernel that belong to the pins, for telling them from others'.
pub(super) fn own_program_ids(pins: &Pins) -> Result<Vec<u32>, Failure> {
    Ok(progs::Programs::of(pins)?.ids())
}

/// The pins in a directory by name; none when there is no such directory.
pub(super) fn pins_in(dir: &Path) -> Result<Vec<(String, PathBuf)>, Failure> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(denied(dir, error)),
    };
    let mut pins = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| denied(dir, error))?;
        pins.push((entry.file_name().to_string_lossy().into_owned(), entry.path()));
    }
    pins.sort();
    Ok(pins)
}

/// The kernel did not let us look.
fn denied(what: &Path, error: io::Error) -> Failure {
    if matches!(error.kind(), io::ErrorKind::PermissionDenied) {
        return Failure::Remedied {
            message: format!("cannot look at {}: {error}", what.display()),
            remedy: "BPF objects are for root alone: try with sudo".to_owned(),
        };
    }
    Failure::because(format!("cannot look at {}", what.display()), error)
}

/// `SkStorage` → `sk-storage`, `BPF_PROG_TYPE_SK_LOOKUP` → `sk-lookup`.
fn word(name: &str) -> String {
    let mut out = String::with_capacity(name.len() + 4);
    let shouted = !name.contains(|c: char| c.is_ascii_lowercase());
    let name = name.strip_prefix("BPF_PROG_TYPE_").unwrap_or(name);
    for (place, character) in name.chars().enumerate() {
        if character == '_' {
            out.push('-');
        } else {
            if !shouted && place > 0 && character.is_ascii_uppercase() {
                out.push('-');
            }
            out.push(character.to_ascii_lowercase());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_names_become_words() {
        assert_eq!(word("SkStorage"), "sk-storage");
        assert_eq!(word("BPF_PROG_TYPE_CGROUP_SOCK_ADDR"), "cgroup-sock-addr");
    }

    #[test]
    fn no_directory_means_no_pins() {
        assert!(pins_in(Path::new("/nonexistent/nodemesh")).unwrap().is_empty());
    }
}
