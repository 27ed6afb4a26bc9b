//! What connections cost that do nothing: resident memory and CPU on each node, with 1,000 to 20,000 of them.
//!
//! They are opened in steps and stay; each was used once, and is used again at the end to see that it stood. How many there
//! can be, the machine's limit of descriptors in a process says.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result};
use mesh_tests::{Held, Process};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::{Body, Round, Rounds, Scenario};
use crate::bench::http::{IDLE_PORT, Version};
use crate::bench::sample::{Sample, Step};
use crate::bench::stage::{Setup, Stage};

pub(super) const STREAMS: Scenario = Scenario {
    name: "memory-streams",
    about: "resident memory on a node with 1,000 to 20,000 idle connections",
    rounds: Rounds::Once,
    body: Body::Crowded {
        setups: &[Setup::Clear, Setup::Mtls],
        prepare: |stage, _| serve(stage),
        measure: |stage, _: Round| held(stage, &stage.target("web", IDLE_PORT)),
    },
};

pub(super) const HTTP: Scenario = Scenario {
    name: "memory-http",
    about: "resident memory on a node with 1,000 to 20,000 idle HTTP/1.1 connections that had a request each",
    rounds: Rounds::Once,
    body: Body::Crowded {
        setups: &[Setup::Mtls, Setup::Policy, Setup::Envoy, Setup::Nginx],
        prepare: |stage, _| serve(stage),
        measure: |stage, _: Round| held(stage, &stage.entrance("web", Version::Http1)?),
    },
};

/// So many together, step by step.
const STEPS: [u32; 3] = [1000, 5000, 20_000];
/// Enough for two descriptors for each of the most connections.
const DESCRIPTORS: u64 = 41_000;
/// Descriptors that a program needs for other things than these connections.
const SPARE: u64 = 500;
/// How long the connections are left alone before memory and CPU are read.
const REST: Duration = Duration::from_secs(5);
const SOON: Duration = Duration::from_secs(600);
const KIB: f64 = 1024.0;

fn serve(stage: &Stage) -> Result<Vec<Process>> {
    // What is started from here on inherits it. Not every root may raise the hard limit.
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let wanted = hard.max(DESCRIPTORS);
    setrlimit(Resource::RLIMIT_NOFILE, wanted, wanted)
        .or_else(|_| setrlimit(Resource::RLIMIT_NOFILE, hard, hard))
        .context("raising the limit of descriptors")?;
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
    for wanted in STEPS {
        let wanted = wanted.min(most(stage.setup())?);
        if wanted <= open {
            continue;
        }
        let more = wanted - open;
        let before = stage.cpu_seconds()?;
        clients.push(hold(stage, to, more)?);
        let opening = (stage.cpu_seconds()? - before) / f64::from(more);
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
            .with_at(step, "CPU to open and use one", "µs", opening * 1e6)
            .with_at(step, "CPU of all at rest", "ms per s", cpu * 1e3);
    }
    clients.into_iter().try_for_each(Held::release)?;
    Ok(sample)
}

/// Opens connections in the client's pod, and waits until all stand.
fn hold(stage: &Stage, to: &str, wanted: u32) -> Result<Held> {
    let (to, args) = ([to.to_owned()], ["--speak", "http", "--seconds", "3600"]);
    Held::open_with(stage.mesh(), "client", &to, wanted as usize, &args, SOON)
}

/// How many connections there can be.
fn most(setup: Setup) -> Result<u32> {
    let descriptors = getrlimit(Resource::RLIMIT_NOFILE)?.1.saturating_sub(SPARE);
    Ok(match setup {
        // Its workers have room for so many, unevenly shared: more room would cost it memory everywhere else.
        Setup::Nginx => 5000,
        Setup::Described(described) => described.connections,
        // Without tunnels a connection goes on as one of its own.
        Setup::Clear => u32::try_from(descriptors / 2).unwrap_or(u32::MAX),
        _ => u32::try_from(descriptors).unwrap_or(u32::MAX),
    }
    .min(*STEPS.last().context("no step")?))
}
