//! The agent of a node, as a test sees it: a program to start, kill, replace and ask.
//!
//! The binary is `$NODEMESH_AGENT`, else the newest `mesh-agent` in the target directory. It runs in the node's
//! namespace and in the agent's cgroup. Ready means: it answers on its socket by its own pid, and every workload
//! of the node is enrolled.

use std::{
    collections::BTreeSet,
    env,
    ffi::{OsStr, OsString},
    fs,
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{
    Node,
    process::{Output, Process, tail, wait_until},
    programs,
};

const READY: Duration = Duration::from_secs(10);

/// An agent to be started on a node.
#[derive(Debug)]
pub struct AgentStart<'a> {
    node: &'a Node,
    args: Vec<OsString>,
    env: Vec<(&'static str, &'static str)>,
}

/// A running agent. It is killed when dropped.
#[derive(Debug)]
pub struct Agent {
    process: Process,
    client: Client,
}

/// How to ask the agent of a node: what of [`Node`] outlives a borrow of it.
#[derive(Clone, Debug)]
struct Client {
    node: String,
    socket: PathBuf,
    run_dir: PathBuf,
    bpffs: PathBuf,
    binary: PathBuf,
}

impl<'a> AgentStart<'a> {
    pub(crate) fn new(node: &'a Node) -> Self {
        Self {
            node,
            args: node.agent_options().to_vec(),
            env: Vec::new(),
        }
    }

    /// Adds an argument to `mesh-agent run`.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Sets a variable, of which an older agent need not know.
    #[must_use]
    pub fn env(mut self, name: &'static str, value: &'static str) -> Self {
        self.env.push((name, value));
        self
    }

    /// Starts the agent without waiting for anything.
    pub fn spawn(self) -> Result<Agent> {
        let node = self.node;
        let binary = node.agent_binary()?;
        let command = node.command(&binary);
        let command = self
            .env
            .iter()
            .fold(command, |command, (name, value)| command.env(name, value));
        let process = command
            .named(&format!("agent-of-{}", node.name()))
            .args(["run", "--node", node.name(), "--config"])
            .arg(node.config_dir())
            .arg("--pods-cgroup")
            .arg(node.pods_cgroup())
            .arg("--bpffs")
            .arg(node.bpffs())
            .arg("--run-dir")
            .arg(node.run_dir())
            .args(same_node(&self.args))
            .args(self.args)
            .spawn()?;
        let client = Client::of(node, binary);
        Ok(Agent { process, client })
    }

    /// Starts the agent and waits until it is ready.
    pub fn start(self) -> Result<Agent> {
        let node = self.node;
        let mut agent = self.spawn()?;
        agent.wait_ready(node)?;
        Ok(agent)
    }
}

/// How connections on one node go, where the environment says and the test does not: `NODEMESH_SAME_NODE=direct` runs any
/// test with agents that let connections go.
fn same_node(args: &[OsString]) -> Vec<OsString> {
    const OPTION: &str = "--same-node";
    match env::var_os("NODEMESH_SAME_NODE") {
        Some(way) if !args.iter().any(|arg| arg == OPTION) => vec![OPTION.into(), way],
        _ => Vec::new(),
    }
}

impl Agent {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.process.is_running()
    }

    /// Its resident memory in bytes.
    pub fn resident_bytes(&self) -> Result<u64> {
        self.process.resident_bytes()
    }

    /// The most resident memory it ever had, in bytes.
    pub fn peak_bytes(&self) -> Result<u64> {
        self.process.peak_bytes()
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        self.process.stderr() + &self.process.stdout()
    }

    /// What it has written to standard output so far: its access log.
    pub fn access_log(&self) -> String {
        self.process.stdout()
    }

    /// Waits until it answers and every workload of its node is enrolled.
    pub fn wait_ready(&mut self, node: &Node) -> Result<()> {
        let pid = u64::from(self.pid());
        let mut last = String::new();
        let mut ended = false;
        let waited = wait_until(READY, "the agent to be ready", || {
            ended = !self.process.is_running();
            ended
                || match self.client.readiness(pid, node) {
                    Ok(()) => true,
                    Err(error) => {
                        last = format!("{error:#}");
                        false
                    }
                }
        });
        ensure!(
            !ended,
            "the agent of node {} ended:\n{}",
            node.name(),
            tail(&self.log(), 40)
        );
        waited.with_context(|| format!("node {}: {last}\n{}", node.name(), tail(&self.log(), 40)))
    }

    /// Starts another agent on the node that takes over from this one, and waits until it is ready. This one
    /// drains and ends by itself: see [`Agent::wait`].
    pub fn takeover(&self, node: &Node) -> Result<Agent> {
        node.agent().arg("--takeover").start()
    }

    /// Waits until it has ended by itself.
    pub fn wait(self, deadline: Duration) -> Result<Output> {
        self.process.wait(deadline)
    }

    /// Kills it with SIGKILL.
    pub fn kill(self) {
        self.process.kill();
    }

    /// Stops it with SIGTERM and waits until it has ended.
    pub fn terminate(self) -> Result<Output> {
        self.process.terminate(Duration::from_secs(40))
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// Runs a subcommand of the CLI against this agent.
    pub fn cli(&self, args: &[&str]) -> Result<Output> {
        self.client.cli(args)
    }

    /// Runs a subcommand and reads its JSON; `-o json` is added.
    pub fn ask(&self, args: &[&str]) -> Result<Value> {
        self.client.ask(args)
    }

    /// How many entries a pinned map holds.
    pub fn map_entries(&self, name: &str) -> Result<u64> {
        self.client.map_entries(name)
    }

    /// How many connections it has open.
    pub fn connections(&self) -> Result<u64> {
        let answer = self.ask(&["connections"])?;
        answer["total"]
            .as_u64()
            .with_context(|| format!("no total in {answer}"))
    }

    /// How many connections it has accepted since its start.
    pub fn accepted(&self) -> Result<u64> {
        let answer = self.ask(&["status"])?;
        answer["totals"]["accepted"]
            .as_u64()
            .with_context(|| format!("no totals in {answer}"))
    }

    /// The names of the workloads that are enrolled now.
    pub fn enrolled(&self) -> Result<BTreeSet<String>> {
        self.client.enrolled()
    }
}

