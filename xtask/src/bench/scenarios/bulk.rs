//! Many bytes to another node, checked by their sums at the end.

use anyhow::{Context, Result, ensure};
use mesh_tests::{Process, traffic};

use super::{ALL, Body, Round, Rounds, Scenario};
use crate::bench::sample::Sample;
use crate::bench::stage::Stage;

const PORT: u16 = 7002;
const MIB: u64 = 512;

pub(super) const ONE: Scenario = Scenario {
    name: "bulk-1",
    about: "512 MiB to another node in one connection",
    rounds: Rounds::AsAsked,
    body: Body::Between {
        setups: ALL,
        prepare,
        measure: |stage, _: Round| measure(stage, "web", 1),
    },
};

pub(super) const EIGHT: Scenario = Scenario {
    name: "bulk-8",
    about: "512 MiB to another node in eight connections",
    rounds: Rounds::AsAsked,
    body: Body::Between {
        setups: ALL,
        prepare,
        measure: |stage, _: Round| measure(stage, "web", 8),
    },
};

fn prepare(stage: &Stage, _: u8) -> Result<Vec<Process>> {
    serve(stage, "web")
}

/// Starts what [`measure`] sends to in a pod.
pub(super) fn serve(stage: &Stage, pod: &str) -> Result<Vec<Process>> {
    Ok(vec![traffic::serve(stage.pod(pod), "bulk", PORT)?])
}

/// 512 MiB to a pod.
pub(super) fn measure(stage: &Stage, pod: &str, streams: u64) -> Result<Sample> {
    let each = ((MIB << 20) / streams).to_string();
    let (to, streams) = (stage.target(pod, PORT), streams.to_string());
    let args = [
        "bulk",
        "--to",
        &to,
        "--send",
        &each,
        "--receive",
        "0",
        "--streams",
        &streams,
    ];
    let report = traffic::report(stage.pod("client"), &args)?;
    ensure!(report["sent_intact"] == true, "bytes were lost: {report}");
    let seconds = report["seconds"].as_f64().context("no time")?;
    Ok(Sample::default()
        .with("throughput", "MiB/s", MIB as f64 / seconds)
        .work(MIB as f64 / 1024.0, "s per GiB"))
}
