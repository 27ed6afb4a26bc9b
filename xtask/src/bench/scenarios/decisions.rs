//! Deciding on a request with many policies of one workload, in one thread, without a network: `mesh-benches`.

use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use super::handshakes::prepare;
use super::{Body, Rounds, Scenario};
use crate::bench::sample::{Sample, Step};
use crate::process;
use crate::repo::Repo;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "decisions",
    about: "policy decisions in one thread, with 1 to 5,000 policies that differ in paths or in clients",
    rounds: Rounds::AsAsked,
    body: Body::Alone { prepare, measure },
};

const STEPS: [u32; 5] = [1, 10, 100, 1000, 5000];
const FIGURES: [&str; 6] = [
    "paths, first",
    "paths, last",
    "paths, none",
    "clients, first",
    "clients, last",
    "clients, none",
];

fn measure(repo: &Repo) -> Result<Sample> {
    let output = process::output_of(&mut Command::new(repo.release_program("decisions")))?;
    let report: Value = serde_json::from_str(&output).context("what `decisions` said")?;
    let mut each = STEPS
        .into_iter()
        .flat_map(|count| FIGURES.map(|figure| (count, figure)));
    each.try_fold(Sample::default(), |sample, (count, figure)| {
        let nanoseconds = report[figure][count.to_string()]
            .as_f64()
            .with_context(|| format!("no {figure} for {count} in {report}"))?;
        Ok(sample.with_at(Step::Policies(count), figure, "ns", nanoseconds))
    })
}
