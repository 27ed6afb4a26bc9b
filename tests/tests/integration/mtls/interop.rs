//! HBONE on port 15008 with another implementation, Envoy, at the other end, in both directions.
//!
//! Envoy runs in a pod that has no agent, with a certificate of the mesh's authority.

mod envoy;

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    Agent, Authority, LivePod, Mesh, Wire,
    traffic::{self, at},
    wait_until,
};
use serde_json::Value;

use self::envoy::{DOOR, Envoy, Tls};
use super::{credentials::wait_issued, refusals, wire};
use crate::{
    captured::all_let_go,
    checks::{SOON, churn, failing, forms, standard, streams},
};

const ECHO: u16 = 7500;
const COLLECT: u16 = 7501;
const BULK: u16 = 7502;
const IDENTITY: u16 = 7503;
const CLOSED: u16 = 7504;
/// Nobody listens there but for a moment.
const FIRST: u16 = 7505;
const PORTS: [u16; 6] = [ECHO, COLLECT, BULK, IDENTITY, CLOSED, FIRST];
/// The entrances of an Envoy lie so far from where they lead.
const SHIFT: u16 = 1000;

/// The applications at one end.
fn applications(pod: &LivePod) -> Result<Vec<mesh_tests::Process>> {
    [
        (ECHO, "echo"),
        (COLLECT, "collect"),
        (BULK, "bulk"),
        (IDENTITY, "identity"),
    ]
    .into_iter()
    .map(|(port, behaviour)| traffic::serve(pod, behaviour, port))
    .collect()
}

/// Data of all sizes goes both ways whole, and the ends of the two ways are independent of each other.
fn data_both_ways(from: &LivePod, to: impl Fn(u16) -> String) -> Result<()> {
    for port in [ECHO, COLLECT] {
        for bytes in ["0", "1", "70000", "5000000"] {
            let report = traffic::report(from, &["half-close", "--to", &to(port), "--bytes", bytes])?;
            ensure!(
                report["intact"] == true && report["end"] == "eof",
                "{port}: {report}"
            );
        }
    }
    let size = (16 << 20).to_string();
    let report = traffic::report(
        from,
        &["bulk", "--to", &to(BULK), "--send", &size, "--receive", &size],
    )?;
    ensure!(
        report["sent_intact"] == true && report["received_intact"] == true,
        "{report}"
    );
    Ok(())
}

/// Ends its half first and then counts what still comes. Prints a line once it listens and one with the count.
const LAST_TO_HEAR: &str = "import socket, sys\n\
    s = socket.create_server(('::', int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True)\n\
    print('listening', flush=True)\n\
    c = s.accept()[0]\n\
    c.sendall(b'bye')\n\
    c.shutdown(socket.SHUT_WR)\n\
    count = 0\n\
    while part := c.recv(65536):\n\
    \tcount += len(part)\n\
    print('heard', count, flush=True)\n";

/// Reads to the end, and only then sends.
const LAST_TO_SPEAK: &str = "import socket, sys\n\
    host, port = sys.argv[1].rsplit(':', 1)\n\
    s = socket.create_connection((host.strip('[]'), int(port)), 20)\n\
    assert s.makefile('rb').read() == b'bye'\n\
    s.sendall(b'x' * 300000)\n";

/// Says a lot to each of twenty, and closes at once.
const BRIEF: &str = "import socket, sys\n\
    s = socket.create_server(('::', int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True)\n\
    print('listening', flush=True)\n\
    for _ in range(20):\n\
    \tc = s.accept()[0]\n\
    \tc.sendall(b'x' * 1000000)\n\
    \tc.close()\n";

/// Listens to each, begins late, and never ends its own half before.
const PATIENT: &str = "import socket, sys, time\n\
    host, port = sys.argv[1].rsplit(':', 1)\n\
    for wait in [0, 0.05] * 10:\n\
    \ts = socket.create_connection((host.strip('[]'), int(port)), 20)\n\
    \ttime.sleep(wait)\n\
    \tcount = len(s.makefile('rb').read())\n\
    \tassert count == 1000000, count\n";

