//! What became of connections: a short memory, and a feed for those who watch.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::sync::broadcast;

use super::{Cause, Connection, Process, RequestFlow, metrics::Metrics};

/// Flows remembered.
const REMEMBERED: usize = 4096;
/// Flows a watcher may lag behind before it misses some.
const WATCH_BUFFER: usize = 8192;

/// Something that became of a connection.
#[derive(Debug)]
pub struct Flow {
    /// When.
    pub time: SystemTime,
    /// What.
    pub kind: FlowKind,
    /// Whose.
    pub subject: FlowSubject,
    /// How long the connection lived, where it has ended.
    pub duration: Option<Duration>,
    /// Why; nothing where the kind says it all.
    pub cause: Option<Cause>,
}

/// Whom a flow is about.
#[derive(Debug)]
pub enum FlowSubject {
    /// A connection the agent carried, or was asked to.
    Connection(Arc<Connection>),
    /// A request of HTTP on a connection.
    Http(Arc<Connection>, Box<RequestFlow>),
    /// A request that never became a connection: it ended in the kernel half, or before its sender proved who it is.
    Request {
        /// The enrolled workload, where known.
        workload: Option<Arc<mesh_common::model::Workload>>,
        /// Which way it ran.
        direction: super::Direction,
        /// Who dialled; the port is 0 when it had none yet.
        client: SocketAddr,
        /// What was dialled.
        original_destination: SocketAddr,
        /// The process that dialled.
        process: Option<Process>,
    },
}

/// What can become of a connection, or of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowKind {
    /// Both sides are joined.
    Opened,
    /// It ended in order.
    Closed,
    /// The destination, or the agent, refused it.
    Refused,
    /// The destination cannot be reached.
    Unreachable,
    /// The destination did not answer.
    TimedOut,
    /// One side broke it off.
    Reset,
    /// The client gave up before it was established.
    Abandoned,
    /// The kernel half refused it because no agent listened.
    Dropped,
    /// A policy denied the request.
    Denied,
    /// The mesh answered the request in its destination's place, or its answer broke off.
    Failed,
}

/// The memory and the feed.
#[derive(Debug)]
pub struct FlowLog {
    metrics: Arc<Metrics>,
    recent: Mutex<VecDeque<Arc<Flow>>>,
    live: broadcast::Sender<Arc<Flow>>,
}

impl FlowLog {
    /// An empty memory; what is pushed is counted in `metrics`.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            metrics,
            recent: Mutex::default(),
            live: broadcast::Sender::new(WATCH_BUFFER),
        }
    }

    /// Counts and remembers a flow, and tells the watchers.
    pub fn push(&self, flow: Flow) {
        self.metrics.count_flow(&flow);
        let flow = Arc::new(flow);
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.len() == REMEMBERED {
            recent.pop_front();
        }
        recent.push_back(Arc::clone(&flow));
        // Under the lock, so that a new watcher sees each flow once. Fails only when nobody watches.
        let _ = self.live.send(flow);
    }

    /// The flows remembered, oldest first, and those to come, without a gap between them.
    pub fn watch(&self) -> (Vec<Arc<Flow>>, broadcast::Receiver<Arc<Flow>>) {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        (recent.iter().cloned().collect(), self.live.subscribe())
    }
}
