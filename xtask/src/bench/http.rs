//! Web servers in pods, and the load that is put on them.
//!
//! nginx answers, wrk (HTTP/1.1) and h2load (HTTP/2, prior knowledge) ask. Each connection has one request under way at a
//! time: a closed loop, in which a client that waits asks no more. Invariant: [`load`] fails when any request did.

use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_tests::{LivePod, Process, wait_until};
use serde_json::Value;

use super::stage::Stage;

/// What clients and servers speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    Http1,
    Http2,
}

/// As the files of peers name it.
impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
        })
    }
}

/// What becomes of a connection when its request is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reuse {
    Kept,
    Closed,
}

/// What is asked of a server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    pub(super) version: Version,
    pub(super) reuse: Reuse,
    pub(super) connections: u16,
    pub(super) seconds: u64,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Answered {
    pub(super) requests: f64,
    pub(super) seconds: f64,
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
}

/// The length of `/big`.
pub(super) const BIG: u64 = 100 << 20;

/// Where the web server listens too, with no Service in front: agents see a stream of bytes there.
pub(super) const IDLE_PORT: u16 = 7003;

const SMALL: &str = "Hello from a pod.";
const SOON: Duration = Duration::from_secs(20);

/// Sends requests by wrk, and says at the end what it counted.
const WRK: &str = r#"
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '{"requests":%d,"microseconds":%d,"p50_us":%f,"p99_us":%f,"failed":%d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    e.connect + e.read + e.write + e.status + e.timeout))
end
"#;

impl Version {
    /// Where a server in a pod listens for it.
    pub(super) const fn app_port(self) -> u16 {
        match self {
            Self::Http1 => 8080,
            Self::Http2 => 8081,
        }
    }

    /// The port of a service for it.
    pub(super) const fn service_port(self) -> u16 {
        match self {
            Self::Http1 => 80,
            Self::Http2 => 81,
        }
    }

    /// What a Service says of that port.
    pub(super) const fn app_protocol(self) -> &'static str {
        match self {
            Self::Http1 => "http",
            Self::Http2 => "kubernetes.io/h2c",
        }
    }
}

/// Starts a web server in a pod, and waits until the client gets answers by both versions, or by that which a peer has.
pub(super) fn serve(stage: &Stage, pod: &str) -> Result<Process> {
    let dir = scratch(stage, &format!("web-{pod}"))?;
    let big = fs::File::create(dir.join("big"))?;
    big.set_len(BIG)?;
    let config = dir.join("nginx.conf");
    fs::write(&config, server_config(&dir.display().to_string()))?;
    let server = stage.pod(pod).command("nginx").arg("-c").arg(&config).spawn()?;
    for version in [Version::Http1, Version::Http2] {
        if stage.entrance(pod, version).is_err() {
            continue;
        }
        await_answer(stage, pod, version)?;
        if stage.setup().has_policy() {
            let status = ask(stage, pod, version, "/", &["-X", "DELETE"])?.1;
            ensure!(status == "403", "the policy lets a DELETE through: {status:?}");
        }
    }
    Ok(server)
}

/// Puts load on the server in a pod.
pub(super) fn load(stage: &Stage, pod: &str, load: Load) -> Result<Answered> {
    load_at(stage, pod, "/", load)
}

/// Asks the server in a pod for one path again and again.
pub(super) fn load_at(stage: &Stage, pod: &str, path: &str, load: Load) -> Result<Answered> {
    let url = stage.url(pod, load.version, path)?;
    let client = stage.pod("client");
    match load.version {
        Version::Http1 => wrk(stage, client, &url, load),
        Version::Http2 => h2load(stage, client, &url, load),
    }
}

/// Fetches `/big` whole.
pub(super) fn fetch_big(stage: &Stage, pod: &str) -> Result<()> {
    let url = stage.url(pod, Version::Http1, "/big")?;
    let args = [
        "-sS",
        "--noproxy",
        "*",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code} %{size_download}",
        &url,
    ];
    let output = stage.pod("client").run("curl", &args)?.ok()?;
    ensure!(output.stdout == format!("200 {BIG}"), "{output}");
    Ok(())
}

fn wrk(stage: &Stage, client: &LivePod, url: &str, load: Load) -> Result<Answered> {
    let script = scratch(stage, "load")?.join("wrk.lua");
    fs::write(&script, WRK)?;
    let mut command = client
        .command("wrk")
        .args(["--threads", "1", "--connections", &load.connections.to_string()])
        .args([
            "--duration",
            &format!("{}s", load.seconds),
            "--timeout",
            "10s",
            "--script",
        ])
        .arg(&script);
    if load.reuse == Reuse::Closed {
        command = command.args(["--header", "Connection: close"]);
    }
    let output = command.arg(url).deadline(patience(load)).run()?.ok()?;
    let report = output.report()?;
    ensure!(report["failed"] == 0, "requests failed: {output}");
    let number = |name: &str| {
        let value = report[name].as_f64();
        value.with_context(|| format!("no {name} in {report}"))
    };
    Ok(Answered {
        requests: number("requests")?,
        seconds: number("microseconds")? / 1e6,
        p50_us: number("p50_us")?,
        p99_us: number("p99_us")?,
    })
}