/// A server that closes is heard to its end, and the end is not a reset. Envoy in front of it takes that for the end of
/// both ways and tells so by `RST_STREAM` without an error (RFC 9113, 8.1): what the client says after that is lost.
fn the_server_closes(from: &LivePod, to: &str, server: &LivePod, port: u16) -> Result<()> {
    let mut brief = server.spawn("python3", &["-c", BRIEF, &port.to_string()])?;
    brief.wait_line(SOON, |line| line == "listening")?;
    from.run("python3", &["-c", PATIENT, to])?.ok()?;
    brief.wait(SOON)?.ok()?;
    Ok(())
}

/// The server may end first, and still hears everything.
fn the_server_ends_first(from: &LivePod, to: &str, server: &LivePod, port: u16) -> Result<()> {
    let mut heard = server.spawn("python3", &["-c", LAST_TO_HEAR, &port.to_string()])?;
    heard.wait_line(SOON, |line| line == "listening")?;
    from.run("python3", &["-c", LAST_TO_SPEAK, to])?.ok()?;
    let said = heard.wait(SOON)?.ok()?.stdout;
    ensure!(said.ends_with("heard 300000\n"), "{said}");
    Ok(())
}

/// Connects and returns the client's own address, and what the server says that it sees.
fn seen(from: &LivePod, to: &str) -> Result<(SocketAddr, Value)> {
    const LOOK: &str = "import json, socket, sys\n\
        host, port = sys.argv[1].rsplit(':', 1)\n\
        s = socket.create_connection((host.strip('[]'), int(port)), 20)\n\
        own = s.getsockname()\n\
        line = s.makefile().readline()\n\
        assert line, 'the end'\n\
        print(json.dumps({'own': own[:2], 'seen': json.loads(line)}))\n";
    let report = from.run("python3", &["-c", LOOK, to])?.ok()?.report()?;
    let ip: IpAddr = report["own"][0].as_str().context("ip")?.parse()?;
    let port = report["own"][1].as_u64().context("port")?;
    Ok((SocketAddr::new(ip, u16::try_from(port)?), report["seen"].clone()))
}

/// Between two pods passed nothing but TLS, on the port of HBONE, and never the marker.
fn only_hbone(recorded: &Wire, a: &LivePod, b: &LivePod) -> Result<()> {
    ensure!(!recorded.carries(wire::MARKER), "the marker is on the wire");
    let (a, b) = (a.addresses(), b.addresses());
    let mut count = 0;
    for (src, dst, bytes) in recorded.streams() {
        let between = (a.contains(&src.ip()) && b.contains(&dst.ip()))
            || (b.contains(&src.ip()) && a.contains(&dst.ip()));
        if !between {
            continue;
        }
        count += 1;
        ensure!(wire::begins_tls(&bytes), "{src} to {dst} is not TLS");
        ensure!(
            src.port() == DOOR || dst.port() == DOOR,
            "{src} to {dst} is not for port {DOOR}"
        );
    }
    ensure!(count > 0, "nothing was said");
    Ok(())
}

/// An agent on node a, with the authority of the mesh.
fn one_agent(mesh: &mut Mesh) -> Result<(Authority, Agent)> {
    let authority = mesh.secure(&[])?;
    let agent = mesh.node("a").start_agent()?;
    for account in ["client", "near"] {
        wait_issued(&agent, account, 1)?;
    }
    Ok((authority, agent))
}

fn wait_refusal(agent: &Agent, reason: &str) -> Result<()> {
    wait_until(SOON, "the flow of a refusal", || {
        refusals(agent).is_ok_and(|said| said.contains(reason))
    })
    .with_context(|| format!("no {reason:?} in {:?}", refusals(agent)))
}

/// Lets in who has this identity, and nobody else.
fn allow(mesh: &Mesh, app: &str, account: &str, port: &str) -> Result<()> {
    let text = format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: only, namespace: default}}\n\
         spec:\n  selector: {{matchLabels: {{app: {app}}}}}\n  action: ALLOW\n  rules:\n  - from:\n    - source:\n        \
         principals: [cluster.local/ns/default/sa/{account}]\n    to:\n    - operation: {{ports: [{port}]}}\n\
         ---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: strict, namespace: default}}\n\
         spec:\n  selector: {{matchLabels: {{app: {app}}}}}\n  mtls: {{mode: STRICT}}\n"
    );
    mesh.write_config("zz-policy.yaml", &text)
}

