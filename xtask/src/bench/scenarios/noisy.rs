//! A quiet pod beside one at full blast: what its round trips take alone, and what they take beside it.
//!
//! Both are on one node and talk to the same server on the other. The cores are shared by everybody, the load's own programs
//! too; `direct` says what comes of that alone.

use std::{thread::sleep, time::Duration};

use anyhow::{Result, ensure};
use mesh_tests::{Process, traffic};

use super::{ALL, Body, Round, Rounds, Scenario, p50_and_p99};
use crate::bench::http::Version;
use crate::bench::sample::Sample;
use crate::bench::stage::Stage;

const QUIET: u16 = 7001;
const SINK: u16 = 7002;
/// Several, since each address and port has ephemeral ports of its own.
const SHORT: std::ops::Range<u16> = 7010..7018;

/// Round trips in a round, alone and beside the load.
const COUNT: &str = "4000";
const BYTES: &str = "1024";
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

pub(super) const BULK: Scenario = Scenario {
    name: "noisy-bulk",
    about: "1 KiB round trips beside a pod that sends as much as it can over 8 streams",
    rounds: Rounds::AsAsked,
    body: Body::Between {
        setups: ALL,
        prepare,
        measure: |stage, _: Round| measure(stage, &[Noise::Bulk]),
    },
};

pub(super) const CONNECTING: Scenario = Scenario {
    name: "noisy-connections",
    about: "1 KiB round trips beside a pod that makes as many short connections as it can, 32 at once",
    rounds: Rounds::AsAsked,
    body: Body::Between {
        setups: ALL,
        prepare,
        measure: |stage, _: Round| measure(stage, &[Noise::Connections]),
    },
};

pub(super) const ASKING: Scenario = Scenario {
    name: "noisy-requests",
    about: "1 KiB round trips beside a pod with 256 slow HTTP/1.1 requests under way",
    rounds: Rounds::AsAsked,
    body: Body::Between {
        setups: ALL,
        prepare,
        measure: |stage, _: Round| measure(stage, &[Noise::SlowRequests]),
    },
};

pub(super) const ALL_AT_ONCE: Scenario = Scenario {
    name: "noisy-all",
    about: "1 KiB round trips beside a pod that does all three at once",
    rounds: Rounds::AsAsked,
    body: Body::Between {
        setups: ALL,
        prepare,
        measure: |stage, _: Round| measure(stage, EVERYTHING),
    },
};

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
        traffic::serve(web, "echo", QUIET)?,
        traffic::serve(web, "sink", SINK)?,
        traffic::serve_web(web, &echo, http2)?,
    ];
    for port in SHORT {
        servers.push(traffic::serve(web, "identity", port)?);
    }
    Ok(servers)
}

fn measure(stage: &Stage, noises: &[Noise]) -> Result<Sample> {
    let alone = round_trips(stage)?;
    let mut noise = Vec::new();
    for each in noises {
        noise.extend(start(stage, *each)?);
    }
    sleep(LEAD);
    let beside = round_trips(stage)?;
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
        .with("p99 beside to alone", "times", beside.1 / alone.1))
}

fn round_trips(stage: &Stage) -> Result<(f64, f64)> {
    let to = stage.target("web", QUIET);
    let args = ["ping", "--to", &to, "--count", COUNT, "--bytes", BYTES];
    p50_and_p99(&traffic::report(stage.pod("client"), &args)?)
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
