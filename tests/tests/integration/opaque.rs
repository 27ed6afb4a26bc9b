//! What is not HTTP is not harmed by policies about requests, unless they concern it: then it is denied.

use std::fs;

use anyhow::{Context, Result, ensure};
use mesh_tests::{Agent, Mesh, MeshBuilder, Process, Service, programs, traffic, wait_until};

use crate::checks::{SOON, near_and_far};

/// The first port of the servers; there are four of them, one behind the other.
const PORT: u16 = 7971;
/// A port that its service declares to be TCP.
const DECLARED: u16 = PORT + 11;
const FILE: &str = "zz-policy.yaml";

/// `client` and `near` on one node, `far`, and outside the mesh `stranger`, on the other.
fn opaque(name: &str) -> MeshBuilder {
    let service = |name: &str| {
        let service = Service::new(name).selector("app", name);
        let service = (PORT..PORT + 4).fold(service, |service, port| service.port(port, port));
        service.port(DECLARED, DECLARED).app_protocol("tcp")
    };
    near_and_far(name)
        .outside("b", "stranger")
        .service(service("near"))
        .service(service("far"))
}

fn start(mesh: &mut Mesh) -> Result<(Vec<Agent>, Vec<Process>)> {
    let dir = mesh.dir().join("own-tls");
    fs::create_dir_all(&dir)?;
    let (key, cert) = (dir.join("key.pem"), dir.join("cert.pem"));
    let made = mesh.pod("client").command("openssl").args([
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "1",
        "-subj",
        "/CN=far",
        "-keyout",
    ]);
    made.arg(&key).arg("-out").arg(&cert).run()?.ok()?;
    mesh.secure(&[])?;
    let agents = mesh.start_agents()?;
    let mut servers = Vec::new();
    for name in ["near", "far"] {
        let server = mesh
            .pod(name)
            .command("python3")
            .arg(programs::python("opaque.py"));
        let mut server = server.args(["serve", &PORT.to_string()]).arg(&dir).spawn()?;
        server.wait_line(SOON, |line| line.contains("\"listening\""))?;
        servers.push(server);
    }
    wait_until(SOON, "certificates on both nodes", || {
        speaks(mesh, "speak", &["0"]).is_ok()
    })?;
    Ok((agents, servers))
}

