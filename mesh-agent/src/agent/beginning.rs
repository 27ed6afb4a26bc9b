//! How an agent begins: alone, with the locks of its directories, or as the successor of one that runs.
//!
//! Handed the run directory by the start of the agent, hands back the locks. Invariant: of the agents of one run directory, and
//! of those of one directory of pins, only one at a time holds the lock, and only that one enrols pods.

use std::{
    fs::File,
    path::Path,
    time::{Duration, Instant},
};

use mesh_common::kernel::ABI_VERSION;
use nix::fcntl::{Flock, FlockArg};

use super::{AgentError, LOOK_AGAIN};
use crate::admin::{self, AgentLock, LockError, RunDir, proto};

/// How an agent begins.
pub(super) enum Beginning {
    /// With the run directory to itself.
    Alone(AgentLock),
    /// Beside the running agent.
    Takeover(Box<admin::AdminClient>),
}

/// How long a successor waits for the running agent's lock after it gave way.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);

/// Takes the run directory's lock, or finds the running agent to take over from.
pub(super) async fn begin(run_dir: &RunDir, takeover: bool) -> Result<Beginning, AgentError> {
    match AgentLock::acquire(run_dir) {
        Ok(lock) => {
            if takeover {
                tracing::warn!("no agent runs here; starting without one to take over from");
            }
            Ok(Beginning::Alone(lock))
        }
        Err(error @ LockError::Held { .. }) if !takeover => Err(AgentError::Running(error)),
        Err(LockError::Held { .. }) => {
            let mut running = admin::dial(&run_dir.socket()).await?;
            let version = running
                .version(proto::VersionRequest {})
                .await
                .map_err(|status| AgentError::Refused(Box::new(status)))?
                .into_inner();
            if version.abi != ABI_VERSION {
                return Err(AgentError::Abi { found: version.abi });
            }
            Ok(Beginning::Takeover(Box::new(running)))
        }
        Err(error) => Err(AgentError::Lock(error)),
    }
}

/// Makes the running agent give way, and takes its lock. Returns this agent's generation as well.
pub(super) async fn give_way(
    mut running: admin::AdminClient,
    run_dir: &RunDir,
) -> Result<(AgentLock, u32), AgentError> {
    let request = proto::HandoverRequest {
        pid: std::process::id(),
        abi: ABI_VERSION,
    };
    let reply = running
        .handover(request)
        .await
        .map_err(|status| AgentError::Refused(Box::new(status)))?
        .into_inner();
    tracing::info!(
        pid = reply.pid,
        connections = reply.connections,
        "the running agent gives way and serves its connections to the end"
    );
    let patience = Instant::now() + LOCK_PATIENCE;
    loop {
        match AgentLock::acquire(run_dir) {
            Ok(lock) => return Ok((lock, reply.generation + 1)),
            Err(LockError::Held { .. }) if Instant::now() < patience => {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            Err(error) => return Err(AgentError::Lock(error)),
        }
    }
}

/// Takes the directory of the pins, which two agents with different run directories could share by mistake.
pub(super) fn lock_pins(bpffs: &Path) -> Result<Flock<File>, AgentError> {
    let directory = File::open(bpffs).map_err(AgentError::io("opening the pins' directory"))?;
    Flock::lock(directory, FlockArg::LockExclusiveNonblock).map_err(|_| AgentError::PinsInUse {
        path: bpffs.to_owned(),
    })
}
