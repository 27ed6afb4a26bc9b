//! The HTTP engine between real clients and real servers: tools that others wrote, in every form they know, at volume, under
//! abuse, and while agents are replaced.
//!
//! `http` tests the engine's rules one by one; here the other ends do not know of them.

mod abuse;
mod forms;
mod grpc;
mod load;
mod pressure;
mod takeover;
mod volume;

use std::{fmt::Write as _, fs, path::PathBuf};

use anyhow::{Context as _, Result};
use mesh_tests::{Agent, Mesh, MeshBuilder, Pod, Process, Service, programs, traffic, wait_until};
use serde_json::Value;

use crate::{
    checks::{SOON, near_and_far},
    http::{PRELUDE, curl},
};

/// Where the pods listen: `http_server.py`, nginx, `web echo`, `web grpc-serve`, `web websocket-serve`.
mod port {
    pub(super) const PYTHON: u16 = 7811;
    pub(super) const NGINX_1: u16 = 7812;
    pub(super) const NGINX_2: u16 = 7813;
    pub(super) const ECHO_1: u16 = 7814;
    pub(super) const ECHO_2: u16 = 7815;
    pub(super) const GRPC: u16 = 7816;
    pub(super) const WEBSOCKET: u16 = 7817;
    /// A server of the test's own.
    pub(super) const OWN_1: u16 = 7818;
    pub(super) const OWN_2: u16 = 7819;
}

/// The port of a pod, and what its service says of it. The service has the same number.
const PORTS: &[(u16, &str)] = &[
    (port::PYTHON, "http"),
    (port::NGINX_1, "http"),
    (port::NGINX_2, "kubernetes.io/h2c"),
    (port::ECHO_1, "http"),
    (port::ECHO_2, "kubernetes.io/h2c"),
    (port::GRPC, "grpc"),
    (port::WEBSOCKET, "kubernetes.io/ws"),
    (port::OWN_1, "http"),
    (port::OWN_2, "kubernetes.io/h2c"),
];

/// The servers: one on the other node, one beside the client.
const SERVERS: [&str; 2] = ["far", "near"];

/// `client`, `other` and `near` on one node, `far` on the other.
fn mesh(name: &str) -> MeshBuilder {
    let service = |name: &str| {
        PORTS.iter().fold(
            Service::new(name).selector("app", name),
            |service, (port, protocol)| service.port(*port, *port).app_protocol(protocol),
        )
    };
    near_and_far(name)
        .pod("a", Pod::new("other"))
        .service(service("far"))
        .service(service("near"))
}

/// Runs a check with agents that trust each other.
fn secured(name: &str, check: impl FnOnce(&Mesh, Vec<Agent>) -> Result<()>) {
    Mesh::scenario(mesh(name), |mesh| {
        mesh.secure(&[])?;
        let agents = mesh.start_agents()?;
        check(mesh, agents)
    });
}

/// Runs a check against a server on the other node, then against one on the same node.
fn each(name: &str, check: impl Fn(&Mesh, &str, &[Agent]) -> Result<()>) {
    secured(name, |mesh, agents| {
        for to in SERVERS {
            check(mesh, to, &agents).with_context(|| format!("to {to}"))?;
        }
        Ok(())
    });
}

/// Where a service is.
fn at(mesh: &Mesh, service: &str, port: u16) -> String {
    traffic::at(mesh.service(service).v4(), port)
}

/// A version of HTTP.
enum Version {
    One,
    Two,
}

/// What is spoken on a port.
fn version(port: u16) -> Version {
    match PORTS.iter().find(|(one, _)| *one == port) {
        Some((_, "kubernetes.io/h2c" | "grpc")) => Version::Two,
        _ => Version::One,
    }
}

/// Requests that go on until they are ended, by so many workers at once.
struct Load {
    client: Process,
    stop: PathBuf,
}

impl Load {
    fn start(mesh: &Mesh, to: &str, port: u16, workers: &str) -> Result<Self> {
        let stop = mesh.dir().join(format!("stop-{to}-{port}"));
        let version = match version(port) {
            Version::Two => "http2",
            Version::One => "http1",
        };
        let web = mesh.pod("client").command(programs::web()?);
        let args = ["load", "--to", &at(mesh, to, port), "--version", version];
        let more = ["--workers", workers, "--until", &stop.display().to_string()];
        Ok(Self {
            client: web.args(args).args(more).spawn()?,
            stop,
        })
    }

