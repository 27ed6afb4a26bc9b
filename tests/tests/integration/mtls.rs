//! With an authority, everything between nodes is under mTLS: the same checks hold, nothing is in clear on the wire,
//! and what cannot be protected is refused.

mod credentials;
mod flood;
mod forged;
mod interop;
mod plaintext;
pub(crate) mod refused;
mod revocation;
mod wire;

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    Agent, Authority, Mesh,
    traffic::{self, at},
    wait_until,
};
use serde_json::Value;

use crate::{
    captured::all_let_go,
    checks::{SOON, churn, failing, forms, standard, streams},
    restart,
};

const MIB: u64 = 1 << 20;
/// Where [`start`] tries; tunnels to it may outlast the trial.
const TRIAL_PORT: u16 = 7090;

/// Runs a check with agents that share an authority, and sees that they carried it and let go of everything.
fn secured(name: &str, check: impl FnOnce(&Mesh, &[Agent]) -> Result<()>) {
    Mesh::scenario(standard(name), |mesh| {
        mesh.secure(&[])?;
        let agents = start(mesh)?;
        check(mesh, &agents)?;
        for (agent, node) in agents.iter().zip(mesh.nodes()) {
            ensure!(
                agent.accepted()? > 0,
                "the agent of node {} carried nothing",
                node.name()
            );
            all_let_go(agent)?;
        }
        Ok(())
    });
}

/// Starts the agents, and waits until the workloads of both nodes reach each other.
pub(crate) fn start(mesh: &Mesh) -> Result<Vec<Agent>> {
    let agents = mesh.start_agents()?;
    let _servers =
        ["web", "client"].map(|name| traffic::serve(mesh.pod(name), "identity", TRIAL_PORT).unwrap());
    for (from, to) in [("client", "web"), ("near", "web"), ("web", "client")] {
        let mut last = Value::Null;
        wait_until(SOON, "certificates on both nodes", || {
            last = failing::connect(mesh.pod(from), &at(mesh.pod(to).v4(), TRIAL_PORT)).unwrap_or_default();
            last["connected"] == true
        })
        .with_context(|| format!("{from} to {to}: {last}"))?;
    }
    Ok(agents)
}

/// The reasons in an agent's flows that are refusals.
pub(crate) fn refusals(agent: &Agent) -> Result<String> {
    Ok(agent
        .cli(&["flows", "--kind", "refused", "--last", "100", "-o", "json"])?
        .ok()?
        .stdout)
}

#[test]
fn sockets_of_every_form_reach_the_right_server_under_mtls() {
    secured("mtls-forms", |mesh, _| forms::every_socket_form(mesh));
}

#[test]
fn two_thousand_short_connections_under_mtls() {
    secured("mtls-churn", |mesh, _| {
        churn::none_lost_none_misdirected(mesh, 2000)?;
        churn::the_server_may_close_first(mesh)
    });
}

#[test]
fn bulk_both_ways_under_mtls() {
    secured("mtls-bulk", |mesh, _| {
        streams::bulk_both_ways(mesh, "web", 64 * MIB)
    });
}

#[test]
fn half_closed_connections_deliver_all_the_rest_under_mtls() {
    secured("mtls-half", |mesh, _| streams::half_close(mesh));
}

#[test]
fn resets_reach_the_other_end_under_mtls() {
    secured("mtls-resets", |mesh, _| {
        streams::reset_by_the_server(mesh)?;
        streams::reset_by_the_client(mesh)
    });
}

#[test]
fn slow_readers_stop_their_writers_under_mtls() {
    secured("mtls-slow", |mesh, _| {
        let most = streams::slow_reader_stops_the_writer(mesh, 8)?;
        ensure!(
            most < 64 * MIB,
            "{most} bytes lie between one writer and its reader"
        );
        Ok(())
    });
}

