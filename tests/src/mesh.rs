//! The mesh itself: built from specifications, asked for its nodes and pods by name.
//!
//! The builder claims an id (`footprint`), lays the network, makes the cgroups and writes every node's
//! configuration. Agents are started separately, so a test can look at the same pods with and without them.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    Capture, Command, Output, Pod, Process, Service,
    agent::{Agent, AgentStart, agent_binary},
    authority::Authority,
    footprint,
    layout::{Layout, Pair},
    network::{self, Plan, PlannedPod},
    process::{Place, tail},
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

/// Says what a mesh consists of.
#[derive(Debug)]
pub struct MeshBuilder {
    name: String,
    nodes: Vec<String>,
    pods: Vec<(String, Pod, Membership)>,
    services: Vec<Service>,
    agent: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Membership {
    InMesh,
    Outside,
}

/// A node: a namespace with a bridge for its pods, and the directories of its agent.
#[derive(Debug)]
pub struct Node {
    name: String,
    number: u8,
    place: Place,
    pods_cgroup: PathBuf,
    dir: PathBuf,
    agent: Option<PathBuf>,
    /// The workloads of this node that its agent has to enrol.
    expected: Vec<String>,
    /// With what more its agents are started.
    agent_options: Vec<OsString>,
}

/// A pod: a namespace with a veth, and a cgroup.
#[derive(Debug)]
pub struct LivePod {
    spec: Pod,
    node: String,
    membership: Membership,
    planned: PlannedPod,
    addresses: Pair,
    place: Place,
}

/// A service and its addresses.
#[derive(Debug)]
pub struct LiveService {
    spec: Service,
    addresses: Pair,
}

impl MeshBuilder {
    /// Adds a node.
    #[must_use]
    pub fn node(mut self, name: &str) -> Self {
        self.nodes.push(name.to_owned());
        self
    }

    /// Adds a pod that belongs to the mesh to a node.
    #[must_use]
    pub fn pod(mut self, node: &str, pod: Pod) -> Self {
        self.pods.push((node.to_owned(), pod, Membership::InMesh));
        self
    }

    /// Adds a pod that no agent is told of to a node.
    #[must_use]
    pub fn outside(mut self, node: &str, name: &str) -> Self {
        self.pods
            .push((node.to_owned(), Pod::new(name), Membership::Outside));
        self
    }

    /// Adds a service.
    #[must_use]
    pub fn service(mut self, service: Service) -> Self {
        self.services.push(service);
        self
    }

    /// Names the agent's binary; see [`agent_binary`] for what is taken otherwise.
    #[must_use]
    pub fn agent(mut self, binary: &Path) -> Self {
        self.agent = Some(binary.to_owned());
        self
    }

