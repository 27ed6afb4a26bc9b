//! One workload wants more than its share: it is told so, by name, and its neighbours notice nothing.
//!
//! `rogue` and `friend` are on one node, `web` on the other. Beyond each limit `rogue` is shed in the language that it
//! speaks, `friend` is served meanwhile, and nothing stays taken when it is over.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    Agent, Held, Mesh, MeshBuilder, Node, Pod, Process, Service,
    traffic::{self, at},
    wait_until,
};
use serde_json::Value;

use crate::checks::{SOON, churn, failing};

const ECHO: u16 = 7101;
const IDENTITY: u16 = 7102;
const APP: u16 = 7103;
const BULK: u16 = 7104;

/// What the rogue may have, where something is limited.
const LIMIT: usize = 20;

fn neighbours(name: &str) -> MeshBuilder {
    Mesh::builder(name)
        .node("a")
        .node("b")
        .pod("a", Pod::new("rogue"))
        .pod("a", Pod::new("friend"))
        .pod("b", Pod::new("web").label("app", "web"))
        .service(
            Service::new("web")
                .selector("app", "web")
                .port(80, APP)
                .app_protocol("http"),
        )
}

/// Starts the agents of `a` and `b` with an option each.
fn start(mesh: &Mesh, a: &[&str], b: &[&str]) -> Result<[Agent; 2]> {
    let start = |node: &str, options: &[&str]| {
        let agent = mesh.node(node).agent();
        options
            .iter()
            .fold(agent, |agent, option| agent.arg(option))
            .start()
    };
    Ok([start("a", a)?, start("b", b)?])
}

/// Waits until the friend reaches `web`: the agents have their certificates.
fn reached(mesh: &Mesh) -> Result<()> {
    let to = at(mesh.pod("web").v4(), IDENTITY);
    wait_until(SOON, "the friend to be served", || {
        failing::connect(mesh.pod("friend"), &to).is_ok_and(|report| report["connected"] == true)
    })
}

/// Starts what connections are made to in `web`, and waits until the friend reaches it.
fn serve(mesh: &Mesh) -> Result<[Process; 2]> {
    let web = mesh.pod("web");
    let servers = [
        traffic::serve(web, "echo", ECHO)?,
        traffic::serve(web, "identity", IDENTITY)?,
    ];
    reached(mesh)?;
    Ok(servers)
}

/// Short connections of the friend, each of which must be good.
fn friend_is_served(mesh: &Mesh) -> Result<()> {
    churn::good(mesh, "friend", &at(mesh.pod("web").v4(), IDENTITY), "web", 20)
}

/// How often an agent says that a workload wanted more of something.
fn limited(agent: &Agent, workload: &str, resource: &str) -> Result<u64> {
    let said = agent.ask(&["workloads", workload])?;
    let of = said["workloads"][0]["limited"].as_array().context("limited")?;
    let one = of.iter().find(|one| one["resource"] == resource);
    Ok(one.and_then(|one| one["times"].as_u64()).unwrap_or(0))
}

/// The agent names the rogue in the mark, the metric and the log, and nobody else.
fn named(agent: &Agent, node: &Node, resource: &str) -> Result<()> {
    let times = limited(agent, "default/rogue", resource)?;
    ensure!(times > 0, "the rogue is not marked");
    for innocent in ["default/friend", "default/web"] {
        ensure!(limited(agent, innocent, resource)? == 0, "{innocent} is marked");
    }
    let table = agent.cli(&["workloads"])?.ok()?.stdout;
    ensure!(table.contains(&format!("{resource}*")), "{table}");
    let labels = [("workload", "rogue"), ("resource", resource)];
    let told = node.metrics()?.sum("nodemesh_workload_limited_total", &labels)?;
    ensure!(told >= times as f64, "{told} in the metric, {times} before");
    let log = agent.log();
    let line = log
        .lines()
        .find(|line| line.contains("more than its share") && line.contains(resource))
        .with_context(|| format!("no line in the log:\n{log}"))?;
    ensure!(line.contains("default/rogue"), "{line}");
    Ok(())
}

/// Nothing is open at the agents, so no place is taken.
fn all_is_over(agents: &[Agent]) -> Result<()> {
    for agent in agents {
        let mut last = Value::Null;
        wait_until(SOON * 2, "connections and requests to end", || {
            last = agent.ask(&["workloads"]).unwrap_or_default();
            let workloads = last["workloads"].as_array();
            let none = |workload: &Value| {
                ["requests", "heldBytes", "connectionsOut", "connectionsIn"]
                    .iter()
                    .all(|what| workload[what] == 0)
            };
            workloads.is_some_and(|workloads| workloads.iter().all(none))
        })
        .with_context(|| format!("{last}"))?;
    }
    Ok(())
}

