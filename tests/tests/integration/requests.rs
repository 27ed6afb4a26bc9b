//! Policies about requests, from the file to the answer: through the engine at the source and as bytes that the destination's
//! agent reads, from another node and from the same.

mod hbone;
mod issuers;
mod silent;
mod tokens;

use std::fs;

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    Agent, Held, LivePod, Mesh, MeshBuilder, Pod, Process, Service,
    traffic::{self, at},
    wait_until,
};
use serde_json::{Value, json};

use self::issuers::bearer;
use self::tokens::{ISSUER, Key, claims, key_set};
use crate::checks::{SOON, near_and_far, nginx};

/// Where the applications listen.
const APP: u16 = 7951;
/// Where an echo server listens.
const ECHO: u16 = 7952;
/// Where the issuer serves its keys.
const ISSUING: u16 = 7953;
const FILE: &str = "zz-policy.yaml";

/// `client`, `other` and `near` on one node, `far`, and outside the mesh `issuer` and `stranger`, on the other. Port 80 of each
/// service is declared to speak HTTP, port 81 is not.
fn judged(name: &str) -> MeshBuilder {
    let service = |name: &str| {
        Service::new(name)
            .selector("app", name)
            .port(80, APP)
            .app_protocol("http")
    };
    let plain = |name: &str| {
        Service::new(&format!("plain-{name}"))
            .selector("app", name)
            .port(81, APP)
    };
    near_and_far(name)
        .pod("a", Pod::new("other"))
        .outside("b", "issuer")
        .outside("b", "stranger")
        .service(service("near"))
        .service(service("far"))
        .service(plain("near"))
        .service(plain("far"))
}

/// The four ways: service and port.
const WAYS: [(&str, u16); 4] = [("far", 80), ("plain-far", 81), ("near", 80), ("plain-near", 81)];

fn start(mesh: &mut Mesh) -> Result<(Vec<Agent>, Vec<Process>)> {
    mesh.secure(&[])?;
    let agents = mesh.start_agents()?;
    let mut servers = Vec::new();
    for name in ["near", "far"] {
        servers.push(traffic::serve_http(mesh.pod(name), APP)?);
        servers.push(traffic::serve(mesh.pod(name), "echo", ECHO)?);
    }
    for from in ["client", "other"] {
        for way in WAYS {
            let mut last = String::new();
            wait_until(SOON, "certificates on both nodes", || {
                last = ask(mesh, from, way, "/", &[]).unwrap_or_else(|error| format!("{error:#}"));
                last.starts_with("200")
            })
            .with_context(|| format!("{from} to {way:?}: {last}"))?;
        }
    }
    Ok((agents, servers))
}

/// What is answered: the status, then the head and body.
fn ask(mesh: &Mesh, from: &str, (service, port): (&str, u16), path: &str, args: &[&str]) -> Result<String> {
    ask_at(mesh.pod(from), &at(mesh.service(service).v4(), port), path, args)
}

fn ask_at(pod: &LivePod, to: &str, path: &str, args: &[&str]) -> Result<String> {
    let url = format!("http://{to}{path}");
    let mut all = vec![
        "-sS",
        "--noproxy",
        "*",
        "--path-as-is",
        "--max-time",
        "20",
        "-i",
        "-w",
        "\n%{http_code}",
    ];
    all.extend(args);
    all.push(&url);
    let run = pod.run("curl", &all)?;
    let said = run.stdout.trim_end();
    let (rest, status) = said.rsplit_once('\n').unwrap_or(("", said.trim()));
    Ok(format!("{status} {rest}{}", run.stderr))
}

/// Puts policies in force in place of those before, and waits until both agents know of the one of this name.
fn apply(mesh: &Mesh, name: &str, text: &str) -> Result<()> {
    mesh.write_config(FILE, text)?;
    for node in mesh.nodes() {
        wait_until(SOON, "the policies to be known", || {
            let said = node.cli(&["policies", "-o", "json"]);
            said.is_ok_and(|said| said.stdout.contains(&format!("default/{name}\"")))
        })
        .with_context(|| format!("{name} on node {}:\n{text}", node.name()))?;
    }
    Ok(())
}

