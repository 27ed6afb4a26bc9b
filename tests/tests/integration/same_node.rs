//! Connections between pods of one node that go by themselves (`--same-node direct`): which do, and that they are as
//! authorized, told and ended as those the agent carries.

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    Agent, Held, Mesh, MeshBuilder, Pod, Service,
    traffic::{self, at},
    wait_until,
};
use serde_json::Value;

use crate::{
    checks::{SOON, churn, failing},
    mtls::refused::hostile,
    policy::{policy, strict},
};

const PORT: u16 = 7501;
const ECHO: u16 = 7502;
const FILE: &str = "zz-policy.yaml";

/// One node; `near` behind a service of each kind, and `other` beside it behind a third.
fn node(name: &str) -> MeshBuilder {
    Mesh::builder(name)
        .node("a")
        .pod("a", Pod::new("client"))
        .pod("a", Pod::new("near").label("app", "near").label("set", "both"))
        .pod("a", Pod::new("other").label("set", "both"))
        .outside("a", "stranger")
        .service(Service::new("near").selector("app", "near").port(80, PORT))
        .service(Service::new("both").selector("set", "both").port(80, PORT))
        .service(
            Service::new("web")
                .selector("app", "near")
                .port(80, 7510)
                .app_protocol("http"),
        )
}

/// With an agent that lets connections go.
fn directly(name: &str, body: impl FnOnce(&mut Mesh, Agent) -> Result<()>) {
    directly_with(name, &[], body);
}

/// The same with more options.
fn directly_with(name: &str, options: &[&str], body: impl FnOnce(&mut Mesh, Agent) -> Result<()>) {
    Mesh::scenario(node(name), |mesh| {
        mesh.node_mut("a").configure(&["--same-node", "direct"]);
        mesh.node_mut("a").configure(options);
        let agent = mesh.node("a").start_agent()?;
        body(mesh, agent)
    });
}

/// The flows of this kind, the newest last.
fn flows(mesh: &Mesh, kind: &str) -> Result<Vec<Value>> {
    let said = mesh
        .node("a")
        .cli(&["flows", "--kind", kind, "--last", "2000", "-o", "json"])?
        .ok()?;
    said.stdout
        .lines()
        .map(|line| Ok(serde_json::from_str(line)?))
        .collect()
}

/// How many connections to this address were opened, and of these how many went directly.
fn opened(mesh: &Mesh, to: &str) -> Result<(usize, usize)> {
    let flows = flows(mesh, "opened")?;
    let to = |flow: &&Value| flow["originalDestination"] == to;
    let direct = |flow: &&Value| flow["channel"] == "direct";
    Ok((
        flows.iter().filter(to).count(),
        flows.iter().filter(to).filter(direct).count(),
    ))
}

/// Waits until connections from `client` to this address go directly.
fn wait_direct(mesh: &Mesh, to: &str, server: &str) -> Result<()> {
    let mut last = (0, 0);
    wait_until(SOON, "connections to go directly", || {
        churn::good(mesh, "client", to, server, 1).is_ok()
            && opened(mesh, to).is_ok_and(|count| {
                last = count;
                count.1 > 0
            })
    })
    .with_context(|| format!("{to}: {last:?} opened, directly"))
}

/// The open connections that go directly.
fn open_directly(mesh: &Mesh) -> Result<Vec<Value>> {
    let listed = mesh.node("a").cli(&["connections", "-o", "json"])?.ok()?.json()?;
    let open = listed["connections"].as_array().cloned().unwrap_or_default();
    Ok(open
        .into_iter()
        .filter(|one| one["channel"] == "direct")
        .collect())
}

/// Connections from `client` to this address that stay open.
fn hold(mesh: &Mesh, to: &str, count: usize) -> Result<Held> {
    Held::open(mesh, "client", &[to.to_owned()], count)
}

/// Ten connections that go directly, to an echo server at this address.
fn hold_directly(mesh: &Mesh, to: &str) -> Result<Held> {
    // The first is carried, and the next ones need no agent.
    drop(hold(mesh, to, 1)?);
    let held = hold(mesh, to, 10)?;
    wait_until(SOON, "ten direct connections", || {
        open_directly(mesh).is_ok_and(|open| open.len() == 10)
    })
    .with_context(|| format!("{:?}", open_directly(mesh)))?;
    Ok(held)
}

