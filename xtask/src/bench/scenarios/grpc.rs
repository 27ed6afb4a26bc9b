//! gRPC to another node: calls with one message each way, and streams.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_tests::{Process, traffic, wait_until};

use super::http::HTTP;
use super::{Body, Round, Rounds, Scenario};
use crate::bench::http::Version;
use crate::bench::sample::{Sample, Step};
use crate::bench::stage::Stage;

/// What is called, and what it is called in figures.
#[derive(Clone, Copy)]
struct Calls {
    kind: &'static str,
    bytes: &'static str,
    rate: &'static str,
    cpu: &'static str,
}

const CALLS: Calls = Calls {
    kind: "unary",
    bytes: "100",
    rate: "calls",
    cpu: "CPU",
};

const TALK: Calls = Calls {
    kind: "talk",
    bytes: "100",
    rate: "messages answered",
    cpu: "CPU of messages answered",
};

const DOWNLOAD: Calls = Calls {
    kind: "download",
    bytes: "1024",
    rate: "messages streamed",
    cpu: "CPU of messages streamed",
};

/// Clients with a call each, one step after another.
const STEPS: [u32; 3] = [1, 16, 64];
/// Streams at once, in which each message is answered.
const CONVERSATIONS: u32 = 16;
/// Streams at once, where a server sends.
const DOWNLOADS: u32 = 4;
const SOON: Duration = Duration::from_secs(20);

pub(super) const UNARY: Scenario = Scenario {
    name: "grpc-unary",
    about: "gRPC calls to another node with 100 bytes each way, one at a time on each connection",
    rounds: Rounds::AsAsked,
    body: Body::Between {
        setups: HTTP,
        prepare: |stage, _| serve(stage),
        measure: |stage, round| {
            STEPS.into_iter().try_fold(Sample::default(), |sample, clients| {
                load(stage, round, CALLS, clients, sample)
            })
        },
    },
};

pub(super) const STREAM: Scenario = Scenario {
    name: "grpc-stream",
    about: "gRPC streams to another node: messages of 100 bytes answered one by one, and 1 KiB messages from the server",
    rounds: Rounds::AsAsked,
    body: Body::Between {
        setups: HTTP,
        prepare: |stage, _| serve(stage),
        measure: |stage, round| {
            let sample = load(stage, round, TALK, CONVERSATIONS, Sample::default())?;
            load(stage, round, DOWNLOAD, DOWNLOADS, sample)
        },
    },
};

/// Starts the service, and waits until calls are answered.
fn serve(stage: &Stage) -> Result<Vec<Process>> {
    let to = stage.entrance("web", Version::Http2)?;
    let port = Version::Http2.app_port();
    let args = ["grpc-serve", "--port", &port.to_string()];
    let server = traffic::serve_web_fast(stage.pod("web"), &args, port)?;
    let mut last = None;
    wait_until(SOON, "a call to be answered", || {
        let tried = traffic::web_fast(stage.pod("client"), &["grpc", "--to", &to, "--load", "10"], SOON);
        last = tried.err();
        last.is_none()
    })
    .with_context(|| match &last {
        Some(error) => format!("{error:#}"),
        None => String::new(),
    })?;
    Ok(vec![server])
}

/// Calls of one kind over so many connections.
fn load(stage: &Stage, round: Round, calls: Calls, connections: u32, sample: Sample) -> Result<Sample> {
    let to = stage.entrance("web", Version::Http2)?;
    let (clients, seconds) = (connections.to_string(), round.seconds.to_string());
    let args = [
        "grpc-load",
        "--to",
        &to,
        "--calls",
        calls.kind,
        "--bytes",
        calls.bytes,
        "--connections",
        &clients,
        "--seconds",
        &seconds,
    ];
    let patience = Duration::from_secs(round.seconds + 60);
    let before = stage.cpu_seconds()?;
    let report = traffic::web_fast(stage.pod("client"), &args, patience)?;
    let spent = stage.cpu_seconds()? - before;
    let number = |value: &serde_json::Value| value.as_f64().with_context(|| format!("{report}"));
    let answered = number(&report["answered"])?;
    ensure!(answered > 0.0, "nothing was answered: {report}");
    let step = Step::Connections(connections);
    let mut sample = sample.with_at(step, calls.rate, "1/s", answered / number(&report["seconds"])?);
    // Between messages of a stream there is no waiting that a client would notice.
    if calls.kind != DOWNLOAD.kind {
        for (name, key) in [("p50", "p50_us"), ("p99", "p99_us"), ("p99.9", "p999_us")] {
            sample = sample.with_at(step, name, "µs", number(&report["times"][key])?);
        }
    }
    if stage.setup().stands_between() {
        sample = sample.with_at(step, calls.cpu, "s per million", spent / answered * 1e6);
    }
    Ok(sample)
}