#[test]
fn envoy_tunnels_into_a_pod_under_its_own_identity() {
    Mesh::scenario(standard("interop-in"), |mesh| {
        let (authority, agent) = one_agent(mesh)?;
        let (near, stranger) = (mesh.pod("near"), mesh.pod("stranger"));
        let _applications = applications(near)?;
        let own = authority.issue("envoy")?;
        for (own_ip, ip) in stranger.addresses().into_iter().zip(near.addresses()) {
            let ways = PORTS.map(|port| (port + SHIFT, SocketAddr::new(ip, port)));
            let tls = Tls {
                own: &own,
                peer: "near",
            };
            let door = SocketAddr::new(ip, DOOR);
            let mut envoy = Envoy::client(mesh, stranger, &tls, door, &ways)?;
            let to = |port: u16| at(own_ip, port + SHIFT);
            let capture = mesh.capture()?;
            wire::speak(mesh, "stranger", &to(ECHO))?;
            // Where Envoy's word agrees with the address that it comes from, the client is whom Envoy names.
            let (own, seen_there) = seen(stranger, &to(IDENTITY))?;
            ensure!(seen_there["accept"] == own.to_string(), "{own}: {seen_there}");
            ensure!(seen_there["getsockname"] == at(ip, IDENTITY), "{seen_there}");
            // Where it does not, the address counts.
            if ip.is_ipv4() {
                let (_, seen_there) = seen(stranger, &at([127, 0, 0, 1], IDENTITY + SHIFT))?;
                let accepted: SocketAddr = seen_there["accept"].as_str().context("accept")?.parse()?;
                ensure!(accepted.ip() == own_ip, "{seen_there}");
            }
            only_hbone(&capture.finish()?, stranger, near)?;
            data_both_ways(stranger, to)?;
            the_server_ends_first(stranger, &to(FIRST), near, FIRST)?;
            the_server_closes(stranger, &to(FIRST), near, FIRST)?;
            let entry = envoy.wait_logged(|entry| entry["port"] == IDENTITY + SHIFT)?;
            let answer = entry["answer"].to_string();
            ensure!(
                answer.contains("200") && answer.contains("k8s.pod.name=near"),
                "{entry}"
            );
            // A closed port is 503, and the connection to Envoy ends.
            ensure!(
                wire::speak(mesh, "stranger", &to(CLOSED)).is_err(),
                "a closed port speaks"
            );
            let entry = envoy.wait_logged(|entry| entry["port"] == CLOSED + SHIFT)?;
            ensure!(entry["answer"].to_string().contains("503"), "{entry}");
        }
        all_let_go(&agent)
    });
}

#[test]
fn policies_judge_envoy_by_its_identity_and_the_port_that_it_asks_for() {
    Mesh::scenario(standard("interop-policy"), |mesh| {
        let (authority, agent) = one_agent(mesh)?;
        allow(mesh, "near", "envoy", &format!("\"{ECHO}\""))?;
        let (near, stranger) = (mesh.pod("near"), mesh.pod("stranger"));
        let _applications = applications(near)?;
        let door = SocketAddr::new(near.v4().into(), DOOR);
        let ways = PORTS.map(|port| (port + SHIFT, SocketAddr::new(near.v4().into(), port)));
        let to = |port: u16| at(stranger.v4(), port + SHIFT);
        {
            let own = authority.issue("envoy")?;
            let tls = Tls {
                own: &own,
                peer: "near",
            };
            let mut envoy = Envoy::client(mesh, stranger, &tls, door, &ways)?;
            wait_until(SOON, "the policy to take effect", || {
                seen(stranger, &to(IDENTITY)).is_err()
            })?;
            wire::speak(mesh, "stranger", &to(ECHO))?;
            let entry = envoy.wait_logged(|entry| {
                entry["port"] == IDENTITY + SHIFT && entry["answer"].to_string().contains("401")
            });
            entry.context("the answer is not 401")?;
        }
        let own = authority.issue("other")?;
        let tls = Tls {
            own: &own,
            peer: "near",
        };
        let mut envoy = Envoy::client(mesh, stranger, &tls, door, &ways)?;
        ensure!(
            wire::speak(mesh, "stranger", &to(ECHO)).is_err(),
            "another identity was let in"
        );
        let entry = envoy.wait_logged(|entry| entry["port"] == ECHO + SHIFT)?;
        ensure!(entry["answer"].to_string().contains("401"), "{entry}");
        wait_refusal(&agent, "denied")?;
        // In the clear nobody gets in: not to the application, since STRICT forbids it, and not to port 15008.
        for port in [ECHO, DOOR] {
            ensure!(
                wire::speak(mesh, "stranger", &at(near.v4(), port)).is_err(),
                "plaintext was taken on port {port}"
            );
        }
        wait_refusal(&agent, "it is not TLS")
    });
}

