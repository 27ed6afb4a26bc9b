//! A mesh with routes: who asks, who answers, and what an answer says in one line.

use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};
use mesh_tests::{Agent, Mesh, MeshBuilder, Pod, Process, Service, traffic, wait_until};
use serde_json::Value;

use crate::checks::SOON;

/// Where the applications listen.
pub(super) const APP: u16 = 7801;
/// Who answers: `near` is on the clients' node, the others are on the other one.
pub(super) const SERVERS: [&str; 4] = ["web", "v1", "v2", "near"];

/// `client` (namespace `default`) and `guest` (`guests`) ask; each of [`SERVERS`] answers for the service of its name.
/// Service `web` has ports 80, 8080 and 9000 (which declares no protocol), `nobody` has no endpoints.
pub(super) fn routed_mesh(name: &str) -> MeshBuilder {
    let mut mesh = Mesh::builder(name)
        .node("a")
        .node("b")
        .pod("a", Pod::new("client"))
        .pod("a", Pod::new("guest").namespace("guests"));
    for server in SERVERS {
        let node = if server == "near" { "a" } else { "b" };
        mesh = mesh.pod(node, Pod::new(server).label("app", server));
        let mut service = Service::new(server)
            .selector("app", server)
            .port(80, APP)
            .app_protocol("http");
        if server == "web" {
            service = service.port(8080, APP).app_protocol("http").port(9000, APP);
        }
        mesh = mesh.service(service);
    }
    mesh.service(
        Service::new("nobody")
            .selector("app", "nobody")
            .port(80, APP)
            .app_protocol("http"),
    )
}

/// Builds the mesh, starts agents and applications, and runs the checks.
pub(super) fn routed(name: &str, check: impl FnOnce(&Mesh) -> Result<()>) {
    routed_with(routed_mesh(name), check);
}

/// As [`routed`], with more in the mesh.
pub(super) fn routed_with(builder: MeshBuilder, check: impl FnOnce(&Mesh) -> Result<()>) {
    Mesh::scenario(builder, |mesh| {
        let (_agents, _servers) = start(mesh)?;
        check(mesh)
    });
}

/// Starts agents with certificates and the applications, and waits until both clients reach these.
pub(super) fn start(mesh: &mut Mesh) -> Result<(Vec<Agent>, Vec<Process>)> {
    mesh.secure(&[])?;
    let agents = mesh.start_agents()?;
    let mut servers = Vec::new();
    for name in SERVERS {
        servers.push(traffic::serve_http(mesh.pod(name), APP)?);
    }
    for from in ["client", "guest"] {
        for to in SERVERS {
            let mut last = String::new();
            wait_until(SOON, "certificates on both nodes", || {
                last = ask(mesh, from, to, "/status/200", &[])
                    .map_or_else(|error| format!("{error:#}"), |r| r.said());
                last.starts_with("200")
            })
            .with_context(|| format!("{from} to {to}: {last}"))?;
        }
    }
    Ok((agents, servers))
}

/// Puts routes, and nothing but these, in force on every node.
pub(super) fn apply(mesh: &Mesh, routes: &[String]) -> Result<()> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let mark = format!("mark-{}", COUNT.fetch_add(1, Ordering::Relaxed));
    let text: String = routes
        .iter()
        .cloned()
        .chain([http(&format!("default/{mark}"), "none", "[{}]")])
        .map(|route| format!("---\n{route}"))
        .collect();
    mesh.write_config("zz-routes.yaml", &text)?;
    for node in mesh.nodes() {
        wait_until(SOON, "the routes to be read", || {
            let listed = node.cli(&["routes", &mark, "-o", "json"]);
            listed.is_ok_and(|listed| listed.stdout.contains(&mark))
        })?;
        let rejected = node.cli(&["status"])?.stdout;
        ensure!(!rejected.contains("zz-routes.yaml"), "{rejected}");
    }
    Ok(())
}

/// How many destinations the agents' kernel halves let captured connections in to.
pub(super) fn let_in() -> Result<usize> {
    let bpftool = |args: &[&str]| -> Result<Value> {
        let said = std::process::Command::new("bpftool")
            .arg("-j")
            .args(args)
            .output()?;
        Ok(serde_json::from_slice(&said.stdout)?)
    };
    let maps = bpftool(&["map", "list"])?;
    let ours = maps.as_array().into_iter().flatten();
    let ours = ours.filter(|map| map["name"] == "LET_IN");
    ours.map(|map| {
        let entries = bpftool(&["map", "dump", "id", &map["id"].to_string()])?;
        Ok(entries.as_array().map_or(0, Vec::len))
    })
    .sum()
}

/// An HTTPRoute. `parent` is `service` or `service:port`, of the namespace `default`.
pub(super) fn http(name: &str, parent: &str, rules: &str) -> String {
    route("HTTPRoute", name, parent, rules)
}

/// A GRPCRoute.
pub(super) fn grpc(name: &str, parent: &str, rules: &str) -> String {
    route("GRPCRoute", name, parent, rules)
}

fn route(kind: &str, name: &str, parent: &str, rules: &str) -> String {
    let (namespace, name) = name.split_once('/').expect("a namespace");
    let port = match parent.split_once(':') {
        Some((_, port)) => format!(", port: {port}"),
        None => String::new(),
    };
    let service = parent.split(':').next().unwrap_or_default();
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         spec:\n  parentRefs: [{{group: '', kind: Service, name: {service}, namespace: default{port}}}]\n  rules: {rules}\n"
    )
}

