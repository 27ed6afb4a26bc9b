//! A mesh to look at: `cargo xtask demo`.
//!
//! Two nodes, four pods with real programs in them, mTLS between the nodes. Traffic goes from `shop` to two versions of nginx on
//! the other node and to redis and a greeter on its own. Then a route sends a part of the requests to the new version, and a
//! policy denies some; the agents tell what they carried, and why they did not. The mesh is made by [`mesh_tests`], of
//! namespaces and cgroups, and is gone at the end unless it is to be kept.
//!
//! Invariant: every program's output is what it really said; nothing is printed that did not happen.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use mesh_tests::traffic::{self, at};
use mesh_tests::{Agent, LivePod, Mesh, Pod, Process, Service, wait_until};
use nix::unistd::Uid;

use crate::compile::Profile;
use crate::repo::Repo;
use crate::{compile, ebpf, setup};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Leave it up, to play with
    #[arg(long)]
    keep: bool,
    /// Remove one that was left up
    #[arg(long, conflicts_with = "keep")]
    down: bool,
}

const NAME: &str = "demo";
const SOON: Duration = Duration::from_secs(20);

/// Runs `cargo xtask demo`.
pub(crate) fn command(repo: &Repo, options: &Options) -> Result<()> {
    if !Uid::effective().is_root() {
        bail!(
            "the demo makes network namespaces and cgroups and loads programs into the kernel: it needs root. Run \
             `sudo -E env PATH=\"$PATH\" cargo xtask demo`"
        );
    }
    let removed = Mesh::take_down(NAME)?;
    if options.down {
        match removed.is_empty() {
            true => println!("No demo is up."),
            false => println!("The demo is removed."),
        }
        return Ok(());
    }
    setup::ensure(repo)?;
    ebpf::build(repo)?;
    let agent = compile::agent(repo, Profile::Debug)?;
    let demo = Demo::start(&agent)?;
    demo.traffic()?;
    demo.canary()?;
    demo.denied()?;
    demo.tables()?;
    demo.next(options.keep, &agent)
}

struct Demo {
    /// Dropped before the mesh they run in.
    agents: Vec<Agent>,
    _programs: Vec<Process>,
    mesh: Mesh,
}

impl Demo {
    fn start(agent: &Path) -> Result<Self> {
        heading("Two nodes, four pods, mTLS between the nodes");
        let mut mesh = Mesh::builder(NAME)
            .agent(agent)
            .node("a")
            .node("b")
            .pod("a", Pod::new("shop"))
            .pod(
                "a",
                Pod::new("store")
                    .label("app", "store")
                    .port("redis", 6379)
                    .port("smtp", 25),
            )
            .pod("b", web("web-v1"))
            .pod("b", web("web-v2"))
            .service(service("web", "app", "web"))
            .service(service("web-v1", "version", "web-v1"))
            .service(service("web-v2", "version", "web-v2"))
            .service(
                Service::new("store")
                    .selector("app", "store")
                    .port(6379, 6379)
                    .port(25, 25),
            )
            .build()?;
        for (pod, runs) in [
            ("shop", "curl, redis-cli"),
            ("store", "redis, an SMTP-like greeter"),
            ("web-v1", "nginx"),
            ("web-v2", "nginx, the new version"),
        ] {
            let pod = mesh.pod(pod);
            println!(
                "  node {}  {:<6}  {:<12}  {:<20}  {runs}",
                pod.node(),
                pod.name(),
                pod.v4(),
                pod.v6()
            );
        }
        // Until there is a route, everybody gets the old version.
        mesh.write_config(ROUTE, &route(100, 0))?;
        mesh.secure(&[])?;
        let agents = mesh.start_agents()?;
        println!("  an agent runs on each node; all four pods are enrolled");
        let programs = vec![
            nginx(&mesh, "web-v1")?,
            nginx(&mesh, "web-v2")?,
            redis(&mesh)?,
            traffic::serve(mesh.pod("store"), "greet", 25)?,
        ];
        Ok(Self {
            agents,
            _programs: programs,
            mesh,
        })
    }

    /// From `shop`, to service addresses of both families, to a pod address, and to a port where nobody listens.
    fn traffic(&self) -> Result<()> {
        heading("Traffic from the pod shop");
        let shop = self.mesh.pod("shop");
        let (web, store) = (self.mesh.service("web"), self.mesh.service("store"));
        let urls = [
            at(web.v4(), 80),
            at(web.v6(), 80),
            at(self.mesh.pod("web-v1").v4(), 8080),
        ]
        .map(|to| format!("http://{to}/"));
        for url in &urls {
            let answer = show(shop, &["curl", "-sS", "--max-time", "10", url])?;
            let own = shop.addresses().map(|own| own.to_string());
            ensure!(
                own.iter().any(|own| answer.contains(own)),
                "nginx did not see the real client: {answer}"
            );
        }
        let cache = store.v4().to_string();
        show(shop, &["redis-cli", "-h", &cache, "set", "colour", "green"])?;
        let colour = show(shop, &["redis-cli", "-h", &cache, "get", "colour"])?;
        ensure!(colour.contains("green"), "redis forgot: {colour}");
        let report = traffic::report(shop, &["banner", "--to", &at(store.v6(), 25), "--count", "1"])?;
        println!(
            "  (a server that speaks first) {}",
            report["banner"].as_str().unwrap_or_default().trim()
        );
        let closed = format!("http://{}/", at(self.mesh.pod("web-v1").v4(), 8081));
        let refused = shop.run("curl", &["-sS", "--max-time", "10", &closed])?;
        println!("  shop$ curl -sS {closed}\n  {}", refused.stderr.trim());
        ensure!(
            !refused.status.success(),
            "nobody listens at {closed}, and yet: {refused}"
        );
        Ok(())
    }

