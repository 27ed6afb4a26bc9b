//! Requests at fixed rates, timed from when each was due: what clients see that do not wait for each other.
//!
//! The rates are shares of what the slowest setup answers in a closed loop during the warm-up, so all setups are asked
//! for the same. `--rate` fixes it, which makes runs comparable.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_tests::traffic;

use super::http::{HTTP, serve};
use super::{Body, Round, Rounds, Scenario};
use crate::bench::http::{self, Load, Reuse, Version};
use crate::bench::sample::{Sample, Step};
use crate::bench::stage::Stage;

const CONNECTIONS: u16 = 64;
/// Percent.
const SHARES: [u32; 3] = [25, 50, 75];

pub(super) const SCENARIO: Scenario = Scenario {
    name: "http-open",
    about: "HTTP/1.1 requests to another node at fixed rates (open loop), timed from when they were due",
    rounds: Rounds::AsAsked,
    body: Body::Between {
        setups: HTTP,
        prepare: |stage, _| serve(stage, "web", Version::Http1),
        measure,
    },
};

fn measure(stage: &Stage, round: Round) -> Result<Sample> {
    if round.number == 0 {
        let load = Load {
            version: Version::Http1,
            reuse: Reuse::Kept,
            connections: CONNECTIONS,
            seconds: round.seconds,
        };
        let answered = http::load(stage, "web", load)?;
        let rate = answered.requests / answered.seconds;
        return Ok(Sample::default().with("closed loop", "1/s", rate).reaching(rate));
    }
    let whole = round.slowest.context("no rate came of the warm-up")?;
    SHARES.into_iter().try_fold(Sample::default(), |sample, share| {
        paced(
            stage,
            round,
            Step::Load(share),
            whole * f64::from(share) / 100.0,
            sample,
        )
    })
}

fn paced(stage: &Stage, round: Round, step: Step, rate: f64, sample: Sample) -> Result<Sample> {
    let to = stage.entrance("web", Version::Http1)?;
    // Whole requests a second.
    let rate = (rate.round() as u64).max(1).to_string();
    let (connections, seconds) = (CONNECTIONS.to_string(), round.seconds.to_string());
    let args = [
        "pace",
        "--to",
        &to,
        "--rate",
        &rate,
        "--connections",
        &connections,
        "--seconds",
        &seconds,
    ];
    let patience = Duration::from_secs(3 * round.seconds + 60);
    let before = stage.cpu_seconds()?;
    let report = traffic::report_within(stage.pod("client"), &args, patience)?;
    let spent = stage.cpu_seconds()? - before;
    ensure!(report["failed"] == 0, "requests failed: {report}");
    ensure!(
        report["answered"] == report["due"],
        "{rate} requests a second are far too many here: {report}"
    );
    let number = |value: &serde_json::Value| value.as_f64().with_context(|| format!("{report}"));
    let answered = number(&report["answered"])?;
    let mut sample = sample.with_at(step, "requests", "1/s", answered / number(&report["seconds"])?);
    for (name, key) in [("p50", "p50_us"), ("p99", "p99_us"), ("p99.9", "p999_us")] {
        sample = sample.with_at(step, name, "µs", number(&report["times"][key])?);
    }
    if stage.setup().stands_between() {
        sample = sample.with_at(step, "CPU", "s per million", spent / answered * 1e6);
    }
    Ok(sample)
}