    /// Makes it all. Needs root; first removes what killed processes left behind.
    pub fn build(self) -> Result<Mesh> {
        ensure!(
            nix::unistd::geteuid().is_root(),
            "meshes are made of namespaces and cgroups: run this as root"
        );
        for node in &self.nodes {
            check_name(node)?;
        }
        Mesh::sweep()?;
        let layout = footprint::claim(&self.name)?;
        // From here on dropping the mesh removes what was made, also when a later step fails.
        let mut mesh = Mesh {
            name: self.name,
            layout,
            keep: Arc::default(),
            nodes: Vec::new(),
            pods: Vec::new(),
            services: Vec::new(),
            agent: self.agent,
        };
        for (name, number) in self.nodes.iter().zip(1..) {
            let node = mesh.plan_node(name, number);
            mesh.nodes.push(node);
        }
        for (node, spec, membership) in self.pods {
            let pod = mesh.plan_pod(&node, spec, membership)?;
            mesh.pods.push(pod);
        }
        for (spec, number) in self.services.into_iter().zip(1..) {
            mesh.services.push(LiveService {
                addresses: mesh.layout.service(number),
                spec,
            });
        }
        mesh.make(self.nodes)?;
        Ok(mesh)
    }
}

impl Mesh {
    /// Begins a mesh; the name is for messages and for [`Mesh::take_down`].
    pub fn builder(name: &str) -> MeshBuilder {
        MeshBuilder {
            name: name.to_owned(),
            nodes: Vec::new(),
            pods: Vec::new(),
            services: Vec::new(),
            agent: None,
        }
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

impl Node {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The directory of YAML files that its agent reads.
    pub fn config_dir(&self) -> PathBuf {
        self.dir.join("config")
    }

    /// The agent's run directory, with its socket.
    pub fn run_dir(&self) -> PathBuf {
        self.dir.join("run")
    }

    /// Where the agent makes and mounts its bpffs, and pins.
    pub fn bpffs(&self) -> PathBuf {
        self.dir.join("bpf")
    }

    /// The cgroup above all pods of the node.
    pub fn pods_cgroup(&self) -> &Path {
        &self.pods_cgroup
    }

    /// The cgroup of the node's agent.
    pub fn agent_cgroup(&self) -> &Path {
        &self.place.cgroup
    }

    /// The agent's binary.
    pub fn agent_binary(&self) -> Result<PathBuf> {
        self.agent.clone().map_or_else(agent_binary, Ok)
    }

    /// Names of the workloads of this node that its agent has to enrol.
    pub fn expected(&self) -> &[String] {
        &self.expected
    }

    /// Starts the agent and waits until it is ready.
    pub fn start_agent(&self) -> Result<Agent> {
        self.agent().start()
    }

    /// An agent to be started with options of one's own.
    pub fn agent(&self) -> AgentStart<'_> {
        AgentStart::new(self)
    }

    /// A program to be started in the namespace of a pod and in the cgroup of the node's agent, as a proxy beside one pod
    /// would be.
    pub fn sidecar(&self, pod: &LivePod, program: impl AsRef<OsStr>) -> Command {
        let place = Place {
            cgroup: self.place.cgroup.clone(),
            ..pod.place.clone()
        };
        Command::new(&place, program)
    }

    /// Starts the agents of this node, those that take over too, with this authority and more options.
    pub fn trust(&mut self, authority: &Authority, options: &[&str]) {
        self.agent_options = vec!["--ca".into(), authority.dir().into()];
        self.agent_options.extend(options.iter().map(OsString::from));
    }

    /// Starts the agents of this node, those that take over too, with more options.
    pub fn configure(&mut self, options: &[&str]) {
        self.agent_options.extend(options.iter().map(OsString::from));
    }

    /// With what more its agents are started.
    pub(crate) fn agent_options(&self) -> &[OsString] {
        &self.agent_options
    }

    /// A program to be started in the node's namespace and the agent's cgroup.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        Command::new(&self.place, program)
    }

    /// Writes a configuration file, in one step that no reader can see half done.
    pub fn write_config(&self, file: &str, text: &str) -> Result<()> {
        let draft = self.dir.join(format!("{file}.draft"));
        let path = self.config_dir().join(file);
        fs::write(&draft, text)
            .and_then(|()| fs::rename(&draft, &path))
            .with_context(|| format!("writing {}", path.display()))
    }

    /// Removes a configuration file.
    pub fn remove_config(&self, file: &str) -> Result<()> {
        let path = self.config_dir().join(file);
        fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))
    }
}

impl LivePod {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// The node it is on.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// Name of its network namespace.
    pub fn netns(&self) -> &str {
        &self.place.netns
    }

    /// Its cgroup.
    pub fn cgroup(&self) -> &Path {
        &self.place.cgroup
    }

    /// Its IPv4 address.
    pub fn v4(&self) -> Ipv4Addr {
        self.addresses.v4
    }

    /// Its IPv6 address.
    pub fn v6(&self) -> Ipv6Addr {
        self.addresses.v6
    }

    /// Both addresses: IPv4, then IPv6.
    pub fn addresses(&self) -> [IpAddr; 2] {
        self.addresses.both()
    }

    /// The `Workload` document that tells the mesh of it.
    pub fn yaml(&self) -> String {
        self.spec.to_yaml(&self.node, self.netns(), &self.addresses())
    }

    /// A program to be started in the pod.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        Command::new(&self.place, program)
    }

    /// Runs a program with arguments in the pod, to its end within 30 seconds.
    pub fn run<A: AsRef<OsStr>>(&self, program: A, args: &[A]) -> Result<Output> {
        self.command(program).args(args).run()
    }

    /// Starts a program with arguments in the pod.
    pub fn spawn<A: AsRef<OsStr>>(&self, program: A, args: &[A]) -> Result<Process> {
        self.command(program).args(args).spawn()
    }

    /// Runs one `ip` command in the pod's namespace.
    pub fn ip(&self, command: &str) -> Result<()> {
        network::batch(Some(self.netns()), &format!("{command}\n"))
    }
}

impl LiveService {
    /// Its IPv4 address.
    pub fn v4(&self) -> Ipv4Addr {
        self.addresses.v4
    }

    /// Its IPv6 address.
    pub fn v6(&self) -> Ipv6Addr {
        self.addresses.v6
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
