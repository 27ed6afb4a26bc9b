//! This program in the place of rustc and of the linker, so that the kernel half does not depend on where it is built.
//!
//! Two things would make it depend. Cargo names each crate to the compiler by a hash, which for a crate outside of its
//! workspace, as `mesh-common` is for the kernel half, covers the absolute path, and ends up in symbol names. And the
//! linker's LLVM orders types by their addresses in its own memory, which vary with randomisation and with the length
//! of whatever it is told. So [`super`] has cargo call us; we give our own crates a hash that is their name and become
//! rustc, or make the linker's surroundings equal everywhere and become the linker.
//!
//! Invariant: no option that says what to build changes.

use std::env;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Error, Result};
use nix::sys::personality::{self, Persona};

/// Set on cargo: says to us that cargo calls in the place of rustc. Rustc's own children do not see it.
const RUSTC_MARK: &str = "NODEMESH_XTASK_IS_RUSTC";
/// Set on cargo: the linker to become when rustc calls.
const LINKER_MARK: &str = "NODEMESH_XTASK_IS_LINKER";
/// The crates whose path cargo hashes.
const OURS: [&str; 2] = ["mesh_common", "mesh_ebpf"];

/// Has this cargo call us in the place of rustc, and rustc in the place of `linker`. Returns what rustc is to be told
/// is its linker.
pub(super) fn install(cargo: &mut Command, linker: &Path) -> Result<PathBuf> {
    let us = env::current_exe().context("this program does not know its own file")?;
    cargo
        .env("RUSTC_WRAPPER", &us)
        .env(RUSTC_MARK, "1")
        .env(LINKER_MARK, linker);
    Ok(us)
}

/// Becomes rustc or the linker if cargo or rustc called us for that; returns only if neither did, or if it cannot be
/// started.
pub(crate) fn become_what_is_asked() -> Result<()> {
    let mut arguments: Vec<OsString> = env::args_os().skip(1).collect();
    let mut program = if env::var_os(RUSTC_MARK).is_some() {
        let rustc = (!arguments.is_empty())
            .then(|| arguments.remove(0))
            .context("cargo named no compiler")?;
        let mut rustc = Command::new(rustc);
        rustc.args(renamed(arguments)).env_remove(RUSTC_MARK);
        rustc
    } else if let Some(linker) = env::var_os(LINKER_MARK) {
        equal_everywhere(&linker, arguments)?
    } else {
        return Ok(());
    };
    let failure = program.exec();
    Err(Error::new(failure).context(format!("cannot start {}", program.get_program().display())))
}

/// Rustc's arguments, with the hash of a crate of ours replaced by its name.
fn renamed(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let name = arguments
        .windows(2)
        .find(|pair| pair[0] == "--crate-name")
        .map(|pair| pair[1].clone());
    if let Some(name) = name.filter(|name| OURS.iter().any(|ours| name == ours)) {
        for argument in &mut arguments {
            if argument.as_bytes().starts_with(b"metadata=") {
                *argument = [OsStr::new("metadata="), &name].into_iter().collect();
            }
        }
    }
    arguments
}

/// The linker at equal addresses: without randomisation, in the directory of its output so that no path has a
/// length of its own, and without variables.
fn equal_everywhere(linker: &OsStr, arguments: Vec<OsString>) -> Result<Command> {
    if let Err(source) = personality::get().and_then(|now| personality::set(now | Persona::ADDR_NO_RANDOMIZE))
    {
        // A container may forbid it. The object works all the same; only two builds of it may differ.
        eprintln!(
            "warning: address randomisation stays on ({source}): the order of types in the object may vary"
        );
    }
    let output = arguments
        .windows(2)
        .find(|pair| pair[0] == "-o")
        .context("rustc named no output")?[1]
        .clone();
    let directory = Path::new(&output)
        .parent()
        .context("the output has no directory")?;
    let mut command = Command::new(linker);
    command
        .arg0("bpf-linker")
        .current_dir(directory)
        .env_clear()
        .args(within(directory, &arguments));
    Ok(command)
}

/// The arguments as one who stands in the directory would write them.
fn within<'a>(directory: &Path, arguments: &'a [OsString]) -> impl Iterator<Item = &'a OsStr> {
    arguments.iter().map(move |argument| {
        Path::new(argument)
            .strip_prefix(directory)
            .map_or(argument.as_os_str(), Path::as_os_str)
    })
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

    #[test]
    fn paths_of_the_directory_become_short_and_options_stay() {
        let arguments = ["-o", "/a/b/out", "/a/b/c/symbols", "/a/bc", "--btf", "generic"].map(OsString::from);
        let short: Vec<_> = within(Path::new("/a/b"), &arguments).collect();
        assert_eq!(short, ["-o", "out", "c/symbols", "/a/bc", "--btf", "generic"]);
    }
}