/// From a pod of the mesh through services, and from outside.
fn ways(mesh: &Mesh) -> [(&'static str, String); 4] {
    [
        ("client", mesh.service("far").v4().to_string()),
        ("client", mesh.service("near").v4().to_string()),
        ("stranger", mesh.pod("far").v4().to_string()),
        ("stranger", mesh.pod("near").v4().to_string()),
    ]
}

/// Speaks on all ways, or finds that it cannot.
fn speaks(mesh: &Mesh, how: &str, more: &[&str]) -> Result<()> {
    let mut clients = Vec::new();
    for (from, to) in ways(mesh) {
        let client = mesh
            .pod(from)
            .command("python3")
            .arg(programs::python("opaque.py"));
        let client = client.args([how, &to, &PORT.to_string()]).args(more.to_vec());
        clients.push((from, to, client.spawn()?));
    }
    for (from, to, client) in clients {
        client
            .wait(SOON * 6)?
            .ok()
            .with_context(|| format!("from {from} to {to}"))?;
    }
    Ok(())
}

/// Puts a policy in force, and waits until both agents know of it.
fn apply(mesh: &Mesh, name: &str, kind: &str, spec: &str) -> Result<()> {
    let text = format!(
        "apiVersion: security.istio.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: default}}\nspec: {{{spec}}}\n"
    );
    mesh.write_config(FILE, &text)?;
    for node in mesh.nodes() {
        wait_until(SOON, "the policy to be known", || {
            node.cli(&["policies", "-o", "json"])
                .is_ok_and(|said| said.stdout.contains(&format!("default/{name}\"")))
        })
        .with_context(|| text.clone())?;
    }
    Ok(())
}

const TOKENS: &str = "jwtRules: [{issuer: someone, jwksUri: 'http://127.0.0.1:9/'}]";

#[test]
fn other_protocols_are_unharmed_by_policies_about_requests_that_do_not_concern_them() {
    Mesh::scenario(opaque("opaque"), |mesh| {
        let (_agents, _servers) = start(mesh)?;
        for (name, kind, spec) in [
            (
                "other-port",
                "AuthorizationPolicy",
                "action: DENY, rules: [{to: [{operation: {paths: [/admin], ports: ['80']}}]}]",
            ),
            (
                "other-workload",
                "AuthorizationPolicy",
                "selector: {matchLabels: {app: other}}, action: DENY, rules: [{to: [{operation: {paths: [/admin]}}]}]",
            ),
            (
                "other-peer",
                "AuthorizationPolicy",
                "action: DENY, rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/nobody]}}], to: [{operation: {methods: [GET]}}]}]",
            ),
            (
                "audited",
                "AuthorizationPolicy",
                "action: AUDIT, rules: [{to: [{operation: {paths: ['/*']}}]}]",
            ),
            ("tokens", "RequestAuthentication", TOKENS),
        ] {
            apply(mesh, name, kind, spec)?;
            speaks(mesh, "speak", &["0"]).with_context(|| spec.to_owned())?;
        }
        Ok(())
    });
}

#[test]
fn other_protocols_are_denied_where_a_policy_about_requests_concerns_them() {
    Mesh::scenario(opaque("opaque-denied"), |mesh| {
        let (_agents, _servers) = start(mesh)?;
        for (name, spec) in [
            (
                "denies",
                "action: DENY, rules: [{to: [{operation: {paths: [/admin]}}]}]",
            ),
            (
                "allows",
                "action: ALLOW, rules: [{to: [{operation: {methods: [GET]}}]}]",
            ),
        ] {
            apply(mesh, name, "AuthorizationPolicy", spec)?;
            speaks(mesh, "denied", &[]).with_context(|| spec.to_owned())?;
        }
        let flows = mesh.node("b").cli(&["flows", "--last", "100"])?.ok()?.stdout;
        ensure!(flows.contains("no rule of the ALLOW policies matches"), "{flows}");
        mesh.remove_config(FILE)?;
        wait_until(SOON, "the policy to be forgotten", || {
            speaks(mesh, "speak", &["0"]).is_ok()
        })
    });
}

#[test]
fn a_client_that_is_silent_for_a_minute_is_not_cut() {
    Mesh::scenario(opaque("opaque-silent"), |mesh| {
        let (_agents, mut servers) = start(mesh)?;
        for name in ["near", "far"] {
            servers.push(traffic::serve_http(mesh.pod(name), PORT + 10)?);
        }
        apply(mesh, "tokens", "RequestAuthentication", TOKENS)?;
        let mut clients = Vec::new();
        for (from, to) in [
            ("client", "near"),
            ("client", "far"),
            ("stranger", "near"),
            ("stranger", "far"),
        ] {
            let script = "import http.client, sys, time\nc = http.client.HTTPConnection(sys.argv[1], int(sys.argv[2]), timeout=20)\n\
                          c.connect()\ntime.sleep(61)\nc.request('GET', '/')\nprint(c.getresponse().status)";
            let to = mesh.pod(to).v4().to_string();
            let client =
                mesh.pod(from)
                    .command("python3")
                    .args(["-c", script, &to, &(PORT + 10).to_string()]);
            clients.push(client.deadline(SOON * 6).spawn()?);
        }
        speaks(mesh, "speak", &["61"])?;
        for client in clients {
            let said = client.wait(SOON)?.ok()?;
            ensure!(said.stdout.trim() == "200", "{said}");
        }
        Ok(())
    });
}

/// "`tcp` (opaque)": what is sent there is bytes, also when it looks like a request.
#[test]
fn a_port_that_is_declared_tcp_is_not_read() {
    Mesh::scenario(opaque("opaque-declared"), |mesh| {
        let (_agents, mut servers) = start(mesh)?;
        for name in ["near", "far"] {
            servers.push(traffic::serve_http(mesh.pod(name), DECLARED)?);
        }
        let ask = |from: &str, to: &str, args: &[&str]| -> Result<String> {
            let url = format!("http://{to}:{DECLARED}/admin");
            let mut all = vec!["-sS", "--noproxy", "*", "--max-time", "20", "-o", "/dev/null"];
            all.extend(["-w", "%{http_code}"]);
            all.extend(args);
            all.push(&url);
            Ok(mesh.pod(from).run("curl", &all)?.stdout)
        };
        let bad = ["-H", "Authorization: Bearer of.no.good"];
        apply(mesh, "tokens", "RequestAuthentication", TOKENS)?;
        for (from, to) in ways(mesh) {
            let said = ask(from, &to, &bad)?;
            ensure!(said == "200", "a token is read, from {from} to {to}: {said}");
        }
        // A rule about requests sees TCP: it never allows, and denies all the more.
        for (name, spec) in [
            (
                "allows",
                "action: ALLOW, rules: [{to: [{operation: {paths: [/admin]}}]}]",
            ),
            (
                "denies",
                "action: DENY, rules: [{to: [{operation: {paths: [/other]}}]}]",
            ),
        ] {
            apply(mesh, name, "AuthorizationPolicy", spec)?;
            for (from, to) in ways(mesh) {
                let said = ask(from, &to, &[])?;
                ensure!(said == "000", "{spec}: from {from} to {to}: {said}");
            }
        }
        let said = mesh.node("a").cli(&[
            "explain",
            "default/client",
            &format!("default/far:{DECLARED}"),
            "--path",
            "/admin",
        ])?;
        ensure!(said.stdout.contains("denied by DENY policy"), "{said}");
        Ok(())
    });
}
