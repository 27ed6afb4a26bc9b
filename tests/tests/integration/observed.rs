//! Requests as they are counted, told and balanced, and what becomes of those on their way when something changes.

mod under_way;

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    Agent, LivePod, Mesh, MeshBuilder, Metrics, Output, Pod, Process, Service, programs, traffic, wait_until,
};
use serde_json::Value;

use crate::checks::SOON;

/// Where the applications listen, for HTTP/1.1 and for gRPC.
const APP: u16 = 7901;
const GRPC: u16 = 7902;
const FILE: &str = "zz-policy.yaml";

/// `client` and `near` on one node, `far` on the other; ports 80 speak HTTP, ports 82 gRPC. `both` is near and far.
fn mesh(name: &str) -> MeshBuilder {
    let service = |name: &str, label: &str| {
        Service::new(name)
            .selector(label, name)
            .port(80, APP)
            .app_protocol("http")
            .port(82, GRPC)
            .app_protocol("kubernetes.io/h2c")
    };
    Mesh::builder(name)
        .node("a")
        .node("b")
        .pod("a", Pod::new("client"))
        .pod("a", Pod::new("near").label("app", "near").label("group", "both"))
        .pod("b", Pod::new("far").label("app", "far").label("group", "both"))
        .service(service("near", "app"))
        .service(service("far", "app"))
        .service(service("both", "group"))
        .service(service("nobody", "app"))
}

/// Starts agents with certificates and all applications, and waits until these can be reached.
fn start(mesh: &mut Mesh) -> Result<(Vec<Agent>, Vec<Process>)> {
    mesh.secure(&["--access-log"])?;
    let agents = mesh.start_agents()?;
    let mut servers = Vec::new();
    for name in ["near", "far"] {
        servers.push(traffic::serve_http(mesh.pod(name), APP)?);
        servers.push(traffic::serve_grpc(mesh.pod(name), GRPC)?);
    }
    for to in ["near", "far"] {
        wait_status(mesh, to, "/", "200")?;
    }
    Ok((agents, servers))
}

fn url(mesh: &Mesh, service: &str, port: u16, path: &str) -> String {
    format!("http://{}:{port}{path}", mesh.service(service).v4())
}

fn curl(pod: &LivePod, args: &[&str]) -> Result<Output> {
    let mut all = vec!["-sS", "--noproxy", "*", "--max-time", "20"];
    all.extend(args);
    pod.run("curl", &all)
}

/// The status of an answer.
fn status(mesh: &Mesh, to: &str, path: &str) -> Result<String> {
    let at = url(mesh, to, 80, path);
    let said = curl(
        mesh.pod("client"),
        &["-o", "/dev/null", "-w", "%{http_code}", &at],
    )?
    .ok()?;
    Ok(said.stdout)
}

fn wait_status(mesh: &Mesh, to: &str, path: &str, wanted: &str) -> Result<()> {
    let mut last = String::new();
    wait_until(SOON, "the status of an answer", || {
        last = status(mesh, to, path).unwrap_or_else(|error| format!("{error:#}"));
        last == wanted
    })
    .with_context(|| format!("{to}{path}: {last}, not {wanted}"))
}

/// A call of gRPC, with its message unframed.
fn call<'a>(at: &'a str, message: &'a str) -> Vec<&'a str> {
    vec![
        "-N",
        "-D",
        "-",
        "--http2-prior-knowledge",
        "-H",
        "content-type: application/grpc",
        "-H",
        "te: trailers",
        "--data-binary",
        message,
        at,
    ]
}

/// A policy of the namespace of all pods, in force for the pods of that name.
fn policy(name: &str, action: &str, app: &str, paths: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: default}}\n\
         spec:\n  selector: {{matchLabels: {{app: {app}}}}}\n  action: {action}\n  \
         rules: [{{to: [{{operation: {{paths: [{paths}]}}}}]}}]\n"
    )
}

/// What the agents of both nodes tell.
struct Told {
    a: Metrics,
    b: Metrics,
}

impl Told {
    fn now(mesh: &Mesh) -> Result<Self> {
        Ok(Self {
            a: mesh.node("a").metrics()?,
            b: mesh.node("b").metrics()?,
        })
    }

