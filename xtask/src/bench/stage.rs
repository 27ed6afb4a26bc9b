//! What stands between client and server, in a topology that is always the same.
//!
//! Two nodes: `client` and `near` on the first, `web` on the second, and `stranger` and `other` on the first outside of
//! the mesh. Another peer to compare with is another [`Setup`]: it starts its programs in the nodes' cgroups, where their CPU
//! time is read, and says in [`Stage::target`] where a client dials.

use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use mesh_tests::traffic::{self, at};
use mesh_tests::{Agent, LivePod, Mesh, Pod, wait_until};
use serde_json::Value;

/// Which programs carry the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(super) enum Setup {
    /// None: plain networking.
    Direct,
    /// Agents without an authority: captured, forwarded, in the clear.
    Clear,
    /// Agents with an authority: mTLS between the nodes.
    Mtls,
    /// Other agents, under mTLS: those of `--against`.
    #[value(skip)]
    Against,
    /// No pods at all: a program measures itself.
    #[value(skip)]
    Alone,
}

/// Pods, and what stands between them.
pub(super) struct Stage {
    setup: Setup,
    /// Dropped before the mesh they run in.
    agents: Vec<Agent>,
    mesh: Mesh,
}

/// Where a stage tries whether its pods reach each other.
const TRIAL_PORT: u16 = 7000;
const SOON: std::time::Duration = std::time::Duration::from_secs(20);

impl Setup {
    /// Its name in tables and in JSON.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Clear => "clear",
            Self::Mtls => "mtls",
            Self::Against => "mtls-against",
            Self::Alone => "alone",
        }
    }

    /// Whether there is somebody whose CPU time counts.
    pub(super) fn stands_between(self) -> bool {
        matches!(self, Self::Clear | Self::Mtls | Self::Against)
    }
}

impl fmt::Display for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Stage {
    /// Makes the pods, starts what stands between, and waits until `client` reaches `web`.
    pub(super) fn build(setup: Setup, agent: &Path) -> Result<Self> {
        let mut mesh = Mesh::builder(&format!("bench-{setup}"))
            .agent(agent)
            .node("a")
            .node("b")
            .pod("a", Pod::new("client"))
            .pod("a", Pod::new("near"))
            .pod("b", Pod::new("web"))
            .outside("a", "stranger")
            .outside("a", "other")
            .build()?;
        let agents = match setup {
            Setup::Direct | Setup::Alone => Vec::new(),
            Setup::Clear => mesh.start_agents()?,
            Setup::Mtls | Setup::Against => {
                mesh.secure(&[])?;
                mesh.start_agents()?
            }
        };
        let stage = Self { setup, agents, mesh };
        stage.try_out()?;
        Ok(stage)
    }

    /// What stands between.
    pub(super) fn setup(&self) -> Setup {
        self.setup
    }

    /// The pods.
    pub(super) fn mesh(&self) -> &Mesh {
        &self.mesh
    }

    /// A pod by name.
    pub(super) fn pod(&self, name: &str) -> &LivePod {
        self.mesh.pod(name)
    }

    /// Its agents, a node each; none when it has none.
    pub(super) fn agents(&self) -> &[Agent] {
        &self.agents
    }

    /// What a client dials to reach this port of a pod.
    pub(super) fn target(&self, pod: &str, port: u16) -> String {
        at(self.pod(pod).v4(), port)
    }

    /// User and system time that the programs between have taken so far.
    pub(super) fn cpu_seconds(&self) -> Result<f64> {
        let nodes = self.mesh.nodes().iter();
        nodes.map(|node| cpu_seconds(node.agent_cgroup())).sum()
    }

    /// Resident memory of one agent: the mean of all.
    pub(super) fn resident_bytes(&self) -> Result<f64> {
        let agents = self.agents.iter().map(Agent::resident_bytes);
        let sum: u64 = agents.sum::<Result<u64>>()?;
        Ok(sum as f64 / self.agents.len().max(1) as f64)
    }

    fn try_out(&self) -> Result<()> {
        let _server = traffic::serve(self.pod("web"), "identity", TRIAL_PORT)?;
        let to = self.target("web", TRIAL_PORT);
        let mut last = Value::Null;
        wait_until(SOON, "the pods to reach each other", || {
            last = traffic::report(self.pod("client"), &["connect", "--to", &to]).unwrap_or_default();
            last["connected"] == true
        })
        .with_context(|| format!("{}: {last}", self.setup))
    }
}

/// User and system time of everything in a cgroup (cgroup-v2, cpu.stat).
pub(super) fn cpu_seconds(cgroup: &Path) -> Result<f64> {
    let path = cgroup.join("cpu.stat");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let micros = |name: &str| -> Result<f64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let number = line.with_context(|| format!("no {name} in {}", path.display()))?;
        Ok(number.trim().parse::<f64>()?)
    };
    Ok((micros("user_usec ")? + micros("system_usec ")?) / 1e6)
}
