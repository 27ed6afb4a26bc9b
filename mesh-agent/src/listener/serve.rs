//! The life of one connection: what it means, whether its destination answers, and the bytes.

use std::{
    collections::HashMap,
    net::SocketAddr,
    os::fd::AsRawFd,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use futures_util::FutureExt as _;
use mesh_common::{
    kernel::{RecordKind, SynEvent},
    model::TrustDomain,
};
use tokio::{
    net::TcpStream,
    sync::{Semaphore, oneshot},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    accept::{HeldRequest, PodListener},
    admission::Admission,
    direct::Direct,
    identities::Identities,
    journey::{self, Journey, Leg},
    measure::{Ends, Meters},
    mesh,
    requests::{self, Inspected, ShelfKey},
    terms::Terms,
};
use crate::{
    http::pool::Shelves,
    identity::CertificateStore,
    inbound::{Gate, Guard, Proof},
    kernel::{
        raw::Loads,
        tables::{LetIn, OpenPorts},
    },
    node::PodTable,
    state::Store,
    telemetry::{
        AccessLog, Cause, Claim, ConnectionState, Direction, Entry, Flow, FlowKind, FlowLog, FlowSubject,
        Full, Registry, Side, Throttle,
        metrics::{BROKEN, DRAINED, Metrics},
    },
    upstream::{
        self, Dialer, Ending, Refusal, Upstream,
        fair::fair,
        tunnel::{self, pool::Pool},
    },
};

/// How long the client may take to complete a handshake that the agent let through. Its kernel answers at once
/// unless the client is gone.
pub(super) const ACCEPT_DEADLINE: Duration = Duration::from_secs(10);

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
    serving: AtomicU64,
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
            serving: AtomicU64::new(0),
            loads,
            dialling: Mutex::default(),
        })
    }

    /// The client whose socket has this cookie has given up. True when its destination was still being dialled.
    pub fn abandon(&self, cookie: u64) -> bool {
        let waiting = self.dialling().remove(&cookie);
        waiting.is_some_and(|client| client.send(()).is_ok())
    }

    fn dialling(&self) -> std::sync::MutexGuard<'_, HashMap<u64, oneshot::Sender<()>>> {
        self.dialling.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a connection as a task of the worker, counted in its load, in the turns of `claim`.
    pub(super) fn spawn(
        self: &Arc<Self>,
        claim: &Arc<Claim>,
        connection: impl Future<Output = ()> + Send + 'static,
    ) {
        let busy = Busy::new(Arc::clone(self));
        // An async block around it would hold it twice.
        let connection = connection.map(move |()| drop(busy));
        self.tasks.spawn(fair(Some(Arc::clone(claim)), connection));
    }
}

/// Serves a request held by the kernel half: dials first, then lets the client in.
pub(super) fn held(path: &Arc<DataPath>, held: HeldRequest, event: &SynEvent) {
    let client: SocketAddr = event.src.into();
    let dst: SocketAddr = event.dst.into();
    let pod = &held.listener().pod;
    let record = (event.record.kind == RecordKind::Captured as u32).then_some(event.record);
    if record.is_none() && mesh::is_from_mesh(path, pod, client, dst) {
        return mesh::held(path, held, client, dst);
    }
    if let Some(record) = &record
        && let Some(routed) = requests::routed(path, pod, client, record)
    {
        return requests::held(path, held, routed);
    }
    let journey = match record {
        Some(record) => journey::outbound(path, pod, client, &record),
        None => journey::inbound(path, pod, client, dst, Proof::None),
    };
    let path = Arc::clone(path);
    let serving = Arc::clone(&path);
    let claim = path.registry.claim(&journey.opening);
    let owned = Arc::clone(&claim);
    let cookie = record.map(|record| record.cookie);
    let connection = async move { serve_held(path, held, journey, owned, cookie).await };
    serving.spawn(&claim, connection);
}