    /// Lets the last of them end, and returns their report.
    fn end(self) -> Result<Value> {
        fs::write(&self.stop, "")?;
        let report = self.client.wait(SOON * 3)?.ok()?.report()?;
        println!("load: {report}");
        Ok(report)
    }
}

/// Waits until requests get through: agents get their certificates a moment after their start.
fn reached(mesh: &Mesh, to: &str, port: u16) -> Result<()> {
    let url = format!("http://{}/", at(mesh, to, port));
    let version = match version(port) {
        Version::Two => "--http2-prior-knowledge",
        Version::One => "--http1.1",
    };
    let mut last = String::new();
    wait_until(SOON, "a request to get through", || {
        match curl(
            mesh.pod("client"),
            &[version, "-o", "/dev/null", "-w", "%{http_code}", &url],
        ) {
            Ok(output) => last = format!("{output}"),
            Err(error) => last = format!("{error:#}"),
        }
        // What the mesh answers itself is 5xx here.
        ["stdout: 2", "stdout: 4"].iter().any(|good| last.contains(good))
    })
    .with_context(|| format!("{to}: {last}"))
}

fn python_server(mesh: &Mesh, pod: &str) -> Result<Process> {
    let server = traffic::serve_http(mesh.pod(pod), port::PYTHON)?;
    reached(mesh, pod, port::PYTHON)?;
    Ok(server)
}

fn echo(mesh: &Mesh, pod: &str) -> Result<Process> {
    let (first, second) = (port::ECHO_1.to_string(), port::ECHO_2.to_string());
    let args = ["echo", "--http1", &first, "--http2", &second];
    let server = traffic::serve_web(mesh.pod(pod), &args, port::ECHO_2)?;
    reached(mesh, pod, port::ECHO_1)?;
    Ok(server)
}

/// Starts an nginx that answers `/` with a line, and keeps what is PUT.
fn nginx(mesh: &Mesh, pod: &str) -> Result<Process> {
    let dir = mesh.dir().join(format!("nginx-{pod}"));
    std::fs::create_dir_all(dir.join("files"))?;
    let mut listen = String::new();
    for (port, more) in [(port::NGINX_1, ""), (port::NGINX_2, " http2")] {
        writeln!(listen, "listen {port}{more}; listen [::]:{port}{more};")?;
    }
    let at = dir.display();
    let conf = format!(
        "daemon off; user root; pid {at}/pid; error_log stderr; worker_processes 1;\n\
         events {{ worker_connections 4096; }}\n\
         http {{ access_log off; client_body_temp_path {at}/body; proxy_temp_path {at}/proxy; fastcgi_temp_path {at}/f;\n\
         uwsgi_temp_path {at}/u; scgi_temp_path {at}/s; client_max_body_size 0; keepalive_requests 1000;\n\
         server {{ {listen}\n\
         location / {{ add_header X-Version $server_protocol; return 200 \"from {pod}\\n\"; }}\n\
         location /files/ {{ root {at}; dav_methods PUT DELETE; }} }} }}\n"
    );
    let file = mesh.dir().join(format!("nginx-{pod}.conf"));
    std::fs::write(&file, conf)?;
    let file = file.display().to_string();
    let nginx = mesh.pod(pod).spawn("nginx", &["-c", file.as_str()])?;
    reached(mesh, pod, port::NGINX_1)?;
    reached(mesh, pod, port::NGINX_2)?;
    Ok(nginx)
}

/// Runs a Python program in the client's pod, with the service's address and port as arguments; it says what is wrong by
/// failing.
fn python(mesh: &Mesh, to: &str, port: u16, program: &str) -> Result<String> {
    let address = mesh.service(to).v4().to_string();
    let whole = format!("{PRELUDE}\nPORT = {port}\n{program}");
    let command = mesh.pod("client").command("python3");
    let output = command.args(["-c", &whole, &address]).deadline(SOON * 6).run()?;
    Ok(output.ok()?.stdout)
}