#[test]
fn who_has_no_right_to_an_address_or_to_our_trust_gets_no_tunnel() {
    Mesh::scenario(standard("interop-impostor"), |mesh| {
        let (authority, agent) = one_agent(mesh)?;
        let foreign = mesh.authority("foreign")?;
        // A workload of the mesh, on a node without an agent of ours.
        let (near, web) = (mesh.pod("near"), mesh.pod("web"));
        let _applications = applications(near)?;
        let door = SocketAddr::new(near.v4().into(), DOOR);
        let ways = [(ECHO + SHIFT, SocketAddr::new(near.v4().into(), ECHO))];
        let to = at(web.v4(), ECHO + SHIFT);
        let ours = authority.issue("other")?;
        let mut theirs = foreign.issue("web")?;
        theirs.roots.clone_from(&ours.roots);
        for (own, reason) in [(&ours, "the certificate names"), (&theirs, "leads to no root")] {
            let _envoy = Envoy::client(mesh, web, &Tls { own, peer: "near" }, door, &ways)?;
            ensure!(wire::speak(mesh, "web", &to).is_err(), "an impostor was let in");
            wait_refusal(&agent, reason)?;
        }
        let own = authority.issue("web")?;
        let _envoy = Envoy::client(
            mesh,
            web,
            &Tls {
                own: &own,
                peer: "near",
            },
            door,
            &ways,
        )?;
        wire::speak(mesh, "web", &to)
    });
}

/// Tells the nodes of `stranger` as a workload that speaks HBONE, on a node that nobody has.
fn announce_stranger(mesh: &Mesh) -> Result<()> {
    let stranger = mesh.pod("stranger");
    let text = format!(
        "apiVersion: nodemesh.io/v1alpha1\nkind: Workload\nmetadata: {{name: stranger, namespace: default}}\n\
         spec:\n  node: elsewhere\n  serviceAccount: stranger\n  tunnelProtocol: HBONE\n  addresses: [{}, \"{}\"]\n",
        stranger.v4(),
        stranger.v6()
    );
    mesh.write_config("zz-stranger.yaml", &text)
}

#[test]
fn a_pod_reaches_applications_behind_envoy() {
    Mesh::scenario(standard("interop-out"), |mesh| {
        let (authority, agent) = one_agent(mesh)?;
        let (client, stranger) = (mesh.pod("client"), mesh.pod("stranger"));
        let _applications = applications(stranger)?;
        let own = authority.issue("stranger")?;
        let tls = Tls {
            own: &own,
            peer: "client",
        };
        let asked: Vec<SocketAddr> = stranger
            .addresses()
            .into_iter()
            .flat_map(|ip| PORTS.map(|port| SocketAddr::new(ip, port)))
            .collect();
        let mut envoy = Envoy::terminator(mesh, stranger, &tls, &asked)?;
        announce_stranger(mesh)?;
        let first = at(stranger.v4(), ECHO);
        wait_until(SOON, "the workload to be known", || {
            wire::speak(mesh, "client", &first).is_ok()
                && agent
                    .cli(&["flows", "-o", "json"])
                    .is_ok_and(|said| said.stdout.contains("sa/stranger"))
        })?;
        let capture = mesh.capture()?;
        for ip in stranger.addresses() {
            wire::speak(mesh, "client", &at(ip, ECHO))?;
        }
        only_hbone(&capture.finish()?, client, stranger)?;
        for ip in stranger.addresses() {
            let to = |port: u16| at(ip, port);
            data_both_ways(client, to)?;
            the_server_closes(client, &to(FIRST), stranger, FIRST)?;
            let (own, _) = seen(client, &to(IDENTITY))?;
            let entry = envoy.wait_logged(|entry| entry["authority"] == to(IDENTITY))?;
            let says = |field: &str, what: &str| {
                ensure!(entry[field] == what, "{field} is not {what:?}: {entry}");
                Ok(())
            };
            ensure!(entry["status"] == 200, "{entry}");
            says("method", "CONNECT")?;
            says("forwarded", &format!("for=\"{own}\""))?;
            says(
                "baggage",
                "k8s.namespace.name=default,k8s.pod.name=client,service.name=client",
            )?;
            says("peer", "spiffe://cluster.local/ns/default/sa/client")?;
            says("tls", "TLSv1.3")?;
            ensure!(
                entry["sni"].is_null() || entry["sni"] == "-",
                "a name was sent: {entry}"
            );
            // The application is not there: Envoy says 503, and the client is refused.
            let report = failing::connect(client, &to(CLOSED))?;
            ensure!(report["error"] == "ECONNREFUSED", "{report}");
        }
        // Envoy takes only `client`.
        let report = failing::connect(mesh.pod("near"), &first)?;
        ensure!(report["error"] == "ECONNREFUSED", "{report}");
        all_let_go(&agent)
    });
}

