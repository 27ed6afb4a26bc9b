//! Identities that are taken back end the connections that they opened.

use std::fs;

use anyhow::{Result, ensure};
use mesh_tests::{
    Agent, Held, Mesh,
    traffic::{self, at},
    wait_until,
};

use super::{credentials::await_roots, start};
use crate::checks::{SOON, churn, standard};

const PORT: u16 = 7350;
const HELD: usize = 20;

/// Connections from `client` to `web`, across the nodes.
fn hold(mesh: &Mesh) -> Result<Held> {
    let to = mesh.pod("web").addresses().map(|address| at(address, PORT));
    Held::open(mesh, "client", &to, HELD)
}

/// Waits until the agents have let go of every connection to the server.
fn wait_closed(agents: &[Agent]) -> Result<()> {
    for agent in agents {
        wait_until(SOON * 2, "the connections to be closed", || {
            open(agent).is_ok_and(|open| open == 0)
        })?;
    }
    Ok(())
}

fn open(agent: &Agent) -> Result<u64> {
    let listed = agent.ask(&["connections", "--port", &PORT.to_string()])?;
    listed["total"]
        .as_u64()
        .ok_or_else(|| anyhow::anyhow!("{listed}"))
}

/// How many connections both agents say to have ended for this reason.
fn revoked(mesh: &Mesh, reason: &str) -> Result<f64> {
    let mut sum = 0.0;
    for node in mesh.nodes() {
        sum += node
            .metrics()?
            .sum("nodemesh_connections_revoked_total", &[("reason", reason)])?;
    }
    Ok(sum)
}

/// The client of the connections has found all of them broken.
fn all_broken(mesh: &Mesh, held: Held) -> Result<()> {
    held.release_broken()?;
    // Those that come now are as good as ever.
    churn::good(mesh, "near", &at(mesh.pod("near").v4(), PORT + 1), "near", 5)
}

#[test]
fn a_root_that_is_dropped_takes_what_was_opened_under_it_along() {
    Mesh::scenario(standard("mtls-drop-root"), |mesh| {
        let authority = mesh.secure(&[])?;
        let agents = start(mesh)?;
        let _echo = traffic::serve(mesh.pod("web"), "echo", PORT)?;
        let _near = traffic::serve(mesh.pod("near"), "identity", PORT + 1)?;
        let held = hold(mesh)?;
        authority.rotate_root()?;
        await_roots(&agents, 2)?;
        for agent in &agents {
            ensure!(open(agent)? >= HELD as u64, "a root more ended connections");
        }
        authority.drop_old_roots()?;
        await_roots(&agents, 3)?;
        wait_closed(&agents)?;
        let count = revoked(mesh, "unknown-root")?;
        ensure!(count >= HELD as f64, "{count} are counted");
        let mut said = String::new();
        for agent in &agents {
            said += &agent
                .cli(&["flows", "--kind", "reset", "--last", "100"])?
                .ok()?
                .stdout;
        }
        ensure!(
            said.contains("leads to no root that we know"),
            "the flows do not say why: {said}"
        );
        ensure!(
            agents
                .iter()
                .any(|agent| agent.log().contains("a tunnel is not believed any more")),
            "the log does not say it"
        );
        all_broken(mesh, held)
    });
}

#[test]
fn a_service_account_that_is_taken_away_takes_its_connections_along() {
    Mesh::scenario(standard("mtls-account"), |mesh| {
        mesh.secure(&[])?;
        let agents = start(mesh)?;
        let _echo = traffic::serve(mesh.pod("web"), "echo", PORT)?;
        let _near = traffic::serve(mesh.pod("near"), "identity", PORT + 1)?;
        let held = hold(mesh)?;
        // Only the destination hears of it: it does not need the other agent for it.
        let file = "workload-client.yaml";
        let text = fs::read_to_string(mesh.node("b").config_dir().join(file))?;
        let other = text.replace("serviceAccount: client", "serviceAccount: another");
        ensure!(text != other, "no account in {text}");
        mesh.node("b").write_config(file, &other)?;
        wait_closed(&agents)?;
        let labels = [("reason", "identity-changed"), ("workload", "web")];
        let count = mesh
            .node("b")
            .metrics()?
            .sum("nodemesh_connections_revoked_total", &labels)?;
        ensure!(count >= HELD as f64, "{count} are counted");
        let said = agents[1]
            .cli(&["flows", "--kind", "reset", "--last", "100"])?
            .ok()?
            .stdout;
        ensure!(
            said.contains("is service account default/another now"),
            "the flows do not say why: {said}"
        );
        all_broken(mesh, held)
    });
}
