//! What a large mesh costs an agent: its start, its memory, and one endpoint that changes.
//!
//! Each measurement starts an agent of its own, on a node with one pod, whose directory already holds the mesh: a service
//! for each dozen of workloads of other nodes, and a policy for each five. Then one workload's address changes, again and again; the
//! change counts as seen when `explain` names the new address. CPU is that of the agent's cgroup. What it takes when nothing changes is
//! measured first, over as long as it takes to contain a look at everything that is in the directory; a change costs what
//! the agent takes more than in most moments in which nothing happens. Of all changes the median counts.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mesh_tests::{Agent, Mesh, Node, Pod, Process, wait_until};

use super::{Body, Measure, Rounds, Scenario};
use crate::bench::sample::Sample;
use crate::bench::stage::{Setup, Stage, cpu_seconds};

pub(super) const SMALL: Scenario = Scenario {
    name: "mesh-10",
    about: "start, memory and one endpoint's change with 10 workloads in the model, a file each",
    rounds: Rounds::Once,
    body: body(|stage, _| measure(stage, Size(10), Layout::FileEach)),
};

pub(super) const MIDDLE: Scenario = Scenario {
    name: "mesh-1000",
    about: "start, memory and one endpoint's change with 1,000 workloads in the model, a file each",
    rounds: Rounds::Once,
    body: body(|stage, _| measure(stage, Size(1000), Layout::FileEach)),
};

pub(super) const LARGE: Scenario = Scenario {
    name: "mesh-24000",
    about: "the same with 24,000 workloads, 2,000 services and 5,000 policies, a file each",
    rounds: Rounds::Once,
    body: body(|stage, _| measure(stage, Size(24_000), Layout::FileEach)),
};

pub(super) const LARGE_FILE: Scenario = Scenario {
    name: "mesh-24000-one-file",
    about: "the same with 24,000 workloads, 2,000 services and 5,000 policies, all in one file",
    rounds: Rounds::Once,
    body: body(|stage, _| measure(stage, Size(24_000), Layout::OneFile)),
};

/// The stage only says which agent is measured.
const fn body(measure: Measure) -> Body {
    Body::Between {
        setups: &[Setup::Clear],
        prepare: |_, _| Ok(Vec::<Process>::new()),
        measure,
    }
}

/// How many workloads there are; the rest follows.
#[derive(Clone, Copy)]
struct Size(usize);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Layout {
    FileEach,
    OneFile,
}

/// How many changes there are, one after the other.
const CHANGES: usize = 40;
/// How long the agent is left alone after each change before it is asked.
const PAUSE: Duration = Duration::from_millis(400);
/// How long after the start the agent has settled.
const REST: Duration = Duration::from_secs(12);
/// An agent looks at everything at least once in this time.
const IDLE: Duration = Duration::from_secs(65);
const SOON: Duration = Duration::from_secs(300);
const MIB: f64 = 1024.0 * 1024.0;

fn measure(stage: &Stage, size: Size, layout: Layout) -> Result<Sample> {
    let mesh = Mesh::builder("bench-scale")
        .agent(&stage.mesh().nodes()[0].agent_binary()?)
        .node("only")
        .pod("only", Pod::new("pod"))
        .build()?;
    let node = mesh.node("only");
    let empty = start(node, 1)?;
    let without = empty.agent.resident_bytes()? as f64;
    empty.agent.terminate()?.ok()?;

    size.write(node, layout, 0)?;
    let Started { agent, seconds, cpu } = start(node, size.0 + 1)?;
    size.ensure_known(&agent)?;
    let with = agent.resident_bytes()? as f64;

    // What was written just before the start is read once more.
    sleep(REST);
    let (mut idle, mut quiet) = (Span::default(), Vec::new());
    while idle.seconds < IDLE.as_secs_f64() {
        let span = Span::of(node, || {
            sleep(PAUSE);
            Ok(())
        })?;
        idle.cpu += span.cpu;
        idle.seconds += span.seconds;
        quiet.push(span.cpu / span.seconds);
    }
    let quiet = median(quiet);

    let mut changes = Vec::new();
    for version in 1..=CHANGES {
        let span = Span::of(node, || {
            size.change(node, layout, version)?;
            sleep(PAUSE);
            let address = address(0, version);
            wait_until(SOON, "the change to be seen", || {
                let said = agent.cli(&["explain", "default/pod", "team-0/app-0:80"]);
                said.is_ok_and(|said| said.stdout.contains(&address))
            })
        })?;
        changes.push(span.cpu - quiet * span.seconds);
    }
    let after = agent.resident_bytes()? as f64;
    agent.terminate()?.ok()?;
    Ok(Sample::default()
        .with("start until all is known", "s", seconds)
        .with("CPU of the start", "s", cpu)
        .with("resident without the mesh", "MiB", without / MIB)
        .with("resident with it", "MiB", with / MIB)
        .with("resident after the changes", "MiB", after / MIB)
        .with(
            "a workload and its share",
            "bytes",
            (after - without) / size.0 as f64,
        )
        .with(
            "CPU while nothing changes",
            "ms per s",
            idle.cpu / idle.seconds * 1e3,
        )
        .with("CPU of one endpoint's change", "ms", median(changes) * 1e3))
}

/// What the agent took, and how long it had for it.
#[derive(Default)]
struct Span {
    cpu: f64,
    seconds: f64,
}

