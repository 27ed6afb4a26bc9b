//! Clients that mean harm, each beside an honest one: what they may take is bounded, they are told or cut, and nobody else
//! notices.

use anyhow::{Context as _, Result, bail, ensure};
use mesh_tests::{Agent, Mesh, Process, programs};
use serde_json::Value;

use super::{Load, at, each, echo, port, python, volume};
use crate::{checks::SOON, http::curl};

/// Requests of another pod that go on all the time, one after the other.
struct Honest(Process);

impl Honest {
    /// Asks the same server, from another pod of the same node: all of it goes through the agent that is abused.
    fn start(mesh: &Mesh, to: &str) -> Result<Self> {
        let script = format!(
            "import http.client, json, os, sys\n\
             good, client = 0, http.client.HTTPConnection('{}', {}, timeout=20)\n\
             while not os.path.exists(sys.argv[1]):\n\
             \x20   client.request('POST', '/', body=b'honest')\n\
             \x20   answer = client.getresponse()\n\
             \x20   assert answer.status == 200 and answer.read() == b'honest', (good, answer.status)\n\
             \x20   good += 1\n\
             \x20   if good == 1: print(json.dumps({{'begun': True}}), flush=True)\n\
             print(json.dumps({{'good': good}}), flush=True)\n",
            mesh.service(to).v4(),
            port::ECHO_1
        );
        let stop = mesh.dir().join("honest").display().to_string();
        let _ = std::fs::remove_file(&stop);
        let other = mesh.pod("other").command("python3");
        let mut honest = other.args(["-c", &script, &stop]).spawn()?;
        honest.wait_line(SOON, |line| line.contains("begun"))?;
        Ok(Self(honest))
    }

    fn end(self, mesh: &Mesh) -> Result<()> {
        std::fs::write(mesh.dir().join("honest"), "")?;
        let report = self.0.wait(SOON)?.ok().context("the honest client")?.report()?;
        ensure!(report["good"].as_u64() > Some(0), "{report}");
        Ok(())
    }
}

/// Does what `http2_abuse.py` can do to a port of a service, and returns what came of it.
pub(super) fn abuse(mesh: &Mesh, to: &str, port: u16, kind: &str) -> Result<Value> {
    let command = mesh.pod("client").command("python3");
    let command = command.arg(programs::python("http2_abuse.py"));
    let at = at(mesh, to, port);
    let output = command.args([&at, kind]).deadline(SOON * 3).run()?;
    output.ok()?.report()
}

/// Does it beside an honest client, with the agents' memory watched.
pub(super) fn beside(mesh: &Mesh, to: &str, agents: &[Agent], kind: &str) -> Result<Value> {
    let before = volume::resident(agents)?;
    let honest = Honest::start(mesh, to)?;
    let report = abuse(mesh, to, port::ECHO_2, kind).with_context(|| kind.to_owned())?;
    println!("{kind} to {to}: {report}");
    honest
        .end(mesh)
        .with_context(|| format!("beside {kind}: {report}"))?;
    volume::bounded(agents, &before).with_context(|| format!("{kind}: {report}"))?;
    // And the abuser's own pod is served when it behaves.
    let url = format!("http://{}/", at(mesh, to, port::ECHO_2));
    let after = curl(
        mesh.pod("client"),
        &["--http2-prior-knowledge", "-d", "after", &url],
    )?;
    ensure!(after.stdout == "after", "{kind}: {after}");
    Ok(report)
}

fn is_ended(report: &Value, how: &[&str]) -> Result<()> {
    let ended = report["ended"].as_str().unwrap_or("not ended");
    ensure!(how.iter().any(|one| ended.starts_with(one)), "{report}");
    Ok(())
}

/// ENHANCE_YOUR_CALM, or cut before that could be read.
const CALM: &[&str] = &["goaway 11", "ConnectionResetError", "BrokenPipeError"];

#[test]
fn streams_that_are_reset_at_once_end_the_connection() {
    each("abuse-resets", |mesh, to, agents| {
        let _echo = echo(mesh, to)?;
        let report = beside(mesh, to, agents, "rapid-reset")?;
        is_ended(&report, CALM)?;
        Ok(())
    });
}

#[test]
fn a_client_that_gives_up_requests_all_the_time_hurts_no_other_connection_of_its_pod() {
    each("abuse-bursts", |mesh, to, agents| {
        let _echo = echo(mesh, to)?;
        let calm = Load::start(mesh, to, port::ECHO_2, "8")?;
        let report = beside(mesh, to, agents, "bursts-of-resets")?;
        ensure!(report["ended"].is_null(), "{report}");
        let calm = calm.end()?;
        ensure!(
            calm["failed"] == 0 && calm["good"].as_u64() > Some(0),
            "{calm}: {report}"
        );
        Ok(())
    });
}

#[test]
fn heads_without_an_end_and_heads_that_grow_are_refused() {
    each("abuse-heads", |mesh, to, agents| {
        let _echo = echo(mesh, to)?;
        for kind in ["continuations", "empty-continuations"] {
            let report = beside(mesh, to, agents, kind)?;
            is_ended(&report, &[CALM, &["goaway 1", "closed"]].concat())?;
            ensure!(report["sent"].as_u64() < Some(16 << 20), "{report}");
        }
        let report = beside(mesh, to, agents, "bomb")?;
        ensure!(report["first"] == 200, "{report}");
        is_ended(&report, CALM)?;
        let report = beside(mesh, to, agents, "large-heads")?;
        ensure!(
            report["first"] == 200 && report["statuses"]["431"] == 1,
            "{report}"
        );
        is_ended(&report, CALM)?;
        Ok(())
    });
}

