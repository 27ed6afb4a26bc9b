//! Installs what a machine lacks: `cargo xtask setup`.
//!
//! [`requirements`] says what is needed, why, and how to see whether it is there; [`apt`] installs Debian's
//! packages. `test` and the other commands that need tools call [`ensure`] first.
//!
//! Invariant: asks nothing, starts no daemon, says what it installs before it does, and is done at once when all
//! is there.

mod apt;
mod requirements;

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use nix::unistd::Uid;

pub(crate) use self::requirements::DEBIAN_KEYS;
use self::requirements::{Need, Requirement, Source};
use crate::process;
use crate::repo::Repo;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Install nothing: list what is needed, why, and whether it is there
    #[arg(long)]
    print: bool,
}

/// Runs `cargo xtask setup`.
pub(crate) fn command(repo: &Repo, options: &Options) -> Result<()> {
    if options.print {
        print!("{}", listing(&requirements::all(repo)));
        return Ok(());
    }
    ensure(repo)
}

/// Installs what is missing, and fails with the commands to type if this user may not.
pub(crate) fn ensure(repo: &Repo) -> Result<()> {
    let requirements = requirements::all(repo);
    let missing: Vec<&Requirement> = requirements.iter().filter(|r| r.need == Need::Missing).collect();
    if missing.is_empty() {
        println!(
            "  all {} tools are installed (`cargo xtask setup --print` lists them)",
            requirements.iter().filter(|r| r.need != Need::Optional).count()
        );
        return Ok(());
    }
    for requirement in &missing {
        println!("  missing {:<16} {}", requirement.name, requirement.why);
    }
    let packages: Vec<&str> = missing.iter().filter_map(|r| r.debian_package()).collect();
    if !packages.is_empty() {
        if process::find_program("apt-get").is_none() {
            bail!(
                "this is no Debian: install by your system's own means what provides {}",
                packages.join(", ")
            );
        }
        if !Uid::effective().is_root() {
            bail!(
                "Debian packages are missing and only root may install them. Run\n  \
                 sudo env DEBIAN_FRONTEND=noninteractive apt-get install --no-install-recommends {}\n\
                 and then the same command again",
                packages.join(" ")
            );
        }
        apt::install(&packages)?;
    }
    for requirement in missing {
        install(repo, requirement)?;
    }
    let left: Vec<&str> = requirements::all(repo)
        .iter()
        .filter(|r| r.need == Need::Missing)
        .map(|requirement| requirement.name)
        .collect();
    if !left.is_empty() {
        bail!(
            "installed, and yet not found: {}. Is ~/.cargo/bin on the search path?",
            left.join(", ")
        );
    }
    println!("  everything is installed");
    Ok(())
}

/// Installs what only `cargo xtask fuzz` needs, if it is not there.
pub(crate) fn ensure_fuzzer(repo: &Repo) -> Result<()> {
    let fuzzer = requirements::fuzzer();
    if fuzzer.need == Need::Present {
        return Ok(());
    }
    println!("  missing {:<16} {}", fuzzer.name, fuzzer.why);
    install(repo, &fuzzer)
}

/// Installs what is no package of Debian's: those are installed together before.
fn install(repo: &Repo, requirement: &Requirement) -> Result<()> {
    match &requirement.source {
        Source::Debian => Ok(()),
        Source::Rustup => process::run(
            Command::new("rustup")
                .args(["component", "add", requirement.name])
                .current_dir(repo.root())
                .env_remove("LD_LIBRARY_PATH"),
        )
        .with_context(|| format!("rustup could not add {}", requirement.name)),
        Source::Cargo {
            version,
            arguments,
            variables,
        } => cargo_install(repo, requirement.name, version, arguments, variables),
        Source::Python { version, directory } => unpack(requirement.name, version, directory),
    }
}

/// Builds a program from crates.io at the pinned version. Takes minutes, so the terminal shows it.
fn cargo_install(
    repo: &Repo,
    name: &str,
    version: &str,
    arguments: &[&str],
    variables: &[(&str, String)],
) -> Result<()> {
    let mut cargo = repo.cargo();
    // Away from the checkout: its configuration is not this program's.
    cargo.current_dir(Path::new("/"));
    cargo
        .args(["install", "--locked", "--force", name, "--version"])
        .arg(format!("={version}"))
        .args(arguments);
    cargo.envs(variables.iter().map(|(name, value)| (*name, value)));
    process::run(&mut cargo).with_context(|| format!("cannot build {name} {version}"))
}

/// Unpacks a package of PyPI at the pinned version, in place of what is there.
fn unpack(name: &str, version: &str, directory: &Path) -> Result<()> {
    if directory.exists() {
        fs::remove_dir_all(directory).with_context(|| format!("cannot remove {}", directory.display()))?;
    }
    let mut pip = Command::new("pip3");
    // Into a directory, so nothing of the system's or the user's Python changes.
    pip.args([
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--root-user-action=ignore",
    ]);
    pip.args(["--no-deps", "--only-binary=:all:", "--no-compile", "--target"]);
    pip.arg(directory).arg(format!("{name}=={version}"));
    process::run(&mut pip).with_context(|| format!("cannot fetch {name} {version}"))
}

fn listing(requirements: &[Requirement]) -> String {
    let mut text = String::new();
    for requirement in requirements {
        let state = match requirement.need {
            Need::Present => "installed",
            Need::Missing => "MISSING",
            Need::Optional => "optional",
            Need::Replaced => "not needed",
        };
        let origin = requirement.origin();
        text.push_str(&format!(
            "{:<18} {origin:<22} {state:<11} {}\n",
            requirement.name, requirement.why
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_listing_names_state_origin_and_reason() {
        let text = listing(&requirements::all(&Repo::find().unwrap()));
        let line = text.lines().find(|line| line.starts_with("bpf-linker")).unwrap();
        assert!(line.contains("crates.io") && line.contains("links"), "{line}");
        assert!(text.lines().all(|line| !line.trim_end().is_empty()));
    }
}