    /// A tenth of the requests goes to the new version, and all of those that ask for it.
    fn canary(&self) -> Result<()> {
        heading(
            "A canary: a tenth of the requests to web-v2, and every request with the header x-group: testers",
        );
        self.mesh.write_config(ROUTE, &route(90, 10))?;
        let shop = self.mesh.pod("shop");
        let url = format!("http://{}/", at(self.mesh.service("web").v4(), 80));
        let asks = |header: &str| {
            shop.run("curl", &["-sS", "--max-time", "10", "-H", header, &url])
                .and_then(|output| output.ok())
        };
        wait_until(SOON, "the route to be in force", || {
            asks("x-group: testers").is_ok_and(|answer| answer.stdout.contains("web-v2"))
        })?;
        show(shop, &["curl", "-sS", "-H", "x-group: testers", &url])?;
        let many = format!("{url}?n=[1-200]");
        let answers = shop
            .run("curl", &["-sS", "--max-time", "60", &many])?
            .ok()?
            .stdout;
        let count = |version: &str| answers.lines().filter(|line| line.starts_with(version)).count();
        let (old, new) = (count("web-v1"), count("web-v2"));
        println!(
            "  shop$ curl -sS '{many}' | cut -d' ' -f1 | sort | uniq -c\n  {old:>7} web-v1\n  {new:>7} web-v2"
        );
        ensure!(old + new == 200, "200 requests, {old} + {new} answers");
        Ok(())
    }

    /// A path that nobody may ask for, and why.
    fn denied(&self) -> Result<()> {
        heading("A policy: nobody may ask web for /admin");
        self.mesh.write_config("policy.yaml", POLICY)?;
        let shop = self.mesh.pod("shop");
        let url = format!("http://{}/admin", at(self.mesh.service("web").v4(), 80));
        let ask = ["-sSi", "--max-time", "10", &url];
        wait_until(SOON, "the policy to be in force", || {
            shop.run("curl", &ask)
                .is_ok_and(|answer| answer.stdout.starts_with("HTTP/1.1 403"))
        })?;
        show(shop, &["curl", "-sSi", "--max-time", "10", &url])?;
        let explain = ["explain", "default/shop", "default/web:80", "--path", "/admin"];
        println!("\n  and the agent of node a: mesh-agent {}", explain.join(" "));
        // It ends with 1, since the request is denied.
        let said = self.agents[0].cli(&explain)?;
        print_indented(&said.stdout);
        ensure!(said.stdout.contains("no-admin"), "not explained: {said}");
        Ok(())
    }

    /// What the agents know of it, by their own CLI.
    fn tables(&self) -> Result<()> {
        let shop = self.mesh.pod("shop");
        let slow = format!("http://{}/slow", at(self.mesh.service("web").v4(), 80));
        let _download = shop.spawn("curl", &["-sS", "--max-time", "60", "-o", "/dev/null", &slow])?;
        wait_until(SOON, "the agents to carry the download", || {
            self.agents
                .iter()
                .all(|agent| agent.connections().is_ok_and(|open| open > 0))
        })?;
        for (agent, node) in self.agents.iter().zip(self.mesh.nodes()) {
            let commands = [
                &["workloads"][..],
                &["certs"],
                &["routes"],
                &["policies"],
                &["connections"],
                &["flows", "--last", "10"],
            ];
            for command in commands {
                heading(&format!("node {}: mesh-agent {}", node.name(), command.join(" ")));
                let output = agent.cli(command)?.ok()?;
                print_indented(&output.stdout);
            }
        }
        Ok(())
    }