    /// How much more `self` tells than `before`, by the one who reports of requests to `to`.
    fn more(
        &self,
        before: &Self,
        reporter: &str,
        to: &str,
        name: &str,
        labels: &[(&str, &str)],
    ) -> Result<f64> {
        let mut all = vec![("reporter", reporter)];
        match to {
            "nobody" => all.push(("destination_service_name", to)),
            _ => all.push(("destination_workload", to)),
        }
        all.extend(labels);
        let of = |told: &Self| match (reporter, to) {
            ("destination", "far") => told.b.sum(name, &all),
            _ => told.a.sum(name, &all),
        };
        Ok(of(self)? - of(before)?)
    }
}

#[test]
fn requests_are_counted_once_at_each_end_by_how_they_ended() {
    Mesh::scenario(mesh("seen-counts"), |mesh| {
        let (_agents, _servers) = start(mesh)?;
        for to in ["far", "near"] {
            mesh.write_config(FILE, &policy("no-admin", "DENY", to, "/admin"))?;
            wait_status(mesh, to, "/admin", "403")?;
            let before = Told::now(mesh)?;
            for (path, wanted, count) in [
                ("/status/200", "200", 7),
                ("/status/404", "404", 3),
                ("/admin", "403", 4),
                ("/bytes/100000", "200", 2),
            ] {
                for _ in 0..count {
                    let got = status(mesh, to, path)?;
                    ensure!(got == wanted, "{path}: {got}");
                }
            }
            let client = mesh.pod("client");
            let body = "x".repeat(1000);
            curl(
                client,
                &["-d", &body, "-o", "/dev/null", &url(mesh, to, 80, "/status/200")],
            )?
            .ok()?;
            for (code, count) in [("0", 3), ("5", 2)] {
                for _ in 0..count {
                    let message = format!("status {code}");
                    let at = url(mesh, to, 82, "/shop.Cart/Add");
                    let said = curl(client, &call(&at, &message))?.ok()?.stdout;
                    ensure!(said.contains(&format!("grpc-status: {code}")), "{said}");
                }
            }
            // One that goes before the answer.
            let gone = curl(client, &["--max-time", "1", &url(mesh, to, 80, "/wait/1")])?;
            ensure!(gone.status.code() == Some(28), "{gone}");
            for reporter in ["source", "destination"] {
                let (http, grpc) = (("request_protocol", "http"), ("request_protocol", "grpc"));
                let code = |code| ("response_code", code);
                let grpc_code = |code| ("grpc_response_status", code);
                let flags = |flags| ("response_flags", flags);
                let requests = "istio_requests_total";
                let wanted = [
                    (requests, vec![http], 18.0),
                    (requests, vec![http, code("200"), flags("-")], 10.0),
                    (requests, vec![http, code("404"), flags("-")], 3.0),
                    (requests, vec![http, code("403"), flags("UAEX")], 4.0),
                    (requests, vec![http, code("0"), flags("DC")], 1.0),
                    (requests, vec![grpc], 5.0),
                    (requests, vec![grpc, code("200"), grpc_code("0"), flags("-")], 3.0),
                    (requests, vec![grpc, code("200"), grpc_code("5"), flags("-")], 2.0),
                    ("istio_request_bytes_sum", vec![http], 1000.0),
                    ("istio_request_bytes_sum", vec![grpc], 40.0),
                    ("istio_response_bytes_sum", vec![http, code("200")], 200_000.0),
                    ("istio_response_bytes_sum", vec![grpc], 50.0),
                    ("istio_request_duration_milliseconds_count", vec![http], 18.0),
                    // What is counted as requests is not counted as bytes of TCP.
                    ("istio_tcp_connections_opened_total", vec![], 0.0),
                ];
                for (name, labels, wanted) in wanted {
                    let mut last = 0.0;
                    wait_until(SOON, "what was asked to be told", || {
                        let now =
                            Told::now(mesh).and_then(|now| now.more(&before, reporter, to, name, &labels));
                        last = now.unwrap_or(f64::NAN);
                        last == wanted
                    })
                    .with_context(|| {
                        format!("{reporter} of {to}: {name} {labels:?} is {last}, not {wanted}")
                    })?;
                }
            }
            let now = Told::now(mesh)?;
            let service = ("destination_service_name", to);
            // Two services lead to each workload: the host says which one was meant.
            for reporter in ["source", "destination"] {
                let named = now.more(&before, reporter, to, "istio_requests_total", &[service])?;
                ensure!(named == 23.0, "the service is named at the {reporter}: {named}");
            }
        }
        let before = Told::now(mesh)?;
        for _ in 0..5 {
            ensure!(status(mesh, "nobody", "/")? == "503");
        }
        let labels = [("response_code", "503"), ("response_flags", "UH")];
        let told = Told::now(mesh)?.more(&before, "source", "nobody", "istio_requests_total", &labels)?;
        ensure!(told == 5.0, "{told}");
        let failed = |told: &Told| {
            let labels = [("reason", "no-endpoint"), ("workload", "client")];
            told.a.sum("nodemesh_requests_failed_total", &labels)
        };
        let failed = failed(&Told::now(mesh)?)? - failed(&before)?;
        ensure!(failed == 5.0, "{failed}");
        Ok(())
    });
}

