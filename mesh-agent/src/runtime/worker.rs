//! One data worker: a thread with a `current_thread` runtime, its listeners, its connections.
//!
//! Enrolment tells a worker which pods to listen in; everything else comes to it from the kernel. A connection
//! lives and dies on the worker that accepted it.

use std::{
    collections::HashMap,
    io,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use mesh_common::model::TrustDomain;
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    identity::CertificateStore,
    kernel::WorkerMaps,
    listener::{
        DataPath, PodListener, Serving,
        answer::Answerer,
        direct::Direct,
        held::{self, Listeners},
    },
    node::{Netns, Pod, PodTable, netns},
    state::Store,
    telemetry::{AccessLog, Budgets, FlowLog, Registry, metrics::Metrics},
    upstream::{Dialer, fair},
};

/// How often tunnels that nobody uses are looked for.
const SWEEP: Duration = Duration::from_secs(30);

/// Tasks that are polled before new events are looked for. Each may take a turn: see [`fair`].
const EVENT_INTERVAL: u32 = 16;

/// Why a data worker does not run.
#[derive(Debug, Error)]
#[error("starting data worker {worker}: {source}")]
pub struct WorkerError {
    /// Which.
    pub worker: usize,
    /// What went wrong.
    #[source]
    pub source: io::Error,
}