/// Serves a connection that was let through at once: dials after the accept.
pub(super) fn accepted(
    path: &Arc<DataPath>,
    listener: &Arc<PodListener>,
    stream: TcpStream,
    client: SocketAddr,
    local: SocketAddr,
) {
    let record = path.dialer.record_of(&stream.as_raw_fd());
    if record.is_none() && mesh::is_from_mesh(path, &listener.pod, client, local) {
        return mesh::accepted(path, listener, stream, client, local);
    }
    let captured = record.filter(|record| record.kind == RecordKind::Captured as u32);
    if let Some(record) = &captured
        && let Some(routed) = requests::routed(path, &listener.pod, client, record)
    {
        return requests::accepted(path, stream, routed);
    }
    let journey = match captured {
        Some(record) => {
            requests::hold_from_now_on(path, &listener.pod, &record);
            journey::outbound(path, &listener.pod, client, &record)
        }
        None => {
            let journey = journey::inbound(path, &listener.pod, client, local, Proof::None);
            if journey.leg.is_err() {
                journey::hold_from_now_on(path, &listener.pod, local);
            }
            journey
        }
    };
    let path = Arc::clone(path);
    let serving = Arc::clone(&path);
    let claim = path.registry.claim(&journey.opening);
    let owned = Arc::clone(&claim);
    serving.spawn(&claim, async move {
        serve_accepted(path, stream, journey, owned).await;
    });
}

async fn serve_held(
    path: Arc<DataPath>,
    mut held: HeldRequest,
    journey: Journey,
    claim: Arc<Claim>,
    cookie: Option<u64>,
) {
    let mut inspected = Inspected::of(&journey, None);
    let mut entry = path.registry.open_as(journey.opening, claim);
    let _active = journey.active;
    if let Err(full) = entry.seat() {
        held.refuse(Refusal::Refused);
        return self::full(&path, &entry, &full);
    }
    let leg = match journey.leg {
        Ok(leg) => leg,
        Err(cause) => {
            held.refuse(Refusal::Refused);
            return denied(&path, &entry, cause);
        }
    };
    if let Some(inspected) = inspected.take_if(|inspected| inspected.is_of_requests_only()) {
        // Nothing leads to the application before a request may.
        return match tokio::time::timeout(ACCEPT_DEADLINE, held.send_on()).await {
            Ok(Some(downstream)) => {
                drop(held);
                inspected.serve(&path, &entry, downstream, None).await;
            }
            _ => refused(
                &path,
                &entry,
                FlowKind::Abandoned,
                abandoned("the client was gone when it was let in"),
            ),
        };
    }
    let gave_up = cookie.map(|cookie| {
        let (sender, gave_up) = oneshot::channel();
        path.dialling().insert(cookie, sender);
        (gave_up, Forget { path: &path, cookie })
    });
    let dialled = match gave_up {
        Some((gave_up, _forget)) => tokio::select! {
            dialled = leg.open(&path, &entry.connection().claim) => dialled,
            Ok(()) = gave_up => {
                return refused(&path, &entry, FlowKind::Abandoned, abandoned("the client gave up"));
            }
            () = path.cut.cancelled() => return held.refuse(Refusal::Refused),
        },
        None => tokio::select! {
            dialled = leg.open(&path, &entry.connection().claim) => dialled,
            () = path.cut.cancelled() => return held.refuse(Refusal::Refused),
        },
    };
    let upstream = match dialled {
        Ok(upstream) => upstream,
        Err(error) => {
            leg.not_opened(&path);
            held.refuse(error.refusal());
            return refused(&path, &entry, kind_of(error.refusal()), error.cause());
        }
    };
    leg.opened(&path);
    established(&entry, &leg);
    if let (Upstream::Tcp(upstream), Leg::Dial { .. }, Some(cookie)) = (&upstream, &leg, cookie) {
        path.dialer.tell_source(cookie, upstream);
    }
    match tokio::time::timeout(ACCEPT_DEADLINE, held.send_on()).await {
        Ok(Some(downstream)) => {
            drop(held);
            carry(
                &path,
                &entry,
                journey.guard.as_ref(),
                inspected,
                downstream,
                upstream,
            )
            .await;
        }
        _ => {
            upstream.abort();
            refused(
                &path,
                &entry,
                FlowKind::Abandoned,
                abandoned("the client was gone when its destination answered"),
            );
        }
    }
}

