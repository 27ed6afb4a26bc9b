//! Requests on ports that are declared to speak HTTP: real clients and servers, through two nodes and on one.

use anyhow::{Context, Result, ensure};
use mesh_tests::{Agent, LivePod, Mesh, MeshBuilder, Output, Process, Service, amount, traffic, wait_until};
use serde_json::Value;

use crate::checks::{SOON, near_and_far};

/// Where the applications listen.
const APP: u16 = 7801;

/// `client` and `near` on one node, `far` on the other; each service's port 80 is HTTP, its port 81 bytes.
pub(crate) fn http_mesh(name: &str) -> MeshBuilder {
    let service = |name: &str| {
        Service::new(name)
            .selector("app", name)
            .port(80, APP)
            .app_protocol("http")
            .port(81, APP)
    };
    near_and_far(name)
        .service(service("near"))
        .service(service("far"))
        .service(service("nobody"))
}

/// Runs a check against the application on the other node and the one on the same node.
fn requests(name: &str, check: impl Fn(&Mesh, &str) -> Result<()>) {
    Mesh::scenario(http_mesh(name), |mesh| {
        let (_agents, _servers) = start(mesh)?;
        for to in ["far", "near"] {
            check(mesh, to).with_context(|| format!("to {to}"))?;
        }
        Ok(())
    });
}

/// Runs a Python program in the client's pod against the application on the other node and the one on the same node.
fn scripted(name: &str, program: &str) {
    requests(name, |mesh, to| python(mesh, to, program));
}

/// Starts agents with certificates and both applications, and waits until these can be reached.
pub(crate) fn start(mesh: &mut Mesh) -> Result<(Vec<Agent>, Vec<Process>)> {
    mesh.secure(&[])?;
    let agents = mesh.start_agents()?;
    let mut servers = Vec::new();
    for name in ["near", "far"] {
        servers.push(traffic::serve_http(mesh.pod(name), APP)?);
    }
    for to in ["near", "far"] {
        let mut last = String::new();
        wait_until(SOON, "certificates on both nodes", || {
            let said = curl(mesh.pod("client"), &["-w", "%{http_code}", &url(mesh, to, "/")]);
            last = said.map_or_else(|error| format!("{error:#}"), |said| said.stdout);
            last.ends_with("200")
        })
        .with_context(|| format!("to {to}: {last}"))?;
    }
    Ok((agents, servers))
}

pub(crate) fn url(mesh: &Mesh, service: &str, path: &str) -> String {
    format!("http://{}{path}", mesh.service(service).v4())
}

pub(crate) fn curl(pod: &LivePod, args: &[&str]) -> Result<Output> {
    let mut all = vec!["-sS", "--noproxy", "*", "--max-time", "20"];
    all.extend(args);
    pod.run("curl", &all)
}

/// What the application was asked, as it says.
fn said(mesh: &Mesh, args: &[&str]) -> Result<Value> {
    let output = curl(mesh.pod("client"), args)?.ok()?;
    serde_json::from_str(&output.stdout).with_context(|| format!("{output}"))
}

fn header<'a>(said: &'a Value, name: &str) -> Option<&'a str> {
    let headers = said["headers"].as_array()?;
    headers.iter().find(|pair| pair[0] == name)?[1].as_str()
}

#[test]
fn a_request_arrives_as_it_was_sent_and_its_answer_too() {
    requests("http-plain", |mesh, to| {
        let at = url(mesh, to, "/path/%7Ea?q=1&q=2");
        let said = said(
            mesh,
            &["-H", "X-One: 1", "-H", "Host: shop.example", "-d", "hello", &at],
        )?;
        ensure!(said["server"] == to, "{said}");
        ensure!(
            said["method"] == "POST" && said["target"] == "/path/%7Ea?q=1&q=2",
            "{said}"
        );
        ensure!(said["version"] == "HTTP/1.1" && said["bytes"] == 5, "{said}");
        ensure!(header(&said, "host") == Some("shop.example"), "{said}");
        ensure!(header(&said, "x-one") == Some("1"), "{said}");
        ensure!(
            said["client"] == mesh.pod("client").v4().to_string(),
            "the application sees the client: {said}"
        );
        let ours = said["headers"].as_array().into_iter().flatten();
        let ours: Vec<_> = ours
            .filter(|pair| pair[0].as_str().is_some_and(|name| name.starts_with("nodemesh")))
            .collect();
        ensure!(ours.is_empty(), "{said}");
        Ok(())
    });
}

