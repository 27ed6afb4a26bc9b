//! What the connections of one data worker share: what the mesh looks like, how upstream connections are opened, what
//! is counted and bounded, and the tasks.
//!
//! The runtime makes one [`DataPath`] for each worker, and every connection of the worker holds it. Nothing here decides
//! about a connection; that is `journey`'s and `serve`'s. The worker's load counts every connection for as long
//! as its task lives.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use futures_util::FutureExt as _;
use mesh_common::model::TrustDomain;
use tokio::sync::{Semaphore, oneshot};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    admission::Admission,
    direct::Direct,
    identities::Identities,
    measure::Meters,
    requests::{self, ShelfKey},
};
use crate::{
    http::pool::Shelves,
    identity::CertificateStore,
    inbound::Gate,
    kernel::{
        raw::Loads,
        tables::{LetIn, OpenPorts},
    },
    node::PodTable,
    state::Store,
    telemetry::{AccessLog, Claim, FlowLog, Registry, Throttle, metrics::Metrics},
    upstream::{Dialer, fair::fair, tunnel::pool::Pool},
};

/// Flows of requests in a second, for each worker.
const REQUEST_FLOWS: u32 = 200;

/// What one data worker's connections share.
pub struct DataPath {
    /// What the mesh looks like.
    pub store: Arc<Store>,
    /// The pods enrolled on this node.
    pub pods: Arc<PodTable>,
    /// Opens upstream connections.
    pub dialer: Dialer,
    /// Ports whose requests are not held.
    pub open_ports: Arc<OpenPorts>,
    /// Destinations to which captured connections are not held.
    pub let_in: Arc<LetIn>,
    /// The worker's connections.
    pub registry: Arc<Registry>,
    /// What became of connections.
    pub flows: Arc<FlowLog>,
    /// What is counted of them.
    pub meters: Meters,
    /// Where each request is written, if it is.
    pub access: Option<Arc<AccessLog>>,
    /// Owns the worker's connection tasks.
    pub tasks: TaskTracker,
    /// Keys and certificates; none when the agent runs without an authority, and nothing is encrypted.
    pub certificates: Option<Arc<CertificateStore>>,
    /// Who workloads should prove to be.
    pub(crate) identities: Identities,
    /// Tunnels to other agents.
    pub pool: Pool,
    /// Connections to servers that are spoken HTTP to, between two requests.
    pub(crate) shelves: Shelves<ShelfKey>,
    /// Which connections need no agent.
    pub(crate) direct: Arc<Direct>,
    /// What is kept to judge requests.
    pub(crate) gate: Gate,
    /// Places for copies of requests.
    pub(crate) copies: Arc<Semaphore>,
    /// Owns the tunnels' tasks, in both directions.
    pub tunnels: TaskTracker,
    /// Bounds the handshakes of other agents.
    pub(crate) admission: Admission,
    /// Bounds what is logged of refused connections.
    pub(crate) told: Throttle,
    /// Bounds the flows of requests.
    pub(crate) told_requests: Throttle,
    /// Tells tunnels that others opened to end when their streams have.
    pub leaving: CancellationToken,
    /// Cuts every connection that is left when the agent's time to drain is over.
    pub cut: CancellationToken,
    /// Tunnels that other agents opened.
    carried: AtomicU64,
    loads: Arc<Loads>,
    dialling: Mutex<HashMap<u64, oneshot::Sender<()>>>,
}

/// What a [`DataPath`] is made of; see its fields.
#[expect(missing_docs, reason = "the fields are those of DataPath")]
pub struct Serving {
    pub store: Arc<Store>,
    pub pods: Arc<PodTable>,
    pub dialer: Dialer,
    pub open_ports: Arc<OpenPorts>,
    pub let_in: Arc<LetIn>,
    pub registry: Arc<Registry>,
    pub flows: Arc<FlowLog>,
    pub metrics: Arc<Metrics>,
    pub access: Option<Arc<AccessLog>>,
    pub certificates: Option<Arc<CertificateStore>>,
    pub trust_domain: TrustDomain,
    pub direct: Arc<Direct>,
    pub tasks: TaskTracker,
    pub cut: CancellationToken,
}

