//! What connections cost that do nothing: resident memory and CPU on each node, with 1,000 to 20,000 of them.
//!
//! They are opened in steps and stay; each was used once, and is used again at the end to see that it stood. How many there
//! can be, the machine's limit of descriptors in a process says.

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_tests::{Process, traffic};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::{Body, Round, Rounds, Scenario};
use crate::bench::http::{IDLE_PORT, Version};
use crate::bench::sample::{Sample, Step};
use crate::bench::stage::{Setup, Stage};

pub(super) const STREAMS: Scenario = Scenario {
    name: "memory-streams",
    about: "resident memory on a node with 1,000 to 20,000 idle connections",
    rounds: Rounds::Once,
    body: Body::Between {
        setups: &[Setup::Clear, Setup::Mtls],
        prepare: |stage, _| serve(stage),
        measure: |stage, _: Round| held(stage, &stage.target("web", IDLE_PORT)),
    },
};

pub(super) const HTTP: Scenario = Scenario {
    name: "memory-http",
    about: "resident memory on a node with 1,000 to 20,000 idle HTTP/1.1 connections that had a request each",
    rounds: Rounds::Once,
    body: Body::Between {
        setups: &[Setup::Mtls, Setup::Policy, Setup::Envoy, Setup::Nginx],
        prepare: |stage, _| serve(stage),
        measure: |stage, _: Round| held(stage, &stage.entrance("web", Version::Http1)?),
    },
};

/// So many together, step by step.
const STEPS: [u32; 3] = [1000, 5000, 20_000];
/// Descriptors that a program needs for other things than these connections.
const SPARE: u64 = 500;
/// How long the connections are left alone before memory and CPU are read.
const REST: Duration = Duration::from_secs(5);
const SOON: Duration = Duration::from_secs(600);
const KIB: f64 = 1024.0;

fn serve(stage: &Stage) -> Result<Vec<Process>> {
    // What is started from here on inherits it.
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    super::http::serve(stage, "web", Version::Http1)
}

/// Memory and CPU without and with connections.
fn held(stage: &Stage, to: &str) -> Result<Sample> {
    let idle = stage.resident_by_node()?;
    let mut sample = Sample::default().with("idle, source", "KiB", idle[0] / KIB).with(
        "idle, destination",
        "KiB",
        idle[1] / KIB,
    );
    let (mut clients, mut open) = (Vec::new(), 0);
    for (number, wanted) in STEPS.into_iter().enumerate() {
        let wanted = wanted.min(most(stage.setup())?);
        if wanted <= open {
            continue;
        }
        let release = stage.mesh().dir().join(format!("release-{number}"));
        clients.push((
            hold(stage, to, wanted - open, &release.display().to_string())?,
            release,
            wanted - open,
        ));
        open = wanted;
        let before = stage.cpu_seconds()?;
        sleep(REST);
        let cpu = (stage.cpu_seconds()? - before) / REST.as_secs_f64();
        let with = stage.resident_by_node()?;
        let each = |node: usize| (with[node] - idle[node]) / KIB / f64::from(open);
        let step = Step::Connections(open);
        sample = sample
            .with_at(step, "a connection, source", "KiB", each(0))
            .with_at(step, "a connection, destination", "KiB", each(1))
            .with_at(step, "CPU of both nodes", "ms per s", cpu * 1e3);
    }
    for (client, release, count) in clients {
        fs::write(&release, "")?;
        let report = client.wait(SOON)?.ok()?.report()?;
        ensure!(report["good"] == count, "connections broke: {report}");
    }
    Ok(sample)
}

/// Opens connections in the client's pod, and waits until all stand.
fn hold(stage: &Stage, to: &str, count: u32, until: &str) -> Result<Process> {
    let count = count.to_string();
    let args = [
        "hold",
        "--to",
        to,
        "--count",
        &count,
        "--until",
        until,
        "--speak",
        "http",
        "--seconds",
        "3600",
    ];
    let mut client = traffic::start(stage.pod("client"), &args)?;
    let holding = client.wait_line(SOON, |line| line.contains("holding"))?;
    ensure!(holding.contains(&format!("\"holding\":{count},")), "{holding}");
    Ok(client)
}

/// How many connections there can be.
fn most(setup: Setup) -> Result<u32> {
    let descriptors = getrlimit(Resource::RLIMIT_NOFILE)?.1.saturating_sub(SPARE);
    Ok(match setup {
        // Its workers have room for so many, unevenly shared: more room would cost it memory everywhere else.
        Setup::Nginx => 5000,
        // Without tunnels a connection goes on as one of its own.
        Setup::Clear => u32::try_from(descriptors / 2).unwrap_or(u32::MAX),
        _ => u32::try_from(descriptors).unwrap_or(u32::MAX),
    }
    .min(*STEPS.last().context("no step")?))
}
