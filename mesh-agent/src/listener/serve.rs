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

use mesh_common::kernel::{PortKey, RecordKind, SocketRecord, SynEvent};
use tokio::{net::TcpStream, sync::oneshot};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::accept::{HeldRequest, PodListener};
use crate::{
    balance::Active,
    inbound,
    kernel::{raw::Loads, tables::OpenPorts},
    node::{Pod, PodTable},
    outbound::{self, Way},
    state::Store,
    telemetry::{
        ConnectionState, Destination, Direction, Entry, Flow, FlowKind, FlowLog, FlowSubject, Opening,
        Process, Registry,
    },
    upstream::{self, Dialer, Ending, Refusal, Source},
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
        Some(record) => outbound_journey(path, pod, client, &record),
        None => inbound_journey(path, pod, client, dst),
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
            outbound_journey(path, &listener.pod, client, &record)
        }
        _ => inbound_journey(path, &listener.pod, client, local),
    };
    let path = Arc::clone(path);
    let serving = Arc::clone(&path);
    serving.spawn(async move { serve_accepted(path, stream, journey).await });
}

/// A connection whose meaning is known.
struct Journey {
    opening: Opening,
    leg: Result<Leg, String>,
    /// Keeps the connection counted at its endpoint.
    active: Option<Active>,
}

/// The agent's own side of a connection, to be opened.
enum Leg {
    /// From the pod's namespace into the network.
    Dial {
        pod: Arc<Pod>,
        addr: SocketAddr,
        source: Option<SocketAddr>,
    },
    /// To an application in a pod of this node.
    Deliver {
        pod: Arc<Pod>,
        addr: SocketAddr,
        client: SocketAddr,
        inbound: bool,
    },
}

fn outbound_journey(path: &DataPath, pod: &Arc<Pod>, src: SocketAddr, record: &SocketRecord) -> Journey {
    let dialled: SocketAddr = record.peer.into();
    let plan = outbound::resolve(&path.store.load(), &path.pods, dialled);
    // What the application itself believes its address to be.
    let shown = match pod.address_like(dialled.ip()) {
        Some(own) if src.ip().is_loopback() => SocketAddr::new(own, src.port()),
        _ => src,
    };
    let (direction, leg) = match plan.way {
        Ok(Way::Direct(addr)) => (
            Direction::Outbound,
            Ok(Leg::Dial {
                pod: Arc::clone(pod),
                addr,
                source: outbound::source_for(src, record.via.ip.into(), addr),
            }),
        ),
        Ok(Way::Local(target, addr)) => (
            Direction::Local,
            Ok(Leg::Deliver {
                pod: target,
                addr,
                client: shown,
                inbound: false,
            }),
        ),
        Err(unroutable) => (Direction::Outbound, Err(unroutable.to_string())),
    };
    let opening = Opening {
        direction,
        workload: Arc::clone(&pod.workload),
        client: shown,
        client_workload: Some(pod.workload.key.clone()),
        original_destination: dialled,
        destination: plan.destination,
        process: Some(Process {
            pid: record.pid,
            comm: record.comm,
        }),
        state: ConnectionState::Held,
    };
    Journey {
        opening,
        leg,
        active: plan.active,
    }
}

fn inbound_journey(path: &DataPath, pod: &Arc<Pod>, client: SocketAddr, addressed: SocketAddr) -> Journey {
    let resolved = inbound::resolve(&path.store.load(), pod, client, addressed);
    let (client_workload, leg) = match resolved {
        Ok(delivery) => (
            delivery.client_workload,
            Ok(Leg::Deliver {
                pod: Arc::clone(pod),
                addr: delivery.app,
                client,
                inbound: true,
            }),
        ),
        Err(reason) => (None, Err(reason.to_string())),
    };
    let opening = Opening {
        direction: Direction::Inbound,
        workload: Arc::clone(&pod.workload),
        client,
        client_workload,
        original_destination: addressed,
        destination: Destination::Workload(pod.workload.key.clone()),
        process: None,
        state: ConnectionState::Held,
    };
    Journey {
        opening,
        leg,
        active: None,
    }
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

impl Leg {
    async fn open(&self, path: &DataPath) -> Result<TcpStream, upstream::DialError> {
        match self {
            Self::Dial { pod, addr, source } => path.dialer.dial(&pod.netns, *addr, *source).await,
            Self::Deliver {
                pod, addr, client, ..
            } => {
                let dial = |source| path.dialer.deliver(&pod.netns, *addr, *client, source);
                if addr.is_ipv4() {
                    return dial(Source::Loopback).await;
                }
                // From `::1` only to ports that are known to answer; see `Source`.
                let port = port_key(pod, *addr);
                if path.open_ports.contains(port) {
                    let answer = dial(Source::Loopback).await;
                    if answer.is_ok() {
                        return answer;
                    }
                }
                let answer = dial(Source::Own).await;
                if answer.is_ok() {
                    remember(path, port);
                }
                answer
            }
        }
    }

    fn addr(&self) -> SocketAddr {
        match self {
            Self::Dial { addr, .. } | Self::Deliver { addr, .. } => *addr,
        }
    }

    /// The port that an inbound connection proves to be open, or not.
    fn known_open(&self) -> Option<PortKey> {
        match self {
            Self::Deliver {
                pod,
                addr,
                inbound: true,
                ..
            } => Some(port_key(pod, *addr)),
            _ => None,
        }
    }
}

fn port_key(pod: &Pod, addr: SocketAddr) -> PortKey {
    let family = if addr.is_ipv4() { 4 } else { 6 };
    PortKey {
        netns: pod.netns.cookie(),
        port: addr.port(),
        family,
        reserved: 0,
    }
}

/// Requests to this port need not be held. That only saves them a detour; without it everything works the same.
fn remember(path: &DataPath, port: PortKey) {
    if let Err(error) = path.open_ports.insert(port) {
        tracing::debug!(%error, "an open port is not remembered");
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
