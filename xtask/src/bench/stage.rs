//! What stands between client and server, in a topology that is always the same.
//!
//! Two nodes: `client` and `near` on the first, `web` on the second, and `stranger` and `other` on the first outside of
//! the mesh. Another peer to compare with is another [`Setup`]: [`peers`] starts its programs in the nodes' cgroups, where
//! their CPU time is read, and says where a client dials.

use std::fmt;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Context, Result};
use mesh_tests::traffic::{self, at};
use mesh_tests::{Agent, LivePod, Mesh, Pod, Process, Service, wait_until};
use serde_json::Value;

use super::http::Version;
use super::peers::{self, CALLS, Described, Policy};
use super::scenarios::NoEntrance;

/// Which programs carry the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(super) enum Setup {
    /// None: plain networking.
    Direct,
    /// Agents without an authority: captured, forwarded, in the clear.
    Clear,
    /// Agents with an authority: mTLS between the nodes.
    Mtls,
    /// As `mtls`, and connections between pods of one node go by themselves.
    SameNode,
    /// As `mtls`, with an AuthorizationPolicy for requests.
    Policy,
    /// A pair of Envoys with the same policy; `--peers` asks for it.
    #[value(skip)]
    Envoy,
    /// A pair of nginx; `--peers` asks for it.
    #[value(skip)]
    Nginx,
    /// Other agents, under mTLS: those of `--against`.
    #[value(skip)]
    Against,
    /// A pair that a file describes; `--peer-file` asks for it.
    #[value(skip)]
    Described(&'static Described),
    /// No pods at all: a program measures itself.
    #[value(skip)]
    Alone,
}

/// Pods, and what stands between them.
pub(super) struct Stage {
    setup: Setup,
    /// Dropped before the mesh they run in.
    agents: Vec<Agent>,
    _peers: Vec<Process>,
    mesh: Mesh,
}

/// A peer that `--peers` can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Peer {
    Envoy,
    Nginx,
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
            Self::SameNode => "same-node",
            Self::Policy => "policy",
            Self::Envoy => "envoy",
            Self::Nginx => "nginx",
            Self::Against => "mtls-against",
            Self::Described(described) => &described.name,
            Self::Alone => "alone",
        }
    }

    /// Whether there is somebody whose CPU time counts.
    pub(super) fn stands_between(self) -> bool {
        !matches!(self, Self::Direct | Self::Alone)
    }

    /// Whether others than agents stand there.
    pub(super) fn is_peer(self) -> bool {
        matches!(self, Self::Envoy | Self::Nginx | Self::Described(_))
    }

    /// Whether it denies requests that the policy does not allow.
    pub(super) fn has_policy(self) -> bool {
        match self {
            Self::Policy | Self::Envoy | Self::Nginx => true,
            Self::Described(described) => described.policy == Policy::Enforced,
            _ => false,
        }
    }
}

impl Peer {
    /// What it stands as.
    pub(super) fn setup(self) -> Setup {
        match self {
            Self::Envoy => Setup::Envoy,
            Self::Nginx => Setup::Nginx,
        }
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
            .pod("a", Pod::new("near").label("app", "near"))
            .pod("b", Pod::new("web").label("app", "web"))
            .service(service("near"))
            .service(service("web"))
            .outside("a", "stranger")
            .outside("a", "other")
            .build()?;
        let agents = match setup {
            Setup::Direct | Setup::Alone | Setup::Envoy | Setup::Nginx | Setup::Described(_) => Vec::new(),
            Setup::Clear => mesh.start_agents()?,
            Setup::Mtls | Setup::SameNode | Setup::Policy | Setup::Against => {
                if setup == Setup::Policy {
                    mesh.write_config("policy.yaml", &["near", "web"].map(policy).join("---\n"))?;
                }
                let options: &[&str] = match setup {
                    Setup::SameNode => &["--same-node", "direct"],
                    _ => &[],
                };
                mesh.secure(options)?;
                mesh.start_agents()?
            }
        };
        let peers = peers::start(&mesh, setup)?;
        let stage = Self {
            setup,
            agents,
            _peers: peers,
            mesh,
        };
        // A policy for requests lets nothing else through; what serves HTTP tries it out itself.
        if !setup.has_policy() && !setup.is_peer() {
            stage.try_out()?;
        }
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

    /// What a client asks for a path of the web server in a pod.
    pub(super) fn url(&self, pod: &str, version: Version, path: &str) -> Result<String> {
        Ok(format!("http://{}{path}", self.entrance(pod, version)?))
    }

    /// Where a client reaches the web server in a pod. Agents are asked for its service. [`NoEntrance`] where a peer of
    /// a file leads nowhere.
    pub(super) fn entrance(&self, pod: &str, version: Version) -> Result<String> {
        Ok(match self.setup {
            Setup::Direct | Setup::Alone => self.target(pod, version.app_port()),
            Setup::Clear | Setup::Mtls | Setup::SameNode | Setup::Policy | Setup::Against => {
                at(self.mesh.service(pod).v4(), version.service_port())
            }
            Setup::Envoy | Setup::Nginx => at(Ipv4Addr::LOCALHOST, peers::entrance(pod, version)),
            Setup::Described(described) => {
                let port = described.entrance(pod, version).ok_or_else(|| NoEntrance {
                    peer: &described.name,
                    to: format!("{pod}-{version}"),
                })?;
                at(Ipv4Addr::LOCALHOST, port)
            }
        })
    }

    /// User and system time that the programs between have taken so far.
    pub(super) fn cpu_seconds(&self) -> Result<f64> {
        Ok(self.cpu_by_node()?.iter().sum())
    }

    /// The same for each node: that of the client, then that of `web`.
    pub(super) fn cpu_by_node(&self) -> Result<Vec<f64>> {
        let nodes = self.mesh.nodes().iter();
        nodes.map(|node| cpu_seconds(node.agent_cgroup())).collect()
    }

    /// Resident memory of what stands between, for each node. Pages that several processes share count for each.
    pub(super) fn resident_by_node(&self) -> Result<Vec<f64>> {
        let nodes = self.mesh.nodes().iter();
        nodes.map(|node| resident_bytes(node.agent_cgroup())).collect()
    }

    /// The mean of the nodes.
    pub(super) fn resident_bytes(&self) -> Result<f64> {
        let each = self.resident_by_node()?;
        Ok(each.iter().sum::<f64>() / each.len() as f64)
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

/// A service of the web server in the pod of that name.
fn service(pod: &str) -> Service {
    [Version::Http1, Version::Http2].into_iter().fold(
        Service::new(pod).selector("app", pod),
        |service, version| {
            service
                .port(version.service_port(), version.app_port())
                .app_protocol(version.app_protocol())
        },
    )
}

/// Who may ask the web server in a pod for what.
fn policy(pod: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {pod}, namespace: default}}\n\
         spec:\n  selector: {{matchLabels: {{app: {pod}}}}}\n  action: ALLOW\n  rules:\n  - from:\n    - source: \
         {{principals: [cluster.local/ns/default/sa/client]}}\n    to:\n    - operation: {{methods: [GET, HEAD, POST], \
         paths: [/, /big, {CALLS}*]}}\n"
    )
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

/// Resident memory of everything in a cgroup.
fn resident_bytes(cgroup: &Path) -> Result<f64> {
    let path = cgroup.join("cgroup.procs");
    let pids = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let pids = pids.lines().map(|pid| Ok(pid.parse()?));
    let each = pids.map(|pid: Result<u32>| mesh_tests::resident_bytes(pid?));
    Ok(each.sum::<Result<u64>>()? as f64)
}
