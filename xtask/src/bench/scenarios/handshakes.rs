//! TLS handshakes between two identities as the agent makes them, in one thread, without a network: `mesh-benches`.

use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use super::{Body, Rounds, Scenario};
use crate::bench::sample::Sample;
use crate::process;
use crate::repo::Repo;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "handshakes",
    about: "mutual TLS handshakes in one thread, both ends",
    rounds: Rounds::AsAsked,
    body: Body::Alone { prepare, measure },
};

fn prepare(repo: &Repo) -> Result<()> {
    let mut build = repo.cargo();
    process::run(build.args(["build", "--locked", "--release", "--package", "mesh-benches"]))
}

fn measure(repo: &Repo) -> Result<Sample> {
    let output = process::output_of(&mut Command::new(repo.release_program("handshakes")))?;
    let report: Value = serde_json::from_str(&output).context("what `handshakes` said")?;
    let rate = |name: &str| {
        report[name]
            .as_f64()
            .with_context(|| format!("no {name} in {report}"))
    };
    Ok(Sample::default()
        .with("full", "1/s", rate("full")?)
        .with("resumed", "1/s", rate("resumed")?))
}
