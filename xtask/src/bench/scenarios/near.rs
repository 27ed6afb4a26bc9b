//! Between two pods of one node: without a mesh, with agents that let such connections go by themselves, and through the
//! agent.
//!
//! Invariant: a round of [`Setup::SameNode`] counts only if its connections did go by themselves.

use std::time::Duration;

use anyhow::{Context, Result};
use mesh_tests::{traffic, wait_until};
use serde_json::Value;

use super::{Body, Measure, Prepare, Round, Rounds, Scenario, bulk, churned, p50_and_p99, round_trips};
use crate::bench::sample::Sample;
use crate::bench::stage::{Setup, Stage};

const SETUPS: &[Setup] = &[Setup::Direct, Setup::SameNode, Setup::Mtls];
const PORT: u16 = 7001;
const CONNECTIONS: &str = "4000";
const SOON: Duration = Duration::from_secs(10);

pub(super) const BULK_ONE: Scenario = near(
    "near-bulk-1",
    "512 MiB to a pod of the same node in one connection",
    |stage, _| bulk::serve(stage, "near"),
    |stage, _| by_itself(stage, bulk::measure(stage, "near", 1)?),
);

pub(super) const BULK_EIGHT: Scenario = near(
    "near-bulk-8",
    "512 MiB to a pod of the same node in eight connections",
    |stage, _| bulk::serve(stage, "near"),
    |stage, _| by_itself(stage, bulk::measure(stage, "near", 8)?),
);

pub(super) const ROUND_TRIP: Scenario = near(
    "near-round-trip",
    "1 byte to a pod of the same node and back, 20,000 times",
    |stage, _| round_trips::serve(stage, "near"),
    |stage, _| by_itself(stage, round_trips::measure(stage, "near", "1")?),
);

pub(super) const CONNECT: Scenario = near(
    "near-connections",
    "a pod of the same node: 3,000 calls of connect(), and 4,000 short connections, 16 at once",
    |stage, _| Ok(vec![traffic::serve(stage.pod("near"), "identity", PORT)?]),
    connect,
);

/// What is done to the pod `near`.
const fn near(name: &'static str, about: &'static str, prepare: Prepare, measure: Measure) -> Scenario {
    Scenario {
        name,
        about,
        rounds: Rounds::AsAsked,
        body: Body::Between {
            setups: SETUPS,
            prepare,
            measure,
        },
    }
}

fn connect(stage: &Stage, _: Round) -> Result<Sample> {
    let to = stage.target("near", PORT);
    let client = stage.pod("client");
    let (p50, _) = p50_and_p99(&traffic::report(
        client,
        &["dial", "--to", &to, "--count", "3000"],
    )?)?;
    let expected = format!("{to}=near");
    let args = [
        "churn",
        "--parallel",
        "16",
        "--timeout-ms",
        "30000",
        "--count",
        CONNECTIONS,
        "--to",
        &expected,
    ];
    let (good, seconds) = churned(&traffic::report(client, &args)?)?;
    let sample = Sample::default()
        .with("connect(), p50", "µs", p50)
        .with("connections", "1/s", good / seconds)
        .work((3000.0 + good) / 1e3, "s per thousand");
    by_itself(stage, sample)
}

/// The sample, if nothing was carried that should not have been.
fn by_itself(stage: &Stage, sample: Sample) -> Result<Sample> {
    if stage.setup() != Setup::SameNode {
        return Ok(sample);
    }
    let node = stage.mesh().node("a");
    let mut last = String::new();
    wait_until(
        SOON,
        "the last connection to be told as one that went by itself",
        || {
            let told = node.cli(&["flows", "--kind", "opened", "--last", "1", "-o", "json"]);
            last = told.map_or_else(|error| error.to_string(), |told| told.stdout);
            let flow: Value = serde_json::from_str(&last).unwrap_or_default();
            flow["channel"] == "direct"
        },
    )
    .with_context(|| last.clone())?;
    Ok(sample)
}
