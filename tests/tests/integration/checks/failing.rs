//! Connections that must not stand: the client is told what it would be told without an agent.

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    LivePod, Mesh,
    programs::{self, Linkage},
    traffic::{self, at},
};
use serde_json::Value;

use super::destinations;

/// A closed port refuses, to every kind of destination and in every form of connecting.
pub(crate) fn closed_ports_refuse(mesh: &Mesh) -> Result<()> {
    let client = mesh.pod("client");
    for (name, address) in destinations(mesh) {
        let report = connect(client, &at(address, 7999))?;
        ensure!(report["error"] == "ECONNREFUSED", "{name} at {address}: {report}");
        for form in ["blocking", "nonblocking"] {
            let said = client
                .command(programs::peer(Linkage::StaticMusl)?)
                .args(["connect", form, &address.to_string(), "7999"])
                .run()?
                .ok()?
                .report()?;
            ensure!(
                said["connected"] == false && said["error"] == "Connection refused",
                "{name} {form}: {said}"
            );
        }
    }
    Ok(())
}

/// Where no packet comes back from, the connection is open to no one and ends by the client's own time-out.
pub(crate) fn a_black_hole_is_silent(mesh: &Mesh) -> Result<()> {
    for address in mesh.black_hole() {
        let to = at(address, 80);
        let report = traffic::report(
            mesh.pod("client"),
            &["connect", "--to", &to, "--timeout-ms", "3000"],
        )?;
        ensure!(
            report["connected"] == false && report["error"] == "timed out",
            "{to}: {report}"
        );
        ensure!(
            report["ms"].as_f64().context("ms")? >= 2999.0,
            "{to} was not silent: {report}"
        );
    }
    Ok(())
}

/// What the network calls unreachable is unreachable to the client.
pub(crate) fn the_unreachable_is_said_to_be(mesh: &Mesh) -> Result<()> {
    for (address, error) in mesh
        .unreachable()
        .into_iter()
        .zip(["EHOSTUNREACH", "ENETUNREACH"])
    {
        let report = connect(mesh.pod("client"), &at(address, 80))?;
        ensure!(report["error"] == error, "{address}: {report}");
    }
    Ok(())
}

/// A server that speaks first is heard at once. Returns the medians in microseconds.
pub(crate) fn server_first(mesh: &Mesh) -> Result<Vec<f64>> {
    let mut medians = Vec::new();
    let _servers: Vec<_> = super::SERVERS
        .iter()
        .map(|name| traffic::serve(mesh.pod(name), "greet", 7400))
        .collect::<Result<_>>()?;
    for (name, address) in destinations(mesh) {
        let to = at(address, 7400);
        let report = traffic::report(mesh.pod("client"), &["banner", "--to", &to, "--count", "100"])?;
        let banner = report["banner"].as_str().context("banner")?;
        let own = mesh.pod("client").addresses();
        ensure!(
            banner.starts_with(&format!("220 {name} greets")),
            "{to}: {report}"
        );
        ensure!(
            own.iter().any(|own| banner.contains(&own.to_string())),
            "{to}: {report}"
        );
        medians.push(report["times"]["p50_us"].as_f64().context("p50_us")?);
    }
    Ok(medians)
}

/// Tries to connect once.
pub(crate) fn connect(from: &LivePod, to: &str) -> Result<Value> {
    traffic::report(from, &["connect", "--to", to])
}
