//! `mesh-agent run`: the arguments of the agent itself.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};

use super::{
    agent::{BPFFS, RUN_DIR},
    failure::Failure,
};

/// What `run` takes.
#[derive(Args, Clone, Debug)]
pub(super) struct RunArgs {
    /// Directory of YAML files with the mesh's workloads and services; watched for changes
    #[arg(long, value_name = "DIR")]
    config: PathBuf,
    /// Name of this node; workloads that name it are enrolled here
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    node: String,
    /// Data workers, each a thread of its own; as many as processors by default
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=mesh_common::kernel::MAX_WORKERS as i64))]
    workers: Option<u16>,
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
    /// Replace the running agent without losing a connection; it drains and ends
    #[arg(long)]
    takeover: bool,
    /// How long open connections may go on after the agent was told to end
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = humantime::parse_duration)]
    drain_timeout: Duration,
    /// error, warn, info, debug, trace, or directives like `info,mesh_agent::outbound=debug`
    #[arg(long, value_name = "LEVEL", default_value = "info", env = "NODEMESH_LOG")]
    log: String,
    /// How log lines are written
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    log_format: LogFormat,
}

/// A form of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// For people
    #[default]
    Text,
    /// One JSON object a line
    Json,
}

impl RunArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        start(self)
    }
}

fn start(_: RunArgs) -> Result<(), Failure> {
    Err(Failure::Told)
}
