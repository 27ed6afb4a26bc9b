//! Every check without an agent: the traffic programs and the checks are right, so a failure with an agent is the
//! agent's.

use anyhow::ensure;
use mesh_tests::{
    Mesh,
    traffic::{self, at},
};

use crate::checks::{churn, failing, forms, standard, streams};

#[test]
fn socket_forms() {
    Mesh::scenario(standard("direct-forms"), |mesh| forms::every_socket_form(mesh));
}

#[test]
fn programs_of_several_kinds() {
    Mesh::scenario(standard("direct-programs"), |mesh| {
        forms::every_kind_of_server(mesh)?;
        forms::python_clients(mesh)?;
        forms::a_socket_used_twice(mesh)
    });
}

#[test]
fn short_connections() {
    Mesh::scenario(standard("direct-churn"), |mesh| {
        churn::none_lost_none_misdirected(mesh, 5000)?;
        churn::the_server_may_close_first(mesh)
    });
}

#[test]
fn streams_and_their_ends() {
    Mesh::scenario(standard("direct-streams"), |mesh| {
        streams::bulk_both_ways(mesh, "web", 64 << 20)?;
        streams::half_close(mesh)?;
        streams::reset_by_the_server(mesh)?;
        streams::reset_by_the_client(mesh)
    });
}

#[test]
fn slow_readers_and_idle_connections() {
    Mesh::scenario(standard("direct-idle"), |mesh| {
        let most = streams::slow_reader_stops_the_writer(mesh, 4)?;
        ensure!(most < 64 << 20, "{most} bytes lie between writer and reader");
        streams::idle(mesh, "web", 1000, || Ok(()))
    });
}

#[test]
fn connections_that_must_not_stand() {
    Mesh::scenario(standard("direct-failing"), |mesh| {
        failing::closed_ports_refuse(mesh)?;
        failing::a_black_hole_is_silent(mesh)?;
        failing::the_unreachable_is_said_to_be(mesh)
    });
}

#[test]
fn servers_that_speak_first() {
    Mesh::scenario(standard("direct-banner"), |mesh| {
        failing::server_first(mesh).map(drop)
    });
}

#[test]
fn the_checks_can_fail() {
    Mesh::scenario(standard("direct-fail"), |mesh| {
        let _server = traffic::serve(mesh.pod("web"), "identity", 7001)?;
        let client = mesh.pod("client");
        // Another server than the expected one answers.
        let wrong = format!("{}=near", at(mesh.pod("web").v4(), 7001));
        let report = traffic::report(client, &["churn", "--to", &wrong, "--count", "10"])?;
        ensure!(report["wrong"] == 10 && report["good"] == 0, "{report}");
        // Nobody listens.
        let closed = format!("{}=near", at(mesh.pod("near").v4(), 7001));
        let report = traffic::report(client, &["churn", "--to", &closed, "--count", "10"])?;
        ensure!(report["errors"]["connect: ECONNREFUSED"] == 10, "{report}");
        // A service address means nothing without an agent.
        let report = failing::connect(client, &at(mesh.service("web").v4(), 80))?;
        ensure!(report["error"] == "ENETUNREACH", "{report}");
        Ok(())
    });
}