/// The rogue wants so many connections at once, and is told so by the agent of this node; `is_right` says whether the right
/// number stands. Twice, since what it had comes back, after which it is served as anybody.
fn want_too_many(
    mesh: &Mesh,
    count: usize,
    (agent, node): (&Agent, &str),
    is_right: impl Fn(&Held) -> bool,
    carried_by: &[Agent],
) -> Result<()> {
    let to = [at(mesh.pod("web").v4(), ECHO)];
    for _ in 0..2 {
        let held = Held::try_open(mesh, "rogue", &to, count)?;
        ensure!(is_right(&held), "{} stand, {}", held.standing(), held.errors());
        friend_is_served(mesh)?;
        named(agent, mesh.node(node), "connections")?;
        held.release()?;
        all_is_over(carried_by)?;
    }
    churn::good(mesh, "rogue", &at(mesh.pod("web").v4(), IDENTITY), "web", 20)
}

/// Beyond its limit at the source, connections of the rogue are refused.
fn connections_at_the_source(mesh: &Mesh) -> Result<()> {
    let limit = LIMIT.to_string();
    let agents = start(mesh, &["--connection-limit", &limit], &[])?;
    let _servers = serve(mesh)?;
    let is_right = |held: &Held| held.standing() == LIMIT as u64 && held.errors()["ECONNREFUSED"] == LIMIT;
    want_too_many(mesh, 2 * LIMIT, (&agents[0], "a"), is_right, &agents[..1])?;
    let refused = [("workload", "rogue"), ("reason", "connection-limit")];
    let refused = mesh
        .node("a")
        .metrics()?
        .sum("nodemesh_connections_refused_total", &refused)?;
    ensure!(refused == 2.0 * LIMIT as f64, "{refused}");
    Ok(())
}

#[test]
fn connections_beyond_the_limit_are_refused() {
    Mesh::scenario(neighbours("fair-connections"), |mesh| {
        connections_at_the_source(mesh)
    });
}

#[test]
fn connections_beyond_the_limit_are_refused_under_mtls() {
    Mesh::scenario(neighbours("fair-mtls"), |mesh| {
        mesh.secure(&[])?;
        connections_at_the_source(mesh)
    });
}

/// At the destination one client has half of the places, and the other is left to the friend.
fn connections_at_the_destination(mesh: &Mesh) -> Result<()> {
    let limit = (2 * LIMIT).to_string();
    let agents = start(mesh, &[], &["--connection-limit", &limit])?;
    let _servers = serve(mesh)?;
    // Under mTLS its tunnels are among them.
    let is_right = |held: &Held| (LIMIT as u64 - 4..=LIMIT as u64).contains(&held.standing());
    want_too_many(mesh, 3 * LIMIT, (&agents[1], "b"), is_right, &agents)
}

#[test]
fn one_client_does_not_take_all_places_of_a_server() {
    Mesh::scenario(neighbours("fair-guest"), |mesh| {
        connections_at_the_destination(mesh)
    });
}

#[test]
fn one_client_does_not_take_all_places_of_a_server_under_mtls() {
    Mesh::scenario(neighbours("fair-guest-mtls"), |mesh| {
        mesh.secure(&[])?;
        connections_at_the_destination(mesh)
    });
}

/// Sends so many requests at once, and says how many were answered how: status and what the mesh says.
fn ask_at_once(mesh: &Mesh, from: &str, count: usize) -> Result<BTreeMap<String, usize>> {
    const ASK: &str = "import http.client, json, sys, threading\n\
        host, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])\n\
        answers = {}\n\
        def ask():\n\
        \x20 c = http.client.HTTPConnection(host, port, timeout=60)\n\
        \x20 c.request('GET', '/')\n\
        \x20 r = c.getresponse(); r.read()\n\
        \x20 error = r.getheader('nodemesh-error', '').split('; node=')[0]\n\
        \x20 key = f'{r.status} {error}'.strip()\n\
        \x20 answers[key] = answers.get(key, 0) + 1\n\
        threads = [threading.Thread(target=ask) for _ in range(count)]\n\
        [t.start() for t in threads]; [t.join() for t in threads]\n\
        print(json.dumps(answers))\n";
    let (host, count) = (mesh.service("web").v4().to_string(), count.to_string());
    let asking = mesh
        .pod(from)
        .command("python3")
        .args(["-c", ASK, &host, "80", &count]);
    let said = asking.deadline(SOON * 3).run()?.ok()?;
    serde_json::from_str(said.stdout.trim()).with_context(|| said.stdout)
}

/// What gRPC is answered, as `curl` shows it.
fn call(mesh: &Mesh) -> Result<String> {
    let url = format!("http://{}:80/shop.Web/Get", mesh.service("web").v4());
    let args = [
        "-sS",
        "-i",
        "--noproxy",
        "*",
        "--max-time",
        "30",
        "--http2-prior-knowledge",
        "-H",
        "content-type: application/grpc",
        "-d",
        "",
        &url,
    ];
    Ok(mesh.pod("rogue").run("curl", &args)?.ok()?.stdout)
}