/// A running data worker, seen from outside.
pub struct Worker {
    commands: mpsc::UnboundedSender<Command>,
    path: Arc<DataPath>,
    listeners: Arc<Listeners>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// All data workers of the agent.
pub struct Workers(Vec<Worker>);

/// What the workers share.
#[derive(Clone)]
pub struct Shared {
    /// What the mesh looks like.
    pub store: Arc<Store>,
    /// The pods enrolled on this node.
    pub pods: Arc<PodTable>,
    /// What became of connections.
    pub flows: Arc<FlowLog>,
    /// What is counted of them.
    pub metrics: Arc<Metrics>,
    /// Where each request is written, if it is.
    pub access: Option<Arc<AccessLog>>,
    /// What the connections of each workload may hold.
    pub budgets: Arc<Budgets>,
    /// Keys and certificates, if the agent has an authority.
    pub certificates: Option<Arc<CertificateStore>>,
    /// The trust domain of this mesh.
    pub trust_domain: TrustDomain,
    /// Which connections need no agent.
    pub direct: Arc<Direct>,
    /// The agent's own network namespace.
    pub home: Arc<Netns>,
}

enum Command {
    Listen {
        pod: Arc<Pod>,
        socket: OwnedFd,
        answerer: Arc<Answerer>,
    },
    Leave {
        pod: Arc<Pod>,
    },
    Stop {
        done: oneshot::Sender<()>,
    },
}

impl Workers {
    /// Starts one worker for each set of maps.
    pub fn start(maps: Vec<WorkerMaps>, shared: &Shared) -> Result<Self, WorkerError> {
        let cores = allowed_cores();
        maps.into_iter()
            .enumerate()
            .map(|(index, maps)| {
                let core = cores.get(index % cores.len().max(1)).copied();
                Worker::start(index, core, maps, shared).map_err(|source| WorkerError {
                    worker: index,
                    source,
                })
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// The workers in order.
    pub fn iter(&self) -> impl Iterator<Item = &Worker> {
        self.0.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Connections open on all of them.
    pub fn connections(&self) -> usize {
        self.iter().map(|worker| worker.registry().len()).sum()
    }

    /// True when none is open, nor about to be: a connection that was accepted counts before its task has run.
    pub fn are_idle(&self) -> bool {
        self.iter().all(|worker| worker.registry().is_idle())
    }

    /// Asks all who may send more requests on their connections to make new ones. Open connections go on.
    pub fn part(&self) {
        for worker in self.iter() {
            worker.path.leaving.cancel();
        }
    }

    /// Makes every worker stop accepting. Open connections go on.
    pub async fn stop_listening(&self) {
        for worker in self.iter() {
            let (done, stopped) = oneshot::channel();
            if worker.commands.send(Command::Stop { done }).is_ok() {
                // An error means that the worker is gone, and with it its listeners.
                let _ = stopped.await;
            }
        }
    }

    /// Waits until every connection has ended.
    pub async fn drained(&self) {
        for worker in self.iter() {
            worker.path.tasks.close();
            worker.path.pool.clear();
            worker.path.shelves.clear();
        }
        for worker in self.iter() {
            worker.path.tasks.wait().await;
        }
    }

    /// Cuts what is left.
    pub fn cut(&self) {
        for worker in self.iter() {
            worker.path.cut.cancel();
        }
    }

    /// Ends the threads; connections that are left end with them.
    pub fn join(self) {
        for worker in self.0 {
            drop(worker.commands);
            let thread = worker
                .thread
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take();
            if let Some(thread) = thread
                && thread.join().is_err()
            {
                tracing::error!("a data worker had panicked");
            }
        }
    }
}

impl Worker {
    fn start(index: usize, core: Option<usize>, maps: WorkerMaps, shared: &Shared) -> io::Result<Self> {
        let number = u32::try_from(index).map_err(io::Error::other)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .event_interval(EVENT_INTERVAL)
            .on_thread_park(fair::rest)
            .build()?;
        let serving = Serving {
            store: Arc::clone(&shared.store),
            pods: Arc::clone(&shared.pods),
            dialer: Dialer::new(maps.records, maps.sources),
            open_ports: maps.open_ports,
            let_in: maps.let_in,
            registry: Registry::new(number, Arc::clone(&shared.budgets)),
            flows: Arc::clone(&shared.flows),
            metrics: Arc::clone(&shared.metrics),
            access: shared.access.clone(),
            certificates: shared.certificates.clone(),
            trust_domain: shared.trust_domain.clone(),
            direct: Arc::clone(&shared.direct),
            tasks: TaskTracker::new(),
            cut: CancellationToken::new(),
        };
        let path = DataPath::new(serving, maps.loads);
        let listeners = Arc::new(Listeners::default());
        let (commands, inbox) = mpsc::unbounded_channel();
        let state = State {
            path: Arc::clone(&path),
            listeners: Arc::clone(&listeners),
            home: Arc::clone(&shared.home),
        };
        let ring = maps.syns;
        let thread = std::thread::Builder::new()
            .name(format!("worker-{index}"))
            .spawn(move || {
                if let Some(core) = core {
                    pin_to(core);
                }
                runtime.block_on(state.run(inbox, ring));
            })?;
        Ok(Self {
            commands,
            path,
            listeners,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Listens in a pod.
    pub fn listen(&self, pod: Arc<Pod>, socket: OwnedFd, answerer: Arc<Answerer>) {
        self.send(Command::Listen {
            pod,
            socket,
            answerer,
        });
    }

    /// Stops listening in a pod and leaves its namespace. Open connections go on.
    pub fn leave(&self, pod: Arc<Pod>) {
        self.send(Command::Leave { pod });
    }

    /// The worker's connections.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.path.registry
    }

    /// What the worker's connections share.
    pub fn path(&self) -> &Arc<DataPath> {
        &self.path
    }

    /// Requests held at the worker's listeners now.
    pub fn held(&self) -> usize {
        lock(&self.listeners)
            .values()
            .map(|listener| listener.held())
            .sum()
    }

    fn send(&self, command: Command) {
        if self.commands.send(command).is_err() {
            tracing::error!("a data worker is gone; its pods' connections are refused");
        }
    }
}

/// What the worker's thread owns.
struct State {
    path: Arc<DataPath>,
    listeners: Arc<Listeners>,
    home: Arc<Netns>,
}

impl State {
    async fn run(
        self,
        mut inbox: mpsc::UnboundedReceiver<Command>,
        ring: aya::maps::RingBuf<aya::maps::MapData>,
    ) {
        let own = TaskTracker::new();
        let rounds = own.spawn(fair::rounds(self.path.registry.worker() as usize));
        let held = held::run(ring, Arc::clone(&self.listeners), Arc::clone(&self.path));
        let held = own.spawn(async move {
            let Err(error) = held.await;
            tracing::error!(%error, "held requests are not answered any more; restart the agent");
        });
        let listening = TaskTracker::new();
        let mut sweep = tokio::time::interval(SWEEP);
        loop {
            let command = tokio::select! {
                command = inbox.recv() => command,
                _ = sweep.tick() => {
                    self.path.pool.sweep(Instant::now());
                    self.path.shelves.sweep(Instant::now());
                    self.path.meters.sweep();
                    continue;
                }
            };
            let Some(command) = command else {
                break;
            };
            match command {
                Command::Listen {
                    pod,
                    socket,
                    answerer,
                } => {
                    if let Err(error) = self.listen(&listening, &pod, socket, answerer) {
                        tracing::error!(pod = %pod.workload.key, %error, "listening failed; its connections are refused");
                    }
                }
                Command::Leave { pod } => self.leave(&pod),
                Command::Stop { done } => {
                    self.path.leaving.cancel();
                    lock(&self.listeners)
                        .drain()
                        .for_each(|(_, listener)| listener.stop());
                    listening.close();
                    listening.wait().await;
                    // Whoever asked may have gone.
                    let _ = done.send(());
                }
            }
        }
        held.abort();
        rounds.abort();
    }

    fn listen(
        &self,
        listening: &TaskTracker,
        pod: &Arc<Pod>,
        socket: OwnedFd,
        answerer: Arc<Answerer>,
    ) -> io::Result<()> {
        let socket = tokio::net::TcpListener::from_std(socket.into())?;
        let listener = PodListener::new(Arc::clone(pod), answerer, CancellationToken::new());
        lock(&self.listeners).insert(pod.number, Arc::clone(&listener));
        listening.spawn(listener.run(socket, Arc::clone(&self.path)));
        Ok(())
    }

    fn leave(&self, pod: &Pod) {
        if let Some(listener) = lock(&self.listeners).remove(&pod.number) {
            listener.stop();
        }
        if let Err(error) = netns::leave(pod.netns.id(), &self.home) {
            tracing::warn!(pod = %pod.workload.key, %error, "leaving a pod's network namespace failed");
        }
    }
}

fn lock(listeners: &Listeners) -> std::sync::MutexGuard<'_, HashMap<u32, Arc<PodListener>>> {
    listeners.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The cores this process may run on.
fn allowed_cores() -> Vec<usize> {
    let Ok(set) = sched_getaffinity(Pid::from_raw(0)) else {
        return Vec::new();
    };
    (0..CpuSet::count())
        .filter(|core| set.is_set(*core).unwrap_or(false))
        .collect()
}

/// Pins the calling thread.
fn pin_to(core: usize) {
    let mut set = CpuSet::new();
    let pinned = set
        .set(core)
        .and_then(|()| sched_setaffinity(Pid::from_raw(0), &set));
    if let Err(error) = pinned {
        tracing::warn!(core, %error, "a data worker is not pinned to its core");
    }
}
