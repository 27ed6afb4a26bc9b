//! The phases of an agent's life, and who may change them.

use std::{
    fmt,
    fs::File,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use nix::fcntl::Flock;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::admin::{AgentLock, RunDir};

/// A phase; an agent only ever moves to a later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// Loading and enrolling.
    Starting,
    /// Serving.
    Ready,
    /// A successor serves; open connections go on to their end.
    HandedOver,
    /// Told to end; open connections have until the deadline.
    Draining,
}

/// What this agent holds alone until it ends or gives way.
pub(super) struct Locks {
    /// The run directory.
    pub(super) agent: AgentLock,
    /// The directory of the pins, which agents with different run directories could share by mistake.
    pub(super) _pins: Flock<File>,
}

/// The phase, the locks and the deadline.
pub(super) struct Lifecycle {
    phase: watch::Sender<Phase>,
    locks: Mutex<Option<Locks>>,
    deadline: Mutex<Option<Instant>>,
    drain_timeout: Duration,
    handover_timeout: Duration,
    admin_stop: CancellationToken,
}

impl Lifecycle {
    pub(super) fn new(locks: Locks, drain_timeout: Duration, handover_timeout: Duration) -> Self {
        Self {
            phase: watch::Sender::new(Phase::Starting),
            locks: Mutex::new(Some(locks)),
            deadline: Mutex::new(None),
            drain_timeout,
            handover_timeout,
            admin_stop: CancellationToken::new(),
        }
    }

    pub(super) fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    pub(super) fn watch(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    pub(super) fn ready(&self) {
        self.advance(Phase::Ready);
    }

    /// Begins to drain, or moves the deadline. Returns the time left.
    pub(super) fn drain(&self, within: Option<Duration>) -> Duration {
        let within = within.unwrap_or(self.drain_timeout);
        self.set_deadline(within);
        self.advance(Phase::Draining);
        within
    }

    /// Gives way to a successor: the lock is its to take, the admin socket its to bind.
    pub(super) fn hand_over(&self) {
        self.set_deadline(self.handover_timeout);
        self.locks.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.advance(Phase::HandedOver);
        self.admin_stop.cancel();
    }

    /// When open connections are cut.
    pub(super) fn deadline(&self) -> Instant {
        self.deadline
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .unwrap_or_else(Instant::now)
    }

    /// Ends the admin API when cancelled.
    pub(super) fn admin_stop(&self) -> CancellationToken {
        self.admin_stop.clone()
    }

    pub(super) fn stop_admin(&self) {
        self.admin_stop.cancel();
    }

    /// Gives the lock back, unless a successor has it.
    pub(super) fn release(&self, run_dir: &RunDir) {
        let locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(locks) = locks
            && let Err(error) = locks.agent.remove(run_dir)
        {
            tracing::warn!(%error, "the lock file stays");
        }
    }

    fn set_deadline(&self, within: Duration) {
        let mut deadline = self.deadline.lock().unwrap_or_else(PoisonError::into_inner);
        *deadline = Some(Instant::now() + within);
    }

    fn advance(&self, to: Phase) {
        self.phase.send_if_modified(|phase| {
            let later = to > *phase;
            if later {
                *phase = to;
            }
            later
        });
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::HandedOver => "handed over",
            Self::Draining => "draining",
        })
    }
}
