//! The life of one connection: what it means, whether its destination answers, and the bytes.

use std::{
    collections::HashMap,
    net::SocketAddr,
    os::fd::AsRawFd,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use mesh_common::kernel::{RecordKind, SynEvent};
use tokio::{net::TcpStream, sync::oneshot};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    accept::{HeldRequest, PodListener},
    journey::{self, Journey, Leg, remember},
};
use crate::{
    kernel::{raw::Loads, tables::OpenPorts},
    node::PodTable,
    state::Store,
    telemetry::{ConnectionState, Entry, Flow, FlowKind, FlowLog, FlowSubject, Registry},
    upstream::{self, Dialer, Ending, Refusal},
};

/// How long the client may take to complete a handshake that the agent let through. Its kernel answers at once
/// unless the client is gone.
const ACCEPT_DEADLINE: Duration = Duration::from_secs(10);

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
    /// The worker's connections.
    pub registry: Arc<Registry>,
    /// What became of connections.
    pub flows: Arc<FlowLog>,
    /// Owns the worker's connection tasks.
    pub tasks: TaskTracker,
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
    pub registry: Arc<Registry>,
    pub flows: Arc<FlowLog>,
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
            registry: parts.registry,
            flows: parts.flows,
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

    /// Runs a connection as a task of the worker, counted in its load.
    fn spawn(self: &Arc<Self>, connection: impl Future<Output = ()> + Send + 'static) {
        let busy = Busy::new(Arc::clone(self));
        self.tasks.spawn(async move {
            let _busy = busy;
            connection.await;
        });
    }
}

/// Serves a request held by the kernel half: dials first, then lets the client in.
pub(super) fn held(path: &Arc<DataPath>, held: HeldRequest, event: &SynEvent) {
    let client: SocketAddr = event.src.into();
    let dst: SocketAddr = event.dst.into();
    let pod = &held.listener().pod;
    let record = (event.record.kind == RecordKind::Captured as u32).then_some(event.record);
    let journey = match record {
        Some(record) => journey::outbound(path, pod, client, &record),
        None => journey::inbound(path, pod, client, dst),
    };
    let path = Arc::clone(path);
    let serving = Arc::clone(&path);
    let connection = async move { serve_held(path, held, journey, record.map(|record| record.cookie)).await };
    serving.spawn(connection);
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
    let journey = match record {
        Some(record) if record.kind == RecordKind::Captured as u32 => {
            journey::outbound(path, &listener.pod, client, &record)
        }
        _ => journey::inbound(path, &listener.pod, client, local),
    };
    let path = Arc::clone(path);
    let serving = Arc::clone(&path);
    serving.spawn(async move { serve_accepted(path, stream, journey).await });
}

async fn serve_held(path: Arc<DataPath>, mut held: HeldRequest, journey: Journey, cookie: Option<u64>) {
    let entry = path.registry.open(journey.opening);
    let _active = journey.active;
    let leg = match journey.leg {
        Ok(leg) => leg,
        Err(reason) => {
            held.refuse(Refusal::Refused);
            return refused(&path, &entry, FlowKind::Refused, reason);
        }
    };
    let gave_up = cookie.map(|cookie| {
        let (sender, gave_up) = oneshot::channel();
        path.dialling().insert(cookie, sender);
        (gave_up, Forget { path: &path, cookie })
    });
    let dialled = match gave_up {
        Some((gave_up, _forget)) => tokio::select! {
            dialled = leg.open(&path) => dialled,
            Ok(()) = gave_up => {
                return refused(&path, &entry, FlowKind::Abandoned, "the client gave up".to_owned());
            }
            () = path.cut.cancelled() => return held.refuse(Refusal::Refused),
        },
        None => tokio::select! {
            dialled = leg.open(&path) => dialled,
            () = path.cut.cancelled() => return held.refuse(Refusal::Refused),
        },
    };
    let upstream = match dialled {
        Ok(upstream) => upstream,
        Err(error) => {
            held.refuse(error.refusal());
            return refused(&path, &entry, kind_of(error.refusal()), error.to_string());
        }
    };
    if let Some(port) = leg.known_open() {
        remember(&path, port);
    }
    entry.connection().set_upstream(leg.addr());
    if let (Leg::Dial { .. }, Some(cookie)) = (&leg, cookie) {
        path.dialer.tell_source(cookie, &upstream);
    }
    match tokio::time::timeout(ACCEPT_DEADLINE, held.send_on()).await {
        Ok(Some(downstream)) => {
            drop(held);
            carry(&path, &entry, downstream, upstream).await;
        }
        _ => {
            upstream::abort(&upstream);
            refused(
                &path,
                &entry,
                FlowKind::Abandoned,
                "the client was gone when its destination answered".to_owned(),
            );
        }
    }
}

async fn serve_accepted(path: Arc<DataPath>, downstream: TcpStream, journey: Journey) {
    let entry = path.registry.open(journey.opening);
    entry.connection().set_state(ConnectionState::Connecting);
    let _active = journey.active;
    let leg = match journey.leg {
        Ok(leg) => leg,
        Err(reason) => {
            upstream::abort(&downstream);
            return refused(&path, &entry, FlowKind::Refused, reason);
        }
    };
    let dialled = tokio::select! {
        dialled = leg.open(&path) => dialled,
        () = path.cut.cancelled() => return upstream::abort(&downstream),
    };
    match dialled {
        Ok(upstream) => {
            entry.connection().set_upstream(leg.addr());
            carry(&path, &entry, downstream, upstream).await;
        }
        Err(error) => {
            if let Some(port) = leg.known_open()
                && let Err(error) = path.open_ports.remove(port)
            {
                tracing::debug!(%error, "a closed port is still taken for open");
            }
            upstream::abort(&downstream);
            refused(&path, &entry, kind_of(error.refusal()), error.to_string());
        }
    }
}

/// Both sides stand: carries bytes until the end.
async fn carry(path: &DataPath, entry: &Entry, downstream: TcpStream, upstream: TcpStream) {
    path.registry.count_accepted();
    entry.connection().set_state(ConnectionState::Open);
    record(path, entry, FlowKind::Opened, None, String::new());
    let started = std::time::Instant::now();
    let ending = tokio::select! {
        ending = upstream::relay(&downstream, &upstream, entry.connection()) => ending,
        () = path.cut.cancelled() => {
            upstream::abort(&downstream);
            upstream::abort(&upstream);
            Ending::Broken(std::io::Error::other("cut: the agent's time to drain was over"))
        }
    };
    match ending {
        Ending::Closed => record(
            path,
            entry,
            FlowKind::Closed,
            Some(started.elapsed()),
            String::new(),
        ),
        Ending::Broken(error) => {
            path.registry.count_failed();
            record(
                path,
                entry,
                FlowKind::Reset,
                Some(started.elapsed()),
                error.to_string(),
            );
        }
    }
}

fn refused(path: &DataPath, entry: &Entry, kind: FlowKind, reason: String) {
    path.registry.count_refused();
    record(path, entry, kind, None, reason);
}

fn record(path: &DataPath, entry: &Entry, kind: FlowKind, duration: Option<Duration>, reason: String) {
    let subject = FlowSubject::Connection(Arc::clone(entry.connection()));
    path.flows.push(Flow {
        time: SystemTime::now(),
        kind,
        subject,
        duration,
        reason,
    });
}

fn kind_of(refusal: Refusal) -> FlowKind {
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
