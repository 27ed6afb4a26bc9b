//! Resident memory of an agent: idle, with streams open, and with a large mesh in its model.

use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};
use mesh_tests::{Process, traffic, wait_until};

use super::{Body, Round, Rounds, Scenario};
use crate::bench::sample::Sample;
use crate::bench::stage::{Setup, Stage};

const PORT: u16 = 7001;
const STREAMS_OPEN: usize = 1000;
const WORKLOADS_KNOWN: usize = 10_000;
const SOON: Duration = Duration::from_secs(120);
const KIB: f64 = 1024.0;

pub(super) const STREAMS: Scenario = Scenario {
    name: "memory-streams",
    about: "resident memory of one agent, idle and with 1,000 idle connections",
    rounds: Rounds::Once,
    body: Body::Between {
        setups: AGENTS,
        prepare: |stage, _| Ok(vec![traffic::serve(stage.pod("web"), "echo", PORT)?]),
        measure: streams,
    },
};

pub(super) const WORKLOADS: Scenario = Scenario {
    name: "memory-workloads",
    about: "resident memory of one agent with 10,000 more workloads in its model",
    rounds: Rounds::Once,
    body: Body::Between {
        setups: AGENTS,
        prepare: |_, _| Ok(Vec::<Process>::new()),
        measure: workloads,
    },
};

const AGENTS: &[Setup] = &[Setup::Clear, Setup::Mtls];

fn streams(stage: &Stage, _: Round) -> Result<Sample> {
    let idle = stage.resident_bytes()?;
    let release = stage.mesh().dir().join("release");
    let (to, count) = (stage.target("web", PORT), STREAMS_OPEN.to_string());
    let until = release.display().to_string();
    let args = ["hold", "--to", &to, "--count", &count, "--until", &until];
    let mut client = traffic::start(stage.pod("client"), &args)?;
    let holding = client.wait_line(SOON, |line| line.contains("holding"))?;
    ensure!(
        holding.contains(&format!("\"holding\":{STREAMS_OPEN}")),
        "{holding}"
    );
    let with = stage.resident_bytes()?;
    fs::write(&release, "")?;
    let report = client.wait(SOON)?.ok()?.report()?;
    ensure!(report["good"] == STREAMS_OPEN, "connections broke: {report}");
    Ok(Sample::default()
        .with("idle", "KiB", idle / KIB)
        .with("with 1,000 connections", "KiB", with / KIB)
        .with("a connection", "KiB", (with - idle) / KIB / STREAMS_OPEN as f64))
}

fn workloads(stage: &Stage, _: Round) -> Result<Sample> {
    let idle = stage.resident_bytes()?;
    let before = known(stage)?;
    let documents: Vec<String> = (0..WORKLOADS_KNOWN).map(document).collect();
    stage.mesh().write_config("many.yaml", &documents.join("---\n"))?;
    let wanted = before + WORKLOADS_KNOWN as u64;
    wait_until(SOON, "the agents to know all workloads", || {
        known(stage).is_ok_and(|known| known == wanted)
    })?;
    let with = stage.resident_bytes()?;
    Ok(Sample::default()
        .with("idle", "KiB", idle / KIB)
        .with("with 10,000 workloads", "KiB", with / KIB)
        .with("a workload", "bytes", (with - idle) / WORKLOADS_KNOWN as f64))
}

/// The smallest number of workloads that any of the agents knows.
fn known(stage: &Stage) -> Result<u64> {
    let mut least = u64::MAX;
    for agent in stage.agents() {
        let status = agent.ask(&["status"])?;
        least = least.min(status["counts"]["workloads"].as_u64().unwrap_or(0));
    }
    Ok(least)
}

/// A workload as a mesh has them: of another node, with labels and a port.
fn document(number: usize) -> String {
    let (high, low) = (number / 250, number % 250 + 1);
    format!(
        "apiVersion: nodemesh.io/v1alpha1\nkind: Workload\nmetadata:\n  name: bench-{number}\n  namespace: team-{}\n  \
         labels:\n    app: app-{}\n    version: v{}\nspec:\n  serviceAccount: app-{}\n  node: elsewhere-{}\n  \
         addresses:\n  - \"10.250.{high}.{low}\"\n  ports:\n  - name: http\n    port: 8080\n    appProtocol: http\n",
        number % 50,
        number % 500,
        number % 2,
        number % 500,
        number % 100,
    )
}
