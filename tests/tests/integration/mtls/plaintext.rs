//! What comes in plaintext is taken where it may be, shown for what it is, and never kept waiting for long.

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    Held, Mesh,
    traffic::{self, at},
    wait_until,
};
use serde_json::Value;

use super::{
    credentials::wait_issued,
    refused::{besieged, hostile, told},
    start,
};
use crate::{
    checks::{SOON, failing, standard},
    policy::strict,
};

const PORT: u16 = 7400;

#[test]
fn connections_and_flows_show_what_protects_them() {
    Mesh::scenario(standard("channels"), |mesh| {
        mesh.secure(&[])?;
        let agents = start(mesh)?;
        let _servers = ["near", "web"].map(|name| traffic::serve(mesh.pod(name), "echo", PORT).unwrap());
        let hold = |from, to| Held::open(mesh, from, &[at(mesh.pod(to).v4(), PORT)], 1);
        let _held = [
            hold("client", "near")?,
            hold("client", "web")?,
            hold("stranger", "near")?,
            hold("stranger", "web")?,
        ];
        for (agent, client, to, channel) in [
            (&agents[0], "client", "near", "same-node"),
            (&agents[0], "client", "web", "mutual-tls"),
            (&agents[1], "client", "web", "mutual-tls"),
            (&agents[0], "stranger", "near", "plaintext"),
            (&agents[1], "stranger", "web", "plaintext"),
        ] {
            let is_it = |connection: &Value| {
                let begins = |field: &str, pod: &str| {
                    let address = connection[field].as_str().unwrap_or_default();
                    address.starts_with(&format!("{}:", mesh.pod(pod).v4()))
                };
                begins("client", client) && begins("originalDestination", to)
            };
            let listed = agent.ask(&["connections"])?;
            let connections = listed["connections"].as_array().context("connections")?;
            let found = connections.iter().find(|connection| is_it(connection));
            let found = found.with_context(|| format!("{client} to {to} in {listed}"))?;
            ensure!(found["channel"] == channel, "{client} to {to}: {found}");
            let flows = agent.cli(&["flows", "--last", "100", "-o", "json"])?.ok()?.stdout;
            let opened = flows
                .lines()
                .filter_map(|line| serde_json::from_str::<Value>(line).ok())
                .find(|flow| flow["kind"] == "opened" && is_it(flow))
                .with_context(|| format!("{client} to {to} in {flows}"))?;
            ensure!(opened["channel"] == channel, "{client} to {to}: {opened}");
        }
        Ok(())
    });
}

/// The first words of servers reach a client that says nothing and has no agent; under STRICT it is refused.
fn silent_clients_are_heard(mesh: &mut Mesh) -> Result<()> {
    let agent = mesh.node("a").start_agent()?;
    wait_issued(&agent, "web", 1)?;
    let web = mesh.pod("web");
    let _server = traffic::serve(web, "greet", PORT)?;
    for from in ["rogue", "stranger"] {
        for address in web.addresses() {
            let said = hostile(mesh, from, &["listen", &at(address, PORT)])?;
            ensure!(
                said["said"]
                    .as_str()
                    .is_some_and(|said| said.starts_with("220 web greets")),
                "{from}: {said}"
            );
        }
    }
    mesh.write_config("zz-strict.yaml", &strict("web"))?;
    let to = at(web.v4(), PORT);
    for from in ["rogue", "stranger"] {
        let mut said = Value::Null;
        wait_until(SOON, "silence to be refused", || {
            said = hostile(mesh, from, &["listen", &to]).unwrap_or_default();
            said["said"] == "ECONNRESET" || said["said"] == "ECONNREFUSED"
        })
        .with_context(|| format!("{from}: {said}"))?;
    }
    told(mesh, &agent, "plaintext", "default/strict-web is STRICT")
}

#[test]
fn a_workload_without_an_agent_hears_servers_that_speak_first() {
    Mesh::scenario(besieged("silent"), |mesh| {
        mesh.secure(&[])?;
        silent_clients_are_heard(mesh)
    });
}

#[test]
fn a_workload_whose_agent_has_no_authority_hears_servers_that_speak_first() {
    Mesh::scenario(besieged("silent-no-ca"), |mesh| {
        let authority = mesh.authority("a-only")?;
        mesh.node_mut("a").trust(&authority, &[]);
        let _other = mesh.node("b").start_agent()?;
        silent_clients_are_heard(mesh)
    });
}

#[test]
fn what_is_denied_is_refused_when_it_asks_though_the_port_is_known_to_be_open() {
    Mesh::scenario(besieged("denied-open"), |mesh| {
        mesh.secure(&[])?;
        let agent = mesh.node("a").start_agent()?;
        let _server = traffic::serve(mesh.pod("web"), "identity", PORT)?;
        for address in mesh.pod("web").addresses() {
            let to = at(address, PORT);
            let connect = |from| failing::connect(mesh.pod(from), &to);
            ensure!(connect("stranger")?["connected"] == true, "{to} is not open");
        }
        mesh.write_config("zz-strict.yaml", &strict("web"))?;
        for address in mesh.pod("web").addresses() {
            let to = at(address, PORT);
            // The first after the change may still be let through, and reset.
            wait_until(SOON, "plaintext to be refused", || {
                failing::connect(mesh.pod("stranger"), &to)
                    .is_ok_and(|report| report["error"] == "ECONNREFUSED")
            })?;
            for _ in 0..5 {
                let report = failing::connect(mesh.pod("stranger"), &to)?;
                ensure!(
                    report["error"] == "ECONNREFUSED",
                    "accepted, then reset: {report}"
                );
            }
        }
        told(mesh, &agent, "plaintext", "default/strict-web is STRICT")
    });
}
