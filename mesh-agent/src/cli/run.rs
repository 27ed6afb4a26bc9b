//! `mesh-agent run`: the arguments of the agent itself.

use std::{num::NonZeroUsize, path::PathBuf, time::Duration};

use clap::Args;
use mesh_common::{
    kernel::{DIRECT_MAX, MAX_WORKERS},
    model::TrustDomain,
};

use super::{
    agent::{BPFFS, RUN_DIR},
    failure::Failure,
};
use crate::admin::DoorAddress;
use crate::agent::{self, Access, LogFormat, Options, SameNode};
use crate::policy::ROOT_NAMESPACE;
use crate::telemetry::LIMIT_LEAST;

/// The ports that tools expect, where nobody but the node itself can ask.
const METRICS: &str = "127.0.0.1:15020";
const HEALTH: &str = "127.0.0.1:15021";

/// What `run` takes.
#[derive(Args, Clone, Debug)]
pub(super) struct RunArgs {
    /// Directory of YAML files with the mesh's workloads, services and policies; watched for changes
    #[arg(long, value_name = "DIR")]
    config: PathBuf,
    /// Name of this node; workloads that name it are enrolled here
    #[arg(long, value_name = "NAME", env = "NODE_NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    node: String,
    /// Namespace whose policies concern the whole mesh
    #[arg(long, value_name = "NAME", default_value = ROOT_NAMESPACE)]
    root_namespace: String,
    /// Data workers, each a thread with a core of its own, at most 16; one a core by default, at most 4
    #[arg(long, value_name = "N", value_parser = worker_count)]
    workers: Option<NonZeroUsize>,
    /// Cgroup v2 directory above all pods; found by itself by default
    #[arg(long, value_name = "PATH")]
    pods_cgroup: Option<PathBuf>,
    /// Directory for pinned maps and links; a BPF file system is mounted where there is none
    #[arg(long, value_name = "DIR", default_value = BPFFS)]
    bpffs: PathBuf,
    /// Directory for the agent's socket and lock
    #[arg(long, value_name = "DIR", default_value = RUN_DIR)]
    run_dir: PathBuf,
    /// eBPF object to load in place of the embedded one
    #[arg(long, value_name = "PATH", env = "NODEMESH_EBPF_OBJECT")]
    ebpf_object: Option<PathBuf>,
    /// Directory of the certificate authority (`mesh-agent ca`); with one, everything between nodes is under mTLS
    #[arg(long, value_name = "DIR")]
    ca: Option<PathBuf>,
    /// Trust domain of identities, where no certificate authority says it
    #[arg(long, value_name = "NAME", default_value = "cluster.local")]
    trust_domain: TrustDomain,
    /// How long certificates are valid; they are renewed at about half of that
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = humantime::parse_duration)]
    certificate_lifetime: Duration,
    /// Where `/metrics` is served, in the agent's own network namespace: an address and a port, or `none`
    #[arg(long, value_name = "ADDRESS", default_value = METRICS)]
    metrics_address: DoorAddress,
    /// Where `/healthz/ready` and `/livez` are served: an address and a port, or `none`
    #[arg(long, value_name = "ADDRESS", default_value = HEALTH)]
    health_address: DoorAddress,
    /// How connections between pods of this node go that need no agent
    #[arg(long, value_enum, value_name = "WAY", default_value_t)]
    same_node: SameNode,
    /// Connections that may go directly at once, with `--same-node direct`; the agent carries what is beyond
    #[arg(long, value_name = "N", default_value_t = DIRECT_MAX as u32,
          value_parser = clap::value_parser!(u32).range(1..=DIRECT_MAX as i64))]
    direct_limit: u32,
    /// Memory that the connections of one workload may take up in this agent for readers that are slow
    #[arg(long, value_name = "SIZE", default_value = "32MiB", value_parser = buffer_limit)]
    buffer_limit: usize,
    /// Connections that one workload may have at once; by default half of what open files allow in all
    #[arg(long, value_name = "N", value_parser = place_limit)]
    connection_limit: Option<usize>,
    /// Requests that one workload may have under way at once; by default as many as connections
    #[arg(long, value_name = "N", value_parser = place_limit)]
    request_limit: Option<usize>,
    /// Replace the running agent without losing a connection; it drains and ends
    #[arg(long)]
    takeover: bool,
    /// How long open connections may go on after the agent was told to end
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = humantime::parse_duration)]
    drain_timeout: Duration,
    /// How long they may go on after a successor took over; they keep the replaced agent alive
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = humantime::parse_duration)]
    handover_timeout: Duration,
    /// error, warn, info, debug, trace, or directives like `info,mesh_agent::outbound=debug`
    #[arg(long, value_name = "LEVEL", default_value = "info", env = "NODEMESH_LOG")]
    log: String,
    /// How log lines are written
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    log_format: LogFormat,
    /// Write a line of JSON to standard output for each request of HTTP that is over
    #[arg(long)]
    access_log: bool,
}

impl RunArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let options = Options {
            config: self.config,
            node: self.node,
            root_namespace: self.root_namespace,
            workers: self.workers,
            pods_cgroup: self.pods_cgroup,
            bpffs: self.bpffs,
            run_dir: self.run_dir,
            ebpf_object: self.ebpf_object,
            ca: self.ca,
            trust_domain: self.trust_domain,
            certificate_lifetime: self.certificate_lifetime,
            metrics_address: self.metrics_address,
            health_address: self.health_address,
            same_node: self.same_node,
            direct_limit: self.direct_limit,
            buffer_limit: self.buffer_limit,
            connection_limit: self.connection_limit,
            request_limit: self.request_limit,
            takeover: self.takeover,
            drain_timeout: self.drain_timeout,
            handover_timeout: self.handover_timeout,
            log: self.log,
            log_format: self.log_format,
            access: if self.access_log {
                Access::Told
            } else {
                Access::Untold
            },
        };
        agent::run(options).map_err(|error| Failure::because("the agent cannot run", error))
    }
}

fn buffer_limit(text: &str) -> Result<usize, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => 0,
    };
    let bytes = digits
        .parse::<usize>()
        .ok()
        .and_then(|number| number.checked_mul(unit));
    match bytes {
        Some(bytes) if bytes >= LIMIT_LEAST => Ok(bytes),
        _ => Err(format!(
            "a size of at least {} MiB is needed, like 32MiB or 1GiB",
            LIMIT_LEAST >> 20
        )),
    }
}

/// One client of a workload may have half, so there must be a half.
fn place_limit(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(limit) if limit >= 2 => Ok(limit),
        _ => Err("a number of at least 2 is needed".to_owned()),
    }
}

fn worker_count(text: &str) -> Result<NonZeroUsize, String> {
    match text.parse::<NonZeroUsize>() {
        Ok(count) if count.get() <= MAX_WORKERS => Ok(count),
        _ => Err(format!("a number from 1 to {MAX_WORKERS} is needed")),
    }
}