pub(super) async fn serve_accepted(
    path: Arc<DataPath>,
    downstream: TcpStream,
    journey: Journey,
    claim: Arc<Claim>,
) {
    let mut inspected = Inspected::of(&journey, None);
    let mut entry = path.registry.open_as(journey.opening, claim);
    entry.connection().set_state(ConnectionState::Connecting);
    let _active = journey.active;
    if let Err(full) = entry.seat() {
        upstream::abort(&downstream);
        return self::full(&path, &entry, &full);
    }
    let leg = match journey.leg {
        Ok(leg) => leg,
        Err(cause) => {
            upstream::abort(&downstream);
            return denied(&path, &entry, cause);
        }
    };
    if let Some(inspected) = inspected.take_if(|inspected| inspected.is_of_requests_only()) {
        return inspected.serve(&path, &entry, downstream, None).await;
    }
    let dialled = tokio::select! {
        dialled = leg.open(&path, &entry.connection().claim) => dialled,
        () = path.cut.cancelled() => return upstream::abort(&downstream),
    };
    match dialled {
        Ok(upstream) => {
            established(&entry, &leg);
            carry(
                &path,
                &entry,
                journey.guard.as_ref(),
                inspected,
                downstream,
                upstream,
            )
            .await;
        }
        Err(error) => {
            leg.not_opened(&path);
            upstream::abort(&downstream);
            refused(&path, &entry, kind_of(error.refusal()), error.cause());
        }
    }
}

/// The agent's own side stands: records where it leads, and to whom.
fn established(entry: &Entry, leg: &Leg) {
    entry.connection().set_upstream(leg.addr());
    if let Some(peer) = leg.peer() {
        entry.connection().set_peer(peer.clone());
    }
}

/// A connection between pods of this node stands: perhaps the next ones need no agent.
fn consider_the_next(path: &DataPath, entry: &Entry) {
    let connection = entry.connection();
    if connection.direction != Direction::Local || !path.direct.is_on() {
        return;
    }
    let own = connection.workload.addresses.first();
    if let Some(source) = own.and_then(|ip| path.pods.at(*ip))
        && source.workload.key == connection.workload.key
    {
        path.direct.consider(&source, connection.original_destination);
    }
}

/// Both sides stand: carries bytes until the end, or has what may be requests looked at.
async fn carry(
    path: &Arc<DataPath>,
    entry: &Entry,
    guard: Option<&Guard>,
    inspected: Option<Inspected>,
    downstream: TcpStream,
    upstream: Upstream,
) {
    consider_the_next(path, entry);
    let connection = entry.connection();
    match upstream {
        Upstream::Tcp(upstream) if let Some(inspected) = inspected => {
            inspected.serve(path, entry, downstream, Some(upstream)).await;
        }
        Upstream::Tcp(upstream) => {
            measure(path, entry);
            let cut = || {
                upstream::abort(&downstream);
                upstream::abort(&upstream);
            };
            let terms = Terms::of(&path.store.load(), connection, guard, None);
            let carried = pin!(upstream::relay(&downstream, &upstream, connection, None));
            attend(path, entry, &terms, carried, cut).await;
        }
        Upstream::Tunnel(stream, place) => {
            measure(path, entry);
            let credentials = Some(Arc::clone(place.credentials()));
            let terms = Terms::of(&path.store.load(), connection, guard, credentials);
            let carried = pin!(tunnel::carry::carry(
                &downstream,
                stream,
                connection,
                Side::ToUpstream,
                None
            ));
            attend(path, entry, &terms, carried, || upstream::abort(&downstream)).await;
        }
    }
}

/// Counts a connection whose bytes are carried as they are; where requests are led one by one, these are counted.
pub(super) fn measure(path: &DataPath, entry: &Entry) {
    let connection = entry.connection();
    connection.measure(path.meters.tcp(&path.store.load(), &Ends::from(&**connection)));
}