#[test]
fn what_needs_no_agent_goes_directly_and_is_told() {
    directly("same-node", |mesh, agent| {
        let _servers = ["near", "other"].map(|pod| traffic::serve(mesh.pod(pod), "identity", PORT).unwrap());
        let near = mesh.pod("near").addresses();
        let service = mesh.service("near").v4();
        let all = [at(near[0], PORT), at(near[1], PORT), at(service, 80)];
        for to in &all {
            wait_direct(mesh, to, "near")?;
            let before = opened(mesh, to)?;
            let carried = agent.ask(&["status"])?;
            // `churn` compares the addresses that both ends see.
            churn::good(mesh, "client", to, "near", 50)?;
            wait_until(SOON, "all of them to be told", || {
                opened(mesh, to).is_ok_and(|after| after == (before.0 + 50, before.1 + 50))
            })
            .with_context(|| format!("{to}: {before:?}, {:?}, {carried}", opened(mesh, to)))?;
        }
        let flow = flows(mesh, "opened")?.pop().context("no flow")?;
        ensure!(
            flow["direction"] == "local"
                && flow["workload"] == "default/client"
                && flow["destination"]["service"] == "default/near"
                && flow["destination"]["workload"] == "default/near"
                && flow["peer"] == "spiffe://cluster.local/ns/default/sa/client"
                && flow["verdict"] == "allowed: no ALLOW policy concerns the workload",
            "{flow}"
        );
        let labels = [
            ("destination_workload", "near"),
            ("connection_security_policy", "same_node"),
        ];
        let text = mesh.node("a").metrics()?;
        let counted = text.sum("istio_tcp_connections_opened_total", &labels[..1])?;
        ensure!(
            counted >= 150.0,
            "{counted} connections are counted: {}",
            text.text()
        );
        Ok(())
    });
}

#[test]
fn a_service_is_dialled_directly_at_all_of_its_endpoints() {
    directly("same-both", |mesh, _agent| {
        let _servers = ["near", "other"].map(|pod| traffic::serve(mesh.pod(pod), "identity", PORT).unwrap());
        let both = at(mesh.service("both").v4(), 80);
        wait_until(SOON, "the service to be dialled directly", || {
            traffic::report(mesh.pod("client"), &["connect", "--to", &both]).is_ok()
                && opened(mesh, &both).is_ok_and(|count| count.1 >= 40)
        })?;
        let flows = flows(mesh, "opened")?;
        for pod in ["default/near", "default/other"] {
            let there = flows
                .iter()
                .filter(|flow| flow["channel"] == "direct" && flow["destination"]["workload"] == pod);
            ensure!(there.count() > 5, "hardly any at {pod}: {flows:?}");
        }
        Ok(())
    });
}

#[test]
fn bytes_are_counted_and_a_closed_port_refuses() {
    directly("same-bytes", |mesh, _agent| {
        let near = at(mesh.pod("near").v4(), ECHO);
        let server = traffic::serve(mesh.pod("near"), "bulk", ECHO)?;
        let bulk = || {
            let args = [
                "bulk",
                "--to",
                &near,
                "--send",
                "3000000",
                "--receive",
                "2000000",
                "--streams",
                "1",
            ];
            traffic::report(mesh.pod("client"), &args)
        };
        bulk()?;
        let report = bulk()?;
        ensure!(report["sent_intact"] == true, "{report}");
        let mut last = Value::Null;
        wait_until(SOON, "the end to be told", || {
            let closed = flows(mesh, "closed").unwrap_or_default();
            last = closed
                .into_iter()
                .rfind(|flow| flow["channel"] == "direct")
                .unwrap_or_default();
            last != Value::Null
        })?;
        // The programs exchange a few more bytes to say how many there are.
        let near_to = |value: &Value, sent: u64| {
            value
                .as_u64()
                .is_some_and(|bytes| (sent..sent + 200).contains(&bytes))
        };
        ensure!(
            near_to(&last["bytesToUpstream"], 3_000_000) && near_to(&last["bytesToDownstream"], 2_000_000),
            "{last}"
        );
        drop(server);
        let said = failing::connect(mesh.pod("client"), &near)?;
        ensure!(said["error"] == "ECONNREFUSED", "{said}");
        Ok(())
    });
}

