//! Short connections to another node: as many as go in a time, or each to a port that nobody dialled before.
//!
//! Tunnels are kept for each destination address and port, so a port that is new needs a new one.

use std::time::Duration;

use anyhow::Result;
use mesh_tests::{Process, traffic};

use super::{ALL, Body, Round, Rounds, Scenario, churned};
use crate::bench::sample::Sample;
use crate::bench::stage::Stage;

const PORT: u16 = 7003;
const SECONDS: u64 = 5;
const FRESH_PORTS: u16 = 20_000;
/// New ports in each round.
const FRESH: u16 = 300;
const PARALLEL: &str = "16";

pub(super) const POOLED: Scenario = Scenario {
    name: "connections-pooled",
    about: "short connections to one port of another node for 5 s, 16 at once",
    rounds: Rounds::AsAsked,
    body: Body::Between {
        setups: ALL,
        prepare: |stage, _| Ok(vec![traffic::serve(stage.pod("web"), "identity", PORT)?]),
        measure: pooled,
    },
};

pub(super) const UNPOOLED: Scenario = Scenario {
    name: "connections-unpooled",
    about: "300 short connections to as many new ports of another node, 16 at once",
    rounds: Rounds::AsAsked,
    body: Body::Between {
        setups: ALL,
        prepare: serve_fresh,
        measure: unpooled,
    },
};

fn pooled(stage: &Stage, _: Round) -> Result<Sample> {
    let target = format!("{}=web", stage.target("web", PORT));
    let seconds = SECONDS.to_string();
    churn(stage, &["--to", &target, "--seconds", &seconds])
}

fn serve_fresh(stage: &Stage, rounds: u8) -> Result<Vec<Process>> {
    let ports = (u16::from(rounds) + 1) * FRESH;
    let args = ["--ports", &ports.to_string()];
    Ok(vec![traffic::serve_with(
        stage.pod("web"),
        "identity",
        FRESH_PORTS,
        &args,
    )?])
}

fn unpooled(stage: &Stage, round: Round) -> Result<Sample> {
    let first = FRESH_PORTS + u16::from(round.number) * FRESH;
    let targets: Vec<String> = (first..first + FRESH)
        .map(|port| format!("{}=web", stage.target("web", port)))
        .collect();
    let count = FRESH.to_string();
    let mut args = vec!["--count", &count];
    args.extend(targets.iter().flat_map(|target| ["--to", target]));
    churn(stage, &args)
}

fn churn(stage: &Stage, args: &[&str]) -> Result<Sample> {
    let common = ["churn", "--parallel", PARALLEL, "--timeout-ms", "30000"];
    let client = traffic::start(stage.pod("client"), &[&common, args].concat())?;
    let report = client.wait(Duration::from_secs(SECONDS + 60))?.ok()?.report()?;
    let (good, seconds) = churned(&report)?;
    Ok(Sample::default()
        .with("connections", "1/s", good / seconds)
        .work(good / 1e3, "s per thousand"))
}