#[test]
fn headers_of_the_mesh_pass_in_neither_direction() {
    requests("http-forged", |mesh, to| {
        let at = url(mesh, to, "/");
        let forged = [
            "nodemesh-client: 1.2.3.4:5",
            "nodemesh-version: 1",
            "x-forwarded-client-cert: By=me",
        ];
        let args = ["-H", forged[0], "-H", forged[1], "-H", forged[2], "-i", &at];
        let output = curl(mesh.pod("client"), &args)?.ok()?.stdout;
        let (head, body) = output.split_once("\r\n\r\n").context("no head")?;
        ensure!(!head.to_ascii_lowercase().contains("nodemesh"), "{head}");
        ensure!(head.contains("X-App: 1"), "{head}");
        ensure!(!body.contains("nodemesh") && !body.contains("By=me"), "{body}");
        Ok(())
    });
}

#[test]
fn a_service_without_endpoints_answers_503_and_says_why() {
    requests("http-nobody", |mesh, _| {
        let output = curl(mesh.pod("client"), &["-i", &url(mesh, "nobody", "/")])?
            .ok()?
            .stdout;
        ensure!(output.starts_with("HTTP/1.1 503"), "{output}");
        ensure!(
            output.contains("Nodemesh-Error: side=source; cause=no-endpoint; node=a"),
            "{output}"
        );
        ensure!(
            output.contains("service default/nobody, port 80: the service has no ready endpoint"),
            "{output}"
        );
        Ok(())
    });
}

#[test]
fn bodies_of_all_sizes_arrive_whole_in_either_framing() {
    requests("http-bodies", |mesh, to| {
        let client = mesh.pod("client");
        for count in ["0", "1", "70000", "30000000"] {
            for kind in ["bytes", "chunked", "until-close"] {
                let at = url(mesh, to, &format!("/{kind}/{count}"));
                let script = format!("curl -sS --max-time 60 {at} | sha256sum");
                let got = client.run("sh", &["-c", &script])?.ok()?.stdout;
                ensure!(
                    got.starts_with(&pattern_digest(client, count)?),
                    "{kind} {count}: {got}"
                );
            }
            for how in ["", "-H 'Transfer-Encoding: chunked'"] {
                let at = url(mesh, to, "/");
                let script = format!(
                    "python3 -c '{PATTERN}' {count} | curl -sS --max-time 60 {how} --data-binary @- {at}"
                );
                let output = client.run("sh", &["-c", &script])?.ok()?;
                let said: Value = serde_json::from_str(&output.stdout).context(output.to_string())?;
                ensure!(
                    said["sha256"] == pattern_digest(client, count)?,
                    "{how} {count}: {said}"
                );
            }
        }
        Ok(())
    });
}

/// Prints what the application sends as so many bytes.
const PATTERN: &str = "import sys\nleft = int(sys.argv[1])\nblock = bytes(range(256)) * 256\nwhile left > 0:\n    piece = block[:left]\n    sys.stdout.buffer.write(piece)\n    left -= len(piece)";

fn pattern_digest(pod: &LivePod, count: &str) -> Result<String> {
    let script = format!("python3 -c '{PATTERN}' {count} | sha256sum");
    let digest = pod.run("sh", &["-c", &script])?.ok()?.stdout;
    Ok(digest.split(' ').next().unwrap_or_default().to_owned())
}

/// Runs a Python program in the client's pod against a service; it says what is wrong by failing.
fn python(mesh: &Mesh, to: &str, program: &str) -> Result<()> {
    let address = mesh.service(to).v4().to_string();
    let whole = format!("{PRELUDE}\n{program}");
    mesh.pod("client")
        .run("python3", &["-c", &whole, &address])?
        .ok()?;
    Ok(())
}

pub(crate) const PRELUDE: &str = r#"
import json, socket, struct, sys, time
def connect(port=80):
    sock = socket.create_connection((sys.argv[1], port), timeout=20)
    return sock, sock.makefile("rb")
def head(file):
    lines = []
    while (line := file.readline()) not in (b"\r\n", b""):
        lines.append(line.decode().strip())
    return lines
def answer(file, has_body=True):
    lines = head(file)
    assert lines, "closed before an answer"
    fields = dict(line.lower().split(": ", 1) for line in lines[1:])
    body = b""
    if has_body and "content-length" in fields:
        body = file.read(int(fields["content-length"]))
    return lines[0], fields, body