    fn next(self, keep: bool, agent: &Path) -> Result<()> {
        heading("What next");
        if !keep {
            println!("  cargo xtask demo --keep   leaves it up, to play with");
            println!("  cargo xtask test          runs every check");
            return Ok(());
        }
        let enter = self.mesh.write_entry_script()?;
        let (enter, agent) = (enter.display(), agent.display());
        let socket = self.mesh.node("a").run_dir().join("agent.sock");
        println!(
            "  Watch the agent of node a:\n    export NODEMESH_SOCKET={}",
            socket.display()
        );
        println!("    {agent} flows -f");
        println!("  Meanwhile, from the pod shop:");
        println!(
            "    {enter} shop curl -s http://{}/",
            at(self.mesh.service("web").v4(), 80)
        );
        println!(
            "    {enter} shop redis-cli -h {} ping",
            self.mesh.service("store").v4()
        );
        println!(
            "  Kill the agent, and see that nothing leaves the pod past it:\n    kill -9 {}",
            self.agents[0].pid()
        );
        println!("  Look at what the kernel holds, with the agent or without it:");
        println!(
            "    {agent} bpf maps --bpffs {}",
            self.mesh.node("a").bpffs().display()
        );
        println!(
            "  Change the mesh by its files: {}",
            self.mesh.node("a").config_dir().display()
        );
        println!("  Remove it all:\n    cargo xtask demo --down");
        self.mesh.keep()
    }
}

const ROUTE: &str = "route.yaml";

const POLICY: &str = "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-admin, namespace: default}
spec:
  selector: {matchLabels: {app: web}}
  action: DENY
  rules:
  - to: [{operation: {paths: [/admin, /admin/*]}}]
";

/// How many of a hundred requests each version gets.
fn route(old: u32, new: u32) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: web, namespace: default}}
spec:
  parentRefs: [{{group: '', kind: Service, name: web, port: 80}}]
  rules:
  - matches: [{{headers: [{{name: x-group, value: testers}}]}}]
    backendRefs: [{{name: web-v2, port: 80}}]
  - backendRefs:
    - {{name: web-v1, port: 80, weight: {old}}}
    - {{name: web-v2, port: 80, weight: {new}}}
"
    )
}

fn web(version: &str) -> Pod {
    Pod::new(version)
        .label("app", "web")
        .label("version", version)
        .port("http", 8080)
        .app_protocol("http")
}

fn service(name: &str, label: &str, value: &str) -> Service {
    Service::new(name)
        .selector(label, value)
        .port(80, 8080)
        .app_protocol("http")
}

/// Serves a greeting that names the client nginx saw, and a download that takes its time.
fn nginx(mesh: &Mesh, pod: &str) -> Result<Process> {
    let dir = mesh.dir().join(pod);
    fs::create_dir_all(dir.join("html")).with_context(|| format!("creating {}", dir.display()))?;
    fs::write(dir.join("html/slow"), vec![b'.'; 1 << 20]).context("writing what nginx serves")?;
    let configuration = format!(
        "daemon off; master_process off; pid nginx.pid; error_log stderr;
events {{}}
http {{
  access_log off;
  client_body_temp_path tmp; proxy_temp_path tmp; fastcgi_temp_path tmp; uwsgi_temp_path tmp; scgi_temp_path tmp;
  server {{
    listen 8080; listen [::]:8080;
    root html;
    location / {{ return 200 \"{pod} greets $remote_addr\\n\"; }}
    location = /slow {{ limit_rate 10k; }}
  }}
}}
"
    );
    let file = dir.join("nginx.conf");
    fs::write(&file, configuration).context("writing nginx's configuration")?;
    let mut server = mesh
        .pod(pod)
        .command("nginx")
        .arg("-p")
        .arg(&dir)
        .arg("-c")
        .arg(&file)
        .spawn()?;
    listens(mesh.pod(pod), &mut server, 8080)?;
    Ok(server)
}

fn redis(mesh: &Mesh) -> Result<Process> {
    let options =
        "--port 6379 --bind * -::* --protected-mode no --save '' --appendonly no --daemonize no --dir";
    let pod = mesh.pod("store");
    let args = options.split(' ').map(|option| option.trim_matches('\''));
    let mut server = pod.command("redis-server").args(args).arg(mesh.dir()).spawn()?;
    listens(pod, &mut server, 6379)?;
    Ok(server)
}

/// Waits until a program listens, by looking at the pod's sockets: a connection would show in the tables.
fn listens(pod: &LivePod, server: &mut Process, port: u16) -> Result<()> {
    let filter = format!("sport = :{port}");
    wait_until(SOON, "a server to listen", || {
        let sockets = pod.run("ss", &["-Hltn", &filter]);
        !server.is_running() || sockets.is_ok_and(|sockets| !sockets.stdout.is_empty())
    })?;
    ensure!(
        server.is_running(),
        "a server ended: {}{}",
        server.stderr(),
        server.stdout()
    );
    Ok(())
}

/// Runs a program in a pod and shows it as a person would have seen it. Returns what it said.
fn show(pod: &LivePod, command: &[&str]) -> Result<String> {
    let output = pod.run(command[0], &command[1..])?.ok()?;
    let words: Vec<_> = command.iter().map(|word| quoted(word)).collect();
    println!("  {}$ {}", pod.name(), words.join(" "));
    print_indented(&output.stdout);
    Ok(output.stdout)
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    match word.contains([' ', '?', '[']) {
        true => format!("'{word}'"),
        false => word.to_owned(),
    }
}

fn print_indented(text: &str) {
    text.trim_end()
        .lines()
        .for_each(|line| println!("  {}", line.trim_end()));
}

fn heading(text: &str) {
    println!("\n{text}");
}