/// The flows of requests that the agent of a node remembers.
fn request_flows(mesh: &Mesh, node: &str) -> Result<Vec<Value>> {
    let flows = mesh
        .node(node)
        .cli(&["flows", "--last", "4096", "-o", "json"])?
        .ok()?;
    let parsed: Result<Vec<Value>, _> = flows.stdout.lines().map(serde_json::from_str).collect();
    let is_request = |flow: &Value| !flow["request"].is_null();
    Ok(parsed?.into_iter().filter(is_request).collect())
}

#[test]
fn a_request_that_is_not_served_is_told_with_its_reason() {
    Mesh::scenario(mesh("seen-flows"), |mesh| {
        let (agents, _servers) = start(mesh)?;
        for (to, node, agent) in [("far", "b", &agents[1]), ("near", "a", &agents[0])] {
            mesh.write_config(FILE, &policy("no-admin", "DENY", to, "/admin*"))?;
            wait_status(mesh, to, "/admin/x", "403")?;
            // What a client chose cannot forge a line, and a query is nobody's business.
            let at = url(mesh, to, 80, "/admin/%0Aerror=\"forged\"?token=secret");
            curl(
                mesh.pod("client"),
                &["-X", "PUT", "-H", "Host: shop.example", &at],
            )?
            .ok()?;
            let mut flows = Vec::new();
            wait_until(SOON, "the flow of a denied request", || {
                flows = request_flows(mesh, node).unwrap_or_default();
                flows.iter().any(|flow| flow["request"]["method"] == "PUT")
            })?;
            let flow = flows.iter().find(|flow| flow["request"]["method"] == "PUT");
            let flow = flow.context("it was there")?;
            let said = "denied by DENY policy default/no-admin, rule 0";
            ensure!(flow["kind"] == "denied" && flow["reason"] == said, "{flow}");
            ensure!(
                flow["verdict"] == said && flow["policy"] == "default/no-admin",
                "{flow}"
            );
            let request = &flow["request"];
            ensure!(
                request["status"] == 403 && request["cause"] == "deny-rule" && request["flags"] == "UAEX",
                "{flow}"
            );
            ensure!(
                request["path"] == "/admin/%0Aerror=%22forged%22" && request["host"] == "shop.example",
                "{flow}"
            );
            ensure!(flow["clientWorkload"] == "default/client", "{flow}");
            ensure!(
                flow["destination"]["workload"] == format!("default/{to}"),
                "{flow}"
            );
            let identity = "ns/default/sa/";
            ensure!(
                flow["peer"].as_str().is_some_and(|peer| peer.contains(identity)),
                "{flow}"
            );
            wait_until(SOON, "the line of the log", || {
                let log = agent.log();
                let mut lines = log.lines();
                lines.any(|line| {
                    line.contains("a request is not served")
                        && line.contains("method=\"PUT\"")
                        && line.contains("policy=default/no-admin")
                        && !line.contains("secret")
                })
            })?;
            mesh.remove_config(FILE)?;
        }
        ensure!(status(mesh, "nobody", "/lost")? == "503");
        let flows = request_flows(mesh, "a")?;
        let lost = flows.iter().find(|flow| flow["request"]["path"] == "/lost");
        let lost = lost.context("no flow of what has no endpoint")?;
        ensure!(
            lost["kind"] == "failed"
                && lost["request"]["cause"] == "no-endpoint"
                && lost["request"]["status"] == 503,
            "{lost}"
        );
        ensure!(lost["destination"]["service"] == "default/nobody", "{lost}");
        let table = mesh.node("a").cli(&["flows", "--kind", "failed"])?.ok()?.stdout;
        ensure!(table.contains("GET /lost 503: service default/nobody"), "{table}");
        // What is served is no flow.
        let served = |flow: &Value| flow["request"]["path"] == "/";
        ensure!(!flows.iter().any(served), "{flows:?}");
        Ok(())
    });
}