fn h2load(stage: &Stage, client: &LivePod, url: &str, load: Load) -> Result<Answered> {
    let log = scratch(stage, "load")?.join("h2load.log");
    let _ = fs::remove_file(&log);
    let output = client
        .command("h2load")
        .args(["--threads", "1", "--max-concurrent-streams", "1"])
        .args(["--clients", &load.connections.to_string()])
        .args(["--duration", &load.seconds.to_string(), "--warm-up-time", "0"])
        .arg(format!("--log-file={}", log.display()))
        .arg(url)
        .deadline(patience(load))
        .run()?
        .ok()?;
    let failed = ["failed", "errored", "timeout"].map(|what| counted(&output.stdout, what));
    ensure!(
        failed.iter().all(|count| *count == Some(0)),
        "requests failed: {output}"
    );
    let text = fs::read_to_string(&log).with_context(|| format!("reading {}", log.display()))?;
    answered_of(&text, load.seconds as f64)
}

/// Reads what h2load tells of each request: when it began, its status, and how long it took, in microseconds.
fn answered_of(log: &str, seconds: f64) -> Result<Answered> {
    let mut times = Vec::new();
    for line in log.lines() {
        let mut fields = line.split('\t').skip(1);
        let (status, time) = (fields.next(), fields.next());
        ensure!(status == Some("200"), "h2load says {line:?}");
        times.push(time.context("no time")?.parse::<u64>()?);
    }
    times.sort_unstable();
    let at = |share: usize| -> Result<f64> {
        let time = times.get((times.len() * share / 100).min(times.len().saturating_sub(1)));
        Ok(*time.context("no request was answered")? as f64)
    };
    Ok(Answered {
        requests: times.len() as f64,
        seconds,
        p50_us: at(50)?,
        p99_us: at(99)?,
    })
}

/// The number before a word in `requests: 9 total, 0 failed`.
fn counted(text: &str, what: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("requests: "))?;
    let part = line.split(", ").find_map(|part| part.strip_suffix(what))?;
    part.trim().parse().ok()
}

/// Waits for the certificates and whatever else has to come first.
fn await_answer(stage: &Stage, pod: &str, version: Version) -> Result<()> {
    let mut last = Value::Null;
    wait_until(SOON, "an answer", || {
        last = match ask(stage, pod, version, "/", &[]) {
            Ok((body, status)) if body == SMALL && status == "200" => return true,
            Ok((body, status)) => format!("{status}: {body}").into(),
            Err(error) => format!("{error:#}").into(),
        };
        false
    })
    .with_context(|| format!("{version:?} to {pod} by {}: {last}", stage.setup()))
}

/// Body and status of one request.
pub(super) fn ask(
    stage: &Stage,
    pod: &str,
    version: Version,
    path: &str,
    more: &[&str],
) -> Result<(String, String)> {
    let url = stage.url(pod, version, path)?;
    let how = match version {
        Version::Http1 => "--http1.1",
        Version::Http2 => "--http2-prior-knowledge",
    };
    let mut args = vec![
        "-sS",
        "--noproxy",
        "*",
        "--max-time",
        "5",
        how,
        "-w",
        "\n%{http_code}",
    ];
    args.extend(more);
    args.push(&url);
    let output = stage.pod("client").run("curl", &args)?.ok()?;
    let (body, status) = output.stdout.rsplit_once('\n').context("no status")?;
    Ok((body.to_owned(), status.to_owned()))
}

fn patience(load: Load) -> Duration {
    Duration::from_secs(load.seconds + 30)
}

fn scratch(stage: &Stage, name: &str) -> Result<PathBuf> {
    let dir = stage.mesh().dir().join(name);
    fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    Ok(dir)
}

fn server_config(dir: &str) -> String {
    let (http1, http2) = (Version::Http1.app_port(), Version::Http2.app_port());
    format!(
        "{}worker_processes 1;
http {{
  access_log off;
  keepalive_timeout 2h;
  keepalive_requests 1000000000;
  sendfile on;
  {}
  server {{
    listen {http1} backlog=4096;
    listen {IDLE_PORT} backlog=4096;
    listen {http2} http2 backlog=4096;
    root {dir};
    location / {{ return 200 \"{SMALL}\"; }}
    location = /big {{ }}
  }}
}}
",
        nginx_head(dir, 32_768),
        nginx_temporary(dir),
    )
}

/// How a configuration of nginx begins that leaves nothing outside a directory. Room for connections is taken at the start.
pub(super) fn nginx_head(dir: &str, connections: u32) -> String {
    format!(
        "daemon off;\nuser root;\npid {dir}/nginx.pid;\nerror_log stderr warn;\nworker_rlimit_nofile 65536;\n\
         events {{ worker_connections {connections}; }}\n"
    )
}

/// Where it may keep bodies.
pub(super) fn nginx_temporary(dir: &str) -> String {
    let kinds = ["client_body", "proxy", "fastcgi", "scgi", "uwsgi"];
    kinds
        .map(|kind| format!("{kind}_temp_path {dir}/{kind};"))
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_of_h2load_gives_percentiles() {
        let log: String = (1..=100).map(|time| format!("17\t200\t{time}\n")).collect();
        let answered = answered_of(&log, 2.0).unwrap();
        assert_eq!(
            (answered.requests, answered.p50_us, answered.p99_us),
            (100.0, 51.0, 100.0)
        );
    }

    #[test]
    fn a_request_that_was_not_answered_well_is_an_error() {
        assert!(answered_of("17\t200\t5\n18\t503\t6\n", 1.0).is_err());
        assert!(answered_of("17\t-1\t5\n", 1.0).is_err());
        assert!(answered_of("", 1.0).is_err());
    }

    #[test]
    fn failures_are_read_from_what_h2load_says() {
        let said = "finished in 3.00s\nrequests: 9 total, 9 started, 8 done, 7 succeeded, 1 failed, 0 errored, 2 timeout\n";
        assert_eq!(counted(said, "failed"), Some(1));
        assert_eq!(counted(said, "timeout"), Some(2));
        assert_eq!(counted("", "failed"), None);
    }
}
