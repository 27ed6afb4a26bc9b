//! What becomes of requests under way when policies or roots change: downloads, streams and WebSockets.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use mesh_tests::{Mesh, Process, traffic, wait_until};
use serde_json::Value;

use super::{APP, FILE, GRPC, mesh, policy, request_flows, start, status, url, wait_status};
use crate::checks::SOON;

/// A client that goes on reading, and what it has read.
struct Reading {
    process: Process,
    out: PathBuf,
}

impl Reading {
    /// Runs `program` and waits until it has read something. What it reads goes into a file.
    fn start(mesh: &Mesh, name: &str, program: &str, args: &[&str]) -> Result<Self> {
        let out = mesh.dir().join(format!("read-{name}"));
        let script = format!("exec {program} > {} 2>&1", out.display());
        let mut all = vec!["-c", script.as_str(), name];
        all.extend(args);
        let process = mesh.pod("client").spawn("sh", &all)?;
        let reading = Self { process, out };
        reading.more().with_context(|| name.to_owned())?;
        Ok(reading)
    }

    fn read(&self) -> String {
        std::fs::read(&self.out).map_or_else(
            |_| String::new(),
            |read| String::from_utf8_lossy(&read).into_owned(),
        )
    }

    fn drops(&self) -> usize {
        self.read().matches("drip").count()
    }

    /// Waits until it reads on.
    fn more(&self) -> Result<()> {
        let before = self.drops();
        wait_until(SOON, "more to be read", || self.drops() > before + 2).with_context(|| self.read())
    }

    /// Waits for its end: its exit code, and what it read.
    fn end(self) -> Result<(Option<i32>, String)> {
        let Self { process, out } = self;
        let ended = process.wait(SOON);
        let read = String::from_utf8_lossy(&std::fs::read(out)?).into_owned();
        let ended = ended.with_context(|| format!("it goes on: {}", read.len()))?;
        Ok((ended.status.code(), read))
    }
}

/// Says something over a connection that has left HTTP, and reads it again, until it is cut: then it exits with 7.
const SOCKET: &str = r#"
import socket, sys, time
sock = socket.create_connection((sys.argv[1], 80), timeout=20)
file = sock.makefile("rb")
sock.sendall(("GET /upgrade/%s HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n" % sys.argv[2]).encode())
while (line := file.readline()) not in (b"\r\n", b""):
    pass
try:
    while True:
        sock.sendall(b"drip\n")
        if file.readline() != b"drip\n":
            print("an orderly end", flush=True)
            sys.exit(8)
        print("drip", flush=True)
        time.sleep(0.05)
except ConnectionError:
    sys.exit(7)
"#;

/// Starts a download, a stream of gRPC and a WebSocket to paths that end so.
fn start_reading(mesh: &Mesh, to: &str, end: &str) -> Result<[Reading; 3]> {
    let curl = "curl -sS --noproxy '*' -N";
    let address = mesh.service(to).v4().to_string();
    let name = |kind: &str| format!("{kind}-{to}-{end}-{}", mesh.id());
    let download = format!("{curl} {}", url(mesh, to, 80, &format!("/drip/{end}")));
    let stream = format!(
        "{curl} -D - --http2-prior-knowledge -H 'content-type: application/grpc' --data-binary drip {}",
        url(mesh, to, 82, &format!("/drip/{end}"))
    );
    Ok([
        Reading::start(mesh, &name("download"), &download, &[])?,
        Reading::start(mesh, &name("stream"), &stream, &[])?,
        Reading::start(
            mesh,
            &name("socket"),
            "python3 -c \"$1\" \"$2\" \"$3\"",
            &[SOCKET, &address, end],
        )?,
    ])
}

/// Each of [`start_reading`] ends the way in which its protocol says that it was cut.
fn are_cut([download, stream, socket]: [Reading; 3]) -> Result<()> {
    let (code, read) = download.end()?;
    ensure!(
        code.is_some_and(|code| code != 0),
        "an orderly end of the download: {read}"
    );
    let (_, read) = stream.end()?;
    ensure!(read.contains("grpc-status: 7"), "the stream: {read}");
    let (code, read) = socket.end()?;
    ensure!(code == Some(7), "the socket ended with {code:?}: {read}");
    Ok(())
}

/// Whether the request was for what is cut.
fn is_cut(flow: &Value) -> bool {
    let path = flow["request"]["path"].as_str();
    path.is_some_and(|path| path.ends_with("/cut"))
}

/// Cuts what a change of policy does not allow any more, and nothing else.
fn cuts(mesh: &Mesh, to: &str, before: Option<&str>, after: &str) -> Result<()> {
    if let Some(before) = before {
        mesh.write_config(FILE, before)?;
        wait_status(mesh, to, "/elsewhere", "403")?;
    }
    let cut = start_reading(mesh, to, "cut")?;
    let stay = start_reading(mesh, to, "stay")?;
    mesh.write_config(FILE, after)?;
    are_cut(cut)?;
    for mut reading in stay {
        ensure!(reading.process.is_running(), "{}", reading.read());
        reading.more()?;
        reading.process.kill();
    }
    Ok(())
}