def get(path, *more):
    return ("GET %s HTTP/1.1\r\nHost: x\r\n%s\r\n" % (path, "".join(line + "\r\n" for line in more))).encode()
"#;

#[test]
fn a_connection_carries_many_requests_and_pipelined_ones_in_order() {
    scripted(
        "http-keep",
        r#"
sock, file = connect()
for number in range(50):
    sock.sendall(get("/%d" % number))
    status, fields, body = answer(file)
    assert status == "HTTP/1.1 200 OK" and json.loads(body)["target"] == "/%d" % number, (status, body)
sock.sendall(b"".join(get("/%d" % number) for number in range(100)))
for number in range(100):
    status, fields, body = answer(file)
    assert json.loads(body)["target"] == "/%d" % number, (number, body)
# In pieces of one byte each.
for byte in get("/slowly"):
    sock.sendall(bytes([byte]))
assert json.loads(answer(file)[2])["target"] == "/slowly"
sock.sendall(get("/last", "Connection: close"))
status, fields, body = answer(file)
assert fields["connection"] == "close" and file.read() == b"", fields
"#,
    );
}

#[test]
fn heads_interim_answers_and_trailers_pass() {
    scripted(
        "http-forms",
        r#"
sock, file = connect()
sock.sendall(b"HEAD /x HTTP/1.1\r\nHost: x\r\n\r\n")
status, fields, body = answer(file, has_body=False)
assert status == "HTTP/1.1 200 OK" and int(fields["content-length"]) > 10, fields
sock.sendall(get("/hints"))
lines = head(file)
assert lines[0].startswith("HTTP/1.1 103") and "Link: </style.css>; rel=preload" in lines, lines
assert not any("connection" in line.lower() or "nodemesh" in line.lower() for line in lines), lines
assert answer(file)[2] == b"hinted\n"
# The application is asked to go on, and says so.
sock.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
lines = head(file)
assert lines[0].startswith("HTTP/1.1 100"), lines
sock.sendall(b"hello")
said = json.loads(answer(file)[2])
assert said["bytes"] == 5, said
# Trailers both ways.
sock.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n5\r\nhello\r\n0\r\nNodemesh-Client: 9\r\nX-Sum: 7\r\n\r\n")
said = json.loads(answer(file)[2])
assert [line.lower() for line in said["trailers"]] == ["x-sum: 7"], said
sock.sendall(get("/chunked/10", "TE: trailers"))
head(file)
rest = b""
while not rest.endswith(b"\r\n\r\n"):
    rest += file.readline()
assert b"x-digest:" in rest.lower() and b"nodemesh" not in rest.lower(), rest
# A proxy's form of the target, and OPTIONS of the whole server.
sock.sendall(b"GET http://shop.example/a HTTP/1.1\r\nHost: other\r\n\r\n")
said = json.loads(answer(file)[2])
assert ["host", "shop.example"] in said["headers"] and said["target"].endswith("/a"), said
sock.sendall(b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n")
assert json.loads(answer(file)[2])["target"] == "*"
# HTTP/1.0 ends with the connection.
sock, file = connect()
sock.sendall(b"GET /chunked/3000 HTTP/1.0\r\n\r\n")
lines = head(file)
assert not any("chunked" in line.lower() for line in lines), lines
rest = file.read()
assert len(rest) == 3000, (lines, len(rest))
"#,
    );
}

#[test]
fn what_breaks_off_never_looks_complete() {
    scripted(
        "http-cut",
        r#"
for kind in ("length", "chunked", "close"):
    sock, file = connect()
    sock.sendall(get("/cut/" + kind))
    try:
        seen = sock.recv(65536)
        while piece := sock.recv(65536):
            seen += piece
        assert False, (kind, "an orderly end", seen[-20:])
    except ConnectionResetError:
        pass
sock, file = connect()
sock.sendall(get("/reset"))
status, fields, body = answer(file)
assert status.startswith("HTTP/1.1 502"), status
assert "cause=reset" in fields["nodemesh-error"], fields
# The connection is as good as before.
sock.sendall(get("/after"))
after = answer(file)
assert after[0] == "HTTP/1.1 200 OK", after
# An answer that comes before its request was sent.
sock, file = connect()
sock.sendall(b"POST /early HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\n")
try:
    for _ in range(100):
        sock.sendall(bytes(100000))
except (ConnectionError, TimeoutError):
    pass
status, fields, body = answer(file)
assert status.startswith("HTTP/1.1 413"), (status, fields, body)
"#,
    );
}

#[test]
fn a_client_that_resets_takes_its_request_along() {
    Mesh::scenario(http_mesh("http-gone"), |mesh| {
        let (_agents, mut servers) = start(mesh)?;
        for (to, server) in ["near", "far"].into_iter().zip(&mut servers) {
            python(
                mesh,
                to,
                r#"
sock, file = connect()
sock.sendall(get("/wait/1"))
time.sleep(0.5)
sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
file.close()
sock.close()
"#,
            )?;
            server
                .wait_line(SOON, |line| line.contains("\"gone\": true"))
                .with_context(|| format!("to {to}"))?;
        }
        Ok(())
    });
}

#[test]
fn a_client_that_ends_its_side_gets_its_answer() {
    scripted(
        "http-half",
        r#"
for version in ("1.1", "1.0"):
    for path in ("/", "/bytes/300000"):
        sock, file = connect()
        sock.sendall(("GET %s HTTP/%s\r\nHost: x\r\n\r\n" % (path, version)).encode())
        sock.shutdown(socket.SHUT_WR)
        status, fields, body = answer(file)
        assert status == "HTTP/1.1 200 OK", (version, path, status)
        assert len(body) == int(fields["content-length"]), (version, path, fields, len(body))
        assert file.read() == b"", (version, path)
"#,
    );
}

#[test]
fn a_handshake_of_tls_on_a_port_of_http_is_refused_at_once() {
    scripted(
        "http-tls",
        r#"
sock, file = connect()
sock.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100))
assert answer(file)[0].startswith("HTTP/1.1 400")
"#,
    );
}

