//! More connections than there are ephemeral ports: the pod does not run out of them.
//!
//! Short ones for a minute, and some that stay. The pace of the former is fixed, so that the test measures endurance
//! and not the machine. See KERNEL.md on connection churn: with one local address towards the agent, the ports of a pod
//! would be used up within half a minute at this pace.

use anyhow::{Context, Result, ensure};
use mesh_tests::{Mesh, Process, traffic};

use crate::checks::{standard, streams};

const RATE: u32 = 1000;
const SECONDS: u32 = 60;
const DESTINATIONS: u16 = 20;

#[test]
fn a_minute_of_short_connections_to_twenty_destinations_outbound_and_inbound() {
    Mesh::scenario(standard("sustained"), |mesh| {
        let _servers: Vec<Process> = (0..DESTINATIONS)
            .map(|index| traffic::serve(mesh.pod("web"), "identity", 7500 + index))
            .collect::<Result<_>>()?;
        sustained(mesh).context("without agents")?;
        let agents = mesh.start_agents()?;
        sustained(mesh).context("through the agents")?;
        for agent in &agents {
            ensure!(
                agent.accepted()? >= u64::from(RATE * SECONDS),
                "not all of it was captured"
            );
        }
        Ok(())
    });
}

/// A server needs no ports of its own to be dialled, however many connections a client has. Half of them come over IPv6.
#[test]
fn a_client_may_have_more_connections_than_the_server_has_ports() {
    const RANGE: &str = "40000 40099";
    const CONNECTIONS: usize = 300;
    Mesh::scenario(standard("few-ports"), |mesh| {
        let _agents = mesh.start_agents()?;
        let command = format!("echo '{RANGE}' >/proc/sys/net/ipv4/ip_local_port_range");
        mesh.pod("web").run("sh", &["-c", &command])?.ok()?;
        streams::idle(mesh, "web", CONNECTIONS, || Ok(()))
    });
}

fn sustained(mesh: &Mesh) -> Result<()> {
    let pod = mesh.pod("web");
    let targets: Vec<String> = (0..DESTINATIONS)
        .map(|index| format!("{}=web", traffic::at(pod.v4(), 7500 + index)))
        .collect();
    let (count, rate) = ((RATE * SECONDS).to_string(), RATE.to_string());
    let mut args = vec![
        "churn",
        "--count",
        &count,
        "--rate",
        &rate,
        "--parallel",
        "32",
        "--timeout-ms",
        "30000",
    ];
    args.extend(targets.iter().flat_map(|target| ["--to", target]));
    let client = traffic::start(mesh.pod("client"), &args)?;
    let report = client
        .wait(std::time::Duration::from_secs(u64::from(SECONDS) * 4))?
        .ok()?
        .report()?;
    println!(
        "{} good in {} s, {}",
        report["good"], report["seconds"], report["times"]
    );
    ensure!(
        report["failed"] == 0 && report["good"] == RATE * SECONDS,
        "{report}"
    );
    Ok(())
}
