//! Small messages to another node and back, one at a time.
//!
//! Over several connections, one after another: which worker carries one, and on whose core it is then, is luck.

use anyhow::Result;
use mesh_tests::{Process, traffic};

use super::{ALL, Body, Round, Rounds, Scenario, p50_and_p99};
use crate::bench::sample::Sample;
use crate::bench::stage::Stage;

const PORT: u16 = 7001;
const COUNT: u32 = 20_000;
const CONNECTIONS: &str = "8";

pub(super) const BYTE: Scenario = Scenario {
    name: "round-trip-1b",
    about: "1 byte to another node and back, 20,000 times",
    rounds: Rounds::AsAsked,
    body: Body::Between {
        setups: ALL,
        prepare,
        measure: |stage, _: Round| measure(stage, "web", "1"),
    },
};

pub(super) const KIBIBYTE: Scenario = Scenario {
    name: "round-trip-1k",
    about: "1 KiB to another node and back, 20,000 times",
    rounds: Rounds::AsAsked,
    body: Body::Between {
        setups: ALL,
        prepare,
        measure: |stage, _: Round| measure(stage, "web", "1024"),
    },
};

fn prepare(stage: &Stage, _: u8) -> Result<Vec<Process>> {
    serve(stage, "web")
}

/// Starts what [`measure`] sends to in a pod.
pub(super) fn serve(stage: &Stage, pod: &str) -> Result<Vec<Process>> {
    Ok(vec![traffic::serve(stage.pod(pod), "echo", PORT)?])
}

/// 20,000 round trips to a pod.
pub(super) fn measure(stage: &Stage, pod: &str, bytes: &str) -> Result<Sample> {
    let (to, count) = (stage.target(pod, PORT), COUNT.to_string());
    let args = [
        "ping",
        "--to",
        &to,
        "--count",
        &count,
        "--bytes",
        bytes,
        "--connections",
        CONNECTIONS,
    ];
    let (p50, p99) = p50_and_p99(&traffic::report(stage.pod("client"), &args)?)?;
    Ok(Sample::default()
        .with("p50", "µs", p50)
        .with("p99", "µs", p99)
        .work(f64::from(COUNT) / 1e6, "s per million"))
}
