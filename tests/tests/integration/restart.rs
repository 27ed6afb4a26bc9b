//! Agents that are killed, started again and replaced under load.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    Held, Mesh, Pod, Process, amount,
    traffic::{self, at},
    wait_until,
};
use serde_json::Value;

use crate::checks::{SOON, churn, failing::connect, standard};

const PORT: u16 = 7001;

#[test]
fn a_killed_agent_fails_closed_and_a_restart_recovers() {
    Mesh::scenario(standard("killed"), |mesh| killed(mesh));
}

#[test]
fn a_takeover_under_load_loses_no_connection() {
    Mesh::scenario(standard("takeover"), |mesh| takeover(mesh));
}

#[test]
fn the_pods_of_a_full_node_talk_on_while_its_agent_is_replaced() {
    let mut mesh = Mesh::builder("full")
        .node("a")
        .pod("a", Pod::new("client"))
        .pod("a", Pod::new("near"));
    // Each takes the successor a moment to enrol, in no order: connections meet every state between.
    for number in 0..24 {
        mesh = mesh.pod("a", Pod::new(&format!("other-{number}")));
    }
    Mesh::scenario(mesh, |mesh| {
        let _servers =
            ["client", "near"].map(|name| traffic::serve(mesh.pod(name), "identity", PORT).unwrap());
        let mut agents = mesh.start_agents()?;
        let loads = [
            Load::start(mesh, "client", &["near"], &[])?,
            Load::start(mesh, "near", &["client"], &[])?,
        ];
        for _ in 0..3 {
            let now = agents.last().context("an agent runs")?;
            wait_until(SOON, "load through the agent", || {
                now.accepted().is_ok_and(|count| count > amount(200))
            })?;
            agents.push(now.takeover(mesh.node("a"))?);
        }
        for load in loads {
            let report = load.end()?;
            ensure!(
                report["failed"] == 0 && report["wrong"] == 0,
                "connections between pods of one node: {report}"
            );
        }
        Ok(())
    });
}

/// An agent is killed under load and started again.
pub(crate) fn killed(mesh: &Mesh) -> Result<()> {
    let _servers =
        ["web", "near", "stranger"].map(|name| traffic::serve(mesh.pod(name), "identity", PORT).unwrap());
    let mut agents = mesh.start_agents()?;
    // As much rarer as there is less of it: attempts that are refused at once must not keep a slow machine busy.
    let pause = (5 * 1000 / amount(1000)).to_string();
    let load = Load::start(mesh, "client", &["web", "near"], &["--pause-ms", &pause])?;
    let agent = agents.remove(0);
    wait_until(SOON, "load through the agent", || {
        agent.accepted().is_ok_and(|count| count > amount(500))
    })?;
    agent.kill();

    // Nothing gets out of the pod, nothing gets in, in any form; and nothing of it is seen on the wire.
    let wire = mesh.capture()?;
    for name in ["web", "near", "stranger"] {
        for address in mesh.pod(name).addresses() {
            let report = connect(mesh.pod("client"), &at(address, PORT))?;
            ensure!(
                report["error"] == "ECONNREFUSED",
                "client to {name} without an agent: {report}"
            );
        }
    }
    let report = connect(mesh.pod("stranger"), &at(mesh.pod("near").v4(), PORT))?;
    ensure!(
        report["connected"] == false,
        "into an enrolled pod without an agent: {report}"
    );
    let wire = wire.finish()?;
    for client in mesh.pod("client").addresses() {
        let escaped = wire
            .packets
            .iter()
            .filter(|packet| packet.src.ip() == client && !packet.payload.is_empty());
        ensure!(
            escaped.count() == 0,
            "bytes of the enrolled pod {client} passed without its agent"
        );
    }

    let agent = mesh.node("a").start_agent()?;
    for name in ["web", "near", "stranger"] {
        for address in mesh.pod(name).addresses() {
            churn::good(mesh, "client", &at(address, PORT), name, amount(50))?;
        }
    }
    let before = agent.accepted()?;
    wait_until(SOON, "load after the restart", || {
        agent.accepted().is_ok_and(|count| count > before + amount(200))
    })?;
    let report = load.end()?;
    ensure!(report["wrong"] == 0, "misdirected: {report}");
    println!(
        "load over a kill and a restart: {} good, {} failed: {}",
        report["good"], report["failed"], report["errors"]
    );
    Ok(())
}

