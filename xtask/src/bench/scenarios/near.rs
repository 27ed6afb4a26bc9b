//! Between two pods of one node: without a mesh, with agents that let such connections go by themselves, and through the
//! agent.
//!
//! Invariant: a round of [`Setup::SameNode`] counts only if its connections did go by themselves.

use std::{ops::Range, time::Duration};

use anyhow::{Context, Result};
use mesh_tests::{traffic, wait_until};
use serde_json::Value;

use super::{Body, Measure, Prepare, Round, Rounds, Scenario, bulk, connections, p50_and_p99, round_trips};
use crate::bench::sample::Sample;
use crate::bench::stage::{Setup, Stage};

const SETUPS: &[Setup] = &[Setup::Direct, Setup::SameNode, Setup::Mtls];
const PORT: u16 = 7001;
/// So few that the pod does not run out of ports in all rounds: each is taken for a minute.
const CALLS: u16 = 1000;
/// Others for what is counted, each with ephemeral ports of its own.
const PORTS: Range<u16> = 7100..7108;
const CONNECTIONS: u16 = 4000;
const SOON: Duration = Duration::from_secs(10);

pub(super) const BULK_ONE: Scenario = near(
    "near-bulk-1",
    "512 MiB to a pod of the same node in one connection",
    |stage, _| bulk::serve(stage, "near"),
    |stage, round| by_itself(stage, round, bulk::measure(stage, "near", 1)?),
);

pub(super) const BULK_EIGHT: Scenario = near(
    "near-bulk-8",
    "512 MiB to a pod of the same node in eight connections",
    |stage, _| bulk::serve(stage, "near"),
    |stage, round| by_itself(stage, round, bulk::measure(stage, "near", 8)?),
);

pub(super) const ROUND_TRIP: Scenario = near(
    "near-round-trip",
    "1 byte to a pod of the same node and back, 20,000 times",
    |stage, _| round_trips::serve(stage, "near"),
    |stage, round| by_itself(stage, round, round_trips::measure(stage, "near", "1")?),
);

pub(super) const CONNECT: Scenario = near(
    "near-connections",
    "a pod of the same node: 1,000 calls of connect(), and 4,000 short connections to eight ports, 16 at once",
    |stage, _| {
        let mut servers = connections::serve(stage, "near", PORTS)?;
        servers.push(traffic::serve(stage.pod("near"), "identity", PORT)?);
        Ok(servers)
    },
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

fn connect(stage: &Stage, round: Round) -> Result<Sample> {
    let to = stage.target("near", PORT);
    let calls = CALLS.to_string();
    let args = ["dial", "--to", &to, "--count", &calls];
    let (p50, _) = p50_and_p99(&traffic::report(stage.pod("client"), &args)?)?;
    let (good, seconds) = connections::churn(stage, "near", CONNECTIONS, PORTS)?;
    let sample = Sample::default()
        .with("connect(), p50", "µs", p50)
        .with("connections", "1/s", good / seconds)
        .work((f64::from(CALLS) + good) / 1e3, "s per thousand");
    by_itself(stage, round, sample)
}

/// The sample, if nothing was carried that should not have been. The first connection to each port is, so the warm-up
/// is not looked at.
fn by_itself(stage: &Stage, round: Round, sample: Sample) -> Result<Sample> {
    if stage.setup() != Setup::SameNode || round.number == 0 {
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