#[test]
fn whom_a_policy_denies_is_refused_and_what_stands_is_ended() {
    directly("same-deny", |mesh, _agent| {
        let near = at(mesh.pod("near").v4(), ECHO);
        let _server = traffic::serve(mesh.pod("near"), "echo", ECHO)?;
        let held = hold_directly(mesh, &near)?;
        let rules = "[{from: [{source: {principals: [cluster.local/ns/default/sa/client]}}]}]";
        mesh.write_config(FILE, &policy("no-client", "DENY", "near", rules))?;
        wait_until(SOON, "the connections to be ended", || {
            open_directly(mesh).is_ok_and(|open| open.is_empty())
        })?;
        for _ in 0..20 {
            let said = failing::connect(mesh.pod("client"), &near)?;
            ensure!(said["error"] == "ECONNREFUSED", "{said}");
        }
        held.release_broken()?;
        let ended = flows(mesh, "reset")?;
        let by_policy = ended.iter().filter(|flow| {
            flow["channel"] == "direct" && flow["reason"] == "denied by DENY policy default/no-client, rule 0"
        });
        ensure!(by_policy.count() == 10, "{ended:?}");
        // Whoever is permitted again goes directly again.
        mesh.remove_config(FILE)?;
        wait_until(SOON, "the policy to be gone", || {
            failing::connect(mesh.pod("client"), &near).is_ok_and(|said| said["connected"] == true)
        })?;
        hold_directly(mesh, &near).map(drop)
    });
}

#[test]
fn what_needs_the_agent_is_carried() {
    directly("same-carried", |mesh, _agent| {
        let _servers = [PORT, 7510].map(|port| traffic::serve(mesh.pod("near"), "identity", port).unwrap());
        let near = at(mesh.pod("near").v4(), PORT);
        let carried = |to: &str, why: &str| {
            let before = opened(mesh, to)?;
            churn::good(mesh, "client", to, "near", 10)?;
            let mut after = before;
            wait_until(SOON, "all of them to be told", || {
                after = opened(mesh, to).unwrap_or(before);
                after.0 == before.0 + 10
            })?;
            ensure!(after.1 == before.1, "{why}: {} went directly", after.1 - before.1);
            Ok(())
        };
        // A service says that there is HTTP at this port.
        carried(&at(mesh.pod("near").v4(), 7510), "HTTP")?;
        let requests = "[{to: [{operation: {methods: [GET]}}]}, {}]";
        let dry = policy("dry", "DENY", "near", "[{}]").replace(
            "namespace: default}",
            "namespace: default, annotations: {istio.io/dry-run: \"true\"}}",
        );
        let cases = [
            ("STRICT", strict("near")),
            (
                "a policy about requests",
                policy("requests", "ALLOW", "near", requests),
            ),
            ("a dry run", dry),
        ];
        for (why, document) in cases {
            wait_direct(mesh, &near, "near")?;
            mesh.write_config(FILE, &document)?;
            let before = opened(mesh, &near)?;
            wait_until(SOON, "connections to be carried", || {
                let before = opened(mesh, &near).unwrap_or(before);
                churn::good(mesh, "client", &near, "near", 1).is_ok()
                    && wait_until(SOON, "", || opened(mesh, &near).is_ok_and(|now| now.0 > before.0)).is_ok()
                    && opened(mesh, &near).is_ok_and(|now| now.1 == before.1)
            })
            .context(why)?;
            carried(&near, why)?;
            mesh.remove_config(FILE)?;
        }
        wait_direct(mesh, &near, "near")
    });
}

#[test]
fn strict_ends_what_goes_in_the_clear() {
    directly("same-strict", |mesh, _agent| {
        let near = at(mesh.pod("near").v4(), ECHO);
        let _server = traffic::serve(mesh.pod("near"), "echo", ECHO)?;
        let held = hold_directly(mesh, &near)?;
        mesh.write_config(FILE, &strict("near"))?;
        wait_until(SOON, "the connections to be ended", || {
            open_directly(mesh).is_ok_and(|open| open.is_empty())
        })?;
        held.release_broken()
    });
}