/// A policy for the applications.
fn policy(name: &str, action: &str, rules: &str) -> String {
    ["near", "far"]
        .map(|app| {
            let name = if app == "near" { format!("{name}-too") } else { name.to_owned() };
            format!(
                "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: default}}\n\
                 spec: {{selector: {{matchLabels: {{app: {app}}}}}, action: {action}, rules: {rules}}}\n---\n"
            )
        })
        .concat()
}

fn dry(policy: &str) -> String {
    policy.replace(
        "namespace: default}",
        "namespace: default, annotations: {istio.io/dry-run: \"true\"}}",
    )
}

/// A RequestAuthentication of the namespace with these keys (a field of the rule), and more fields.
fn authentication(name: &str, keys: &str, more: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: {name}, namespace: default}}\n\
         spec: {{jwtRules: [{{issuer: '{ISSUER}', audiences: [shop], {keys}{more}}}]}}\n---\n"
    )
}

fn inline(keys: &[&Key]) -> String {
    format!("jwks: '{}'", key_set(keys))
}

/// A request and the status it must be answered with.
struct Case<'a> {
    from: &'a str,
    path: &'a str,
    args: &'a [&'a str],
    status: u16,
}

/// From the client.
const fn asks<'a>(path: &'a str, args: &'a [&'a str], status: u16) -> Case<'a> {
    Case {
        from: "client",
        path,
        args,
        status,
    }
}

/// From the other pod.
const fn other<'a>(path: &'a str, args: &'a [&'a str], status: u16) -> Case<'a> {
    Case {
        from: "other",
        path,
        args,
        status,
    }
}

