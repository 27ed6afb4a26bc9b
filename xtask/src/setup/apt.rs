//! Debian packages, installed without a question and without a daemon.
//!
//! nginx and redis are wanted for their programs; a package that started its service would take ports from the
//! person's machine. [`NoDaemons`] keeps them from starting, and they are switched off at boot afterwards.
//!
//! Invariant: what this file adds to the system besides packages is removed again, also after a failure.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::process::{self, find_program};

/// Asked by Debian's packages before they start a service.
const POLICY: &str = "/usr/sbin/policy-rc.d";
const POLICY_TEXT: &str = "#!/bin/sh\n# Written by `cargo xtask setup` for the length of an installation: start nothing.\nexit 101\n";
const LISTS: &str = "/var/lib/apt/lists";
/// Services of packages that are wanted for their programs only.
const SERVICES: [(&str, &str); 2] = [
    ("nginx-light", "nginx.service"),
    ("redis-server", "redis-server.service"),
];

/// Installs the packages, with fresh lists if there are none or the old ones lead nowhere. Must be root.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    let _quiet = NoDaemons::hold(Path::new(POLICY))?;
    let mut fresh = false;
    if !lists_are_there(Path::new(LISTS)) {
        update()?;
        fresh = true;
    }
    let installed = process::run(
        apt_get()
            .args(["install", "--no-install-recommends"])
            .args(packages),
    );
    if installed.is_err() && !fresh {
        println!("  the package lists may be old: fetching them and trying once more");
        update()?;
        process::run(
            apt_get()
                .args(["install", "--no-install-recommends"])
                .args(packages),
        )?;
    } else {
        installed.context("apt-get could not install the packages")?;
    }
    keep_off_at_boot(packages)
}

fn update() -> Result<()> {
    process::run(apt_get().arg("update")).context("apt-get could not fetch its package lists")
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command
        .args([
            "--quiet",
            "--yes",
            "-o",
            "Dpkg::Options::=--force-confold",
            "-o",
            "DPkg::Lock::Timeout=300",
        ])
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("NEEDRESTART_MODE", "l")
        .env_remove("LD_LIBRARY_PATH");
    command
}

fn lists_are_there(lists: &Path) -> bool {
    let Ok(entries) = fs::read_dir(lists) else {
        return false;
    };
    entries
        .filter_map(Result::ok)
        .any(|entry| entry.file_name().to_string_lossy().contains("_Packages"))
}

fn keep_off_at_boot(packages: &[&str]) -> Result<()> {
    if !Path::new("/run/systemd/system").exists() || find_program("systemctl").is_none() {
        return Ok(());
    }
    for (package, service) in SERVICES {
        if packages.contains(&package) {
            process::run(Command::new("systemctl").args(["disable", service]))?;
        }
    }
    Ok(())
}

/// While it lives, packages start no service. A policy of the machine's own is left as it is: whoever wrote one
/// has decided already.
struct NoDaemons<'a> {
    ours: Option<&'a Path>,
}

impl<'a> NoDaemons<'a> {
    fn hold(policy: &'a Path) -> Result<Self> {
        match OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o755)
            .open(policy)
        {
            Ok(mut file) => {
                let held = Self { ours: Some(policy) };
                file.write_all(POLICY_TEXT.as_bytes())
                    .with_context(|| format!("cannot write {}", policy.display()))?;
                Ok(held)
            }
            // Left by an installation that was killed: take it over, and remove it at the end.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let left_behind = fs::read_to_string(policy).is_ok_and(|text| text == POLICY_TEXT);
                Ok(Self {
                    ours: left_behind.then_some(policy),
                })
            }
            Err(error) => Err(error).with_context(|| format!("cannot write {}", policy.display())),
        }
    }
}

impl Drop for NoDaemons<'_> {
    fn drop(&mut self) {
        if let Some(policy) = self.ours
            && let Err(error) = fs::remove_file(policy)
        {
            eprintln!(
                "cannot remove {}: {error}. Remove it by hand, or services will not start",
                policy.display()
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_is_there_while_held_and_gone_after() {
        let directory = tempfile::tempdir().unwrap();
        let policy = directory.path().join("policy-rc.d");
        let held = NoDaemons::hold(&policy).unwrap();
        assert!(process::is_program(&policy));
        drop(held);
        assert!(!policy.exists());
    }

    #[test]
    fn a_policy_of_the_machines_own_stays() {
        let directory = tempfile::tempdir().unwrap();
        let policy = directory.path().join("policy-rc.d");
        fs::write(&policy, "#!/bin/sh\nexit 0\n").unwrap();
        drop(NoDaemons::hold(&policy).unwrap());
        assert_eq!(fs::read_to_string(&policy).unwrap(), "#!/bin/sh\nexit 0\n");
    }

    #[test]
    fn one_left_behind_by_a_killed_installation_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let policy = directory.path().join("policy-rc.d");
        fs::write(&policy, POLICY_TEXT).unwrap();
        drop(NoDaemons::hold(&policy).unwrap());
        assert!(!policy.exists());
    }

    #[test]
    fn lists_without_packages_are_none() {
        let directory = tempfile::tempdir().unwrap();
        assert!(!lists_are_there(directory.path()));
        fs::write(directory.path().join("mirror_InRelease"), "").unwrap();
        assert!(!lists_are_there(directory.path()));
        fs::write(directory.path().join("mirror_main_binary-amd64_Packages.lz4"), "").unwrap();
        assert!(lists_are_there(directory.path()));
    }
}
