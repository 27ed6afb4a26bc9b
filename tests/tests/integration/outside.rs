//! What does not belong to the mesh is left as it is; what leaves the mesh becomes so again.

use anyhow::{Result, ensure};
use mesh_tests::{
    Held, Mesh, Pod,
    traffic::{self, at},
    wait_until,
};

use crate::{
    captured::all_let_go,
    checks::{SOON, churn, failing::connect, forms, standard},
};

const PORT: u16 = 7001;

#[test]
fn a_pod_outside_the_mesh_is_not_captured_by_the_agent_of_its_node() {
    Mesh::scenario(standard("outside"), |mesh| {
        let agents = mesh.start_agents()?;
        let mut server = traffic::serve_with(mesh.pod("stranger"), "identity", PORT, &["--log"])?;
        // To itself, and to its own node's gateway: no enrolled pod takes part.
        churn::good(
            mesh,
            "stranger",
            &at(mesh.pod("stranger").v4(), PORT),
            "stranger",
            200,
        )?;
        for agent in &agents {
            ensure!(agent.accepted()? == 0, "an agent carried a stranger's connection");
        }
        ensure!(server.is_running());
        // The kernel's own view of a connection is the plain one.
        let _echo = traffic::serve(mesh.pod("stranger"), "echo", 7350)?;
        let to = at(mesh.pod("stranger").v4(), 7350);
        let _held = Held::open(mesh, "stranger", std::slice::from_ref(&to), 1)?;
        let sockets = mesh
            .pod("stranger")
            .run("ss", &["-Htn", "state", "established"])?
            .ok()?;
        ensure!(sockets.stdout.contains(&to), "{sockets}");
        Ok(())
    });
}

#[test]
fn a_pod_that_is_withdrawn_has_plain_networking_again() {
    Mesh::scenario(standard("withdrawn"), |mesh| {
        let agents = mesh.start_agents()?;
        let _servers =
            ["web", "near", "stranger"].map(|name| traffic::serve(mesh.pod(name), "identity", 7210).unwrap());
        mesh.withdraw("client")?;
        wait_until(SOON, "the pod to be let go", || {
            agents[0].enrolled().is_ok_and(|names| !names.contains("client"))
        })?;
        let before = agents[0].accepted()?;
        // Towards pods that are no longer enrolled either, nothing passes through an agent.
        mesh.withdraw("web")?;
        wait_until(SOON, "the other to be let go", || {
            agents[1].enrolled().is_ok_and(|names| names.is_empty())
        })?;
        let to = at(mesh.pod("web").v6(), 7210);
        churn::good(mesh, "client", &to, "web", 100)?;
        ensure!(agents[0].accepted()? == before, "still captured");
        let report = connect(mesh.pod("client"), &at(mesh.service("web").v4(), 80))?;
        ensure!(
            report["error"] == "ENETUNREACH",
            "a service address without the mesh: {report}"
        );

        // And back again.
        mesh.announce("client")?;
        mesh.announce("web")?;
        for (agent, node) in agents.iter().zip(mesh.nodes()) {
            wait_until(SOON, "the pods to be enrolled again", || {
                agent
                    .enrolled()
                    .is_ok_and(|names| node.expected().iter().all(|name| names.contains(name)))
            })?;
        }
        churn::good(mesh, "client", &to, "web", 100)?;
        ensure!(agents[0].accepted()? >= before + 100, "not captured again");
        agents.iter().try_for_each(all_let_go)
    });
}

#[test]
fn a_pod_that_appears_later_is_enrolled_when_its_namespace_does() {
    Mesh::scenario(standard("later-enrolled"), |mesh| {
        let agents = mesh.start_agents()?;
        mesh.add_pod("a", Pod::new("late"))?;
        wait_until(SOON, "the pod to be enrolled", || {
            agents[0].enrolled().is_ok_and(|names| names.contains("late"))
        })?;
        let _server = traffic::serve(mesh.pod("web"), "identity", PORT)?;
        let before = agents[0].accepted()?;
        churn::good(mesh, "late", &at(mesh.pod("web").v4(), PORT), "web", 20)?;
        ensure!(agents[0].accepted()? >= before + 20, "not captured");
        Ok(())
    });
}

#[test]
fn uninstall_leaves_nothing_and_networking_is_plain() {
    Mesh::scenario(standard("uninstall"), |mesh| {
        let agents = mesh.start_agents()?;
        let programs: Vec<u64> = agents
            .iter()
            .map(program_ids)
            .collect::<Result<Vec<_>>>()?
            .concat();
        ensure!(!programs.is_empty(), "the programs are known");
        for agent in agents {
            agent.terminate()?.ok()?;
        }
        for node in mesh.nodes() {
            let output = node.cli(&["uninstall"])?.ok()?;
            ensure!(
                !node.bpffs().exists(),
                "{} is still there: {output}",
                node.bpffs().display()
            );
        }
        wait_until(SOON, "the programs to be unloaded", || {
            loaded_programs().is_ok_and(|loaded| programs.iter().all(|id| !loaded.contains(id)))
        })?;
        for node in mesh.nodes() {
            for cgroup in [node.pods_cgroup(), node.agent_cgroup()] {
                let said = std::process::Command::new("bpftool")
                    .args(["cgroup", "show"])
                    .arg(cgroup)
                    .output()?;
                ensure!(
                    said.stdout.is_empty(),
                    "{}: {}",
                    cgroup.display(),
                    String::from_utf8_lossy(&said.stdout)
                );
            }
            // A second time there is nothing left to do.
            node.cli(&["uninstall"])?.ok()?;
        }
        forms::python_clients(mesh)?;
        churn::none_lost_none_misdirected(mesh, 500)
    });
}

fn program_ids(agent: &mesh_tests::Agent) -> Result<Vec<u64>> {
    let answer = agent.ask(&["bpf", "progs"])?;
    let programs = answer["programs"].as_array().into_iter().flatten();
    Ok(programs.filter_map(|program| program["id"].as_u64()).collect())
}

fn loaded_programs() -> Result<Vec<u64>> {
    let said = std::process::Command::new("bpftool")
        .args(["-j", "prog", "list"])
        .output()?;
    let list: serde_json::Value = serde_json::from_slice(&said.stdout)?;
    Ok(list
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|program| program["id"].as_u64())
        .collect())
}
