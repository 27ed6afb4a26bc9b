//! On one node: who fakes another pod's address, or dials the agent's listener, gains nothing.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    Agent, Mesh, MeshBuilder, Pod,
    traffic::{self, at},
    wait_until,
};
use serde_json::Value;

use crate::{
    checks::{SOON, churn, failing, standard},
    mtls::refused::hostile,
    policy::policy,
};

const PORT: u16 = 7001;

/// `vault` and two that want in, on one node: `friend` may, `thief` may not.
fn vault(name: &str) -> MeshBuilder {
    Mesh::builder(name)
        .node("a")
        .pod("a", Pod::new("vault").label("app", "vault"))
        .pod("a", Pod::new("friend"))
        .pod("a", Pod::new("thief"))
        .outside("a", "stranger")
}

/// With these rules in force that admit `friend` alone, `steal` is tried, and `vault` has seen nobody else.
fn guarded(name: &str, rules: impl Fn(&Mesh) -> String, steal: impl Fn(&Mesh, &Agent) -> Result<()>) {
    Mesh::scenario(vault(name), |mesh| {
        mesh.write_config(
            "zz-policy.yaml",
            &policy("only-friend", "ALLOW", "vault", &rules(mesh)),
        )?;
        let agent = mesh.node("a").start_agent()?;
        let server = traffic::serve_with(mesh.pod("vault"), "identity", PORT, &["--log"])?;
        let to = at(mesh.pod("vault").v4(), PORT);
        ensure!(
            churn::good(mesh, "thief", &to, "vault", 1).is_err(),
            "the policy is not in force"
        );
        churn::good(mesh, "friend", &to, "vault", 5)?;
        let seen = || server.stdout().matches("\"accept\"").count();
        let before = seen();
        steal(mesh, &agent)?;
        ensure!(seen() == before, "somebody got in: {}", server.stdout());
        churn::good(mesh, "friend", &to, "vault", 5)
    });
}

fn by_address(mesh: &Mesh) -> String {
    let [v4, v6] = mesh.pod("friend").addresses();
    format!("[{{from: [{{source: {{ipBlocks: [\"{v4}/32\", \"{v6}/128\"]}}}}]}}]")
}

fn by_name(_: &Mesh) -> String {
    "[{from: [{source: {principals: [cluster.local/ns/default/sa/friend]}}]}]".to_owned()
}

/// `thief` binds its socket to the addresses of `friend`, which it also has given itself.
fn claim(mesh: &Mesh, agent: &Agent) -> Result<()> {
    let (thief, friend, vault) = (mesh.pod("thief"), mesh.pod("friend"), mesh.pod("vault"));
    for own in [false, true] {
        if own {
            thief.ip(&format!("addr add {}/32 dev lo", friend.v4()))?;
            thief.ip(&format!("addr add {}/128 dev lo", friend.v6()))?;
        }
        for (from, to) in friend.addresses().into_iter().zip(vault.addresses()) {
            let said = hostile(mesh, "thief", &["claim", &at(from, 0), &at(to, PORT)])?;
            let refused = ["ECONNREFUSED", "ECONNRESET", "timed out"];
            ensure!(
                refused.iter().any(|refused| said["said"] == *refused),
                "from {from} to {to}: {said}"
            );
        }
    }
    // It is known by its namespace, and shown with its own address.
    let refused = super::mtls::refusals(agent)?;
    let last = refused.lines().last().context("no refusals")?;
    let last: Value = serde_json::from_str(last)?;
    let client = last["client"].as_str().unwrap_or_default();
    ensure!(
        last["clientWorkload"] == "default/thief" && client.starts_with(&format!("[{}]:", thief.v6())),
        "{last}"
    );
    Ok(())
}

