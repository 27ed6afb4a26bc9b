//! Agents that are replaced under requests.

use anyhow::{Context as _, Result, ensure};
use mesh_tests::{Agent, Mesh, Process, programs, wait_until};

use super::{at, echo, port, secured};
use crate::checks::SOON;

#[test]
fn no_request_is_lost_while_agents_are_replaced() {
    secured("clients-takeover", takeover);
}

fn takeover(mesh: &Mesh, agents: Vec<Agent>) -> Result<()> {
    let _servers = [echo(mesh, "far")?, echo(mesh, "near")?];
    let stop = mesh.dir().join("stop").display().to_string();
    let mut loads = Vec::new();
    for to in super::SERVERS {
        for (version, port) in [("http1", port::ECHO_1), ("http2", port::ECHO_2)] {
            loads.push((to, version, load(mesh, &at(mesh, to, port), version, &stop)?));
        }
    }
    let mut news = Vec::new();
    // Some requests before, between and after: an agent that stands counts those connections that it takes.
    for (old, node) in agents.iter().zip(mesh.nodes()) {
        let context = || format!("node {}", node.name());
        let new = old.takeover(node).with_context(context)?;
        wait_until(SOON * 3, "requests through the new agent", || {
            new.accepted().is_ok_and(|count| count > 0)
        })
        .with_context(context)?;
        news.push(new);
    }
    std::fs::write(&stop, "")?;
    for (to, version, load) in loads {
        let report = load.wait(SOON * 3)?.ok()?.report()?;
        println!("{version} to {to}: {report}");
        ensure!(report["failed"] == 0, "{version} to {to}: {report}");
        ensure!(report["good"].as_u64() > Some(100), "{version} to {to}: {report}");
    }
    // With nothing left to carry the old ones end.
    for old in agents {
        let output = old.wait(SOON * 3)?;
        ensure!(output.status.success(), "{output}");
    }
    Ok(())
}

fn load(mesh: &Mesh, to: &str, version: &str, until: &str) -> Result<Process> {
    let web = mesh.pod("client").command(programs::web()?);
    let args = [
        "load",
        "--to",
        to,
        "--version",
        version,
        "--workers",
        "8",
        "--until",
        until,
    ];
    web.args(args).spawn()
}