/// Puts policies in force and checks the answers on every way.
fn check(mesh: &Mesh, name: &str, text: &str, cases: &[Case<'_>]) -> Result<()> {
    apply(mesh, name, text)?;
    for way in WAYS {
        for Case {
            from,
            path,
            args,
            status,
        } in cases
        {
            let said = ask(mesh, from, way, path, args)?;
            ensure!(
                said.starts_with(&format!("{status} ")),
                "{from} asks {way:?} for {path} {args:?}: not {status} but {said}\n{text}"
            );
            ensure!(
                said.to_ascii_lowercase()
                    .contains("nodemesh-error: side=destination")
                    == (*status != 200),
                "{said}"
            );
        }
    }
    Ok(())
}

#[test]
fn every_field_of_an_operation_is_compared_with_the_request() {
    Mesh::scenario(judged("l7-operations"), |mesh| {
        let (_agents, _servers) = start(mesh)?;
        let to = |fields: &str| format!("[{{to: [{{operation: {{{fields}}}}}]}}]");
        check(
            mesh,
            "methods",
            &policy("methods", "ALLOW", &to("methods: [GET, HEAD]")),
            &[
                asks("/", &[], 200),
                asks("/", &["-d", "x"], 403),
                asks("/", &["-X", "DELETE"], 403),
            ],
        )?;
        check(
            mesh,
            "not-methods",
            &policy("not-methods", "DENY", &to("notMethods: [GET]")),
            &[asks("/", &[], 200), asks("/", &["-d", "x"], 403)],
        )?;
        check(
            mesh,
            "paths",
            &policy(
                "paths",
                "ALLOW",
                &to("paths: [/exact, '/pre*', '*.txt', '/one/{*}/end', '/all/{**}', '/a%2Fb c']"),
            ),
            &[
                asks("/exact", &[], 200),
                asks("/exact/", &[], 403),
                asks("/x/../exact?q=/", &[], 200),
                asks("/prefix/more", &[], 200),
                asks("/Prefix", &[], 403),
                asks("/any/file.txt", &[], 200),
                asks("/any/file.txt/more", &[], 403),
                asks("/one/two/end", &[], 200),
                asks("/one/two/three/end", &[], 403),
                asks("/one//end", &[], 403),
                asks("/all/", &[], 200),
                asks("/all/a/b/c", &[], 200),
                asks("/all", &[], 403),
                asks("/a/b%20c", &[], 200),
            ],
        )?;
        check(
            mesh,
            "not-paths",
            &policy("not-paths", "DENY", &to("notPaths: ['/open*']")),
            &[
                asks("/open/x", &[], 200),
                asks("/", &[], 403),
                asks("/open/../shut", &[], 403),
            ],
        )?;
        check(
            mesh,
            "hosts",
            &policy("hosts", "ALLOW", &to("hosts: [shop.example, '*.inside']")),
            &[
                asks("/", &["-H", "Host: SHOP.example"], 200),
                asks("/", &["-H", "Host: shop.example:80"], 200),
                asks("/", &["-H", "Host: a.inside"], 200),
                asks("/", &["-H", "Host: inside"], 403),
                asks("/", &["-H", "Host: shop.example.org"], 403),
            ],
        )?;
        check(
            mesh,
            "not-hosts",
            &policy("not-hosts", "DENY", &to("notHosts: [shop.example]")),
            &[asks("/", &["-H", "Host: shop.example"], 200), asks("/", &[], 403)],
        )?;
        check(
            mesh,
            "ports",
            &policy("ports", "DENY", &to("ports: ['7951'], methods: [POST]")),
            &[asks("/", &[], 200), asks("/", &["-d", "x"], 403)],
        )?;
        check(
            mesh,
            "other-ports",
            &policy("other-ports", "DENY", &to("ports: ['80', '81'], methods: [POST]")),
            &[asks("/", &[], 200), asks("/", &["-d", "x"], 200)],
        )?;
        check(
            mesh,
            "not-ports",
            &policy("not-ports", "DENY", &to("notPorts: ['7951'], paths: ['*']")),
            &[asks("/", &[], 200)],
        )
    });
}

#[test]
fn conditions_identities_and_precedence_hold_for_each_request() {
    Mesh::scenario(judged("l7-rules"), |mesh| {
        let (_agents, _servers) = start(mesh)?;
        let admin: &[&str] = &["-H", "X-Role: admin"];
        let both: &[&str] = &["-H", "X-Role: admin", "-H", "X-Role: guest"];
        let when = |fields: &str| format!("[{{when: [{{key: 'request.headers[x-role]', {fields}}}]}}]");
        check(
            mesh,
            "header",
            &policy("header", "ALLOW", &when("values: [admin, 'root*']")),
            &[
                asks("/", admin, 200),
                asks("/", &["-H", "x-ROLE: root-of-all"], 200),
                asks("/", &[], 403),
                asks("/", &["-H", "X-Role: Admin"], 403),
                asks("/", both, 403),
            ],
        )?;
        check(
            mesh,
            "not-header",
            &policy("not-header", "DENY", &when("notValues: [admin]")),
            &[asks("/", admin, 200), asks("/", &[], 403), asks("/", both, 403)],
        )?;
        check(
            mesh,
            "some-header",
            &policy("some-header", "DENY", &when("values: ['*']")),
            &[asks("/", admin, 403), asks("/", &[], 200)],
        )?;
        let writer = "[{from: [{source: {principals: [cluster.local/ns/default/sa/client]}}], to: [{operation: {methods: [POST]}}]}, \
                      {when: [{key: source.principal, values: [cluster.local/ns/default/sa/other]}], to: [{operation: {methods: [GET]}}]}]";
        check(
            mesh,
            "identity",
            &policy("identity", "ALLOW", writer),
            &[
                asks("/", &["-d", "x"], 200),
                asks("/", &[], 403),
                other("/", &[], 200),
                other("/", &["-d", "x"], 403),
            ],
        )?;
        // DENY before ALLOW; one ALLOW rule is enough; AUDIT and dry run decide nothing.
        let ordered = policy("precedence", "ALLOW", "[{to: [{operation: {methods: [GET]}}]}]")
            + &policy("second", "ALLOW", "[{to: [{operation: {paths: [/open]}}]}]")
            + &policy("denies", "DENY", "[{to: [{operation: {paths: ['/shut*']}}]}]")
            + &policy("audits", "AUDIT", "[{to: [{operation: {paths: ['/*']}}]}]")
            + &dry(&policy(
                "rehearsed",
                "DENY",
                "[{to: [{operation: {paths: ['/*']}}]}]",
            ));
        check(
            mesh,
            "precedence",
            &ordered,
            &[
                asks("/", &[], 200),
                asks("/", &["-d", "x"], 403),
                asks("/open", &["-d", "x"], 200),
                asks("/shut/x", &[], 403),
            ],
        )?;
        check(
            mesh,
            "rehearsed-alone",
            &dry(&policy(
                "rehearsed-alone",
                "ALLOW",
                "[{to: [{operation: {paths: [/none]}}]}]",
            )),
            &[asks("/", &[], 200)],
        )
    });
}

#[test]
fn a_denied_request_is_answered_in_the_language_of_its_client() {
    Mesh::scenario(judged("l7-answers"), |mesh| {
        let (_agents, _servers) = start(mesh)?;
        let key = Key::ec("one");
        let text = policy(
            "answers",
            "DENY",
            "[{to: [{operation: {paths: ['/admin*', '/shop.Cart/*']}}]}]",
        ) + &authentication("tokens", &inline(&[&key]), "");
        apply(mesh, "answers", &text)?;
        let bad = format!(
            "Authorization: Bearer {}",
            key.unsigned("none", &claims(&json!({})))
        );
        for way in WAYS {
            let said = ask(mesh, "client", way, "/admin", &[])?;
            ensure!(said.starts_with("403") && said.contains("cause=denied"), "{said}");
            ensure!(said.contains("DENY policy default/answers"), "{said}");
            let said = ask(mesh, "client", way, "/", &["-H", &bad])?;
            ensure!(
                said.starts_with("401")
                    && said
                        .to_ascii_lowercase()
                        .contains("www-authenticate: bearer error=\"invalid_token\""),
                "{said}"
            );
            // Without a body: curl may take an answer that comes before it has sent one for an error.
            let grpc = [
                "--http2-prior-knowledge",
                "-H",
                "Content-Type: application/grpc",
                "-X",
                "POST",
            ];
            let said = ask(mesh, "client", way, "/shop.Cart/Add", &grpc)?;
            ensure!(
                said.starts_with("200") && said.contains("grpc-status: 7"),
                "{way:?}: {said}"
            );
            let mut with_token = grpc.to_vec();
            with_token.extend(["-H", &bad]);
            let said = ask(mesh, "client", way, "/shop.Other/Add", &with_token)?;
            ensure!(
                said.starts_with("200") && said.contains("grpc-status: 16"),
                "{way:?}: {said}"
            );
        }
        Ok(())
    });
}

/// Asks twice on one connection, and waits for a file in between: both statuses are in its output.
const TWICE_HTTP_1: &str = r#"
import http.client, os, sys, time
connection = http.client.HTTPConnection(sys.argv[1], int(sys.argv[2]), timeout=30)
for number in range(2):
    connection.request("GET", "/kept")
    answer = connection.getresponse()
    answer.read()
    print("status", answer.status, flush=True)
    while number == 0 and not os.path.exists(sys.argv[3]):
        time.sleep(0.05)
"#;

const TWICE_HTTP_2: &str = r#"
import os, socket, struct, sys, time
def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload
def literal(name, value):
    return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value
head = b"\x82\x86" + literal(b":authority", b"x") + literal(b":path", b"/kept")
sock = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=30)
file = sock.makefile("rb")
sock.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0))
for stream in (1, 3):
    sock.sendall(frame(1, 5, stream, head))
    while True:
        begin = file.read(9)
        payload = file.read(int.from_bytes(begin[:3], "big"))
        if begin[3] == 4 and begin[4] == 0:
            sock.sendall(frame(4, 1, 0))
        assert begin[3] not in (3, 7), (begin, payload)
        if begin[3] == 1 and begin[5:] == struct.pack(">I", stream):
            break
    print("status", 200 if payload[0] == 0x88 else 403, flush=True)
    while stream == 1 and not os.path.exists(sys.argv[3]):
        time.sleep(0.05)