#[test]
fn a_kept_connection_that_its_application_closed_costs_no_request() {
    scripted(
        "http-stale",
        r#"
sock, file = connect()
for number in range(100):
    sock.sendall(get("/close" if number % 2 else "/"))
    status = answer(file)[0]
    assert status == "HTTP/1.1 200 OK", (number, status)
"#,
    );
}

#[test]
fn a_web_socket_passes() {
    scripted(
        "http-upgrade",
        r#"
sock, file = connect()
sock.sendall(get("/upgrade", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13",
                 "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="))
lines = [line.lower() for line in head(file)]
assert lines[0].startswith("http/1.1 101"), lines
assert "upgrade: websocket" in lines and "connection: upgrade" in lines, lines
assert "sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=" in lines, lines
for size in (1, 100, 100000):
    sent = bytes([size % 251]) * size
    sock.sendall(sent)
    assert file.read(size) == sent
sock.shutdown(socket.SHUT_WR)
assert file.read() == b""
# A wish that the application ignores is an ordinary request.
sock, file = connect()
sock.sendall(get("/", "Upgrade: websocket", "Connection: Upgrade"))
ignored = answer(file)
assert ignored[0] == "HTTP/1.1 200 OK", ignored
sock.sendall(get("/"))
assert answer(file)[0] == "HTTP/1.1 200 OK"
"#,
    );
}

#[test]
fn what_is_ambiguous_is_refused_and_the_application_hears_nothing_of_it() {
    scripted(
        "http-strict",
        r#"
for raw in (
    b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
    b"GET / HTTP/1.1\r\nHost: x\r\nX: a\r\n b\r\n\r\n",
    b"GET / HTTP/1.1\nHost: x\n\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"\x16\x03\x01\x02\x00nonsense\r\n\r\n",
):
    sock, file = connect()
    sock.sendall(raw)
    status, fields, body = answer(file)
    assert status.startswith("HTTP/1.1 400"), (raw, status)
    assert "cause=bad-request" in fields["nodemesh-error"], fields
    assert file.read() == b""
"#,
    );
}

