//! A mesh to look at: `cargo xtask demo`.
//!
//! Two nodes, three pods with real programs in them. Traffic goes from `shop` to nginx on the other node and to
//! redis and a greeter on its own; the agents then tell what they carried. The mesh is made by
//! [`mesh_tests`], of namespaces and cgroups, and is gone at the end unless it is to be kept.
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
        heading("Two nodes, three pods");
        let mesh = Mesh::builder(NAME)
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
            .pod(
                "b",
                Pod::new("web")
                    .label("app", "web")
                    .port("http", 8080)
                    .app_protocol("http"),
            )
            .service(Service::new("web").selector("app", "web").port(80, 8080))
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
            ("web", "nginx"),
        ] {
            let pod = mesh.pod(pod);
            println!(
                "  node {}  {:<5}  {:<12}  {:<20}  {runs}",
                pod.node(),
                pod.name(),
                pod.v4(),
                pod.v6()
            );
        }
        let agents = mesh.start_agents()?;
        println!("  an agent runs on each node; all three pods are enrolled");
        let programs = vec![
            nginx(&mesh)?,
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
            at(self.mesh.pod("web").v4(), 8080),
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
        let closed = format!("http://{}/", at(self.mesh.pod("web").v4(), 8081));
        let refused = shop.run("curl", &["-sS", "--max-time", "10", &closed])?;
        println!("  shop$ curl -sS {closed}\n  {}", refused.stderr.trim());
        ensure!(
            !refused.status.success(),
            "nobody listens at {closed}, and yet: {refused}"
        );
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
            for command in [&["workloads"][..], &["connections"], &["flows", "--last", "10"]] {
                heading(&format!("node {}: mesh-agent {}", node.name(), command.join(" ")));
                let output = agent.cli(command)?.ok()?;
                output.stdout.lines().for_each(|line| println!("  {line}"));
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

/// Serves a greeting that names the client nginx saw, and a download that takes its time.
fn nginx(mesh: &Mesh) -> Result<Process> {
    let dir = mesh.dir().join("nginx");
    fs::create_dir_all(dir.join("html")).with_context(|| format!("creating {}", dir.display()))?;
    fs::write(dir.join("html/slow"), vec![b'.'; 1 << 20]).context("writing what nginx serves")?;
    let configuration = "daemon off; master_process off; pid nginx.pid; error_log stderr;\n\
                         events {}\n\
                         http {\n\
                           access_log off;\n\
                           client_body_temp_path tmp; proxy_temp_path tmp; fastcgi_temp_path tmp;\n\
                           uwsgi_temp_path tmp; scgi_temp_path tmp;\n\
                           server {\n\
                             listen 8080; listen [::]:8080;\n\
                             root html;\n\
                             location = / { return 200 \"nginx greets $remote_addr\\n\"; }\n\
                             location = /slow { limit_rate 10k; }\n\
                           }\n\
                         }\n";
    let file = dir.join("nginx.conf");
    fs::write(&file, configuration).context("writing nginx's configuration")?;
    let mut server = mesh
        .pod("web")
        .command("nginx")
        .arg("-p")
        .arg(&dir)
        .arg("-c")
        .arg(&file)
        .spawn()?;
    listens(mesh.pod("web"), &mut server, 8080)?;
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
    println!(
        "  {}$ {}\n  {}",
        pod.name(),
        command.join(" "),
        output.stdout.trim()
    );
    Ok(output.stdout)
}

fn heading(text: &str) {
    println!("\n{text}");
}
