//! How tests, demo and benches use the traffic programs inside pods.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{
    LivePod, Process,
    programs::{self, Linkage},
};

const LISTENING: Duration = Duration::from_secs(10);

/// Starts `traffic serve BEHAVIOUR` in a pod, named after the pod, and waits until it listens.
pub fn serve(pod: &LivePod, behaviour: &str, port: u16) -> Result<Process> {
    serve_with(pod, behaviour, port, &[])
}

/// As [`serve`], with more arguments.
pub fn serve_with(pod: &LivePod, behaviour: &str, port: u16, args: &[&str]) -> Result<Process> {
    let server = pod
        .command(programs::traffic()?)
        .args([
            "serve",
            behaviour,
            "--name",
            pod.name(),
            "--port",
            &port.to_string(),
        ])
        .args(args)
        .spawn()?;
    listening(server, port)
}

/// Starts `peer serve` in a pod, named after the pod, and waits until it listens.
pub fn serve_peer(pod: &LivePod, linkage: Linkage, port: u16) -> Result<Process> {
    let peer = pod.command(programs::peer(linkage)?);
    listening(peer.args(["serve", &port.to_string(), pod.name()]).spawn()?, port)
}

/// Starts `server.py` in a pod, named after the pod, and waits until it listens.
pub fn serve_python(pod: &LivePod, how: &str, port: u16) -> Result<Process> {
    let server = pod.command("python3").arg(programs::python("server.py"));
    listening(server.args([how, &port.to_string(), pod.name()]).spawn()?, port)
}

/// Starts `http_server.py` in a pod, named after the pod, and waits until it listens.
pub fn serve_http(pod: &LivePod, port: u16) -> Result<Process> {
    let server = pod.command("python3").arg(programs::python("http_server.py"));
    listening(server.args([&port.to_string(), pod.name()]).spawn()?, port)
}

/// As [`serve_http`], with answers that each begin after so many seconds.
pub fn serve_http_slowly(pod: &LivePod, port: u16, seconds: &str) -> Result<Process> {
    let server = pod.command("python3").arg(programs::python("http_server.py"));
    listening(
        server.args([&port.to_string(), pod.name(), seconds]).spawn()?,
        port,
    )
}

/// Starts `grpc_server.py` in a pod, and waits until it listens.
pub fn serve_grpc(pod: &LivePod, port: u16) -> Result<Process> {
    let server = pod.command("python3").arg(programs::python("grpc_server.py"));
    listening(server.arg(port.to_string()).spawn()?, port)
}

/// Starts a server of `web` in a pod and waits until it listens on `port`.
pub fn serve_web(pod: &LivePod, args: &[&str], port: u16) -> Result<Process> {
    listening(pod.command(programs::web()?).args(args).spawn()?, port)
}

/// Runs a client of `web` to its end and returns its report. Two minutes are enough for each of them.
pub fn web(pod: &LivePod, args: &[&str]) -> Result<Value> {
    let client = pod.command(programs::web()?).args(args);
    let output = client.deadline(Duration::from_secs(120)).run()?;
    output
        .ok()?
        .report()
        .with_context(|| format!("web {}", args.join(" ")))
}

/// Runs a client of `traffic` to its end and returns its report. Two minutes are enough for each of them.
pub fn report(pod: &LivePod, args: &[&str]) -> Result<Value> {
    report_within(pod, args, Duration::from_secs(120))
}

/// As [`report`], with as much time as it needs.
pub fn report_within(pod: &LivePod, args: &[&str], deadline: Duration) -> Result<Value> {
    let client = pod.command(programs::traffic()?).args(args).deadline(deadline);
    client
        .run()?
        .ok()?
        .report()
        .with_context(|| format!("traffic {}", args.join(" ")))
}

/// Starts a client of `traffic` in the background.
pub fn start(pod: &LivePod, args: &[&str]) -> Result<Process> {
    pod.command(programs::traffic()?).args(args).spawn()
}

/// An address and port as the programs take it.
pub fn at(address: impl Into<IpAddr>, port: u16) -> String {
    SocketAddr::new(address.into(), port).to_string()
}

/// As [`serve_web`], by the release that is for measurements.
pub fn serve_web_fast(pod: &LivePod, args: &[&str], port: u16) -> Result<Process> {
    let server = pod.command(programs::web_for_measurements()?);
    listening(server.args(args).spawn()?, port)
}

/// As [`web`], by the release that is for measurements, and with as much time as it needs.
pub fn web_fast(pod: &LivePod, args: &[&str], deadline: Duration) -> Result<Value> {
    let client = pod.command(programs::web_for_measurements()?).args(args);
    let output = client.deadline(deadline).run()?;
    output
        .ok()?
        .report()
        .with_context(|| format!("web {}", args.join(" ")))
}

fn listening(mut server: Process, port: u16) -> Result<Process> {
    server
        .wait_line(LISTENING, |line| line.contains("\"listening\""))
        .with_context(|| format!("port {port}"))?;
    Ok(server)
}