#[test]
fn requests_beyond_the_limit_are_answered_by_the_mesh() {
    Mesh::scenario(neighbours("fair-requests"), |mesh| {
        mesh.secure(&[])?;
        let limit = LIMIT.to_string();
        let agents = start(mesh, &["--request-limit", &limit], &[])?;
        let web = mesh.pod("web");
        let _servers = [
            traffic::serve_http_slowly(web, APP, "3")?,
            traffic::serve(web, "identity", IDENTITY)?,
        ];
        reached(mesh)?;
        wait_until(SOON, "requests to be served", || {
            ask_at_once(mesh, "friend", 1).is_ok_and(|answers| answers.contains_key("200"))
        })?;
        let shed = "503 side=source; cause=request-limit";
        for _ in 0..2 {
            let mut answers = BTreeMap::new();
            let (mut friend, mut grpc) = (BTreeMap::new(), String::new());
            std::thread::scope(|scope| -> Result<()> {
                let rogue = scope.spawn(|| ask_at_once(mesh, "rogue", 2 * LIMIT));
                wait_until(SOON, "the rogue to be at its limit", || {
                    agents[0]
                        .ask(&["workloads", "default/rogue"])
                        .is_ok_and(|said| said["workloads"][0]["requests"] == LIMIT)
                })?;
                grpc = call(mesh)?;
                friend = ask_at_once(mesh, "friend", LIMIT / 2)?;
                answers = rogue
                    .join()
                    .map_err(|_| anyhow::anyhow!("the rogue panicked"))??;
                Ok(())
            })?;
            let expected = BTreeMap::from([("200".to_owned(), LIMIT), (shed.to_owned(), LIMIT)]);
            ensure!(answers == expected, "{answers:?}");
            ensure!(grpc.contains("grpc-status: 14"), "{grpc}");
            ensure!(grpc.contains("cause=request-limit"), "{grpc}");
            let served = BTreeMap::from([("200".to_owned(), LIMIT / 2)]);
            ensure!(friend == served, "the friend: {friend:?}");
            named(&agents[0], mesh.node("a"), "requests")?;
            wait_until(SOON, "the rogue's places to come back", || {
                agents[0]
                    .ask(&["workloads", "default/rogue"])
                    .is_ok_and(|said| said["workloads"][0]["requests"] == 0)
            })?;
        }
        let failed = [("workload", "rogue"), ("reason", "request-limit")];
        let failed = mesh
            .node("a")
            .metrics()?
            .sum("nodemesh_requests_failed_total", &failed)?;
        ensure!(failed == 2.0 * (LIMIT as f64 + 1.0), "{failed}");
        let answers = ask_at_once(mesh, "rogue", LIMIT)?;
        ensure!(
            answers == BTreeMap::from([("200".to_owned(), LIMIT)]),
            "{answers:?}"
        );
        Ok(())
    });
}

#[test]
fn who_makes_the_agent_hold_too_much_is_named() {
    Mesh::scenario(neighbours("fair-bytes"), |mesh| {
        const STOPPED: usize = 48;
        let agents = start(mesh, &["--buffer-limit", "4MiB"], &[])?;
        let _servers = serve(mesh)?;
        let to = at(mesh.pod("web").v4(), ECHO);
        let flood = ["flood", "--to", &to, "--hold-ms", "120000"];
        let mut clients: Vec<Process> = (0..STOPPED)
            .map(|_| traffic::start(mesh.pod("rogue"), &flood))
            .collect::<Result<_>>()?;
        for client in &mut clients {
            client.wait_line(SOON * 3, |line| line.contains("stalled"))?;
        }
        friend_is_served(mesh)?;
        named(&agents[0], mesh.node("a"), "bytes")?;
        clients.into_iter().for_each(Process::kill);
        all_is_over(&agents)
    });
}

#[test]
fn who_takes_most_of_a_worker_is_named() {
    Mesh::scenario(neighbours("fair-time"), |mesh| {
        let agents = start(mesh, &["--workers", "1"], &["--workers", "1"])?;
        let web = mesh.pod("web");
        let _sink = traffic::serve(web, "sink", BULK)?;
        let _servers = serve(mesh)?;
        let (bulk, echo) = (at(web.v4(), BULK), at(web.v4(), ECHO));
        let most = (1_u64 << 40).to_string();
        let load = ["flood", "--to", &bulk, "--most", &most, "--stall-ms", "60000"];
        let ping = ["ping", "--to", &echo, "--count", "1000"];
        let load: Vec<Process> = (0..8)
            .map(|_| traffic::start(mesh.pod("rogue"), &load))
            .collect::<Result<_>>()?;
        wait_until(SOON * 2, "the rogue to be marked", || {
            traffic::report(mesh.pod("friend"), &ping).is_ok_and(|report| report["times"]["count"] == 1000)
                && limited(&agents[0], "default/rogue", "worker-time").is_ok_and(|times| times > 0)
        })?;
        named(&agents[0], mesh.node("a"), "worker-time")?;
        let time = |workload| -> Result<f64> {
            let labels = [("workload", workload)];
            mesh.node("a")
                .metrics()?
                .sum("nodemesh_workload_worker_seconds_total", &labels)
        };
        ensure!(time("rogue")? > time("friend")?, "the friend took more time");
        load.into_iter().for_each(Process::kill);
        all_is_over(&agents)
    });
}
