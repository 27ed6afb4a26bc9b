//! What both ends say to each other passes two agents as it was meant, also when there is much of it: resets and their reasons,
//! trailers, connections that end at the worst moment, heads that never end.

use anyhow::{Context as _, Result, ensure};
use mesh_tests::{Mesh, Process, programs};
use serde_json::Value;

use super::{Load, abuse, each, echo, port, python};
use crate::checks::SOON;

/// Starts `http2_server.py` in a pod.
fn server(mesh: &Mesh, pod: &str, args: &[&str]) -> Result<Process> {
    let command = mesh.pod(pod).command("python3");
    let command = command.arg(programs::python("http2_server.py"));
    let mut server = command.arg(port::OWN_2.to_string()).args(args.to_vec()).spawn()?;
    server.wait_line(SOON, |line| line.contains("listening"))?;
    Ok(server)
}

/// Runs a kind of `http2_abuse.py` against it.
fn client(mesh: &Mesh, to: &str, kind: &str) -> Result<Value> {
    abuse::abuse(mesh, to, port::OWN_2, kind)
}

#[test]
fn a_servers_resets_reach_the_client_for_the_same_reason() {
    each("press-resets", |mesh, to, _| {
        // Certificates are there.
        drop(echo(mesh, to)?);
        // CANCEL, ENHANCE_YOUR_CALM, HTTP_1_1_REQUIRED
        for reason in ["8", "11", "13"] {
            let _server = server(mesh, to, &["reset", reason])?;
            let report = client(mesh, to, "many")?;
            ensure!(
                report["ended"].is_null() && report["statuses"]["200"] == 200,
                "{reason}: {report}"
            );
            ensure!(
                report["reasons"] == serde_json::json!({ reason: 200 }),
                "{reason}: {report}"
            );
        }
        Ok(())
    });
}

#[test]
fn what_a_client_gives_up_is_given_up_at_its_server() {
    each("press-cancels", |mesh, to, _| {
        let server = server(mesh, to, &["silent"])?;
        let report = client(mesh, to, "cancels")?;
        ensure!(report["ended"].is_null(), "{report}");
        // What was given up early need not reach the server at all.
        let count = |what: &str| server.stdout().matches(what).count();
        let mut last = (0, 0);
        mesh_tests::wait_until(SOON, "the server to hear of all", || {
            last = (count("\"asked\""), count("{\"reset\": 8}"));
            last.0 == last.1 && last.0 >= 100
        })
        .with_context(|| format!("of {} asked {} are cancelled", last.0, last.1))?;
        ensure!(
            count("\"reset\"") == last.1,
            "another reason: {}",
            server.stdout()
        );
        Ok(())
    });
}

#[test]
fn trailers_and_statuses_arrive_whole_beside_resets() {
    each("press-trailers", |mesh, to, _| {
        let _server = server(mesh, to, &["trailers"])?;
        super::reached(mesh, to, port::OWN_2)?;
        let report = client(mesh, to, "between-resets")?;
        ensure!(
            report["ended"].is_null() && report["statuses"]["200"].as_u64() >= Some(200),
            "{report}"
        );
        ensure!(report["trailers"] == 200, "{report}");
        Ok(())
    });
}

#[test]
fn a_server_that_ends_its_connections_all_the_time_loses_no_request() {
    each("press-goaway", |mesh, to, _| {
        let server = server(mesh, to, &["goaway", "100"])?;
        super::reached(mesh, to, port::OWN_2)?;
        let load = Load::start(mesh, to, port::OWN_2, "16")?;
        let connections = || server.stdout().matches("\"connection\"").count();
        mesh_tests::wait_until(SOON * 3, "many connections to be ended", || connections() > 30)?;
        let report = load.end()?;
        println!("{to}: over {} connections", connections());
        ensure!(
            report["failed"] == 0 && report["good"].as_u64() >= Some(2000),
            "{report}"
        );
        Ok(())
    });
}

/// Answers, and then closes one connection in three without a word, now or in a moment.
const FICKLE: &str = r#"
import random, socket, sys, threading, time
def serve(sock):
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    file = sock.makefile("rb")
    with sock:
        while True:
            while (line := file.readline()) not in (b"\r\n", b""):
                pass
            if not line:
                return
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            if random.random() < 0.33:
                time.sleep(random.choice([0, 0.0005, 0.001, 0.002]))
                return
def attend(sock):
    try:
        serve(sock)
    except OSError:
        pass
listener = socket.create_server(("::", int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True, backlog=200)
print('{"listening":1}', flush=True)
while True:
    threading.Thread(target=attend, args=(listener.accept()[0],), daemon=True).start()
"#;

#[test]
fn kept_connections_that_end_in_the_very_moment_cost_no_harmless_request() {
    each("press-race", |mesh, to, _| {
        let listen = port::OWN_1.to_string();
        let mut fickle = mesh.pod(to).spawn("python3", &["-c", FICKLE, &listen])?;
        fickle.wait_line(SOON, |line| line.contains("listening"))?;
        super::reached(mesh, to, port::OWN_1)?;
        python(
            mesh,
            to,
            port::OWN_1,
            r#"
import http.client, threading
wrong = []
def ask():
    client = http.client.HTTPConnection(sys.argv[1], PORT, timeout=20)
    for number in range(300):
        client.request("GET" if number % 2 else "DELETE", "/")
        answer = client.getresponse()
        body = answer.read()
        if answer.status != 200 or body != b"ok":
            wrong.append((number, answer.status, body, answer.headers.get("nodemesh-error")))
askers = [threading.Thread(target=ask) for _ in range(8)]
for asker in askers: asker.start()
for asker in askers: asker.join()
assert not wrong, (len(wrong), wrong[:5])
"#,
        )?;
        Ok(())
    });
}

#[test]
fn heads_of_http2_that_never_end_hold_little_and_stop_nobody() {
    each("press-heads", |mesh, to, agents| {
        let _echo = echo(mesh, to)?;
        abuse::beside(mesh, to, agents, "stalled-heads")?;
        Ok(())
    });
}