/// The backends of a rule: `v1`, or `v1=3` with a weight. All of the namespace `default`.
pub(super) fn to(backends: &str) -> String {
    let list: Vec<_> = backends
        .split_whitespace()
        .map(|backend| {
            let (name, weight) = backend.split_once('=').unwrap_or((backend, "1"));
            format!("{{name: {name}, namespace: default, port: 80, weight: {weight}}}")
        })
        .collect();
    format!("backendRefs: [{}]", list.join(", "))
}

/// An answer.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    /// Names in lower case.
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: String,
}

/// Asks a service on port 80.
pub(super) fn ask(mesh: &Mesh, from: &str, service: &str, path: &str, args: &[&str]) -> Result<Reply> {
    ask_at(mesh, from, &format!("{}", mesh.service(service).v4()), path, args)
}

/// Asks at an address, with more arguments for curl. One that begins with no dash is a header.
pub(super) fn ask_at(mesh: &Mesh, from: &str, at: &str, path: &str, args: &[&str]) -> Result<Reply> {
    let url = format!("http://{at}{path}");
    let mut all = vec![
        "-sS",
        "-i",
        "-g",
        "--path-as-is",
        "--noproxy",
        "*",
        "--max-time",
        "20",
        "-H",
        "Expect:",
    ];
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        if arg.starts_with('-') {
            all.push(arg);
            if matches!(*arg, "-d" | "--data-binary" | "-X" | "-H") {
                all.extend(args.next());
            }
        } else {
            all.extend(["-H", arg]);
        }
    }
    all.push(&url);
    let output = mesh.pod(from).run("curl", &all)?.ok()?.stdout;
    let (head, body) = output
        .split_once("\r\n\r\n")
        .with_context(|| format!("no head: {output}"))?;
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1));
    Ok(Reply {
        status: status.context("no status")?.parse()?,
        headers: lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect(),
        body: body.to_owned(),
    })
}

impl Reply {
    /// The answer in a line: `200 v1 GET /path` of an application, `404 mesh no-route` of the mesh, `302 to LOCATION`.
    pub(super) fn said(&self) -> String {
        let status = self.status;
        // Where bytes are carried, the application's own word passes.
        let error = self.header("nodemesh-error");
        if let Some((_, cause)) = error.as_deref().and_then(|error| error.split_once("cause=")) {
            let cause = cause.split(';').next().unwrap_or_default();
            let grpc = self.header("grpc-status");
            let grpc = grpc.map(|status| format!(" grpc {status}")).unwrap_or_default();
            return format!("{status} mesh {cause}{grpc}");
        }
        if let Some(location) = self.header("location") {
            return format!("{status} to {location}");
        }
        let said = self.request();
        match said["server"].as_str() {
            Some(server) => {
                let (method, target) = (&said["method"], &said["target"]);
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                format!("{status} {server} {} {}", text(method), text(target))
            }
            None => status.to_string(),
        }
    }

    /// All values of a header of the answer, in lines of their own with ` | ` between.
    pub(super) fn header(&self, name: &str) -> Option<String> {
        joined(self.headers.iter().map(|(name, value)| (&**name, &**value)), name)
    }

    /// The same of the request as the application saw it.
    pub(super) fn saw(&self, name: &str) -> Option<String> {
        header_of(&self.request(), name)
    }

    fn request(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }
}

/// A header of a request as an application tells of it.
pub(super) fn header_of(said: &Value, name: &str) -> Option<String> {
    let pairs = said["headers"].as_array().into_iter().flatten();
    joined(
        pairs.filter_map(|pair| Some((pair[0].as_str()?, pair[1].as_str()?))),
        name,
    )
}

fn joined<'a>(headers: impl Iterator<Item = (&'a str, &'a str)>, name: &str) -> Option<String> {
    let values: Vec<_> = headers
        .filter(|(known, _)| *known == name)
        .map(|(_, value)| value)
        .collect();
    (!values.is_empty()).then(|| values.join(" | "))
}

/// What an application was asked so far, but for what it does not record (see `http_server.py`).
pub(super) fn asked(mesh: &Mesh, server: &str) -> Result<Vec<Value>> {
    let at = format!("{}:{APP}", mesh.pod(server).v4());
    let seen = ask_at(mesh, "client", &at, "/seen", &[])?;
    serde_json::from_str(&seen.body).with_context(|| format!("{seen:?}"))
}

/// Asks from `client` and compares: `(path, arguments, the answer in a line)`.
pub(super) fn expect(mesh: &Mesh, service: &str, cases: &[(&str, &[&str], &str)]) -> Result<()> {
    expect_from(mesh, "client", service, cases)
}

/// As [`expect`], from another pod.
pub(super) fn expect_from(
    mesh: &Mesh,
    from: &str,
    service: &str,
    cases: &[(&str, &[&str], &str)],
) -> Result<()> {
    for (path, args, expected) in cases {
        let reply = ask(mesh, from, service, path, args)?;
        ensure!(
            reply.said() == *expected,
            "{from}: {path} {args:?}: {} instead of {expected}: {reply:?}",
            reply.said()
        );
    }
    Ok(())
}

/// What `mesh-agent routes` says of a route: reasons and messages of its conditions, by type; `!` before one that does not hold.
pub(super) fn conditions(mesh: &Mesh, route: &str) -> Result<Value> {
    let listed = mesh.node("a").cli(&["routes", route, "-o", "json"])?.ok()?;
    let listed: Value = serde_json::from_str(&listed.stdout).with_context(|| format!("{listed}"))?;
    Ok(listed["routes"][0]["parents"][0].clone())
}
