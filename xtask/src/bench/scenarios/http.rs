//! Requests: to another node and on one node, over kept connections and new ones, with small answers and large ones.

use anyhow::Result;
use mesh_tests::Process;

use super::{Body, Measure, Prepare, Round, Rounds, Scenario};
use crate::bench::http::{self, Load, Reuse, Version};
use crate::bench::sample::Sample;
use crate::bench::stage::{Setup, Stage};

pub(super) const HTTP: &[Setup] = &[
    Setup::Direct,
    Setup::Mtls,
    Setup::Policy,
    Setup::Envoy,
    Setup::Nginx,
];

/// How many connections ask at once, one step after another.
const STEPS: [u16; 4] = [1, 16, 64, 256];
/// Bodies fetched in a round.
const BODIES: u32 = 4;

pub(super) const ONE: Scenario = requests(
    "http-1",
    "HTTP/1.1 requests to another node over kept connections",
    |stage, _| serve(stage, "web", Version::Http1),
    |stage, round| steps(stage, "web", Version::Http1, round),
);

pub(super) const TWO: Scenario = requests(
    "http-2",
    "HTTP/2 requests to another node over kept connections, one at a time in each",
    |stage, _| serve(stage, "web", Version::Http2),
    |stage, round| steps(stage, "web", Version::Http2, round),
);

pub(super) const ONE_NEAR: Scenario = requests(
    "http-1-near",
    "HTTP/1.1 requests on one node over kept connections",
    |stage, _| serve(stage, "near", Version::Http1),
    |stage, round| steps(stage, "near", Version::Http1, round),
);

pub(super) const TWO_NEAR: Scenario = requests(
    "http-2-near",
    "HTTP/2 requests on one node over kept connections, one at a time in each",
    |stage, _| serve(stage, "near", Version::Http2),
    |stage, round| steps(stage, "near", Version::Http2, round),
);

pub(super) const NEW: Scenario = requests(
    "http-new",
    "HTTP/1.1 requests to another node, a new connection for each, 16 at once",
    |stage, _| serve(stage, "web", Version::Http1),
    |stage, round| {
        let load = Load {
            version: Version::Http1,
            reuse: Reuse::Closed,
            connections: 16,
            seconds: round.seconds,
        };
        step(stage, "web", load, Sample::default())
    },
);

pub(super) const BIG: Scenario = requests(
    "http-100mib",
    "bodies of 100 MiB from another node by HTTP/1.1, one after another",
    |stage, _| serve(stage, "web", Version::Http1),
    big,
);

/// Requests through whoever can carry them.
const fn requests(name: &'static str, about: &'static str, prepare: Prepare, measure: Measure) -> Scenario {
    Scenario {
        name,
        about,
        rounds: Rounds::AsAsked,
        body: Body::Between {
            setups: HTTP,
            prepare,
            measure,
        },
    }
}

/// Starts the web server in a pod, where it can be reached by this version.
pub(super) fn serve(stage: &Stage, pod: &str, version: Version) -> Result<Vec<Process>> {
    stage.entrance(pod, version)?;
    Ok(vec![http::serve(stage, pod)?])
}

fn steps(stage: &Stage, pod: &str, version: Version, round: Round) -> Result<Sample> {
    STEPS
        .into_iter()
        .try_fold(Sample::default(), |sample, connections| {
            let load = Load {
                version,
                reuse: Reuse::Kept,
                connections,
                seconds: round.seconds,
            };
            step(stage, pod, load, sample)
        })
}

fn step(stage: &Stage, pod: &str, load: Load, sample: Sample) -> Result<Sample> {
    let before = stage.cpu_by_node()?;
    let answered = http::load(stage, pod, load)?;
    let after = stage.cpu_by_node()?;
    let over = load.connections;
    let mut sample = sample
        .with_over(over, "requests", "1/s", answered.requests / answered.seconds)
        .with_over(over, "p50", "µs", answered.p50_us)
        .with_over(over, "p99", "µs", answered.p99_us);
    if !stage.setup().stands_between() {
        return Ok(sample);
    }
    let spent: Vec<f64> = after
        .iter()
        .zip(before)
        .map(|(after, before)| (after - before) / answered.requests * 1e6)
        .collect();
    sample = sample.with_over(over, "CPU", "s per million", spent.iter().sum());
    // On one node the other has nothing to do.
    if let ("web", &[source, destination]) = (pod, &spent[..]) {
        sample = sample
            .with_over(over, "CPU of the source", "s per million", source)
            .with_over(over, "CPU of the destination", "s per million", destination);
    }
    Ok(sample)
}

fn big(stage: &Stage, _: Round) -> Result<Sample> {
    let begun = std::time::Instant::now();
    (0..BODIES).try_for_each(|_| http::fetch_big(stage, "web"))?;
    let mib = f64::from(BODIES) * 100.0;
    Ok(Sample::default()
        .with("throughput", "MiB/s", mib / begun.elapsed().as_secs_f64())
        .work(f64::from(BODIES), "s per 100 MiB"))
}