impl Node {
    /// Runs a subcommand of the CLI for this node, whether or not an agent runs.
    pub fn cli(&self, args: &[&str]) -> Result<Output> {
        Client::of(self, self.agent_binary()?).cli(args)
    }
}

impl Client {
    fn of(node: &Node, binary: PathBuf) -> Self {
        Self {
            node: node.name().to_owned(),
            socket: node.run_dir().join("agent.sock"),
            run_dir: node.run_dir(),
            bpffs: node.bpffs(),
            binary,
        }
    }

    fn cli(&self, args: &[&str]) -> Result<Output> {
        let mut command = std::process::Command::new(&self.binary);
        command.args(args).env("NODEMESH_SOCKET", &self.socket);
        match args.first() {
            Some(&("bpf" | "uninstall" | "check")) => command.arg("--bpffs").arg(&self.bpffs),
            _ => &mut command,
        };
        if let Some("uninstall" | "check" | "drain") = args.first().copied() {
            command.arg("--run-dir").arg(&self.run_dir);
        }
        let output = command
            .output()
            .with_context(|| format!("starting {}", self.binary.display()))?;
        Ok(Output {
            name: format!("mesh-agent {} (node {})", args.join(" "), self.node),
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    fn ask(&self, args: &[&str]) -> Result<Value> {
        self.cli(&[args, &["-o", "json"]].concat())?.ok()?.json()
    }

    fn map_entries(&self, name: &str) -> Result<u64> {
        let answer = self.ask(&["bpf", "maps"])?;
        let maps = answer["maps"]
            .as_array()
            .with_context(|| format!("no maps in {answer}"))?;
        let map = maps
            .iter()
            .find(|map| map["name"] == name)
            .with_context(|| format!("no {name} in {answer}"))?;
        map["entries"]
            .as_u64()
            .with_context(|| format!("no count in {map}"))
    }

    fn readiness(&self, pid: u64, node: &Node) -> Result<()> {
        let status = self.ask(&["status"])?;
        ensure!(status["pid"] == pid, "another agent answers: {status}");
        let enrolled = self.enrolled()?;
        for name in node.expected() {
            ensure!(
                enrolled.contains(name),
                "{name} is not among the enrolled workloads {enrolled:?}"
            );
        }
        Ok(())
    }

    fn enrolled(&self) -> Result<BTreeSet<String>> {
        let answer = self.ask(&["workloads"])?;
        let workloads = answer["workloads"]
            .as_array()
            .with_context(|| format!("no workloads in {answer}"))?;
        Ok(workloads
            .iter()
            .filter(|workload| workload["enrolment"] == "enrolled")
            .filter_map(|workload| Some(workload["key"].as_str()?.rsplit_once('/')?.1.to_owned()))
            .collect())
    }
}

/// The agent's binary.
pub fn agent_binary() -> Result<PathBuf> {
    if let Some(path) = env::var_os("NODEMESH_AGENT") {
        return Ok(path.into());
    }
    let target = programs::target_dir()?;
    let newest = ["release", "debug"]
        .iter()
        .map(|profile| target.join(profile).join("mesh-agent"))
        .filter_map(|path| Some((fs::metadata(&path).ok()?.modified().ok()?, path)))
        .max();
    match newest {
        Some((_, path)) => Ok(path),
        None => bail!(
            "no mesh-agent in {}: build it (cargo xtask build) or set NODEMESH_AGENT",
            target.display()
        ),
    }
}
