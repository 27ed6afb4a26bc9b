//! Many short connections: none lost, none misdirected, none seen from a wrong source.

use anyhow::{Result, ensure};
use mesh_tests::{
    Mesh, Process, amount,
    traffic::{self, at},
};
use serde_json::Value;

/// Ports on which each server of [`servers`] listens.
pub(crate) const PORTS: std::ops::Range<u16> = 7200..7204;

/// Starts identity servers on several ports of every destination pod.
pub(crate) fn servers(mesh: &Mesh) -> Result<Vec<Process>> {
    super::SERVERS
        .iter()
        .flat_map(|name| PORTS.map(move |port| (name, port)))
        .map(|(name, port)| traffic::serve(mesh.pod(name), "identity", port))
        .collect()
}

/// The arguments that name every destination of [`servers`], with the server that must answer there.
pub(crate) fn targets(mesh: &Mesh, names: &[&str]) -> Vec<String> {
    let mut args = Vec::new();
    for name in names {
        for address in mesh.pod(name).addresses() {
            for port in PORTS {
                args.extend(["--to".to_owned(), format!("{}={name}", at(address, port))]);
            }
        }
    }
    args
}

/// Runs `traffic churn` from a pod.
pub(crate) fn run(mesh: &Mesh, from: &str, targets: &[String], args: &[&str]) -> Result<Value> {
    let mut all = vec!["churn"];
    all.extend(targets.iter().map(String::as_str));
    all.extend(args);
    traffic::report(mesh.pod(from), &all)
}

/// So many short connections to one address and port, all of which must reach this server and be good.
pub(crate) fn good(mesh: &Mesh, from: &str, to: &str, server: &str, count: u64) -> Result<()> {
    let target = ["--to".to_owned(), format!("{to}={server}")];
    let report = run(
        mesh,
        from,
        &target,
        &["--count", &count.to_string(), "--parallel", "4"],
    )?;
    ensure!(
        report["failed"] == 0 && report["good"] == count,
        "{from} to {server} at {to}: {report}"
    );
    Ok(())
}

/// Short connections over all destinations and both families, 64 at a time.
pub(crate) fn none_lost_none_misdirected(mesh: &Mesh, count: u64) -> Result<()> {
    let count = amount(count);
    let _servers = servers(mesh)?;
    let report = run(
        mesh,
        "client",
        &targets(mesh, &super::SERVERS),
        &[
            "--count",
            &count.to_string(),
            "--parallel",
            "64",
            "--timeout-ms",
            "30000",
        ],
    )?;
    ensure!(report["failed"] == 0 && report["good"] == count, "{report}");
    Ok(())
}

/// A server that closes first leaves its clients as good as one that does not.
pub(crate) fn the_server_may_close_first(mesh: &Mesh) -> Result<()> {
    let count = amount(500);
    for name in super::SERVERS {
        let pod = mesh.pod(name);
        let _server = traffic::serve_with(pod, "identity", 7210, &["--close-first"])?;
        for address in pod.addresses() {
            let target = ["--to".to_owned(), format!("{}={name}", at(address, 7210))];
            let args = [
                "--count",
                &count.to_string(),
                "--parallel",
                "8",
                "--timeout-ms",
                "30000",
            ];
            let report = run(mesh, "client", &target, &args)?;
            ensure!(
                report["failed"] == 0 && report["good"] == count,
                "{name} at {address}: {report}"
            );
        }
    }
    Ok(())
}