"#;

#[test]
fn the_next_request_on_a_connection_that_stands_meets_the_policy_of_now() {
    Mesh::scenario(judged("l7-change"), |mesh| {
        let (_agents, mut servers) = start(mesh)?;
        for name in ["near", "far"] {
            servers.push(nginx::serve(mesh, name, H2, "access_log off;")?);
        }
        // Requests must be read from the start for the connections to undeclared ports to stay.
        let first = policy("first", "DENY", "[{to: [{operation: {paths: [/never]}}]}]");
        apply(mesh, "first", &first)?;
        let go = mesh.dir().join("go");
        let mut waiting = Vec::new();
        for (service, port) in WAYS {
            let to = mesh.service(service).v4().to_string();
            let direct = mesh.pod(service.trim_start_matches("plain-")).v4().to_string();
            let mut ask_twice = |program: &str, to: &str, port: u16| -> Result<()> {
                let client =
                    mesh.pod("client")
                        .command("python3")
                        .args(["-c", program, to, &port.to_string()]);
                waiting.push((service, port, client.arg(&go).deadline(SOON * 3).spawn()?));
                Ok(())
            };
            ask_twice(TWICE_HTTP_1, &to, port)?;
            ask_twice(TWICE_HTTP_2, &direct, H2)?;
        }
        for (service, port, client) in &mut waiting {
            let said = client.wait_line(SOON, |line| line.starts_with("status"))?;
            ensure!(said.contains("200"), "{service}:{port}: {said}");
        }
        apply(
            mesh,
            "second",
            &policy("second", "DENY", "[{to: [{operation: {paths: [/kept]}}]}]"),
        )?;
        fs::write(&go, "")?;
        for (service, port, client) in waiting {
            let said = client.wait(SOON)?.ok()?.stdout;
            ensure!(
                said.trim_end().ends_with("status 403"),
                "{service}:{port}: {said}"
            );
        }
        Ok(())
    });
}

