//! Throws random bytes at what reads from the network: `cargo xtask fuzz`.
//!
//! cargo-fuzz builds and runs the targets in `fuzz/`; this module chooses them, says for how long, and keeps what they learn out of the
//! checkout. No sanitizer is on: what is fuzzed has no unsafe code, and so any compiler will do.
//!
//! Invariant: a target that fails ends the run, and its input stays in `fuzz/artifacts/` until somebody looked at it.

use std::fs;

use anyhow::{Context, Result, bail};

use crate::repo::Repo;
use crate::{process, setup};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only this target; without it, each in turn
    target: Option<String>,
    /// How long each target runs
    #[arg(long, default_value_t = 60)]
    seconds: u32,
}

/// The longest input: longer ones than the limits that the targets set find nothing new.
const LONGEST_INPUT: u32 = 1500;

/// Runs `cargo xtask fuzz`.
pub(crate) fn command(repo: &Repo, options: &Options) -> Result<()> {
    let all = targets(repo)?;
    let chosen = match &options.target {
        None => all,
        Some(target) if all.contains(target) => vec![target.clone()],
        Some(target) => bail!(
            "there is no fuzz target `{target}`. There are: {}",
            all.join(", ")
        ),
    };
    setup::ensure_fuzzer(repo)?;
    for target in &chosen {
        let mut cargo = repo.cargo();
        cargo
            .args(["fuzz", "run", "--sanitizer", "none", "--fuzz-dir"])
            .arg(repo.fuzz_crate())
            .arg("--target-dir")
            .arg(repo.fuzz_target())
            .arg(target)
            .arg("--")
            .arg(format!("-max_total_time={}", options.seconds))
            .arg(format!("-max_len={LONGEST_INPUT}"))
            .arg(format!("-dict={}", repo.fuzz_crate().join("http.dict").display()))
            .args(["-print_final_stats=1", "-verbosity=0"]);
        process::run(&mut cargo).with_context(|| {
            format!(
                "`{target}` found an input it cannot take; it is in fuzz/artifacts/{target}/. Make a unit test of it"
            )
        })?;
    }
    println!(
        "  {} ran {} s each and found nothing",
        chosen.join(", "),
        options.seconds
    );
    Ok(())
}

/// One for each file.
fn targets(repo: &Repo) -> Result<Vec<String>> {
    let directory = repo.fuzz_crate().join("fuzz_targets");
    let mut targets = Vec::new();
    for entry in fs::read_dir(&directory).with_context(|| format!("cannot read {}", directory.display()))? {
        let file = entry?.path();
        if file.extension().is_some_and(|extension| extension == "rs")
            && let Some(stem) = file.file_stem()
        {
            targets.push(stem.to_string_lossy().into_owned());
        }
    }
    targets.sort();
    Ok(targets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_target_is_declared_as_a_program() {
        let repo = Repo::find().unwrap();
        let manifest = fs::read_to_string(repo.fuzz_crate().join("Cargo.toml")).unwrap();
        let targets = targets(&repo).unwrap();
        assert!(!targets.is_empty());
        for target in &targets {
            assert!(
                manifest.contains(&format!("path = \"fuzz_targets/{target}.rs\"")),
                "{target}"
            );
        }
        assert_eq!(manifest.matches("[[bin]]").count(), targets.len());
    }
}