#[test]
fn no_request_is_lost_under_load_in_either_version() {
    let service = |name: &str| {
        Service::new(&format!("{name}-h2"))
            .selector("app", name)
            .port(80, NGINX)
            .app_protocol("kubernetes.io/h2c")
            .port(81, NGINX_1)
            .app_protocol("http")
    };
    let mesh = http_mesh("http-h2")
        .service(service("near"))
        .service(service("far"));
    Mesh::scenario(mesh, |mesh| {
        let (_agents, _servers) = start(mesh)?;
        for to in ["far", "near"] {
            let _nginx = nginx(mesh, to)?;
            let client = mesh.pod("client");
            let at = url(mesh, &format!("{to}-h2"), "/body");
            let one = curl(client, &["--http2-prior-knowledge", "-i", &at])?
                .ok()?
                .stdout;
            ensure!(one.starts_with("HTTP/2 200"), "{one}");
            ensure!(
                one.contains("x-version: HTTP/2.0") && one.ends_with("from nginx\n"),
                "{one}"
            );
            let count = amount(3000).to_string();
            let args = ["-n", &count, "-c", "4", "-m", "20", "-p", "h2c", at.as_str()];
            let said = client.run("h2load", &args)?.ok()?.stdout;
            let all = format!("{count} succeeded, 0 failed, 0 errored");
            ensure!(said.contains(&all), "{said}");
            // nginx closes each connection after 1000 requests, and says so.
            let at = format!("http://{}:81/body", mesh.service(&format!("{to}-h2")).v4());
            let count = amount(10_000).to_string();
            let args = ["--h1", "-n", &count, "-c", "64", "-m", "4", at.as_str()];
            let said = client.run("h2load", &args)?.ok()?.stdout;
            let all = format!("{count} succeeded, 0 failed, 0 errored");
            ensure!(said.contains(&all), "{said}");
        }
        Ok(())
    });
}

/// Where nginx listens for HTTP/2.
const NGINX: u16 = 7802;
/// Where it listens for HTTP/1.1.
const NGINX_1: u16 = 7803;

/// Starts an nginx that speaks HTTP/2 in a pod, and waits until it listens.
fn nginx(mesh: &Mesh, pod: &str) -> Result<Process> {
    let dir = mesh.dir().join(format!("nginx-{pod}"));
    std::fs::create_dir_all(&dir)?;
    let dir = dir.display();
    let conf = format!(
        "daemon off; master_process off; pid {dir}/pid; error_log stderr;\n\
         events {{ worker_connections 1024; }}\n\
         http {{ access_log off; client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/f;\n\
         uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s; client_max_body_size 0;\n\
         server {{ listen {NGINX} http2; listen [::]:{NGINX} http2; listen {NGINX_1}; listen [::]:{NGINX_1};\n\
         location / {{ add_header X-Version $server_protocol; return 200 \"from nginx\\n\"; }} }} }}\n"
    );
    let file = mesh.dir().join(format!("nginx-{pod}.conf"));
    std::fs::write(&file, conf)?;
    let file = file.display().to_string();
    let pod = mesh.pod(pod);
    let nginx = pod.spawn("nginx", &["-c", file.as_str()])?;
    let at = format!("http://127.0.0.1:{NGINX}/");
    wait_until(SOON, "nginx", || {
        curl(pod, &["--http2-prior-knowledge", &at]).is_ok_and(|said| said.ok().is_ok())
    })?;
    Ok(nginx)
}

#[test]
fn a_policy_denies_a_request_with_its_reason_and_not_its_neighbours() {
    requests("http-policy", |mesh, to| {
        let client = mesh.pod("client");
        let rules = "[{to: [{operation: {paths: [/admin*], methods: [GET]}}]}]";
        mesh.write_config(
            "zz-policy.yaml",
            &format!(
                "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: no-admin, namespace: default}}\n\
                 spec:\n  selector: {{matchLabels: {{app: {to}}}}}\n  action: DENY\n  rules: {rules}\n"
            ),
        )?;
        let admin = url(mesh, to, "/admin/x");
        let mut last = String::new();
        wait_until(SOON, "the policy to take effect", || {
            last = curl(client, &["-i", &admin]).map_or_else(|error| error.to_string(), |said| said.stdout);
            last.starts_with("HTTP/1.1 403")
        })
        .with_context(|| last.clone())?;
        ensure!(
            last.contains("Nodemesh-Error: side=destination; cause=denied"),
            "{last}"
        );
        ensure!(last.contains("DENY policy default/no-admin"), "{last}");
        for allowed in [vec!["-d", "x", &admin], vec![&url(mesh, to, "/")]] {
            let said = said(mesh, &allowed)?;
            ensure!(said["server"] == to, "{said}");
        }
        mesh.remove_config("zz-policy.yaml")
    });
}
