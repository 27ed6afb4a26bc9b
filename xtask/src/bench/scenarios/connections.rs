//! Short connections to another node: to a few ports again and again, or each to a port that nobody dialled before.
//!
//! Tunnels are kept for each destination address and port, so a port that is new needs a new one. The number of connections is
//! fixed, and small enough that no stage runs out of ports of its own: a port of a closed connection is taken for a minute.

use std::ops::Range;

use anyhow::Result;
use mesh_tests::{Process, traffic};

use super::{ALL, Body, Rounds, Scenario, churned};
use crate::bench::sample::Sample;
use crate::bench::stage::Stage;

/// Ports that are dialled again and again, and how often they are in a round.
const POOLED: Range<u16> = 7100..7108;
const POOLED_COUNT: u16 = 4000;
const FRESH_PORTS: u16 = 20_000;
/// New ports in each round.
const FRESH: u16 = 300;
const PARALLEL: &str = "16";

pub(super) const TO_A_FEW: Scenario = Scenario {
    name: "connections-pooled",
    about: "4,000 short connections to eight ports of another node, 16 at once",
    rounds: Rounds::AsAsked,
    body: Body::Between {
        setups: ALL,
        prepare: |stage, _| serve(stage, "web", POOLED),
        measure: |stage, _| Ok(sample(churn(stage, "web", POOLED_COUNT, POOLED)?)),
    },
};

pub(super) const TO_NEW_ONES: Scenario = Scenario {
    name: "connections-unpooled",
    about: "300 short connections to as many new ports of another node, 16 at once",
    rounds: Rounds::AsAsked,
    body: Body::Between {
        setups: ALL,
        prepare: |stage, rounds| {
            let end = FRESH_PORTS + (u16::from(rounds) + 1) * FRESH;
            serve(stage, "web", FRESH_PORTS..end)
        },
        measure: |stage, round| {
            let first = FRESH_PORTS + u16::from(round.number) * FRESH;
            Ok(sample(churn(stage, "web", FRESH, first..first + FRESH)?))
        },
    },
};

/// Serves in `pod` on each of the ports.
pub(super) fn serve(stage: &Stage, pod: &str, ports: Range<u16>) -> Result<Vec<Process>> {
    let count = ports.len().to_string();
    let args = ["--ports", &count];
    Ok(vec![traffic::serve_with(
        stage.pod(pod),
        "identity",
        ports.start,
        &args,
    )?])
}

/// Makes `count` connections to these ports of `pod` in turn, 16 at once. Returns how many there were, and the seconds.
pub(super) fn churn(stage: &Stage, pod: &str, count: u16, ports: Range<u16>) -> Result<(f64, f64)> {
    let targets: Vec<String> = ports
        .map(|port| format!("{}={pod}", stage.target(pod, port)))
        .collect();
    let count = count.to_string();
    let mut args = vec!["churn", "--parallel", PARALLEL, "--timeout-ms", "30000"];
    args.extend(["--count", &count]);
    args.extend(targets.iter().flat_map(|target| ["--to", target]));
    churned(&traffic::report(stage.pod("client"), &args)?)
}

fn sample((good, seconds): (f64, f64)) -> Sample {
    Sample::default()
        .with("connections", "1/s", good / seconds)
        .work(good / 1e3, "s per thousand")
}
