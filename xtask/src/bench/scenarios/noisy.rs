//! A quiet pod beside one at full blast: what its requests take alone, and what they take beside it.
//!
//! The quiet one asks at a fixed rate, so that what is late counts as late. Both are on one node and talk to the same server on the other. The cores are shared by everybody, the load's own programs
//! too; `direct` says what comes of that alone.

use std::{thread::sleep, time::Duration};

use anyhow::{Result, ensure};
use mesh_tests::{Process, traffic};

use super::{ALL, Body, Measure, Round, Rounds, Scenario, p50_and_p99};
use crate::bench::http::Version;
use crate::bench::sample::Sample;
use crate::bench::stage::Stage;

const SINK: u16 = 7002;
/// Several, since each address and port has ephemeral ports of its own.
const SHORT: std::ops::Range<u16> = 7010..7018;

/// Requests a second of the quiet pod, and connections that it has.
const RATE: &str = "500";
const KEPT: &str = "8";
/// Streams at once.
const STREAMS: usize = 8;
/// Short connections at once.
const CONNECTIONS: &str = "32";
/// Requests at once, each of which its server takes 200 ms for.
const REQUESTS: &str = "256";
/// Until the load is there.
const LEAD: Duration = Duration::from_millis(500);

/// What the noisy pod does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Noise {
    Bulk,
    Connections,
    SlowRequests,
}

const EVERYTHING: &[Noise] = &[Noise::Bulk, Noise::Connections, Noise::SlowRequests];

pub(super) const BULK: Scenario = beside(
    "noisy-bulk",
    "500 requests a second beside a pod that sends as much as it can over 8 streams",
    |stage, round| measure(stage, round, &[Noise::Bulk]),
);

pub(super) const CONNECTING: Scenario = beside(
    "noisy-connections",
    "500 requests a second beside a pod that makes as many short connections as it can, 32 at once",
    |stage, round| measure(stage, round, &[Noise::Connections]),
);

pub(super) const ASKING: Scenario = beside(
    "noisy-requests",
    "500 requests a second beside a pod with 256 slow HTTP/1.1 requests under way",
    |stage, round| measure(stage, round, &[Noise::SlowRequests]),
);

pub(super) const ALL_AT_ONCE: Scenario = beside(
    "noisy-all",
    "500 requests a second beside a pod that does all three at once",
    |stage, round| measure(stage, round, EVERYTHING),
);

/// A quiet pod beside some noise.
const fn beside(name: &'static str, about: &'static str, measure: Measure) -> Scenario {
    Scenario {
        name,
        about,
        rounds: Rounds::AsAsked,
        body: Body::Between {
            setups: ALL,
            prepare,
            measure,
        },
    }
}

fn prepare(stage: &Stage, _: u8) -> Result<Vec<Process>> {
    let web = stage.pod("web");
    let (http1, http2) = (Version::Http1.app_port(), Version::Http2.app_port());
    let echo = [
        "echo",
        "--http1",
        &http1.to_string(),
        "--http2",
        &http2.to_string(),
    ];
    let mut servers = vec![
        traffic::serve(web, "sink", SINK)?,
        traffic::serve_web(web, &echo, http2)?,
    ];
    for port in SHORT {
        servers.push(traffic::serve(web, "identity", port)?);
    }
    Ok(servers)
}

fn measure(stage: &Stage, round: Round, noises: &[Noise]) -> Result<Sample> {
    let alone = quiet(stage, round)?;
    let mut noise = Vec::new();
    for each in noises {
        noise.extend(start(stage, *each)?);
    }
    sleep(LEAD);
    let beside = quiet(stage, round)?;
    for process in &mut noise {
        ensure!(
            process.is_running(),
            "the load ended by itself: {}",
            process.stdout()
        );
    }
    noise.into_iter().for_each(Process::kill);
    Ok(Sample::default()
        .with("p50 alone", "µs", alone.0)
        .with("p99 alone", "µs", alone.1)
        .with("p50 beside", "µs", beside.0)
        .with("p99 beside", "µs", beside.1)
        .with("p50 beside to alone", "times", beside.0 / alone.0)
        .with("p99 beside to alone", "times", beside.1 / alone.1))
}

fn quiet(stage: &Stage, round: Round) -> Result<(f64, f64)> {
    let to = stage.entrance("web", Version::Http1)?;
    let seconds = round.seconds.to_string();
    let args = [
        "pace",
        "--to",
        &to,
        "--rate",
        RATE,
        "--connections",
        KEPT,
        "--seconds",
        &seconds,
    ];
    let report = traffic::report(stage.pod("client"), &args)?;
    ensure!(
        report["failed"] == 0 && report["answered"] == report["due"],
        "requests of the quiet pod failed: {report}"
    );
    p50_and_p99(&report)
}

fn start(stage: &Stage, noise: Noise) -> Result<Vec<Process>> {
    let pod = stage.pod("near");
    match noise {
        Noise::Bulk => {
            let (to, most) = (stage.target("web", SINK), u64::MAX.to_string());
            let args = ["flood", "--to", &to, "--most", &most, "--stall-ms", "60000"];
            (0..STREAMS).map(|_| traffic::start(pod, &args)).collect()
        }
        Noise::Connections => {
            let to: Vec<String> = SHORT
                .map(|port| format!("{}=web", stage.target("web", port)))
                .collect();
            let mut args = vec!["churn", "--parallel", CONNECTIONS];
            args.extend(to.iter().flat_map(|to| ["--to", to]));
            Ok(vec![traffic::start(pod, &args)?])
        }
        Noise::SlowRequests => {
            let url = stage.url("web", Version::Http1, "/slow")?;
            let client = pod
                .command("wrk")
                .args(["--threads", "1", "--connections", REQUESTS]);
            Ok(vec![
                client
                    .args(["--duration", "120s", "--timeout", "60s", &url])
                    .spawn()?,
            ])
        }
    }
}
