//! The pods of a mesh and its services, as they stand.

use std::{
    ffi::OsStr,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
};

use anyhow::Result;

use crate::{
    Command, Output, Pod, Process, Service,
    layout::Pair,
    network::{self, PlannedPod},
    process::Place,
};

/// A pod: a namespace with a veth, and a cgroup.
#[derive(Debug)]
pub struct LivePod {
    pub(super) spec: Pod,
    pub(super) node: String,
    pub(super) membership: Membership,
    pub(super) planned: PlannedPod,
    pub(super) addresses: Pair,
    pub(super) place: Place,
}

/// A service and its addresses.
#[derive(Debug)]
pub struct LiveService {
    pub(super) spec: Service,
    pub(super) addresses: Pair,
}

/// Whether the agents are told of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Membership {
    InMesh,
    Outside,
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