#[test]
fn what_stopped_connections_hold_is_bounded_and_stops_no_other_under_mtls() {
    Mesh::scenario(standard("mtls-bounded"), |mesh| {
        const STOPPED: usize = 48;
        const LIMIT: u64 = 8 * MIB;
        // What an agent takes for the handshakes, its buffers and the allocator's leftovers.
        const BESIDES: u64 = 12 * MIB;
        mesh.secure(&["--buffer-limit", "8MiB"])?;
        let agents = start(mesh)?;
        let before: Vec<u64> = agents.iter().map(Agent::resident_bytes).collect::<Result<_>>()?;
        streams::stopped_both_ways(mesh, STOPPED, |to| {
            // These share the tunnels with those that are stopped.
            for bytes in ["1", "100000"] {
                let args = [
                    "ping",
                    "--to",
                    to,
                    "--bytes",
                    bytes,
                    "--count",
                    "40",
                    "--connections",
                    "8",
                ];
                let report = traffic::report(mesh.pod("client"), &args)?;
                ensure!(report["times"]["count"] == 40, "{report}");
            }
            for (agent, before) in agents.iter().zip(before) {
                let grown = agent.resident_bytes()?.saturating_sub(before);
                println!(
                    "agent: {} KiB more for {STOPPED} stopped connections",
                    grown / 1024
                );
                ensure!(grown < LIMIT + BESIDES, "the agent grew by {grown} bytes");
            }
            Ok(())
        })?;
        agents.iter().try_for_each(all_let_go)
    });
}

#[test]
fn connections_that_must_not_stand_do_not_under_mtls() {
    secured("mtls-failing", |mesh, _| {
        failing::closed_ports_refuse(mesh)?;
        failing::a_black_hole_is_silent(mesh)?;
        failing::the_unreachable_is_said_to_be(mesh)?;
        failing::server_first(mesh)?;
        Ok(())
    });
}

#[test]
fn five_hundred_idle_connections_under_mtls() {
    secured("mtls-idle", |mesh, agents| {
        streams::idle(mesh, "web", 500, || {
            for agent in agents {
                ensure!(
                    agent.connections()? >= 500,
                    "the agent does not know its connections"
                );
            }
            Ok(())
        })
    });
}

#[test]
fn a_killed_agent_fails_closed_and_a_restart_recovers_under_mtls() {
    Mesh::scenario(standard("mtls-killed"), |mesh| {
        mesh.secure(&[])?;
        restart::killed(mesh)
    });
}

#[test]
fn a_takeover_under_load_loses_no_connection_under_mtls() {
    Mesh::scenario(standard("mtls-takeover"), |mesh| {
        mesh.secure(&[])?;
        restart::takeover(mesh)
    });
}

#[test]
fn clients_outside_the_mesh_are_served_in_the_clear_and_servers_may_speak_first() {
    secured("mtls-outside", |mesh, _| {
        let _servers = churn::servers(mesh)?;
        let args = ["--count", "500", "--parallel", "16", "--timeout-ms", "30000"];
        let targets = churn::targets(mesh, &["near", "web"]);
        let report = churn::run(mesh, "stranger", &targets, &args)?;
        ensure!(report["good"] == 500 && report["failed"] == 0, "{report}");
        // Were the agent to wait for the client's first byte, nothing would ever come.
        for name in ["near", "web"] {
            let _server = traffic::serve(mesh.pod(name), "greet", 7400)?;
            for address in mesh.pod(name).addresses() {
                let to = at(address, 7400);
                let report =
                    traffic::report(mesh.pod("stranger"), &["banner", "--to", &to, "--count", "20"])?;
                let banner = report["banner"].as_str().context("banner")?;
                ensure!(
                    banner.starts_with(&format!("220 {name} greets")),
                    "{to}: {report}"
                );
            }
        }
        churn::good(mesh, "client", &at(mesh.pod("web").v4(), 7200), "web", 10)
    });
}

