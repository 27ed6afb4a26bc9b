//! A workload: something with addresses that takes part in the mesh, a pod or any other network namespace.

use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Labels, ObjectKey};

/// A pod, or anything else with addresses of its own that runs on a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workload {
    /// Its name.
    pub key: ObjectKey,
    /// What selectors match.
    pub labels: Labels,
    /// The service account it runs as.
    pub service_account: String,
    /// The node it runs on.
    pub node: String,
    /// Its own addresses, at least one; no other object has them.
    pub addresses: Vec<IpAddr>,
    /// The ports it declares. It may listen on others too.
    pub ports: Vec<WorkloadPort>,
    /// Whether services may send it connections.
    pub ready: bool,
    /// Authorization policies that concern it whatever they select. While one of them is not known, nobody may
    /// connect.
    pub policies: Vec<ObjectKey>,
    /// What other nodes' agents speak with it where mutual TLS is due.
    pub tunnel: TunnelProtocol,
    /// How its node finds it; `None` when only other nodes' agents need to know it.
    pub locate: Option<Locate>,
}

/// A TCP port that a workload declares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkloadPort {
    /// The name that a service's target port may use.
    pub name: Option<String>,
    /// The port, 1 to 65535.
    pub port: u16,
    /// The protocol spoken on it, in Kubernetes' `appProtocol` terms.
    pub app_protocol: Option<String>,
}

/// What carries connections to a workload of another node under mutual TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum TunnelProtocol {
    /// Our agents' own, on the port that is dialled.
    #[default]
    Nodemesh,
    /// Istio's, on port 15008 of the workload's address.
    Hbone,
}

/// How a node's agent finds the network namespace of a workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Locate {
    /// A network namespace by name, as `ip netns` lists it.
    #[serde(rename = "netns")]
    NetnsName(String),
    /// A network namespace by the path of its file.
    NetnsPath(PathBuf),
    /// The namespace of the processes in a cgroup, by its path, whole or below the cgroup mount.
    Cgroup(PathBuf),
    /// The namespace of a process of the node.
    Pid(u32),
}

impl Workload {
    /// The port that the workload gives `name` to.
    pub fn port_named(&self, name: &str) -> Option<u16> {
        self.ports
            .iter()
            .find(|port| port.name.as_deref() == Some(name))
            .map(|port| port.port)
    }
}