impl Span {
    fn of(node: &Node, what: impl FnOnce() -> Result<()>) -> Result<Self> {
        let (before, began) = (cpu_seconds(node.agent_cgroup())?, Instant::now());
        what()?;
        Ok(Self {
            cpu: cpu_seconds(node.agent_cgroup())? - before,
            seconds: began.elapsed().as_secs_f64(),
        })
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// An agent that knows everything, and what that took.
struct Started {
    agent: Agent,
    seconds: f64,
    cpu: f64,
}

fn start(node: &Node, workloads: usize) -> Result<Started> {
    let (before, began) = (cpu_seconds(node.agent_cgroup())?, Instant::now());
    let mut agent = node.agent().spawn()?;
    wait_until(SOON, "the agent to know its mesh", || {
        let Ok(status) = agent.ask(&["status"]) else {
            return !agent.is_running();
        };
        let counts = &status["counts"];
        counts["workloads"] == workloads && counts["workloadsEnrolled"] == 1
    })?;
    ensure!(agent.is_running(), "the agent ended: {}", agent.log());
    let status = agent.ask(&["status"])?;
    let rejected = status["rejected"].as_array().map_or(0, Vec::len);
    ensure!(rejected == 0, "objects were rejected: {status}");
    Ok(Started {
        agent,
        seconds: began.elapsed().as_secs_f64(),
        cpu: cpu_seconds(node.agent_cgroup())? - before,
    })
}

impl Size {
    fn services(self) -> usize {
        self.0.div_ceil(12)
    }

    fn policies(self) -> usize {
        self.0 * 5 / 24
    }

    /// What is in the agent's model besides the workloads.
    fn ensure_known(self, agent: &Agent) -> Result<()> {
        let status = agent.ask(&["status"])?;
        ensure!(status["counts"]["services"] == self.services(), "{status}");
        let policies = agent.ask(&["policies"])?;
        let known = policies["policies"].as_array().map_or(0, Vec::len);
        ensure!(
            known == self.policies(),
            "the agent knows {known} policies, not {}",
            self.policies()
        );
        Ok(())
    }

    /// All documents, each with its file's name. The first is the workload that changes.
    fn documents(self, version: usize) -> impl Iterator<Item = (String, String)> {
        let workloads = (0..self.0).map(move |number| self.workload(number, version));
        let services = (0..self.services()).map(service);
        let policies = (0..self.policies()).map(move |number| self.policy(number));
        workloads.chain(services).chain(policies)
    }

    fn write(self, node: &Node, layout: Layout, version: usize) -> Result<()> {
        match layout {
            Layout::FileEach => self
                .documents(version)
                .try_for_each(|(name, text)| node.write_config(&name, &text)),
            Layout::OneFile => {
                let all: Vec<_> = self.documents(version).map(|(_, text)| text).collect();
                node.write_config("all.yaml", &all.join("---\n"))
            }
        }
    }

    /// Gives the first workload its address of this version.
    fn change(self, node: &Node, layout: Layout, version: usize) -> Result<()> {
        match layout {
            Layout::FileEach => {
                let (name, text) = self.documents(version).next().context("no workload")?;
                node.write_config(&name, &text)
            }
            Layout::OneFile => self.write(node, layout, version),
        }
    }

    fn workload(self, number: usize, version: usize) -> (String, String) {
        let app = number % self.services();
        let version = if number == 0 { version } else { 0 };
        let text = format!(
            "apiVersion: nodemesh.io/v1alpha1\nkind: Workload\nmetadata:\n  name: app-{app}-{number}\n  namespace: team-{}\n  \
             labels:\n    app: app-{app}\n    app.kubernetes.io/name: app-{app}\n    version: v{}\nspec:\n  \
             serviceAccount: app-{app}\n  node: elsewhere-{}\n  addresses:\n  - \"{}\"\n  ports:\n  - name: http\n    \
             port: 8080\n    appProtocol: http\n",
            app % TEAMS,
            number % 2,
            number % 100,
            address(number, version),
        );
        (format!("workload-{number}.yaml"), text)
    }

    fn policy(self, number: usize) -> (String, String) {
        let (app, caller) = (number % self.services(), (number * 7 + 1) % self.services());
        let text = format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  name: policy-{number}\n  \
             namespace: team-{}\nspec:\n  selector:\n    matchLabels:\n      app: app-{app}\n  action: ALLOW\n  rules:\n  \
             - from:\n    - source:\n        principals:\n        - cluster.local/ns/team-{}/sa/app-{caller}\n    to:\n    \
             - operation:\n        ports: [\"8080\"]\n",
            app % TEAMS,
            caller % TEAMS,
        );
        (format!("policy-{number}.yaml"), text)
    }
}

/// In how many namespaces everything lies.
const TEAMS: usize = 50;

fn service(app: usize) -> (String, String) {
    let text = format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: app-{app}\n  namespace: team-{}\nspec:\n  clusterIP: 100.127.{}.{}\n  \
         selector:\n    app: app-{app}\n  ports:\n  - name: http\n    port: 80\n    targetPort: http\n    \
         appProtocol: http\n",
        app % TEAMS,
        app / 250,
        app % 250 + 1,
    );
    (format!("service-{app}.yaml"), text)
}

/// The address of a workload; each version is another one.
fn address(number: usize, version: usize) -> String {
    format!("100.{}.{}.{}", 64 + version, number / 250, number % 250 + 1)
}