#[test]
fn each_request_is_a_line_of_the_access_log_at_both_ends() {
    Mesh::scenario(mesh("seen-access"), |mesh| {
        let (agents, _servers) = start(mesh)?;
        for to in ["far", "near"] {
            let at = url(mesh, to, 80, "/said?token=secret");
            for _ in 0..3 {
                curl(
                    mesh.pod("client"),
                    &["-H", "Host: shop.example", "-d", "hello", &at],
                )?
                .ok()?;
            }
        }
        ensure!(status(mesh, "nobody", "/lost")? == "503");
        let lines = |agent: &Agent| -> Result<Vec<Value>> {
            let lines = agent.access_log();
            ensure!(!lines.contains("secret"), "{lines}");
            lines
                .lines()
                .map(|line| Ok(serde_json::from_str(line)?))
                .collect()
        };
        let served = |direction: &str, to: &str| {
            let (direction, to) = (direction.to_owned(), format!("default/{to}"));
            move |line: &&Value| {
                line["direction"] == direction
                    && line["workload"] == to
                    && line["path"] == "/said"
                    && line["host"] == "shop.example"
                    && line["method"] == "POST"
                    && line["status"] == 200
                    && line["flags"] == "-"
                    && line["clientWorkload"] == "default/client"
                    && line["requestBytes"] == 5
                    && line["responseBytes"].as_u64() > Some(100)
            }
        };
        for (agent, direction, to) in [
            (0, "outbound", "far"),
            (1, "inbound", "far"),
            (0, "local", "near"),
        ] {
            let mut last = Vec::new();
            wait_until(SOON, "three lines", || {
                last = lines(&agents[agent]).unwrap_or_default();
                last.iter().filter(served(direction, to)).count() == 3
            })
            .with_context(|| format!("{direction} to {to}: {last:?}"))?;
        }
        let lost = lines(&agents[0])?;
        let lost = lost
            .iter()
            .find(|line| line["path"] == "/lost")
            .context("no line")?;
        ensure!(
            lost["status"] == 503 && lost["cause"] == "no-endpoint" && lost["service"] == "default/nobody",
            "{lost}"
        );
        Ok(())
    });
}

#[test]
fn a_connection_tells_its_requests_and_their_bytes() {
    Mesh::scenario(mesh("seen-conn"), |mesh| {
        let (_agents, _servers) = start(mesh)?;
        for (to, nodes) in [("far", vec!["a", "b"]), ("near", vec!["a"])] {
            let release = mesh.dir().join(format!("release-{to}"));
            let program = r#"
import http.client, os, sys, time
connection = http.client.HTTPConnection(sys.argv[1], 80, timeout=20)
for _ in range(3):
    connection.request("POST", "/bytes/5000", body=b"x" * 700)
    assert len(connection.getresponse().read()) == 5000
print("asked", flush=True)
while not os.path.exists(sys.argv[2]):
    time.sleep(0.02)
"#;
            let address = mesh.service(to).v4().to_string();
            let until = release.display().to_string();
            let mut holding = mesh
                .pod("client")
                .spawn("python3", &["-c", program, address.as_str(), until.as_str()])?;
            holding.wait_line(SOON, |line| line == "asked")?;
            for node in nodes {
                let listed = mesh.node(node).cli(&["connections", "-o", "json"])?.ok()?;
                let listed: Value = serde_json::from_str(&listed.stdout)?;
                let open = listed["connections"].as_array().into_iter().flatten();
                // Those of the beginning went over the same tunnel.
                let found = open.clone().any(|one| {
                    one["requests"].as_u64() >= Some(3)
                        && one["bytesToUpstream"] == 2100
                        && one["bytesToDownstream"].as_u64() >= Some(15_000)
                });
                ensure!(found, "{to}, seen from {node}: {listed}");
            }
            std::fs::write(&release, "")?;
            holding.wait(SOON)?.ok()?;
        }
        Ok(())
    });
}