fn requests_on_their_way(name: &str, check: impl Fn(&Mesh, &str) -> Result<()>) {
    Mesh::scenario(mesh(name), |mesh| {
        let (_agents, _servers) = start(mesh)?;
        for to in ["far", "near"] {
            check(mesh, to).with_context(|| format!("to {to}"))?;
            let node = if to == "far" { "b" } else { "a" };
            let cut = |flow: &Value| {
                flow["kind"] == "denied"
                    && is_cut(flow)
                    && flow["destination"]["workload"] == format!("default/{to}")
                    && flow["reason"]
                        .as_str()
                        .is_some_and(|reason| reason.starts_with("denied"))
            };
            let mut count = 0;
            wait_until(SOON, "flows of what was cut", || {
                let flows = request_flows(mesh, node).unwrap_or_default();
                count = flows.iter().filter(|flow| cut(flow)).count();
                count == 3
            })
            .with_context(|| format!("{count} of 3"))?;
            mesh.remove_config(FILE)?;
            wait_status(mesh, to, "/elsewhere", "200")?;
        }
        Ok(())
    });
}

#[test]
fn a_new_deny_policy_cuts_requests_on_their_way_and_only_those_it_denies() {
    requests_on_their_way("seen-deny", |mesh, to| {
        let after = policy("no-cut", "DENY", to, "/drip/cut, /upgrade/cut");
        cuts(mesh, to, None, &after)
    });
}

#[test]
fn an_allow_that_is_taken_back_cuts_requests_on_their_way_and_only_those_it_allowed() {
    requests_on_their_way("seen-allow", |mesh, to| {
        let stay = "/, /drip/stay, /upgrade/stay";
        let before = policy("some", "ALLOW", to, &format!("{stay}, /drip/cut, /upgrade/cut"));
        cuts(mesh, to, Some(&before), &policy("some", "ALLOW", to, stay))
    });
}

/// An ALLOW policy about a header that came after the requests: it cannot be judged by what was not kept, but on other paths
/// it need not be.
#[test]
fn a_new_policy_about_headers_cuts_only_requests_that_depend_on_them() {
    requests_on_their_way("seen-headers", |mesh, to| {
        let rule = |paths: &str, when: &str| format!("{{to: [{{operation: {{paths: [{paths}]}}}}]{when}}}");
        let when = ", when: [{key: 'request.headers[x-role]', values: [admin]}]";
        let text = format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: roles, namespace: default}}\n\
             spec: {{selector: {{matchLabels: {{app: {to}}}}}, rules: [{}, {}]}}\n",
            rule("/, /drip/stay, /upgrade/stay", ""),
            rule("/drip/cut, /upgrade/cut", when)
        );
        cuts(mesh, to, None, &text)
    });
}

/// A root that only the source drops: the destination goes on believing the tunnel, and ends nothing.
#[test]
fn a_root_that_the_source_drops_ends_its_requests() {
    Mesh::scenario(mesh("seen-root"), |mesh| {
        let authority = mesh.authority("all")?;
        let own = authority.twin("own")?;
        mesh.node_mut("a").trust(&own, &[]);
        mesh.node_mut("b").trust(&authority, &[]);
        let agents = mesh.start_agents()?;
        let mut servers = vec![traffic::serve_http(mesh.pod("far"), APP)?];
        servers.push(traffic::serve_grpc(mesh.pod("far"), GRPC)?);
        wait_status(mesh, "far", "/", "200")?;
        let reading = start_reading(mesh, "far", "cut")?;
        authority.rotate_root()?;
        own.follow(&authority)?;
        for agent in &agents {
            wait_until(SOON * 2, "a second root", || {
                agent.log().matches("roots changed").count() >= 2
            })?;
        }
        for one in &reading {
            one.more().context("a root more ended a request")?;
        }
        own.drop_old_roots()?;
        are_cut(reading)?;
        let mut flows = Vec::new();
        wait_until(SOON, "flows of what was cut", || {
            flows = request_flows(mesh, "a").unwrap_or_default();
            let cut = |flow: &&Value| flow["request"]["cause"] == "unknown-root" && is_cut(flow);
            flows.iter().filter(cut).count() == 3
        })
        .with_context(|| format!("{flows:?}"))?;
        ensure!(
            !agents[1].log().contains("a tunnel is not believed any more"),
            "the destination ended it"
        );
        // New requests go in a new tunnel, once the destination has a leaf of the new root: it asks for one within half a
        // minute of learning of that root.
        wait_until(SOON * 3, "an answer over a new tunnel", || {
            status(mesh, "far", "/").is_ok_and(|status| status == "200")
        })
    });
}