#[test]
fn a_terminator_of_another_identity_is_refused() {
    Mesh::scenario(standard("interop-wrong"), |mesh| {
        let (authority, agent) = one_agent(mesh)?;
        let (client, stranger) = (mesh.pod("client"), mesh.pod("stranger"));
        let _applications = applications(stranger)?;
        announce_stranger(mesh)?;
        let to = SocketAddr::new(stranger.v4().into(), ECHO);
        // Nobody is at the door: never in the clear instead.
        wait_until(SOON, "the workload to be known", || {
            failing::connect(client, &to.to_string()).is_ok_and(|report| report["error"] == "ECONNREFUSED")
        })?;
        let capture = mesh.capture()?;
        let own = authority.issue("other")?;
        let _envoy = Envoy::terminator(
            mesh,
            stranger,
            &Tls {
                own: &own,
                peer: "client",
            },
            &[to],
        )?;
        let report = failing::connect(client, &to.to_string())?;
        ensure!(report["error"] == "ECONNREFUSED", "{report}");
        ensure!(
            wire::speak(mesh, "client", &to.to_string()).is_err(),
            "{to} was reached"
        );
        only_hbone(&capture.finish()?, client, stranger)?;
        wait_refusal(&agent, "sa/other")
    });
}

/// Our agents speak HBONE with each other where the workloads' documents say so.
#[test]
fn our_agents_speak_it_with_each_other() {
    Mesh::scenario(standard("interop-own"), |mesh| {
        mesh.secure(&[])?;
        for name in ["client", "near", "web"] {
            let yaml = mesh.pod(name).yaml();
            let hbone = yaml.replace("spec:\n", "spec:\n  tunnelProtocol: HBONE\n");
            mesh.write_config(&format!("workload-{name}.yaml"), &hbone)?;
        }
        let agents = super::start(mesh)?;
        let capture = mesh.capture()?;
        let _echo = traffic::serve(mesh.pod("web"), "echo", ECHO)?;
        for ip in mesh.pod("web").addresses() {
            wire::speak(mesh, "client", &at(ip, ECHO))?;
        }
        only_hbone(&capture.finish()?, mesh.pod("client"), mesh.pod("web"))?;
        forms::every_socket_form(mesh)?;
        churn::none_lost_none_misdirected(mesh, 500)?;
        streams::half_close(mesh)?;
        streams::reset_by_the_server(mesh)?;
        streams::reset_by_the_client(mesh)?;
        failing::closed_ports_refuse(mesh)?;
        agents.iter().try_for_each(all_let_go)
    });
}

/// An application may listen on the port of HBONE: the mesh reaches it, plaintext from elsewhere does not.
#[test]
fn an_application_on_the_port_of_hbone_is_reached_through_the_mesh() {
    Mesh::scenario(standard("interop-port"), |mesh| {
        mesh.secure(&[])?;
        let agents = super::start(mesh)?;
        let [client, near, web] = ["client", "near", "web"].map(|name| mesh.pod(name));
        let _echo = [near, web].map(|pod| traffic::serve(pod, "echo", DOOR).unwrap());
        let capture = mesh.capture()?;
        for ip in web.addresses() {
            wire::speak(mesh, "client", &at(ip, DOOR))?;
        }
        only_hbone(&capture.finish()?, client, web)?;
        wire::speak(mesh, "client", &at(near.v4(), DOOR))?;
        ensure!(
            wire::speak(mesh, "stranger", &at(web.v4(), DOOR)).is_err(),
            "plaintext was taken"
        );
        wait_refusal(&agents[1], "it is not TLS")
    });
}
