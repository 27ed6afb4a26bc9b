//! Which tests run on the test machines: a part of all of them by default, everything on demand.
//!
//! A machine without virtualization is emulated, 10 to 30 times slower than this one. What another kernel can break is the
//! kernel half: how programs are verified, attached and called. So the matrix has a test for each hook and each promise that
//! rests on one, and leaves to this machine's own kernel what is decided in user space.
//! Invariant: a test that is asked for and does not exist is an error, before any machine is started.

use anyhow::{Result, bail, ensure};

/// The matrix: tests by name, and what each shows of a kernel.
const MATRIX: &[(&str, &str)] = &[
    (
        "captured::sockets_of_every_form_reach_the_right_server_and_both_ends_see_the_truth",
        "connect, getpeername, getsockname, accept and sock_ops, IPv4 and IPv6, near and far",
    ),
    (
        "captured::a_socket_that_is_used_twice_reaches_the_right_server_twice",
        "connections dissolved by AF_UNSPEC, whose reset may overtake their handshake",
    ),
    (
        "captured::a_connection_that_nobody_accepted_leaves_nothing",
        "an entry whose connection ends before anybody took it",
    ),
    (
        "captured::service_addresses_reach_their_endpoints_on_this_node_and_on_another",
        "addresses that exist nowhere but in connect",
    ),
    (
        "captured::connections_from_outside_the_mesh_come_in_and_the_server_sees_the_client",
        "inbound by sk_lookup",
    ),
    (
        "captured::resets_in_mid_stream_reach_the_other_end",
        "ends of connections, and entries that must go with them",
    ),
    (
        "outside::a_pod_that_is_withdrawn_has_plain_networking_again",
        "enrolment is a write to a map, both ways",
    ),
    (
        "policy::a_deny_policy_refuses_whom_it_names_on_this_node_and_lets_the_rest_in",
        "identity by the cookie of a namespace",
    ),
    (
        "claims::a_packet_with_another_pods_address_gains_nothing_by_address",
        "packets that no socket of the pod made",
    ),
    (
        "claims::nobody_reaches_the_agents_listener",
        "what sk_lookup keeps off",
    ),
    (
        "mtls::sockets_of_every_form_reach_the_right_server_under_mtls",
        "two nodes under mTLS",
    ),
    (
        "mtls::wire::a_marker_is_never_seen_and_addresses_and_ports_are_the_pods_own",
        "packets between nodes: nothing in clear, source addresses of the pods",
    ),
    (
        "http::a_request_arrives_as_it_was_sent_and_its_answer_too",
        "requests, near and far",
    ),
    (
        "http::a_policy_denies_a_request_with_its_reason_and_not_its_neighbours",
        "a policy about requests",
    ),
    (
        "http::no_request_is_lost_under_load_in_either_version",
        "HTTP/1.1 and HTTP/2",
    ),
    (
        "routes::a_route_leads_its_parent_service_or_the_one_port_that_it_names",
        "a route",
    ),
    (
        "routes::only_the_first_connection_to_what_is_led_is_held",
        "connections that the kernel lets in, or holds, by what the agent led before",
    ),
    (
        "restart::a_killed_agent_fails_closed_and_a_restart_recovers",
        "links and maps that outlast the agent",
    ),
    (
        "restart::a_takeover_under_load_loses_no_connection",
        "links whose program is exchanged",
    ),
    (
        "outside::uninstall_leaves_nothing_and_networking_is_plain",
        "everything can be detached again",
    ),
];

/// What `--all-tests` leaves out: beginnings of names, and why.
const LEFT_OUT: &[(&str, &str)] = &[
    ("harness::", "tests of the harness, of no kernel"),
    (
        "sustained::",
        "a measurement, and an emulated machine has no speed",
    ),
    (
        "mtls::interop::",
        "Envoy is not packed: it is larger than all the rest",
    ),
    ("captured::a_gibibyte_each_way", "hours"),
    ("captured::five_thousand_idle", "more memory than the machine has"),
    ("clients::volume::bodies_of_a_gibibyte", "hours"),
    ("clients::load::", "hours"),
];

/// Which tests are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope<'a> {
    Matrix,
    All,
    /// Those with this in their names, whichever they are.
    Named(&'a str),
}

impl Scope<'_> {
    /// The names of the wanted tests, of all that there are.
    pub(crate) fn select(self, all: &[String]) -> Result<Vec<String>> {
        for name in MATRIX.iter().map(|(name, _)| *name) {
            ensure!(
                all.iter().any(|test| test == name),
                "there is no test {name}: correct the list in xtask/src/vm/matrix.rs"
            );
        }
        for start in LEFT_OUT.iter().map(|(start, _)| *start) {
            ensure!(
                all.iter().any(|test| test.starts_with(start)),
                "no test begins with {start}: correct the list in xtask/src/vm/matrix.rs"
            );
        }
        let left_out = |test: &str| LEFT_OUT.iter().any(|(start, _)| test.starts_with(start));
        let wanted: Vec<String> = match self {
            Self::Matrix => MATRIX.iter().map(|(name, _)| (*name).to_owned()).collect(),
            Self::All => all.iter().filter(|test| !left_out(test)).cloned().collect(),
            Self::Named(part) => all.iter().filter(|test| test.contains(part)).cloned().collect(),
        };
        if wanted.is_empty() {
            bail!("no integration test has that in its name");
        }
        Ok(wanted)
    }
}

/// The matrix for a person to read.
pub(crate) fn listing() -> String {
    let lines = |title: &str, entries: &[(&str, &str)]| {
        let entries: String = entries
            .iter()
            .map(|(name, why)| format!("  {name}\n      {why}\n"))
            .collect();
        format!("{title}\n{entries}")
    };
    lines("The matrix:", MATRIX) + &lines("\nLeft out of --all-tests:", LEFT_OUT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<String> {
        let left_out = LEFT_OUT.iter().map(|(start, _)| format!("{start}x"));
        let matrix = MATRIX.iter().map(|(name, _)| (*name).to_owned());
        matrix
            .chain(left_out)
            .chain(["policy::another".to_owned()])
            .collect()
    }

    #[test]
    fn the_matrix_is_a_part_and_all_leaves_out_what_it_says() {
        assert_eq!(Scope::Matrix.select(&all()).unwrap().len(), MATRIX.len());
        let selected = Scope::All.select(&all()).unwrap();
        assert_eq!(selected.len(), MATRIX.len() + 1);
        assert!(selected.contains(&"policy::another".to_owned()));
    }

    #[test]
    fn who_asks_by_name_gets_what_all_leaves_out() {
        assert_eq!(
            Scope::Named("sustained").select(&all()).unwrap(),
            ["sustained::x"]
        );
        assert!(Scope::Named("nothing-like-it").select(&all()).is_err());
    }

    #[test]
    fn a_test_that_is_gone_is_an_error() {
        let mut all = all();
        all.remove(0);
        let error = Scope::Matrix.select(&all).unwrap_err().to_string();
        assert!(error.contains(MATRIX[0].0), "{error}");
    }

    #[test]
    fn each_entry_has_a_reason_and_stands_once() {
        let mut names: Vec<_> = MATRIX.iter().chain(LEFT_OUT).map(|(name, _)| name).collect();
        assert!(MATRIX.iter().chain(LEFT_OUT).all(|(_, why)| why.len() > 4));
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), MATRIX.len() + LEFT_OUT.len());
    }
}
