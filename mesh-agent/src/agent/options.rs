//! How an agent runs: what the command line says, and what follows from it on this machine.
//!
//! Filled by `mesh-agent run`, read by the start of the agent.

use std::{num::NonZeroUsize, path::PathBuf, time::Duration};

use mesh_common::{kernel::MAX_WORKERS, model::TrustDomain};

use super::{LogFormat, preflight};
use crate::{
    admin::DoorAddress,
    kernel::{diag, load::DirectRoom},
    listener::direct::watch::LettingGo,
    telemetry::Limits,
};

/// How an agent runs; the flags of `mesh-agent run`.
#[derive(Clone, Debug)]
pub struct Options {
    /// Directory of YAML files that describe the mesh.
    pub config: PathBuf,
    /// Name of the node; workloads with this `node` are enrolled.
    pub node: String,
    /// The namespace whose policies concern the whole mesh.
    pub root_namespace: String,
    /// Data workers; by default one a core, at most four.
    pub workers: Option<NonZeroUsize>,
    /// The cgroup above all pods; by default the kubelet's, else the whole hierarchy.
    pub pods_cgroup: Option<PathBuf>,
    /// Directory of the pins, on a BPF file system.
    pub bpffs: PathBuf,
    /// Directory of socket and lock.
    pub run_dir: PathBuf,
    /// The kernel half, instead of the embedded one.
    pub ebpf_object: Option<PathBuf>,
    /// Directory of the certificate authority; without one nothing is encrypted.
    pub ca: Option<PathBuf>,
    /// The trust domain, for an agent without an authority to name it.
    pub trust_domain: TrustDomain,
    /// How long certificates are valid.
    pub certificate_lifetime: Duration,
    /// Where metrics are served.
    pub metrics_address: DoorAddress,
    /// Where readiness and liveness are served.
    pub health_address: DoorAddress,
    /// How connections between pods of this node go that need no agent.
    pub same_node: SameNode,
    /// How many of these may go by themselves at once.
    pub direct_limit: u32,
    /// Bytes that the connections of one workload may make the agent hold.
    pub buffer_limit: usize,
    /// Connections that one workload may have; by default a share of what open files allow.
    pub connection_limit: Option<usize>,
    /// Requests that one workload may have under way; by default the same.
    pub request_limit: Option<usize>,
    /// Take over from the agent that runs here.
    pub takeover: bool,
    /// How long open connections may take to end after SIGTERM.
    pub drain_timeout: Duration,
    /// How long they may take after a handover.
    pub handover_timeout: Duration,
    /// Log filter.
    pub log: String,
    /// Form of the log.
    pub log_format: LogFormat,
    /// Whether each request is written to standard output.
    pub access: Access,
}

/// How connections between pods of this node go that need no agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum SameNode {
    /// Through the agent, in memory: nothing of them is on the node's network
    #[default]
    Relayed,
    /// By themselves: the kernel authorizes them, and the node's own network carries them
    Direct,
}

/// Whether each request is written to standard output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// Only those that were not served, in the log.
    #[default]
    Untold,
    /// Each, as a line of JSON.
    Told,
}

/// Workers by default: what most nodes' traffic needs; more cost memory for each pod.
const DEFAULT_WORKERS: usize = 4;

impl Options {
    /// How many data workers there are.
    pub(super) fn worker_count(&self) -> usize {
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        self.workers
            .map_or(cores.min(DEFAULT_WORKERS), NonZeroUsize::get)
            .min(MAX_WORKERS)
    }

    /// Whether connections may be let go, on this kernel.
    pub(super) fn letting_go(&self) -> LettingGo {
        if self.same_node == SameNode::Relayed {
            return LettingGo::Forbidden;
        }
        if diag::is_able() {
            return LettingGo::Allowed;
        }
        tracing::warn!(
            "this kernel cannot end single connections (CONFIG_INET_DIAG_DESTROY), so that a policy that changes could not \
             end those that go directly; connections between pods of this node are relayed"
        );
        LettingGo::Forbidden
    }

    /// What the kernel half has room for about connections that are let go.
    pub(super) fn direct_room(&self, letting_go: LettingGo) -> DirectRoom {
        DirectRoom {
            connections: self.direct_limit,
            event_bytes: match letting_go {
                LettingGo::Allowed => 1 << 20,
                // An earlier agent's may end.
                LettingGo::Forbidden => 1 << 16,
            },
        }
    }

    /// What one workload may take up.
    pub(super) fn limits(&self) -> Limits {
        let usual = Limits::of_descriptors(preflight::descriptors());
        let limits = Limits {
            bytes: self.buffer_limit,
            connections: self.connection_limit.unwrap_or(usual.connections),
            requests: self.request_limit.unwrap_or(usual.requests),
        };
        tracing::info!(
            connections = limits.connections,
            requests = limits.requests,
            bytes = limits.bytes,
            "what one workload may have at once"
        );
        limits
    }
}
