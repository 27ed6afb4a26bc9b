//! Policies that decide nothing, AUDIT and those in dry run: they tell what they see, and change nothing.

use anyhow::{Context, Result, ensure};
use mesh_tests::{LivePod, Mesh, traffic::at, wait_until};

use super::{ECHO, apply, ask, dry, judged, policy, start};
use crate::checks::SOON;

/// What the engine would refuse or change, were it asked.
const ODD: [&str; 9] = [
    "GET /a%zz HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET /x/..;/y HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET //x/../y HTTP/1.1\r\nHost: a\r\nConnection: x-a\r\nX-A: b\r\n\r\n",
    "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\nwhatever follows",
    "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "GET / HTTP/1.0\r\nnodemesh-error: mine\r\nx-b:   c  \r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nnot a frame that anybody would take, but some bytes all the same",
    "EHLO somebody\r\n",
];

/// Sends the text, ends its side, and fails unless the same comes back, and then the end.
const ECHOED: &str = "import socket, sys\n\
    stream = socket.create_connection((sys.argv[1], int(sys.argv[2])), 20)\n\
    sent = sys.argv[3].encode()\n\
    stream.sendall(sent)\n\
    stream.shutdown(socket.SHUT_WR)\n\
    got = b''\n\
    while piece := stream.recv(65536): got += piece\n\
    assert got == sent, got";

fn echoed(from: &LivePod, to: &LivePod, text: &str) -> Result<()> {
    let (host, port) = (to.v4().to_string(), ECHO.to_string());
    from.run("python3", &["-c", ECHOED, &host, &port, text])?.ok()?;
    Ok(())
}

#[test]
fn policies_that_decide_nothing_change_nothing_and_tell_what_they_see() {
    Mesh::scenario(judged("l7-silent"), |mesh| {
        let (_agents, _servers) = start(mesh)?;
        let admin = "[{to: [{operation: {paths: ['/admin*']}}]}]";
        let text = dry(&policy("rehearsed", "DENY", admin)) + &policy("audited", "AUDIT", admin);
        apply(mesh, "audited", &text)?;
        let headers: String = (0..120).map(|number| format!("x-{number}: y\r\n")).collect();
        let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{headers}\r\n");
        let ways = [("client", "near"), ("client", "far"), ("stranger", "far")];
        for (from, to) in ways {
            let (client, server) = (mesh.pod(from), mesh.pod(to));
            for text in ODD.iter().chain([&many.as_str()]) {
                echoed(client, server, text).with_context(|| {
                    format!("{from} to {}: {}", at(server.v4(), ECHO), text.escape_debug())
                })?;
            }
        }
        // Where requests are led one by one, the path stays as it came.
        for to in ["near", "far"] {
            for path in ["/a%zz", "/x/..;/y", "/x//../y"] {
                let said = ask(mesh, "client", (to, 80), path, &[])?;
                ensure!(
                    said.starts_with("200") && said.contains(&format!("\"{path}\"")),
                    "{to}{path}: {said}"
                );
            }
        }
        // Two on each connection that is carried as it is, and one that is led; before them one that was no HTTP.
        let two = "GET //admin HTTP/1.1\r\nHost: a\r\n\r\nPUT /x/../%61dmin HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx";
        for (from, to) in ways {
            echoed(mesh.pod(from), mesh.pod(to), two)?;
        }
        for to in ["near", "far"] {
            let said = ask(mesh, "client", (to, 80), "/x//../admin", &[])?;
            ensure!(said.starts_with("200"), "{said}");
        }
        for (node, suffix, workload, expected) in [("a", "-too", "near", 4.0), ("b", "", "far", 7.0)] {
            for name in ["rehearsed", "audited"] {
                let policy = format!("{name}{suffix}");
                wait_until(SOON, "requests to be counted", || {
                    let metrics = mesh.node(node).metrics();
                    let sum = metrics
                        .and_then(|all| all.sum("nodemesh_policy_reports_total", &[("policy", &policy)]));
                    sum.is_ok_and(|sum| sum == expected)
                })
                .with_context(|| policy.clone())?;
            }
            let labels = [("workload", workload), ("verdict", "deny"), ("enforced", "allow")];
            let sum = mesh
                .node(node)
                .metrics()?
                .sum("nodemesh_dry_run_decisions_total", &labels)?;
            ensure!(sum == expected, "{node}: {sum}");
        }
        Ok(())
    });
}