/// Where nginx listens for HTTP/2.
const H2: u16 = 7954;

#[test]
fn plaintext_from_outside_is_judged_by_request_as_well() {
    Mesh::scenario(judged("l7-outside"), |mesh| {
        let (_agents, _servers) = start(mesh)?;
        let key = Key::ec("one");
        let good = bearer(&key.sign(&claims(&json!({}))));
        let rules = "[{to: [{operation: {methods: [GET], paths: ['/open*']}}]}, {from: [{source: {requestPrincipals: ['*']}}]}]";
        let text = policy("outside", "ALLOW", rules) + &authentication("tokens", &inline(&[&key]), "");
        apply(mesh, "outside", &text)?;
        for to in ["near", "far"] {
            let stranger = mesh.pod("stranger");
            let to = at(mesh.pod(to).v4(), APP);
            for (path, args, status) in [
                ("/open/x", vec![], "200"),
                ("/shut", vec![], "403"),
                ("/open/../shut", vec![], "403"),
                ("/open", vec!["-d", "x"], "403"),
                ("/shut", vec!["-H", good.as_str()], "200"),
                ("/open", vec!["-H", "Authorization: Bearer x"], "401"),
            ] {
                let said = ask_at(stranger, &to, path, &args)?;
                ensure!(said.starts_with(status), "{path} {args:?}: {said}");
            }
        }
        Ok(())
    });
}

#[test]
fn bytes_that_nobody_read_are_cut_when_tokens_must_be_looked_at() {
    Mesh::scenario(judged("l7-unread"), |mesh| {
        let (_agents, _servers) = start(mesh)?;
        let hold = |to| Held::open(mesh, "client", &[at(mesh.pod(to).v4(), ECHO)], 2);
        let _held = [hold("near")?, hold("far")?];
        let open = || -> usize {
            let lists = mesh.nodes().iter().map(|node| {
                let said = node.cli(&["connections", "-o", "json"]).ok()?;
                let listed: Value = serde_json::from_str(&said.stdout).ok()?;
                let all = listed["connections"].as_array()?;
                let to_echo = |one: &&Value| one.to_string().contains(&format!(":{ECHO}"));
                Some(all.iter().filter(to_echo).count())
            });
            lists.map(|count| count.unwrap_or(99)).sum()
        };
        ensure!(open() > 0, "nothing is held");
        apply(
            mesh,
            "tokens",
            &authentication("tokens", &inline(&[&Key::ec("one")]), ""),
        )?;
        wait_until(SOON, "the connections to be cut", || open() == 0)?;
        let flows = mesh.node("b").cli(&["flows", "--last", "50"])?.ok()?.stdout;
        ensure!(flows.contains("connect again"), "{flows}");
        // Those that come now are looked at, found to be no requests, and stay.
        let again = hold("far")?;
        let other = authentication("others", &inline(&[&Key::ec("two")]), "");
        apply(mesh, "others", &other)?;
        again.release()
    });
}
