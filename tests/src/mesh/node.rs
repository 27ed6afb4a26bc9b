//! A node of a mesh: where its agent runs, and with what.

use std::{
    ffi::{OsStr, OsString},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::LivePod;
use crate::{
    Command,
    agent::{Agent, AgentStart, agent_binary},
    authority::Authority,
    process::Place,
};

/// A node: a namespace with a bridge for its pods, and the directories of its agent.
#[derive(Debug)]
pub struct Node {
    pub(super) name: String,
    pub(super) number: u8,
    pub(super) place: Place,
    pub(super) pods_cgroup: PathBuf,
    pub(super) dir: PathBuf,
    pub(super) agent: Option<PathBuf>,
    /// The workloads of this node that its agent has to enrol.
    pub(super) expected: Vec<String>,
    /// With what more its agents are started.
    pub(super) agent_options: Vec<OsString>,
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