impl DataPath {
    pub(crate) fn new(parts: Serving, loads: Arc<Loads>) -> Arc<Self> {
        Arc::new(Self {
            store: parts.store,
            pods: parts.pods,
            dialer: parts.dialer,
            open_ports: parts.open_ports,
            let_in: parts.let_in,
            registry: parts.registry,
            flows: parts.flows,
            meters: Meters::new(parts.metrics, parts.trust_domain.clone()),
            access: parts.access,
            certificates: parts.certificates,
            identities: Identities::new(parts.trust_domain),
            pool: Pool::default(),
            shelves: Shelves::default(),
            direct: parts.direct,
            gate: Gate::default(),
            copies: Arc::new(Semaphore::new(requests::COPIES_MAX)),
            tunnels: TaskTracker::new(),
            admission: Admission::default(),
            told: Throttle::default(),
            told_requests: Throttle::of(REQUEST_FLOWS),
            leaving: CancellationToken::new(),
            tasks: parts.tasks,
            cut: parts.cut,
            carried: AtomicU64::new(0),
            loads,
            dialling: Mutex::default(),
        })
    }

    /// The client whose socket has this cookie has given up. True when its destination was still being dialled.
    pub fn abandon(&self, cookie: u64) -> bool {
        let waiting = self.dialling().remove(&cookie);
        waiting.is_some_and(|client| client.send(()).is_ok())
    }

    /// Tells when the client whose socket has this cookie gives up, until what is returned with it is dropped.
    pub(super) fn may_give_up(&self, cookie: u64) -> (oneshot::Receiver<()>, Forget<'_>) {
        let (sender, gave_up) = oneshot::channel();
        self.dialling().insert(cookie, sender);
        (gave_up, Forget { path: self, cookie })
    }

    fn dialling(&self) -> MutexGuard<'_, HashMap<u64, oneshot::Sender<()>>> {
        self.dialling.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a connection, from now on.
    pub(super) fn busy(self: &Arc<Self>) -> Busy {
        self.registry.begin();
        self.publish_load();
        Busy(Arc::clone(self))
    }

    /// Counts a tunnel, from now on.
    pub(super) fn carry(self: &Arc<Self>) -> Carried {
        self.carried.fetch_add(1, Ordering::Relaxed);
        self.publish_load();
        Carried(Arc::clone(self))
    }

    fn publish_load(&self) {
        let load = self.registry.serving() + self.carried.load(Ordering::Relaxed);
        self.loads.set(self.registry.worker() as usize, load);
    }

    /// Runs a connection as a task of the worker, counted in its load, in the turns of `claim`.
    pub(super) fn spawn(
        self: &Arc<Self>,
        claim: &Arc<Claim>,
        connection: impl Future<Output = ()> + Send + 'static,
    ) {
        let busy = self.busy();
        // An async block around it would hold it twice, and what spawns it moves it several times.
        let connection = Box::pin(connection).map(move |()| drop(busy));
        self.tasks.spawn(fair(Some(Arc::clone(claim)), connection));
    }
}

/// Counts a connection among the worker's while its task lives, be it that it has not run yet.
pub(super) struct Busy(Arc<DataPath>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.registry.end();
        self.0.publish_load();
    }
}

/// Counts a tunnel that another agent opened in the worker's load, so that those of a quiet time are not all one worker's.
/// Nothing waits for its end: a tunnel without streams carries no connection.
pub(super) struct Carried(Arc<DataPath>);

impl Drop for Carried {
    fn drop(&mut self) {
        self.0.carried.fetch_sub(1, Ordering::Relaxed);
        self.0.publish_load();
    }
}

/// Forgets that a client may give up, when its destination has answered.
pub(super) struct Forget<'a> {
    path: &'a DataPath,
    cookie: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.path.dialling().remove(&self.cookie);
    }
}