/// Records the life of a connection whose bytes are carried by `carried`; `cut` breaks it off, when the agent's time to
/// drain is over or the `terms` do not hold any more. Taken pinned: by value, every connection would hold it twice.
pub(super) async fn attend(
    path: &DataPath,
    entry: &Entry,
    terms: &Terms<'_>,
    carried: Pin<&mut impl Future<Output = Ending>>,
    cut: impl FnOnce(),
) {
    path.registry.count_accepted();
    let connection = entry.connection();
    connection.set_state(ConnectionState::Open);
    record(path, entry, FlowKind::Opened, None, None);
    let started = Instant::now();
    let broken = tokio::select! {
        ending = carried => match ending {
            Ending::Closed => None,
            // The tunnel of a peer that is not believed any more goes as well, perhaps first.
            Ending::Broken(error) => match terms.check(&path.store.load(), path.certificates.as_deref()) {
                Ok(()) => Some(Cause::of(BROKEN, &error)),
                Err(cause) => Some(no_longer_permitted(entry, cause)),
            },
        },
        () = path.cut.cancelled() => {
            cut();
            Some(Cause::new(DRAINED, "cut: the agent's time to drain was over"))
        }
        cause = terms.broken(path) => {
            cut();
            Some(no_longer_permitted(entry, cause))
        }
    };
    let duration = Some(started.elapsed());
    match broken {
        None => record(path, entry, FlowKind::Closed, duration, None),
        Some(cause) => {
            path.registry.count_failed();
            record(path, entry, FlowKind::Reset, duration, Some(cause));
        }
    }
}

/// Says that an open connection ends because its terms do not hold any more.
fn no_longer_permitted(entry: &Entry, cause: Cause) -> Cause {
    let connection = entry.connection();
    connection.set_unauthorized();
    tracing::info!(
        workload = %connection.workload.key,
        client = %connection.client,
        destination = %connection.original_destination,
        peer = connection.peer().map(tracing::field::display),
        reason = %cause,
        "an open connection is not permitted any more"
    );
    cause
}

/// Records, and logs, a connection that leads nowhere or must not be.
pub(super) fn denied(path: &DataPath, entry: &Entry, cause: Cause) {
    if let Some(left_out) = path.told.admit(Instant::now()) {
        let connection = entry.connection();
        tracing::warn!(
            client = %connection.client,
            workload = %connection.workload.key,
            dialled = %connection.original_destination,
            error = %cause,
            left_out,
            "a connection is refused"
        );
    }
    refused(path, entry, FlowKind::Refused, cause);
}

/// Records a connection for which its workload has no place. Whoever keeps the places has logged it.
pub(super) fn full(path: &DataPath, entry: &Entry, full: &Full) {
    refused(path, entry, FlowKind::Refused, Cause::of(full.word(), full));
}

pub(super) fn refused(path: &DataPath, entry: &Entry, kind: FlowKind, cause: Cause) {
    path.registry.count_refused();
    record(path, entry, kind, None, Some(cause));
}

/// The client did not wait.
pub(super) fn abandoned(text: impl Into<String>) -> Cause {
    Cause::new("abandoned", text)
}

pub(super) fn record(
    path: &DataPath,
    entry: &Entry,
    kind: FlowKind,
    duration: Option<Duration>,
    cause: Option<Cause>,
) {
    let subject = FlowSubject::Connection(Arc::clone(entry.connection()));
    path.flows.push(Flow {
        time: SystemTime::now(),
        kind,
        subject,
        duration,
        cause,
    });
}

pub(super) fn kind_of(refusal: Refusal) -> FlowKind {
    match refusal {
        Refusal::Refused => FlowKind::Refused,
        Refusal::HostUnreachable | Refusal::NetworkUnreachable => FlowKind::Unreachable,
        Refusal::Silent => FlowKind::TimedOut,
    }
}

/// Counts a connection in the worker's load while it lives.
struct Busy(Arc<DataPath>);

impl Busy {
    fn new(path: Arc<DataPath>) -> Self {
        let serving = path.serving.fetch_add(1, Ordering::Relaxed) + 1;
        path.loads.set(path.registry.worker() as usize, serving);
        Self(path)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let serving = self.0.serving.fetch_sub(1, Ordering::Relaxed) - 1;
        self.0.loads.set(self.0.registry.worker() as usize, serving);
    }
}

/// Forgets that a client may give up, when its destination has answered.
struct Forget<'a> {
    path: &'a DataPath,
    cookie: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.path.dialling().remove(&self.cookie);
    }
}