/// Both nodes' agents are replaced under load, one after the other.
pub(crate) fn takeover(mesh: &Mesh) -> Result<()> {
    let _servers = ["web", "near", "stranger", "client"]
        .map(|name| traffic::serve(mesh.pod(name), "identity", PORT).unwrap());
    let _echo = traffic::serve(mesh.pod("web"), "echo", 7350)?;
    let agents = mesh.start_agents()?;
    let to = mesh.pod("web").addresses().map(|address| at(address, 7350));
    let held = Held::open(mesh, "client", &to, 50)?;
    let outward = Load::start(mesh, "client", &["web", "near", "stranger"], &[])?;
    let inward = Load::start(mesh, "stranger", &["client", "web"], &[])?;
    for agent in &agents {
        wait_until(SOON, "load through the agent", || {
            agent.accepted().is_ok_and(|count| count > amount(1000))
        })?;
    }

    // Both nodes in turn: each direction crosses an agent that is replaced.
    let mut olds = Vec::new();
    let mut news = Vec::new();
    for (old, node) in agents.into_iter().zip(mesh.nodes()) {
        let new = old
            .takeover(node)
            .with_context(|| format!("node {}", node.name()))?;
        wait_until(SOON * 3, "load through the new agent", || {
            new.accepted().is_ok_and(|count| count > amount(2500))
        })?;
        olds.push(old);
        news.push(new);
    }
    let (outward, inward) = (outward.end()?, inward.end()?);
    for report in [&outward, &inward] {
        ensure!(report["failed"] == 0, "connections were lost: {report}");
    }
    let good = outward["good"].as_u64().context("good")? + inward["good"].as_u64().context("good")?;
    ensure!(good >= amount(5000), "only {good} connections");
    println!("takeover: {good} connections, none failed");

    // What the old agents still carry goes on there, until it ends in order; then the old agents end.
    ensure!(
        olds.iter_mut().all(|old| old.is_running()),
        "an old agent ended before its connections"
    );
    held.release().context("long-lived connections")?;
    for old in olds {
        let output = old.wait(SOON * 3)?;
        ensure!(output.status.success(), "{output}");
    }
    Ok(())
}

#[test]
fn a_second_agent_without_takeover_is_refused() {
    Mesh::scenario(standard("second"), |mesh| {
        let agent = mesh.node("a").start_agent()?;
        let output = mesh.node("a").agent().spawn()?.wait(SOON)?;
        ensure!(!output.status.success(), "{output}");
        let said = output.stderr.clone() + &output.stdout;
        ensure!(
            said.contains("--takeover") && said.contains(&agent.pid().to_string()),
            "{output}"
        );
        ensure!(
            agent.ask(&["status"])?["state"] == "ready",
            "the first one goes on"
        );
        Ok(())
    });
}

#[test]
fn a_terminated_agent_lets_connections_finish() {
    Mesh::scenario(standard("terminated"), |mesh| {
        let _echo = traffic::serve(mesh.pod("web"), "echo", 7350)?;
        let mut agents = mesh.start_agents()?;
        let echo = at(mesh.pod("web").v4(), 7350);
        let held = Held::open(mesh, "client", std::slice::from_ref(&echo), 20)?;
        let agent = agents.remove(0);
        agent.signal(nix::sys::signal::Signal::SIGTERM)?;
        wait_until(SOON, "new connections to be refused", || {
            connect(mesh.pod("client"), &echo).is_ok_and(|report| report["error"] == "ECONNREFUSED")
        })?;
        held.release()?;
        let output = agent.wait(SOON)?;
        ensure!(output.status.success(), "{output}");
        Ok(())
    });
}

/// Short connections that go on in the background.
pub(crate) struct Load {
    client: Process,
    stop: PathBuf,
}

impl Load {
    pub(crate) fn start(mesh: &Mesh, from: &str, to: &[&str], options: &[&str]) -> Result<Self> {
        let stop = mesh.dir().join(format!("stop-{from}"));
        let until = stop.display().to_string();
        // Two at least, so that there is something beside what waits.
        let parallel = amount(8).max(2).to_string();
        let mut args = vec![
            "churn",
            "--parallel",
            &parallel,
            "--timeout-ms",
            "30000",
            "--until",
            &until,
        ];
        args.extend(options);
        let mut targets = Vec::new();
        for name in to {
            for address in mesh.pod(name).addresses() {
                targets.push(format!("{}={name}", at(address, PORT)));
            }
        }
        args.extend(targets.iter().flat_map(|target| ["--to", target]));
        Ok(Self {
            client: traffic::start(mesh.pod(from), &args)?,
            stop,
        })
    }

    /// Lets it end in order, and returns its report.
    pub(crate) fn end(self) -> Result<Value> {
        fs::write(&self.stop, "")?;
        self.client.wait(SOON * 3)?.ok()?.report()
    }
}
