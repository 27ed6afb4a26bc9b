//! `mesh-agent run`: the arguments of the agent itself.

use std::{
    num::{NonZeroU16, NonZeroUsize},
    path::PathBuf,
    time::Duration,
};

use clap::Args;
use mesh_common::kernel::MAX_WORKERS;

use super::{
    agent::{BPFFS, RUN_DIR},
    failure::Failure,
};
use crate::agent::{self, LogFormat, Options};

/// What `run` takes.
#[derive(Args, Clone, Debug)]
pub(super) struct RunArgs {
    /// Directory of YAML files with the mesh's workloads and services; watched for changes
    #[arg(long, value_name = "DIR")]
    config: PathBuf,
    /// Name of this node; workloads that name it are enrolled here
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    node: String,
    /// Data workers, each a thread of its own; one a processor by default, at most four
    #[arg(long, value_name = "N", value_parser = workers)]
    workers: Option<NonZeroU16>,
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
    /// How long they may go on after a successor has taken over
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = humantime::parse_duration)]
    handover_timeout: Duration,
    /// error, warn, info, debug, trace, or directives like `info,mesh_agent::outbound=debug`
    #[arg(long, value_name = "LEVEL", default_value = "info", env = "NODEMESH_LOG")]
    log: String,
    /// How log lines are written
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    log_format: LogFormat,
}

impl RunArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        agent::run(self.into()).map_err(|error| Failure::Run(Box::new(error)))
    }
}

impl From<RunArgs> for Options {
    fn from(args: RunArgs) -> Self {
        Self {
            config: args.config,
            node: args.node,
            workers: args.workers.map(NonZeroUsize::from),
            pods_cgroup: args.pods_cgroup,
            bpffs: args.bpffs,
            run_dir: args.run_dir,
            ebpf_object: args.ebpf_object,
            takeover: args.takeover,
            drain_timeout: args.drain_timeout,
            handover_timeout: args.handover_timeout,
            log: args.log,
            log_format: args.log_format,
        }
    }
}

/// From one to as many as the kernel half can choose between.
fn workers(text: &str) -> Result<NonZeroU16, String> {
    let most = MAX_WORKERS;
    let fits = |workers: &NonZeroU16| usize::from(workers.get()) <= most;
    text.parse()
        .ok()
        .filter(fits)
        .ok_or_else(|| format!("use 1 to {most}"))
}