#[test]
fn who_fakes_an_address_gains_nothing() {
    directly("same-forged", |mesh, agent| {
        let server = traffic::serve_with(mesh.pod("near"), "identity", PORT, &["--log"])?;
        let near = at(mesh.pod("near").v4(), PORT);
        let rules = "[{from: [{source: {principals: [cluster.local/ns/default/sa/client]}}]}]";
        mesh.write_config(FILE, &policy("only-client", "ALLOW", "near", rules))?;
        wait_until(SOON, "the policy to take effect", || {
            churn::good(mesh, "other", &near, "near", 1).is_err()
        })?;
        wait_direct(mesh, &near, "near")?;
        let seen = || server.stdout().matches("\"accept\"").count();
        let before = seen();
        // `client` may and does go directly; that helps nobody who only bears its address, by socket or by packet.
        let (client, other) = (mesh.pod("client"), mesh.pod("other"));
        other.ip(&format!("addr add {}/32 dev lo", client.v4()))?;
        for from in [at(client.v4(), 0), at(other.v4(), 0)] {
            let said = hostile(mesh, "other", &["claim", &from, &near])?;
            ensure!(said["said"] == "ECONNREFUSED", "from {from}: {said}");
        }
        for from in [client, other] {
            let source = at(from.v4(), 40_001);
            hostile(mesh, "other", &["raw", &source, &near, "--wait", "1"])?;
            wait_until(SOON, "the forgery to be told", || {
                crate::mtls::refusals(&agent)
                    .is_ok_and(|flows| flows.lines().any(|flow| flow.contains(&source)))
            })
            .with_context(|| format!("from {source}"))?;
        }
        ensure!(seen() == before, "somebody got in: {}", server.stdout());
        other.ip(&format!("addr del {}/32 dev lo", client.v4()))?;
        // One that may go directly, and binds an address that is not its own, is carried and shown as who it is.
        other.ip("addr add 10.99.99.99/32 dev lo")?;
        mesh.write_config(FILE, &policy("all", "ALLOW", "near", "[{}]"))?;
        wait_until(SOON, "others to be let in", || {
            churn::good(mesh, "other", &near, "near", 1).is_ok()
        })?;
        churn::good(mesh, "other", &near, "near", 5)?;
        let said = hostile(mesh, "other", &["claim", "10.99.99.99:0", &near])?;
        ensure!(
            said["said"]
                .as_str()
                .is_some_and(|said| said.contains(&other.v4().to_string())),
            "{said}"
        );
        Ok(())
    });
}

#[test]
fn a_killed_agent_leaves_what_stands_and_refuses_what_is_new_and_the_next_one_judges() {
    directly("same-killed", |mesh, agent| {
        let near = at(mesh.pod("near").v4(), ECHO);
        let _server = traffic::serve(mesh.pod("near"), "echo", ECHO)?;
        let held = hold_directly(mesh, &near)?;
        agent.kill();
        for _ in 0..20 {
            let said = failing::connect(mesh.pod("client"), &near)?;
            ensure!(said["error"] == "ECONNREFUSED", "without an agent: {said}");
        }
        let agent = mesh.node("a").start_agent()?;
        wait_until(SOON, "the connections to be taken over", || {
            open_directly(mesh).is_ok_and(|open| open.len() == 10)
        })?;
        churn::good(mesh, "client", &at(mesh.pod("near").v4(), PORT), "near", 0)?;
        // What changes while no agent runs holds as soon as one does.
        agent.kill();
        mesh.write_config(FILE, &policy("nobody", "DENY", "near", "[{}]"))?;
        let _agent = mesh.node("a").start_agent()?;
        wait_until(SOON, "the connections to be ended", || {
            open_directly(mesh).is_ok_and(|open| open.is_empty())
                && flows(mesh, "reset").is_ok_and(|flows| flows.len() == 10)
        })?;
        held.release_broken()
    });
}

#[test]
fn a_successor_follows_what_its_predecessor_let_go() {
    directly("same-takeover", |mesh, old| {
        let near = at(mesh.pod("near").v4(), ECHO);
        let _server = traffic::serve(mesh.pod("near"), "echo", ECHO)?;
        let held = hold_directly(mesh, &near)?;
        let new = old.takeover(mesh.node("a"))?;
        wait_until(SOON, "the connections to be taken over", || {
            open_directly(mesh).is_ok_and(|open| open.len() == 10)
        })?;
        // They do not keep the old one.
        let output = old.wait(SOON * 2)?;
        ensure!(output.status.success(), "{output}");
        hold(mesh, &near, 1).map(drop)?;
        held.release()?;
        wait_until(SOON, "their ends to be told", || {
            open_directly(mesh).is_ok_and(|open| open.is_empty())
        })?;
        drop(new);
        Ok(())
    });
}

