//! This program in the place of rustc, so that the kernel half does not depend on where the checkout lies.
//!
//! Cargo names each crate to the compiler by a hash, and for a crate outside of its workspace, as `mesh-common` is
//! for the kernel half, that hash covers the absolute path. It ends up in symbol names and decides the order
//! of functions. [`super`] has cargo call us instead of rustc; we give our own crates a hash that is their name, and
//! become rustc.
//!
//! Besides, LLVM orders the kernel's type information by addresses in its own memory. What we become, and the linker
//! that it starts, therefore runs without address randomisation.
//!
//! Invariant: nothing else changes, least of all what the programs do.

use std::env;
use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Error, Result};
use nix::sys::personality::{self, Persona};

/// Set on cargo: says to us that cargo calls, not a person.
const MARK: &str = "NODEMESH_XTASK_IS_RUSTC";
/// The crates whose path cargo hashes.
const OURS: [&str; 2] = ["mesh_common", "mesh_ebpf"];

/// Has this cargo call us in the place of rustc.
pub(super) fn install(cargo: &mut Command) -> Result<()> {
    cargo.env(
        "RUSTC_WRAPPER",
        env::current_exe().context("this program does not know its own file")?,
    );
    cargo.env(MARK, "1");
    Ok(())
}

/// Becomes rustc if cargo called us for that; returns only if it did not, or if rustc cannot be started.
pub(crate) fn become_rustc() -> Result<()> {
    if env::var_os(MARK).is_none() {
        return Ok(());
    }
    if let Err(source) = personality::get().and_then(|now| personality::set(now | Persona::ADDR_NO_RANDOMIZE))
    {
        // A container may forbid it. The object works all the same; only two builds of it may differ.
        eprintln!(
            "warning: address randomisation stays on ({source}): the order of types in the object may vary"
        );
    }
    let mut arguments = env::args_os().skip(1);
    let rustc = arguments.next().context("cargo named no compiler")?;
    let failure = Command::new(&rustc)
        .args(renamed(arguments.collect()))
        .env_remove(MARK)
        .exec();
    Err(Error::new(failure).context(format!("cannot start {}", rustc.display())))
}

fn renamed(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let name = arguments
        .windows(2)
        .find(|pair| pair[0] == "--crate-name")
        .map(|pair| pair[1].clone());
    if let Some(name) = name.filter(|name| OURS.iter().any(|ours| name == ours)) {
        for argument in &mut arguments {
            if argument.as_encoded_bytes().starts_with(b"metadata=") {
                *argument = [OsStr::new("metadata="), &name].into_iter().collect();
            }
        }
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    fn renamed_words(line: &str) -> String {
        let words = renamed(line.split(' ').map(OsString::from).collect());
        words
            .iter()
            .map(|word| word.to_string_lossy())
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[test]
    fn our_crates_are_named_by_their_names_and_others_pass() {
        assert_eq!(
            renamed_words("--crate-name mesh_common -C metadata=0123 -C extra-filename=-89"),
            "--crate-name mesh_common -C metadata=mesh_common -C extra-filename=-89"
        );
        let other = "--crate-name core -C metadata=0123 -C extra-filename=-89";
        assert_eq!(renamed_words(other), other);
        assert_eq!(renamed_words("-vV"), "-vV");
    }
}