#[test]
fn an_endpoint_that_is_20_times_slower_gets_few_requests() {
    Mesh::scenario(mesh("seen-balance"), |mesh| {
        mesh.secure(&[])?;
        let _agents = mesh.start_agents()?;
        let _near = traffic::serve_http_slowly(mesh.pod("near"), APP, "0.005")?;
        let far = traffic::serve_http_slowly(mesh.pod("far"), APP, "0.2")?;
        for to in ["near", "far"] {
            wait_status(mesh, to, "/", "200")?;
        }
        let program = r#"
import collections, http.client, json, sys
seen = collections.Counter()
connection = http.client.HTTPConnection(sys.argv[1], 80, timeout=20)
for _ in range(200):
    connection.request("GET", "/")
    name = json.loads(connection.getresponse().read())["server"]
    seen[name] += 1
print(json.dumps(seen))
"#;
        let address = mesh.service("both").v4().to_string();
        let ask = || {
            mesh.pod("client")
                .run("python3", &["-c", program, &address])?
                .ok()?
                .json()
        };
        let seen = ask()?;
        // One at a time: by the number of requests, as by chance, each gets 100 with a standard deviation of 7. A busy
        // machine makes the fast one look slow for a while. The slow one is asked before anything is known of it.
        let (near, far_seen) = (
            seen["near"].as_u64().unwrap_or(0),
            seen["far"].as_u64().unwrap_or(0),
        );
        ensure!(near + far_seen == 200, "{seen}");
        ensure!((1..60).contains(&far_seen), "{seen}");
        far.kill();
        // One that fails is not taken for a fast one.
        let program = program.replace(
            "    name = json.loads(connection.getresponse().read())[\"server\"]\n",
            "    answer = connection.getresponse()\n    answer.read()\n    name = str(answer.status)\n",
        );
        let failing = mesh
            .pod("client")
            .run("python3", &["-c", &program, &address])?
            .ok()?
            .json()?;
        let served = failing["200"].as_u64().unwrap_or(0);
        ensure!(served > 140, "{failing}");
        Ok(())
    });
}

#[test]
fn heads_that_are_too_large_are_told_as_other_requests_are() {
    Mesh::scenario(mesh("seen-heads"), |mesh| {
        let (agents, _servers) = start(mesh)?;
        let before = Told::now(mesh)?;
        let long = format!("{}/{}", url(mesh, "far", 80, ""), "z".repeat(33_000));
        // Together larger than a head of either version may be, and than what curl sends in one header.
        let mut large: Vec<String> = Vec::new();
        for number in 0..90 {
            large.extend(["-H".to_owned(), format!("x-{number}: {}", "y".repeat(900))]);
        }
        let large: Vec<&str> = large.iter().map(String::as_str).collect();
        let code = ["-o", "/dev/null", "-w", "%{http_code}"];
        let first = url(mesh, "far", 80, "/large");
        for (args, to, wanted) in [(vec![], &long, "414"), (large, &first, "431")] {
            let said = curl(mesh.pod("client"), &[&code[..], &args, &[to.as_str()]].concat())?;
            ensure!(said.stdout == wanted, "{wanted}: {said}");
        }
        // curl does not send so much over HTTP/2.
        let abuse = mesh.pod("client").command("python3");
        let to = traffic::at(mesh.service("far").v4(), 82);
        let abuse = abuse
            .arg(programs::python("http2_abuse.py"))
            .args([to.as_str(), "large-heads"]);
        let report = abuse.deadline(SOON * 3).run()?.ok()?.report()?;
        ensure!(report["statuses"]["431"] == 1, "{report}");
        for (status, cause, count) in [(414, "target-too-long", 1), (431, "head-too-large", 2)] {
            let mut flows = Vec::new();
            wait_until(SOON, "flows", || {
                flows = request_flows(mesh, "a").unwrap_or_default();
                let told =
                    |flow: &&Value| flow["request"]["status"] == status && flow["request"]["cause"] == cause;
                flows.iter().filter(told).count() == count
            })
            .with_context(|| format!("{status}: {flows:?}"))?;
            let lines = agents[0].access_log();
            let lines = lines
                .lines()
                .filter(|line| line.contains(&format!("\"status\":{status}")));
            ensure!(lines.count() == count, "{status}: {}", agents[0].access_log());
            let now = Told::now(mesh)?;
            let labels = [("reason", cause), ("workload", "client")];
            let failed = now.a.sum("nodemesh_requests_failed_total", &labels)?;
            ensure!(failed == count as f64, "{cause}: {failed}");
            let code = status.to_string();
            let labels = [("reporter", "source"), ("response_code", code.as_str())];
            let counted = |told: &Told| told.a.sum("istio_requests_total", &labels);
            let counted = counted(&now)? - counted(&before)?;
            ensure!(counted == count as f64, "{status}: {counted}");
        }
        Ok(())
    });
}
