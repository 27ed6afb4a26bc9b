//! Everything that holds on plain networking holds through the agents of both nodes; service addresses come on top.

use anyhow::{Result, ensure};
use mesh_tests::{
    Agent, Mesh, amount, programs,
    traffic::{self, at},
    wait_until,
};

use crate::checks::{SOON, churn, failing, forms, standard, streams};

const MIB: u64 = 1 << 20;

/// Runs a check with an agent on each node, and sees that the agents carried its connections and let go of them.
fn captured(name: &str, check: impl FnOnce(&Mesh, &[Agent]) -> Result<()>) {
    Mesh::scenario(standard(name), |mesh| {
        let agents = mesh.start_agents()?;
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

/// No connection is left open, and nothing of one is left in the kernel.
pub(crate) fn all_let_go(agent: &Agent) -> Result<()> {
    wait_until(SOON, "the connections to end", || {
        agent.connections().is_ok_and(|open| open == 0)
    })?;
    wait_until(SOON, "the map FLOWS to be empty", || {
        agent.map_entries("FLOWS").is_ok_and(|left| left == 0)
    })
}

#[test]
fn sockets_of_every_form_reach_the_right_server_and_both_ends_see_the_truth() {
    captured("forms", |mesh, _| forms::every_socket_form(mesh));
}

#[test]
fn a_socket_that_is_used_twice_reaches_the_right_server_twice() {
    captured("twice", |mesh, _| forms::a_socket_used_twice(mesh));
}

#[test]
fn a_connection_that_nobody_accepted_leaves_nothing() {
    Mesh::scenario(standard("unaccepted"), |mesh| {
        let agent = mesh.node("a").start_agent()?;
        for address in mesh.pod("web").addresses() {
            let client = mesh.pod("client").command("python3");
            let mut client = client
                .arg(programs::python("unaccepted.py"))
                .args([address.to_string(), "7001".to_owned()])
                .spawn()?;
            client.wait_line(SOON, |line| line == "connected")?;
            ensure!(
                agent.map_entries("FLOWS")? == 1,
                "the socket to {address} has left no record to be accepted"
            );
            client.kill();
            all_let_go(&agent)?;
        }
        Ok(())
    });
}

#[test]
fn servers_of_every_kind_see_the_real_client() {
    captured("servers", |mesh, _| forms::every_kind_of_server(mesh));
}

#[test]
fn python_clients_blocking_and_asyncio() {
    captured("python", |mesh, _| forms::python_clients(mesh));
}

#[test]
fn twenty_thousand_short_connections_64_at_a_time() {
    captured("churn", |mesh, _| {
        churn::none_lost_none_misdirected(mesh, 20_000)?;
        churn::the_server_may_close_first(mesh)
    });
}

#[test]
fn service_addresses_reach_their_endpoints_on_this_node_and_on_another() {
    captured("services", |mesh, _| {
        let _servers = ["near", "web"].map(|name| traffic::serve(mesh.pod(name), "identity", 7001).unwrap());
        for name in ["near", "web"] {
            let service = mesh.service(name);
            for address in [at(service.v4(), 80), at(service.v6(), 80)] {
                churn::good(mesh, "client", &address, name, amount(200))?;
            }
            let closed = failing::connect(mesh.pod("client"), &at(service.v4(), 81))?;
            ensure!(
                closed["connected"] == false,
                "a port that the service does not have: {closed}"
            );
        }
        Ok(())
    });
}

#[test]
fn connections_from_outside_the_mesh_come_in_and_the_server_sees_the_client() {
    captured("inward", |mesh, _| {
        let _servers = churn::servers(mesh)?;
        let count = amount(1000);
        let args = [
            "--count",
            &count.to_string(),
            "--parallel",
            "16",
            "--timeout-ms",
            "30000",
        ];
        let targets = churn::targets(mesh, &["near", "web"]);
        // The client itself is not captured, so its port is on the wire.
        let report = churn::run(mesh, "stranger", &targets, &args)?;
        ensure!(report["good"] == count && report["failed"] == 0, "{report}");
        Ok(())
    });
}

#[test]
fn a_gibibyte_each_way_across_nodes_and_on_one() {
    captured("bulk", |mesh, _| {
        streams::bulk_both_ways(mesh, "web", 1024 * MIB)?;
        streams::bulk_both_ways(mesh, "near", 256 * MIB)?;
        streams::bulk_both_ways(mesh, "stranger", 64 * MIB)
    });
}

#[test]
fn half_closed_connections_deliver_all_the_rest() {
    captured("half-close", |mesh, _| streams::half_close(mesh));
}

#[test]
fn resets_in_mid_stream_reach_the_other_end() {
    captured("resets", |mesh, _| {
        streams::reset_by_the_server(mesh)?;
        streams::reset_by_the_client(mesh)
    });
}

#[test]
fn slow_readers_stop_their_writers_and_the_agents_memory_stays_bounded() {
    captured("slow", |mesh, agents| {
        const WRITERS: usize = 16;
        let before: Vec<u64> = agents.iter().map(Agent::resident_bytes).collect::<Result<_>>()?;
        let most = streams::slow_reader_stops_the_writer(mesh, WRITERS)?;
        ensure!(
            most < 64 * MIB,
            "{most} bytes lie between one writer and its reader"
        );
        for (agent, before) in agents.iter().zip(before) {
            let grown = agent.resident_bytes()?.saturating_sub(before);
            println!(
                "agent: {} KiB more for {WRITERS} stopped writers of {most} bytes",
                grown / 1024
            );
            ensure!(
                grown < WRITERS as u64 * MIB + 16 * MIB,
                "the agent grew by {grown} bytes"
            );
        }
        Ok(())
    });
}

#[test]
fn five_thousand_idle_connections() {
    captured("idle", |mesh, agents| {
        const COUNT: usize = 5000;
        let before: Vec<u64> = agents.iter().map(Agent::resident_bytes).collect::<Result<_>>()?;
        streams::idle(mesh, "web", COUNT, || {
            for (agent, before) in agents.iter().zip(&before) {
                ensure!(
                    agent.connections()? >= COUNT as u64,
                    "the agent knows its connections"
                );
                let (now, grown) = (
                    agent.resident_bytes()?,
                    agent.resident_bytes()?.saturating_sub(*before),
                );
                let each = grown / COUNT as u64;
                println!(
                    "agent: {} KiB resident, {each} bytes for each of {COUNT} idle connections",
                    now / 1024
                );
                ensure!(each < 64 * 1024, "{each} bytes for an idle connection");
            }
            Ok(())
        })
    });
}

#[test]
fn closed_ports_black_holes_and_the_unreachable() {
    captured("failing", |mesh, _| {
        failing::closed_ports_refuse(mesh)?;
        failing::a_black_hole_is_silent(mesh)?;
        failing::the_unreachable_is_said_to_be(mesh)?;
        // So that both agents carried something.
        let _server = traffic::serve(mesh.pod("web"), "identity", 7001)?;
        churn::good(mesh, "client", &at(mesh.pod("web").v4(), 7001), "web", 10)?;
        Ok(())
    });
}

#[test]
fn servers_that_speak_first_are_heard_without_delay() {
    Mesh::scenario(standard("greeting"), |mesh| {
        let direct = failing::server_first(mesh)?;
        let agents = mesh.start_agents()?;
        let through = failing::server_first(mesh)?;
        ensure!(
            agents
                .iter()
                .all(|agent| agent.accepted().is_ok_and(|count| count > 0)),
            "nothing was captured"
        );
        for (direct, through) in direct.into_iter().zip(through) {
            println!("banner: {direct:.0} µs direct, {through:.0} µs through the agents");
            ensure!(
                through - direct < 50_000.0,
                "{direct} µs direct, {through} µs through the agents"
            );
        }
        Ok(())
    });
}

#[test]
fn a_server_can_listen_again_on_its_port_while_old_connections_linger() {
    captured("rebind", |mesh, _| {
        for _ in 0..3 {
            let server = traffic::serve(mesh.pod("web"), "identity", 7350)?;
            // From outside too: there the agent's own socket is at the server's port.
            for client in ["client", "stranger"] {
                churn::good(mesh, client, &at(mesh.pod("web").v4(), 7350), "web", 50)?;
            }
            drop(server);
        }
        Ok(())
    });
}
