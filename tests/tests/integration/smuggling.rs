//! Requests that hide in others: the application hears of none that was not judged, whichever way the bytes come.
//!
//! A policy denies `/admin` and the host `secret.example`. `smuggler.py` tries to get there, and reads what the application got
//! byte for byte (`recorder.py`), or what it took for requests (nginx).

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use mesh_tests::{Agent, Mesh, MeshBuilder, Pod, Process, Service, programs, wait_until};

use crate::checks::{SOON, near_and_far, nginx};

/// Where the recorders listen.
const APP: u16 = 7901;
/// Where nginx listens for HTTP/2.
const NGINX: u16 = 7902;

/// `client` and `near` on one node, `far` and `stranger`, outside the mesh, on the other. Port 80 of each service is declared to
/// speak HTTP and port 81 is not; so are 82 and 83, which lead to nginx.
fn smugglers(name: &str) -> MeshBuilder {
    let service = |name: &str| {
        Service::new(name)
            .selector("app", name)
            .port(80, APP)
            .app_protocol("http")
            .port(81, APP)
            .port(82, NGINX)
            .app_protocol("kubernetes.io/h2c")
            .port(83, NGINX)
    };
    let undeclared = |name: &str| {
        Service::new(&format!("plain-{name}"))
            .selector("alone", name)
            .port(81, APP)
            .port(83, NGINX)
    };
    near_and_far(name)
        .pod("a", Pod::new("near-alone").label("alone", "near"))
        .pod("b", Pod::new("far-alone").label("alone", "far"))
        .outside("b", "stranger")
        .service(service("near"))
        .service(service("far"))
        .service(undeclared("near"))
        .service(undeclared("far"))
}

const POLICY: &str = "\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-admin, namespace: default}
spec:
  action: DENY
  rules:
  - to:
    - operation: {paths: [/admin*]}
    - operation: {hosts: [secret.example]}
";

/// One way to an application: who dials, where to, and which pod the application is in.
struct Way {
    from: &'static str,
    to: String,
    port: u16,
    app: &'static str,
}

fn log(mesh: &Mesh, pod: &str, kind: &str) -> PathBuf {
    mesh.dir().join(format!("{kind}-{pod}.log"))
}

/// Starts everything, and waits until all ways are open.
fn start(mesh: &mut Mesh, ways: impl Fn(&Mesh) -> Vec<Way>) -> Result<(Vec<Agent>, Vec<Process>, Vec<Way>)> {
    // Before anything can be asked for: nobody must have heard of it.
    mesh.write_config("zz-policy.yaml", POLICY)?;
    mesh.secure(&[])?;
    let agents = mesh.start_agents()?;
    let mut servers = Vec::new();
    for name in ["near", "far", "near-alone", "far-alone"] {
        let pod = mesh.pod(name);
        let recorder = pod.command("python3").arg(programs::python("recorder.py"));
        let mut recorder = recorder
            .args([APP.to_string(), name.to_owned()])
            .arg(log(mesh, name, "recorder"))
            .spawn()?;
        recorder.wait_line(SOON, |line| line.contains("\"listening\""))?;
        servers.push(recorder);
        let logged = log(mesh, name, "nginx");
        let lines = format!(
            "log_format all '$request_method $request_uri $http_host $http_x_forwarded_client_cert $http_nodemesh_client';\n\
             access_log {} all; underscores_in_headers on; merge_slashes off;",
            logged.display()
        );
        servers.push(nginx::serve(mesh, name, NGINX, &lines)?);
    }
    let ways = ways(mesh);
    for way in &ways {
        for (path, status) in [("/admin", "403"), ("/ok", "200")] {
            let at = format!("http://{}:{}{path}", way.to, way.port);
            let version = match way.port {
                82 | 83 | NGINX => "--http2-prior-knowledge",
                _ => "--http1.1",
            };
            let args = [
                "-sS",
                "-o",
                "/dev/null",
                "-w",
                "%{http_code}",
                version,
                "--max-time",
                "20",
                at.as_str(),
            ];
            let mut last = String::new();
            wait_until(SOON, "certificates on both nodes", || {
                let said = mesh.pod(way.from).run("curl", &args);
                last = said.map_or_else(|error| format!("{error:#}"), |said| format!("{said}"));
                last.contains(status)
            })
            .with_context(|| format!("{} to {at}: {last}", way.from))?;
        }
    }
    Ok((agents, servers, ways))
}

fn smuggle(mesh: &Mesh, kind: &str, way: &Way) -> Result<()> {
    let recorded = match kind {
        "h1" => log(mesh, way.app, "recorder"),
        _ => log(mesh, way.app, "nginx"),
    };
    ensure!(recorded.exists(), "{} was not written", recorded.display());
    mesh.pod(way.from)
        .command("python3")
        .arg(programs::python("smuggler.py"))
        .args([kind, way.to.as_str(), way.port.to_string().as_str()])
        .arg(&recorded)
        .deadline(SOON * 6)
        .run()?
        .ok()
        .with_context(|| format!("from {} to {}:{}", way.from, way.to, way.port))?;
    Ok(())
}

/// Through the engine at the source; as bytes that the destination's agent reads, from another node and from the same; in the clear
/// from outside; and, on both nodes, to a port of which no service says anything but that it is there.
fn ways(mesh: &Mesh, declared: u16, undeclared: u16, port: u16) -> Vec<Way> {
    let mut ways = Vec::new();
    for (name, alone) in [("far", "far-alone"), ("near", "near-alone")] {
        let service = mesh.service(name).v4().to_string();
        let plain = mesh.service(&format!("plain-{name}")).v4().to_string();
        let (pod, bare) = (mesh.pod(name).v4().to_string(), mesh.pod(alone).v4().to_string());
        let mut way = |from, to: String, port, app| ways.push(Way { from, to, port, app });
        way("client", service.clone(), declared, name);
        way("client", service, undeclared, name);
        way("client", plain, undeclared, alone);
        way("client", bare.clone(), port, alone);
        way("stranger", pod, port, name);
        way("stranger", bare, port, alone);
    }
    ways
}

#[test]
fn no_request_hides_in_bytes_of_http_1() {
    Mesh::scenario(smugglers("smuggle-h1"), |mesh| {
        let (_agents, _servers, ways) = start(mesh, |mesh| ways(mesh, 80, 81, APP))?;
        ways.iter().try_for_each(|way| smuggle(mesh, "h1", way))
    });
}

#[test]
fn no_request_hides_in_frames_of_http_2() {
    Mesh::scenario(smugglers("smuggle-h2"), |mesh| {
        let (_agents, _servers, ways) = start(mesh, |mesh| ways(mesh, 82, 83, NGINX))?;
        ways.iter().try_for_each(|way| smuggle(mesh, "h2", way))
    });
}
