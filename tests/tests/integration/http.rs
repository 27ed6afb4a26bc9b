//! Requests on ports that are declared to speak HTTP: real clients and servers, through two nodes and on one.

use anyhow::{Context, Result, ensure};
use mesh_tests::{Agent, LivePod, Mesh, MeshBuilder, Output, Pod, Process, Service, traffic, wait_until};
use serde_json::Value;

use crate::checks::SOON;

/// Where the applications listen.
const APP: u16 = 7801;

/// `client` and `near` on one node, `far` on the other; each service's port 80 is HTTP, its port 81 bytes.
fn http_mesh(name: &str) -> MeshBuilder {
    let service = |name: &str| {
        Service::new(name)
            .selector("app", name)
            .port(80, APP)
            .app_protocol("http")
            .port(81, APP)
    };
    Mesh::builder(name)
        .node("a")
        .node("b")
        .pod("a", Pod::new("client"))
        .pod("a", Pod::new("near").label("app", "near"))
        .pod("b", Pod::new("far").label("app", "far"))
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

/// Starts agents with certificates and both applications, and waits until these can be reached.
fn start(mesh: &mut Mesh) -> Result<(Vec<Agent>, Vec<Process>)> {
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

fn url(mesh: &Mesh, service: &str, path: &str) -> String {
    format!("http://{}{path}", mesh.service(service).v4())
}

fn curl(pod: &LivePod, args: &[&str]) -> Result<Output> {
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