#[test]
fn where_there_is_no_room_the_agent_carries_the_rest() {
    directly_with("same-room", &["--direct-limit", "5"], |mesh, agent| {
        let near = at(mesh.pod("near").v4(), ECHO);
        let _server = traffic::serve(mesh.pod("near"), "echo", ECHO)?;
        drop(hold(mesh, &near, 1)?);
        wait_until(SOON, "the first to be gone", || {
            agent.connections().is_ok_and(|open| open == 0)
        })?;
        let held = hold(mesh, &near, 12)?;
        wait_until(SOON, "five of them to be told", || {
            open_directly(mesh).is_ok_and(|open| open.len() == 5)
        })
        .with_context(|| format!("{:?}", open_directly(mesh)))?;
        let full = [("full", "connections")];
        wait_until(SOON, "the rest to be counted", || {
            let metrics = mesh.node("a").metrics();
            metrics.is_ok_and(|text| {
                text.sum("nodemesh_direct_carried_total", &full)
                    .is_ok_and(|n| n == 7.0)
            })
        })
        .with_context(|| {
            format!(
                "{:?}",
                mesh.node("a").metrics().map(|text| text.text().to_owned())
            )
        })?;
        ensure!(
            agent.log().contains("no room for more direct connections"),
            "{}",
            agent.log()
        );
        held.release()?;
        // There is room again when they have gone: each of more than five, one after another.
        wait_until(SOON, "all to be gone", || {
            agent.connections().is_ok_and(|open| open == 0)
        })?;
        let before = opened(mesh, &near)?;
        for _ in 0..12 {
            drop(hold(mesh, &near, 1)?);
        }
        wait_until(SOON, "all of them to go directly", || {
            opened(mesh, &near).is_ok_and(|after| after == (before.0 + 12, before.1 + 12))
        })
        .with_context(|| format!("{before:?}, {:?}", opened(mesh, &near)))
    });
}

#[test]
fn what_nobody_can_judge_any_more_is_ended() {
    directly("same-stray", |mesh, agent| {
        let near = at(mesh.pod("near").v4(), ECHO);
        let _server = traffic::serve(mesh.pod("near"), "echo", ECHO)?;
        let held = hold_directly(mesh, &near)?;
        agent.kill();
        mesh.withdraw("client")?;
        let agent = mesh.node("a").start_agent()?;
        wait_until(SOON * 2, "nothing to be noted any more", || {
            agent.map_entries("PASSAGES").is_ok_and(|entries| entries == 0)
        })
        .with_context(|| agent.log())?;
        held.release_broken()
    });
}

#[test]
fn who_takes_another_pods_address_is_found_out() {
    directly("same-imposter", |mesh, agent| {
        let _servers = ["near", "other"].map(|pod| traffic::serve(mesh.pod(pod), "echo", ECHO).unwrap());
        let near = at(mesh.pod("near").v4(), ECHO);
        drop(hold_directly(mesh, &near)?);
        wait_until(SOON, "all to be gone", || {
            agent.map_entries("PASSAGES").is_ok_and(|entries| entries == 0)
        })?;
        // The network leads to another pod from now on, as on a bridge whose neighbours are believed.
        mesh.pod("near").ip("link set eth0 down")?;
        mesh.pod("other")
            .ip(&format!("addr add {}/32 dev eth0", mesh.pod("near").v4()))?;
        mesh.pod("client").ip("neigh flush all")?;
        let release = mesh.dir().join("release").display().to_string();
        let args = ["hold", "--to", &near, "--count", "3", "--until", &release];
        let _held = traffic::start(mesh.pod("client"), &args)?;
        wait_until(SOON, "the imposter to be found out", || {
            flows(mesh, "reset").is_ok_and(|ended| {
                ended.iter().any(|flow| {
                    flow["channel"] == "direct"
                        && flow["reason"]
                            .as_str()
                            .is_some_and(|why| why.contains("another pod"))
                })
            })
        })
        .with_context(|| format!("{:?}", flows(mesh, "reset")))?;
        wait_until(SOON, "nothing to be left open", || {
            open_directly(mesh).is_ok_and(|open| open.is_empty())
        })
    });
}
