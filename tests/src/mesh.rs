//! The mesh itself: built from specifications, asked for its nodes and pods by name.
//!
//! The builder claims an id (`footprint`); the mesh lays the network, makes the cgroups and writes every node's
//! configuration. Agents are started separately, so a test can look at the same pods with and without them.

mod builder;
mod node;
mod pod;

use std::{
    env, fs,
    net::IpAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use anyhow::{Context, Result, bail, ensure};

use self::pod::Membership;
use crate::{
    Capture, Pod,
    agent::Agent,
    authority::Authority,
    footprint,
    layout::Layout,
    network::{self, Plan, PlannedPod},
    process::{Place, tail},
};

pub use self::{
    builder::MeshBuilder,
    node::Node,
    pod::{LivePod, LiveService},
};

/// Nodes, pods and services that stand until this is dropped.
#[derive(Debug)]
pub struct Mesh {
    name: String,
    layout: Layout,
    keep: Arc<AtomicBool>,
    nodes: Vec<Node>,
    pods: Vec<LivePod>,
    services: Vec<LiveService>,
    agent: Option<PathBuf>,
}

impl Mesh {
    /// Begins a mesh; the name is for messages and for [`Mesh::take_down`].
    pub fn builder(name: &str) -> MeshBuilder {
        MeshBuilder::new(name)
    }

    /// Builds a mesh and runs a test in it. Panics on an error, with the ends of the agents' logs.
    pub fn scenario(builder: MeshBuilder, body: impl FnOnce(&mut Mesh) -> Result<()>) {
        let mut mesh = match builder.build() {
            Ok(mesh) => mesh,
            Err(error) => panic!("building the mesh: {error:?}"),
        };
        if let Err(error) = body(&mut mesh) {
            panic!("{error:?}");
        }
    }

    /// Removes meshes whose owners were killed; returns their ids.
    pub fn sweep() -> Result<Vec<String>> {
        footprint::sweep()
    }

    /// Removes the kept meshes of this name; returns their ids.
    pub fn take_down(name: &str) -> Result<Vec<String>> {
        footprint::take_down(name)
    }

    /// Leaves everything running when this process ends, until [`Mesh::take_down`].
    pub fn keep(&self) -> Result<()> {
        footprint::keep(&self.layout, &self.name)?;
        self.keep.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// The short unique id in the names of namespaces, cgroups and files.
    pub fn id(&self) -> &str {
        &self.layout.id
    }

    /// The directory of everything this mesh keeps in files.
    pub fn dir(&self) -> &Path {
        &self.layout.dir
    }

    /// The cgroup of everything that runs in this mesh.
    pub fn cgroup(&self) -> &Path {
        &self.layout.cgroup
    }

    /// The nodes, in the order they were added.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// A node by name. Panics if the mesh has none of that name.
    pub fn node(&self, name: &str) -> &Node {
        match self.nodes.iter().find(|node| node.name == name) {
            Some(node) => node,
            None => panic!("mesh {} has no node {name}", self.name),
        }
    }

    /// A pod by name. Panics if the mesh has none of that name.
    pub fn pod(&self, name: &str) -> &LivePod {
        match self.pods.iter().find(|pod| pod.spec.name == name) {
            Some(pod) => pod,
            None => panic!("mesh {} has no pod {name}", self.name),
        }
    }

    /// A service by name. Panics if the mesh has none of that name.
    pub fn service(&self, name: &str) -> &LiveService {
        match self.services.iter().find(|service| service.spec.name == name) {
            Some(service) => service,
            None => panic!("mesh {} has no service {name}", self.name),
        }
    }

    /// Makes a certificate authority, with a root of its own, by the agent's CLI. The name tells it from others.
    pub fn authority(&self, name: &str) -> Result<Authority> {
        let node = self.nodes.first().context("an authority needs a node")?;
        Authority::make(node, self.layout.dir.join(format!("authority-{name}")))
    }

    /// Starts all agents from now on with one new authority, and with more options.
    pub fn secure(&mut self, options: &[&str]) -> Result<Authority> {
        let authority = self.authority("all")?;
        for node in &mut self.nodes {
            node.trust(&authority, options);
        }
        Ok(authority)
    }

    /// A node by name, to be changed. Panics if the mesh has none of that name.
    pub fn node_mut(&mut self, name: &str) -> &mut Node {
        match self.nodes.iter_mut().find(|node| node.name == name) {
            Some(node) => node,
            None => panic!("mesh {} has no node {name}", self.name),
        }
    }

    /// Starts the agents of all nodes.
    pub fn start_agents(&self) -> Result<Vec<Agent>> {
        // All are on their way before the first is waited for: to load programs takes an emulated machine seconds.
        let started = self.nodes.iter().map(|node| node.agent().spawn());
        let mut agents: Vec<Agent> = started.collect::<Result<_>>()?;
        for (agent, node) in agents.iter_mut().zip(&self.nodes) {
            agent.wait_ready(node)?;
        }
        Ok(agents)
    }

    /// Addresses from which no packet ever comes back: IPv4, then IPv6.
    pub fn black_hole(&self) -> [IpAddr; 2] {
        self.layout.black_hole().both()
    }

    /// Addresses that the node answers with "host unreachable": IPv4, then IPv6.
    pub fn unreachable(&self) -> [IpAddr; 2] {
        self.layout.unreachable().both()
    }

    /// Records what passes between the nodes.
    pub fn capture(&self) -> Result<Capture> {
        Capture::start(
            &self.harness_place(self.layout.backbone_netns()),
            "br0",
            &self.layout.dir,
        )
    }

    /// Records what passes between the pods of a node, and between them and the backbone.
    pub fn capture_on(&self, node: &str) -> Result<Capture> {
        Capture::start(
            &self.harness_place(self.node(node).place.netns.clone()),
            "br0",
            &self.layout.dir,
        )
    }

    /// Adds a pod to the mesh that stands, and tells every node of it.
    pub fn add_pod(&mut self, node: &str, spec: Pod) -> Result<&LivePod> {
        let pod = self.plan_pod(node, spec, Membership::InMesh)?;
        network::add_pod(&self.layout, node, &pod.planned)?;
        make_cgroup(&pod.place.cgroup)?;
        let name = pod.spec.name.clone();
        self.pods.push(pod);
        self.announce(&name)?;
        Ok(self.pod(&name))
    }

    /// Tells every node of a pod.
    pub fn announce(&mut self, pod: &str) -> Result<()> {
        let pod = self.pod(pod);
        let (name, home) = (pod.spec.name.clone(), pod.node.clone());
        self.write_config(&workload_file(&name), &pod.yaml())?;
        for node in self
            .nodes
            .iter_mut()
            .filter(|node| node.name == home && !node.expected.contains(&name))
        {
            node.expected.push(name.clone());
        }
        Ok(())
    }

    /// Withdraws what the nodes were told of a pod; the pod itself stays.
    pub fn withdraw(&mut self, pod: &str) -> Result<()> {
        for node in &mut self.nodes {
            node.expected.retain(|name| name != pod);
        }
        self.remove_config(&workload_file(pod))
    }

    /// Writes a configuration file on every node, in one step that no reader can see half done.
    pub fn write_config(&self, file: &str, text: &str) -> Result<()> {
        self.nodes
            .iter()
            .try_for_each(|node| node.write_config(file, text))
    }

    /// Removes a configuration file on every node.
    pub fn remove_config(&self, file: &str) -> Result<()> {
        self.nodes.iter().try_for_each(|node| node.remove_config(file))
    }

    /// Writes a script that runs a program in a pod, `SCRIPT POD PROGRAM ARGUMENTS`, for a person to use.
    pub fn write_entry_script(&self) -> Result<PathBuf> {
        let path = self.layout.dir.join("in");
        let mut script =
            "#!/bin/sh\n# in POD PROGRAM ARGUMENTS: runs a program in a pod.\ncase $1 in\n".to_owned();
        for pod in &self.pods {
            script += &format!(
                "{}) cgroup={} netns={} ;;\n",
                pod.name(),
                pod.cgroup().display(),
                pod.netns()
            );
        }
        script += "*) echo \"$0: no pod $1\" >&2; exit 2 ;;\nesac\nshift\n\
                   echo $$ >$cgroup/cgroup.procs && exec nsenter --net=/run/netns/$netns \"$@\"\n";
        let context = || format!("writing {}", path.display());
        fs::write(&path, script).with_context(context)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).with_context(context)?;
        Ok(path)
    }

    fn make(&self, nodes: Vec<String>) -> Result<()> {
        let pods = self.pods.iter().map(|pod| pod.planned.clone()).collect();
        network::lay(&self.layout, &Plan { nodes, pods })?;
        make_cgroup(&self.layout.harness_cgroup())?;
        for node in &self.nodes {
            make_cgroup(&node.place.cgroup)?;
            make_cgroup(&node.pods_cgroup)?;
            for directory in [node.config_dir(), node.run_dir()] {
                fs::create_dir_all(&directory)
                    .with_context(|| format!("creating {}", directory.display()))?;
            }
        }
        for pod in &self.pods {
            make_cgroup(&pod.place.cgroup)?;
            if pod.membership == Membership::InMesh {
                self.write_config(&workload_file(&pod.spec.name), &pod.yaml())?;
            }
        }
        for service in &self.services {
            let yaml = service.spec.to_yaml(&service.addresses.both());
            self.write_config(&format!("service-{}.yaml", service.spec.name), &yaml)?;
        }
        Ok(())
    }

    fn plan_node(&self, name: &str, number: u8) -> Node {
        Node {
            name: name.to_owned(),
            number,
            place: self.place(self.layout.node_netns(name), self.layout.agent_cgroup(name)),
            pods_cgroup: self.layout.pods_cgroup(name),
            dir: self.layout.node_dir(name),
            agent: self.agent.clone(),
            expected: Vec::new(),
            agent_options: Vec::new(),
        }
    }

    fn plan_pod(&mut self, node: &str, spec: Pod, membership: Membership) -> Result<LivePod> {
        check_name(&spec.name)?;
        ensure!(
            self.pods.iter().all(|pod| pod.spec.name != spec.name),
            "two pods are named {}",
            spec.name
        );
        let here = self.pods.iter().filter(|pod| pod.node == node).count();
        let number = u8::try_from(here + 1)
            .ok()
            .filter(|number| *number < 250)
            .context("too many pods on a node")?;
        let Some(home) = self.nodes.iter_mut().find(|home| home.name == node) else {
            bail!(
                "pod {} is on node {node}, which the mesh does not have",
                spec.name
            );
        };
        if membership == Membership::InMesh {
            home.expected.push(spec.name.clone());
        }
        let home = home.number;
        let netns = self.layout.pod_netns(node, &spec.name);
        let cgroup = self.layout.pod_cgroup(node, &self.layout.pod_uid(home, number));
        Ok(LivePod {
            node: node.to_owned(),
            membership,
            addresses: self.layout.pod(home, number),
            place: self.place(netns.clone(), cgroup),
            planned: PlannedPod {
                netns,
                node: home,
                number,
            },
            spec,
        })
    }

    fn place(&self, netns: String, cgroup: PathBuf) -> Place {
        Place {
            netns,
            cgroup,
            output: self.layout.output_dir(),
            keep: Arc::clone(&self.keep),
        }
    }

    fn harness_place(&self, netns: String) -> Place {
        self.place(netns, self.layout.harness_cgroup())
    }

    fn print_agent_logs(&self) {
        let Ok(entries) = fs::read_dir(self.layout.output_dir()) else {
            return;
        };
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let text = fs::read_to_string(&path).unwrap_or_default();
            if name.contains("agent-of-") && !text.is_empty() {
                eprintln!("---- the end of {name} ----\n{}", tail(&text, 60));
            }
        }
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        if self.keep.load(Ordering::Relaxed) {
            return;
        }
        if thread::panicking() {
            self.print_agent_logs();
            if env::var_os("NODEMESH_KEEP_FAILED").is_some() {
                eprintln!(
                    "mesh {} is left as it was, in {}",
                    self.layout.id,
                    self.layout.dir.display()
                );
                if self.keep().is_ok() {
                    return;
                }
            }
        }
        if let Err(error) = footprint::remove(&self.layout) {
            eprintln!("removing mesh {} ({}): {error:#}", self.name, self.layout.id);
        }
    }
}

/// The file in which the nodes are told of a pod.
fn workload_file(pod: &str) -> String {
    format!("workload-{pod}.yaml")
}

fn make_cgroup(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("creating the cgroup {}", path.display()))
}

fn check_name(name: &str) -> Result<()> {
    let fits = !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    ensure!(fits, "{name:?} is no name for a node or pod: use a-z, 0-9 and -");
    Ok(())
}