#[test]
fn an_agent_of_another_authority_is_refused_both_ways() {
    Mesh::scenario(standard("mtls-foreign"), |mesh| {
        mesh.secure(&[])?;
        let foreign: Authority = mesh.authority("foreign")?;
        mesh.node_mut("b").trust(&foreign, &[]);
        let agents = mesh.start_agents()?;
        let _servers =
            ["web", "client"].map(|name| traffic::serve(mesh.pod(name), "identity", 7001).unwrap());
        for (agent, account) in [(&agents[0], "client"), (&agents[1], "web")] {
            credentials::wait_issued(agent, account, 1)?;
        }
        let capture = mesh.capture()?;
        for (from, to) in [("client", "web"), ("web", "client")] {
            for address in mesh.pod(to).addresses() {
                let report = failing::connect(mesh.pod(from), &at(address, 7001))?;
                ensure!(
                    report["error"] == "ECONNREFUSED",
                    "{from} to {to} at {address}: {report}"
                );
            }
        }
        wire::only_tls(&capture.finish()?, mesh)?;
        for (agent, node) in agents.iter().zip(mesh.nodes()) {
            let said = refusals(agent)?;
            ensure!(
                said.contains("mTLS") && said.contains("leads to no root that we know"),
                "the flows do not say why: {said}"
            );
            ensure!(
                said.contains("the peer refuses us"),
                "the flows of the agent that was dialled do not say why: {said}"
            );
            for (direction, reason) in [("outbound", "unknown-root"), ("inbound", "refused-by-peer")] {
                let labels = [("direction", direction), ("reason", reason)];
                let count = node
                    .metrics()?
                    .sum("nodemesh_connections_refused_total", &labels)?;
                ensure!(
                    count >= 2.0,
                    "{direction} {reason}: {count} are counted; the flows: {said}"
                );
            }
            let log = agent.log();
            ensure!(
                log.contains("a connection of another agent is refused")
                    && log.contains("the peer refuses us"),
                "the log does not say it"
            );
        }
        Ok(())
    });
}

#[test]
fn a_peer_without_an_agent_is_never_dialled_in_the_clear() {
    Mesh::scenario(standard("mtls-no-peer"), |mesh| {
        mesh.secure(&[])?;
        let agent = mesh.node("a").start_agent()?;
        credentials::wait_issued(&agent, "client", 1)?;
        unprotected_peers_are_refused(mesh, &agent)
    });
}

#[test]
fn a_peer_whose_agent_has_no_authority_is_never_dialled_in_the_clear() {
    Mesh::scenario(standard("mtls-no-ca"), |mesh| {
        let authority = mesh.authority("a-only")?;
        mesh.node_mut("a").trust(&authority, &[]);
        let agents = mesh.start_agents()?;
        credentials::wait_issued(&agents[0], "client", 1)?;
        unprotected_peers_are_refused(mesh, &agents[0])
    });
}

#[test]
fn a_workload_whose_agent_has_no_authority_is_served_in_the_clear() {
    Mesh::scenario(standard("mtls-plain-peer"), |mesh| {
        let authority = mesh.authority("a-only")?;
        mesh.node_mut("a").trust(&authority, &[]);
        let agents = mesh.start_agents()?;
        credentials::wait_issued(&agents[0], "client", 1)?;
        let (client, web) = (mesh.pod("client"), mesh.pod("web"));
        let _server = traffic::serve(client, "http", 7410)?;
        for address in client.addresses() {
            let request = [
                "-c",
                "import sys, urllib.request as r; print(r.urlopen(sys.argv[1], timeout=20).read())",
                &format!("http://{}/", at(address, 7410)),
            ];
            web.run("python3", &request)?.ok()?;
        }
        Ok(())
    });
}