/// `thief` writes packets with the address of `friend`, and with its own, past its sockets.
fn raw(mesh: &Mesh, agent: &Agent) -> Result<()> {
    let to = at(mesh.pod("vault").v4(), PORT);
    for from in ["friend", "thief"] {
        let source = at(mesh.pod(from).v4(), 40_001);
        hostile(mesh, "thief", &["raw", &source, &to, "--wait", "1"])?;
        let mut flows = String::new();
        wait_until(SOON, "the forgery to be told", || {
            flows = super::mtls::refusals(agent).unwrap_or_default();
            flows
                .lines()
                .any(|flow| flow.contains(&source) && flow.contains("no socket of that pod made it"))
        })
        .with_context(|| format!("from {source}: {flows}"))?;
    }
    ensure!(
        agent.log().contains("no socket of that pod made it"),
        "not in the log"
    );
    let labels = [("reason", "forged-source"), ("workload", "vault")];
    let counted = mesh
        .node("a")
        .metrics()?
        .sum("nodemesh_connections_refused_total", &labels)?;
    ensure!(counted >= 2.0, "{counted} forgeries are counted");
    Ok(())
}

#[test]
fn a_socket_bound_to_another_pods_address_gains_nothing_by_address() {
    guarded("claim-address", by_address, claim);
}

#[test]
fn a_socket_bound_to_another_pods_address_gains_nothing_by_name() {
    guarded("claim-name", by_name, claim);
}

#[test]
fn a_packet_with_another_pods_address_gains_nothing_by_address() {
    guarded("raw-address", by_address, raw);
}

#[test]
fn a_packet_with_another_pods_address_gains_nothing_by_name() {
    guarded("raw-name", by_name, raw);
}

/// The ports on which the agent listens in a pod where nobody else does.
fn listeners(mesh: &Mesh, pod: &str) -> Result<BTreeSet<u16>> {
    let said = mesh.pod(pod).run("ss", &["-Hltn"])?.ok()?;
    let ports: BTreeSet<u16> = said
        .stdout
        .lines()
        .filter_map(|line| line.split_whitespace().nth(3)?.rsplit_once(':')?.1.parse().ok())
        .collect();
    ensure!(!ports.is_empty(), "no listener in {pod}: {said}");
    Ok(ports)
}

/// Dials every listener of the agent in `pod`, at these addresses, from somewhere.
fn dial_listeners(mesh: &Mesh, from: &str, pod: &str, addresses: &[String]) -> Result<()> {
    for port in listeners(mesh, pod)? {
        for address in addresses {
            let to = at(address.parse::<std::net::IpAddr>()?, port);
            let report = failing::connect(mesh.pod(from), &to)?;
            ensure!(
                report["error"] == "ECONNREFUSED",
                "{from} to {to} of {pod}: {report}"
            );
        }
    }
    Ok(())
}

/// From inside, from the same node, from another node, and from outside of the mesh.
fn dial_from_everywhere(mesh: &Mesh, agent: &Agent) -> Result<()> {
    let loopback = ["127.0.0.1", "127.3.4.5", "::1"].map(str::to_owned);
    dial_listeners(mesh, "near", "near", &loopback)?;
    let own = mesh.pod("near").addresses().map(|address| address.to_string());
    for from in ["near", "client", "web", "stranger"] {
        dial_listeners(mesh, from, "near", &own)?;
    }
    let refused = super::mtls::refusals(agent)?;
    ensure!(refused.contains("agent's own listener"), "{refused}");
    ensure!(
        agent.log().contains("agent's own listener"),
        "the log does not say it"
    );
    // Nothing of that keeps the agent from its work.
    let _server = traffic::serve(mesh.pod("near"), "identity", PORT)?;
    for from in ["client", "web", "stranger"] {
        churn::good(mesh, from, &at(mesh.pod("near").v4(), PORT), "near", 5)?;
    }
    Ok(())
}

#[test]
fn nobody_reaches_the_agents_listener() {
    Mesh::scenario(standard("listener"), |mesh| {
        let agents = mesh.start_agents()?;
        dial_from_everywhere(mesh, &agents[0])
    });
}

#[test]
fn nobody_reaches_the_agents_listener_under_mtls() {
    Mesh::scenario(standard("listener-mtls"), |mesh| {
        mesh.secure(&[])?;
        let agents = crate::mtls::start(mesh)?;
        dial_from_everywhere(mesh, &agents[0])
    });
}
