//! Where the running agent is, and how a command asks it.
//!
//! Invariant: the commands and `run` derive every path from the same `--run-dir`.

use std::{
    future::Future,
    path::{Path, PathBuf},
};

use clap::Args;
use tonic::{Response, Status};

use super::failure::Failure;
use crate::admin::{self, AdminClient, RunDir};

/// Where an agent keeps its socket and its lock, unless told otherwise.
pub(super) const RUN_DIR: &str = "/run/nodemesh";

/// Where an agent pins maps and links, unless told otherwise.
pub(super) const BPFFS: &str = "/sys/fs/bpf/nodemesh";

/// Which agent to ask.
#[derive(Args, Clone, Debug)]
pub(super) struct AgentArgs {
    /// Directory of the agent's socket and lock
    #[arg(long, value_name = "DIR", default_value = RUN_DIR)]
    run_dir: PathBuf,
    /// The agent's admin socket, if it is not in the run directory
    #[arg(long, value_name = "PATH", env = "NODEMESH_SOCKET")]
    socket: Option<PathBuf>,
}

impl AgentArgs {
    /// The agent of this run directory.
    pub(super) fn at(run_dir: &Path) -> Self {
        Self {
            run_dir: run_dir.to_owned(),
            socket: None,
        }
    }

    /// The socket to dial.
    pub(super) fn socket(&self) -> PathBuf {
        self.socket.clone().unwrap_or_else(|| self.run_dir().socket())
    }

    /// The directory of the agent's socket and lock.
    pub(super) fn run_dir(&self) -> RunDir {
        RunDir::new(&self.run_dir)
    }

    /// Asks the agent one question and takes its answer.
    pub(super) fn call<T>(
        &self,
        question: impl AsyncFnOnce(AdminClient) -> Result<Response<T>, Status>,
    ) -> Result<T, Failure> {
        self.ask(async |agent| Ok(question(agent).await?.into_inner()))
    }

    /// Asks the agent something.
    pub(super) fn ask<T, F, A>(&self, question: F) -> Result<T, Failure>
    where
        F: FnOnce(AdminClient) -> A,
        A: Future<Output = Result<T, Failure>>,
    {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|source| Failure::because("cannot start the runtime", source))?;
        runtime.block_on(async { question(admin::dial(&self.socket()).await?).await })
    }
}