/// `client` is refused whatever listens in `web`, and sends it nothing in the clear.
fn unprotected_peers_are_refused(mesh: &Mesh, agent: &Agent) -> Result<()> {
    let (client, web) = (mesh.pod("client"), mesh.pod("web"));
    let _servers = [
        traffic::serve(web, "identity", 7001)?,
        traffic::serve(web, "echo", 7350)?,
        // It never answers, so the handshake ends by the agent's own deadline.
        traffic::serve(web, "sink", 7330)?,
    ];
    let capture = mesh.capture()?;
    for port in [7001, 7350, 7330] {
        for address in web.addresses() {
            let to = at(address, port);
            let report = traffic::report(client, &["connect", "--to", &to, "--timeout-ms", "30000"])?;
            ensure!(report["error"] == "ECONNREFUSED", "{to}: {report}");
            ensure!(wire::speak(mesh, "client", &to).is_err(), "{to} was reached");
        }
    }
    let recorded = capture.finish()?;
    let sent: Vec<_> = recorded
        .streams()
        .into_iter()
        .filter(|(src, _, _)| client.addresses().contains(&src.ip()))
        .collect();
    ensure!(!sent.is_empty(), "nothing was tried");
    for (src, dst, bytes) in &sent {
        ensure!(wire::begins_tls(bytes), "{src} to {dst} is not TLS");
    }
    ensure!(
        !recorded.carries(wire::MARKER),
        "the marker was sent in the clear"
    );
    let said = refusals(agent)?;
    ensure!(said.contains("mTLS"), "the flows do not say why: {said}");
    Ok(())
}

#[test]
fn metrics_tell_who_talked_to_whom_and_go_on_after_a_takeover() {
    Mesh::scenario(standard("mtls-metrics"), |mesh| {
        mesh.secure(&[])?;
        let mut agents = start(mesh)?;
        let to = at(mesh.pod("web").v4(), 7001);
        let _server = traffic::serve(mesh.pod("web"), "identity", 7001)?;
        churn::good(mesh, "near", &to, "web", 20)?;
        let labels = |reporter| {
            [
                ("reporter", reporter),
                ("source_workload", "near"),
                ("source_principal", "spiffe://cluster.local/ns/default/sa/near"),
                ("destination_workload", "web"),
                (
                    "destination_principal",
                    "spiffe://cluster.local/ns/default/sa/web",
                ),
                ("connection_security_policy", "mutual_tls"),
                ("request_protocol", "tcp"),
                ("response_flags", "-"),
            ]
        };
        for (node, reporter) in [("a", "source"), ("b", "destination")] {
            let node = mesh.node(node);
            let labels = labels(reporter);
            wait_until(SOON, "the connections to be told as closed", || {
                let closed = node
                    .metrics()
                    .and_then(|metrics| metrics.sum("istio_tcp_connections_closed_total", &labels));
                closed.is_ok_and(|closed| closed >= 20.0)
            })?;
            let metrics = node.metrics()?;
            for name in ["istio_tcp_connections_opened_total", "istio_tcp_sent_bytes_total"] {
                let count = metrics.sum(name, &labels)?;
                ensure!(count >= 20.0, "{reporter}: {name} is {count}");
            }
            ensure!(metrics.sum("nodemesh_pods", &[("state", "enrolled")])? > 0.0);
            ensure!(metrics.text().ends_with("# EOF\n"));
        }
        // The successor has the address as soon as the other has let go.
        let successor = agents[0].takeover(mesh.node("a"))?;
        wait_until(SOON, "the successor's metrics", || {
            mesh.node("a").metrics().is_ok_and(|metrics| {
                metrics
                    .sum("istio_tcp_connections_opened_total", &[])
                    .is_ok_and(|opened| opened == 0.0)
            })
        })?;
        churn::good(mesh, "near", &to, "web", 5)?;
        let opened = mesh
            .node("a")
            .metrics()?
            .sum("istio_tcp_connections_opened_total", &labels("source"))?;
        ensure!(opened >= 5.0, "{opened} connections of the successor");
        ensure!(
            !successor.log().contains("--metrics-address"),
            "{}",
            successor.log()
        );
        drop(agents.remove(0));
        Ok(())
    });
}
