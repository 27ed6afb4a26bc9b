//! Nodes and pods for tests, the demo and the benches, made of network namespaces and cgroups.
//!
//! A [`Mesh`] is built from [`Pod`] and [`Service`] specifications: each node is a namespace with a bridge for
//! its pods, the nodes are joined by a backbone namespace, each pod is a namespace with a veth and a cgroup.
//! Programs are started inside with [`LivePod::command`], agents with [`Node::start_agent`]. Everything lives in
//! namespaces, one cgroup subtree and one directory of the mesh's own; no global setting is touched.
//!
//! Invariant: whatever was made is removed when the mesh is dropped, when a test panics, and on SIGINT and
//! SIGTERM; what a killed process left behind is removed by the next one ([`Mesh::sweep`]).

mod agent;
mod authority;
mod capture;
mod cgroup;
mod footprint;
mod held;
mod layout;
mod manifest;
mod mesh;
mod metrics;
mod network;
mod process;
pub mod programs;
pub mod traffic;

pub use agent::{Agent, AgentStart, agent_binary};
pub use authority::{Authority, Credentials};
pub use capture::{Capture, Packet, Wire};
pub use held::Held;
pub use manifest::{Pod, Service};
pub use mesh::{LivePod, LiveService, Mesh, MeshBuilder, Node};
pub use metrics::Metrics;
pub use process::{Command, Output, Process, amount, resident_bytes, wait_until};
