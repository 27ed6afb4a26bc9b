//! What is measured, one scenario a file. To add one: a file with a `SCENARIO`, a line in [`SCENARIOS`].

mod bulk;
mod connect;
mod connections;
mod grpc;
mod handshakes;
mod http;
mod idle;
mod memory;
mod near;
mod noisy;
mod open_loop;
mod round_trips;
mod rules;
mod scale;

use std::error::Error;
use std::fmt;

use anyhow::{Context, Result, ensure};
use mesh_tests::Process;
use serde_json::Value;

use super::sample::Sample;
use super::stage::{Setup, Stage};
use crate::repo::Repo;

/// Something that is measured.
pub(super) struct Scenario {
    pub(super) name: &'static str,
    /// What is done, in a few words.
    pub(super) about: &'static str,
    pub(super) rounds: Rounds,
    pub(super) body: Body,
}

/// How often a scenario is measured.
#[derive(Clone, Copy)]
pub(super) enum Rounds {
    /// As often as the command line says, after a warm-up.
    AsAsked,
    /// Once, by programs that were never used before.
    Once,
}

/// How a scenario is measured.
#[derive(Clone, Copy)]
pub(super) enum Body {
    /// Between pods, at each of the setups.
    Between {
        setups: &'static [Setup],
        prepare: Prepare,
        measure: Measure,
    },
    /// As `Between`, by agents that let one workload have as many connections as there can be.
    Crowded {
        setups: &'static [Setup],
        prepare: Prepare,
        measure: Measure,
    },
    /// By a program that measures itself.
    Alone {
        prepare: fn(&Repo) -> Result<()>,
        measure: fn(&Repo) -> Result<Sample>,
    },
}

/// Starts what all rounds need, told how many there will be.
pub(super) type Prepare = fn(&Stage, u8) -> Result<Vec<Process>>;

/// Measures one round.
pub(super) type Measure = fn(&Stage, Round) -> Result<Sample>;

/// One round at one stage.
#[derive(Clone, Copy)]
pub(super) struct Round {
    /// From 1; 0 is the warm-up.
    pub(super) number: u8,
    /// How long what is measured by time lasts.
    pub(super) seconds: u64,
    /// The smallest rate that any stage said it reached in the warm-up ([`Sample::reaching`]), or what the command line says.
    pub(super) slowest: Option<f64>,
}

/// What a peer cannot do, because its file names no entrance for it.
#[derive(Debug)]
pub(super) struct NoEntrance {
    pub(super) peer: &'static str,
    pub(super) to: String,
}

impl fmt::Display for NoEntrance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} has no entrance `{}`", self.peer, self.to)
    }
}

impl Error for NoEntrance {}

/// Every scenario, in the order they run.
pub(super) static SCENARIOS: &[Scenario] = &[
    bulk::ONE,
    bulk::EIGHT,
    round_trips::BYTE,
    round_trips::KIBIBYTE,
    connections::TO_A_FEW,
    connections::TO_NEW_ONES,
    connect::SCENARIO,
    near::BULK_ONE,
    near::BULK_EIGHT,
    near::ROUND_TRIP,
    near::CONNECT,
    handshakes::SCENARIO,
    http::ONE,
    http::TWO,
    http::ONE_NEAR,
    http::TWO_NEAR,
    http::NEW,
    http::BIG,
    noisy::BULK,
    noisy::CONNECTING,
    noisy::ASKING,
    noisy::ALL_AT_ONCE,
    open_loop::SCENARIO,
    grpc::UNARY,
    grpc::STREAM,
    rules::ROUTES,
    rules::POLICIES,
    idle::STREAMS,
    idle::HTTP,
    memory::WORKLOADS,
    scale::SMALL,
    scale::MIDDLE,
    scale::LARGE,
    scale::LARGE_FILE,
    memory::ROUTES,
];

/// Plain networking, and the agents in both modes.
const ALL: &[Setup] = &[Setup::Direct, Setup::Clear, Setup::Mtls];

/// The median and the 99th percentile in a report of `traffic`, in microseconds.
fn p50_and_p99(report: &Value) -> Result<(f64, f64)> {
    let time = |name: &str| {
        report["times"][name]
            .as_f64()
            .with_context(|| format!("no {name} in {report}"))
    };
    Ok((time("p50_us")?, time("p99_us")?))
}

/// Good connections and how long they took, from a report of `traffic churn`. None may have failed.
fn churned(report: &Value) -> Result<(f64, f64)> {
    ensure!(report["failed"] == 0, "connections failed: {report}");
    let number = |name: &str| {
        report[name]
            .as_f64()
            .with_context(|| format!("no {name} in {report}"))
    };
    Ok((number("good")?, number("seconds")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_scenarios_share_a_name() {
        let mut names: Vec<_> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), SCENARIOS.len());
    }
}