#[test]
fn frames_that_cost_an_answer_are_not_queued_without_end() {
    each("abuse-floods", |mesh, to, agents| {
        let _echo = echo(mesh, to)?;
        // These cost nothing but their answers, for which the next frame waits.
        beside(mesh, to, agents, "settings")?;
        beside(mesh, to, agents, "pings")?;
        let report = beside(mesh, to, agents, "empty-data")?;
        is_ended(&report, CALM)
    });
}

#[test]
fn bodies_in_tiny_frames_that_nobody_reads_end_the_connection() {
    each("abuse-tiny", |mesh, to, agents| {
        let _echo = echo(mesh, to)?;
        let report = beside(mesh, to, agents, "tiny-data")?;
        is_ended(&report, CALM)
    });
}

#[test]
fn who_takes_nothing_makes_nobody_hold_much() {
    each("abuse-windows", |mesh, to, agents| {
        let _echo = echo(mesh, to)?;
        let report = beside(mesh, to, agents, "no-window")?;
        ensure!(
            report["data"] == 0 && report["statuses"]["200"].as_u64() >= Some(100),
            "{report}"
        );
        beside(mesh, to, agents, "no-reading")?;
        let report = beside(mesh, to, agents, "windows")?;
        ensure!(
            report["resets"] == 1 || report["ended"] == "goaway 3",
            "FLOW_CONTROL_ERROR: {report}"
        );
        Ok(())
    });
}

#[test]
fn slow_heads_are_answered_408_and_slow_bodies_only_wait() {
    each("abuse-slow", |mesh, to, agents| {
        let _echo = echo(mesh, to)?;
        let before = volume::resident(agents)?;
        let honest = Honest::start(mesh, to)?;
        // 200 heads at a byte now and then, and 200 bodies.
        let said = python(
            mesh,
            to,
            port::ECHO_1,
            r#"
heads = [connect(PORT) for _ in range(200)]
bodies = [connect(PORT) for _ in range(200)]
for sock, _ in heads:
    sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX: ")
for sock, _ in bodies:
    sock.sendall(b"POST /sink HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
ended = set()
deadline = time.monotonic() + 90
while len(ended) < len(heads):
    assert time.monotonic() < deadline, ("heads are waited for without end", len(ended))
    for sock, _ in bodies:
        sock.sendall(b"b")
    for index, (sock, file) in enumerate(heads):
        if index in ended:
            continue
        sock.setblocking(False)
        try:
            sock.send(b"y")
            peeked = sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            continue
        except ConnectionError:
            ended.add(index)
            continue
        sock.settimeout(20)
        status, fields, _ = answer(file)
        assert status.startswith("HTTP/1.1 408") and "cause=slow-request" in fields["nodemesh-error"], (status, fields)
        ended.add(index)
    time.sleep(0.25)
for sock, file in bodies[:20]:
    sent = 0
    sock.settimeout(20)
    sock.sendall(b"b" * 1000)
    status, fields, body = answer(file)
    assert status == "HTTP/1.1 200 OK" and body == b"1000\n", (status, body)
"#,
        );
        honest.end(mesh).with_context(|| format!("{said:?}"))?;
        said?;
        volume::bounded(agents, &before)
    });
}

#[test]
fn heads_above_the_limits_are_refused_with_their_status() {
    each("abuse-limits", |mesh, to, _| {
        let _echo = echo(mesh, to)?;
        python(
            mesh,
            to,
            port::ECHO_1,
            r#"
for want, cause, raw in (
    (431, "head-too-large", get("/", "X: " + "y" * 65536)),
    (431, "head-too-large", get("/", *("X-%d: y" % number for number in range(101)))),
    (414, "target-too-long", get("/" + "z" * 33000)),
    (200, None, get("/", *("X-%d: %s" % (number, "y" * 1000) for number in range(60)))),
    (200, None, get("/" + "z" * 30000)),
):
    sock, file = connect(PORT)
    sock.sendall(raw)
    status, fields, body = answer(file)
    assert status.startswith("HTTP/1.1 %d" % want), (want, status, fields, body)
    assert cause is None or "cause=" + cause in fields["nodemesh-error"], (want, fields)
"#,
        )?;
        Ok(())
    });
}

#[test]
fn a_server_that_never_comes_to_its_answer_is_given_up() {
    each("abuse-server", |mesh, to, agents| {
        // Interim answers without end, and a head without end.
        let program = r#"
import socket, sys, threading
def serve(sock):
    line = sock.makefile("rb").readline()
    try:
        if b"/hints" in line:
            while True:
                sock.sendall(b"HTTP/1.1 103 Early Hints\r\nLink: </" + b"x" * 1000 + b">\r\n\r\n")
        elif b"/head" in line:
            sock.sendall(b"HTTP/1.1 200 OK\r\n")
            while True:
                sock.sendall(b"X: " + b"y" * 1000 + b"\r\n")
        else:
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    except OSError:
        pass
listener = socket.create_server(("::", int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True, backlog=100)
print('{"listening":1}', flush=True)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"#;
        let listen = port::OWN_1.to_string();
        let mut server = mesh.pod(to).spawn("python3", &["-c", program, &listen])?;
        server.wait_line(SOON, |line| line.contains("listening"))?;
        super::reached(mesh, to, port::OWN_1)?;
        let before = volume::resident(agents)?;
        for path in ["hints", "head"] {
            let url = format!("http://{}/{path}", at(mesh, to, port::OWN_1));
            let output = curl(mesh.pod("client"), &["-i", &url])?;
            let Some(last) = output.stdout.rsplit("HTTP/1.1 ").next() else {
                bail!("{output}");
            };
            ensure!(
                last.starts_with("502") && last.contains("cause=bad-response"),
                "{path}: {output}"
            );
        }
        volume::bounded(agents, &before)
    });
}
