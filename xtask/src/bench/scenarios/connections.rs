//! Short connections to another node: to a few ports again and again, or each to a port that nobody dialled before.
//!
//! Tunnels are kept for each destination address and port, so a port that is new needs a new one. The number of connections is
//! fixed, and small enough that no stage runs out of ports of its own: a port of a closed connection is taken for a minute.

use anyhow::Result;
use mesh_tests::{Process, traffic};

use super::{ALL, Body, Rounds, Scenario, churned};
use crate::bench::sample::Sample;
use crate::bench::stage::Stage;

const POOLED_PORTS: u16 = 7100;
/// Ports that are dialled again and again, and how often they are in a round.
const POOLED_PORT_COUNT: u16 = 8;
const POOLED_COUNT: &str = "4000";
const FRESH_PORTS: u16 = 20_000;
/// New ports in each round.
const FRESH: u16 = 300;
const PARALLEL: &str = "16";

pub(super) const POOLED: Scenario = Scenario {
    name: "connections-pooled",
    about: "4,000 short connections to eight ports of another node, 16 at once",
    rounds: Rounds::AsAsked,
    body: Body::Between {
        setups: ALL,
        prepare: |stage, _| serve(stage, POOLED_PORTS, POOLED_PORT_COUNT),
        measure: |stage, _| churn(stage, POOLED_COUNT, POOLED_PORTS, POOLED_PORT_COUNT),
    },
};

pub(super) const UNPOOLED: Scenario = Scenario {
    name: "connections-unpooled",
    about: "300 short connections to as many new ports of another node, 16 at once",
    rounds: Rounds::AsAsked,
    body: Body::Between {
        setups: ALL,
        prepare: |stage, rounds| serve(stage, FRESH_PORTS, (u16::from(rounds) + 1) * FRESH),
        measure: |stage, round| {
            let first = FRESH_PORTS + u16::from(round.number) * FRESH;
            churn(stage, &FRESH.to_string(), first, FRESH)
        },
    },
};

fn serve(stage: &Stage, first: u16, ports: u16) -> Result<Vec<Process>> {
    let args = ["--ports", &ports.to_string()];
    Ok(vec![traffic::serve_with(
        stage.pod("web"),
        "identity",
        first,
        &args,
    )?])
}

fn churn(stage: &Stage, count: &str, first: u16, ports: u16) -> Result<Sample> {
    let targets: Vec<String> = (first..first + ports)
        .map(|port| format!("{}=web", stage.target("web", port)))
        .collect();
    let mut args = vec!["churn", "--parallel", PARALLEL, "--timeout-ms", "30000"];
    args.extend(["--count", count]);
    args.extend(targets.iter().flat_map(|target| ["--to", target]));
    let (good, seconds) = churned(&traffic::report(stage.pod("client"), &args)?)?;
    Ok(Sample::default()
        .with("connections", "1/s", good / seconds)
        .work(good / 1e3, "s per thousand"))
}
