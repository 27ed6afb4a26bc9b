//! The one place that builds and supervises everything: [`run`] is the life of an agent.
//!
//! Start: lock, kernel half, workers, configuration, enrolment, then the admin API says "ready". End: listeners
//! go, open connections have until the deadline, then the process ends; pins and maps stay, so that the pods are
//! refused until an agent comes back. A successor changes that order: it loads beside the running agent, which
//! then gives way ([`Inspect::handover`](crate::admin::Inspect::handover)) and serves what it has to the end.

mod beginning;
mod enrol;
mod events;
mod explain;
mod follow;
mod inspect;
mod keys;
mod lifecycle;
mod logging;
mod options;
mod policies;
pub(crate) mod preflight;

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicU32},
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwap;
use mesh_common::kernel::ABI_VERSION;
use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    admin::{self, AdminSocket, DialError, Door, DoorAddress, LockError, RunDir, ServeError, SocketError},
    config,
    identity::{self, CaDirectory, CertificateStore, Clock, EmbeddedCa, Settings, authority::DirectoryError},
    kernel::{self, DirectMaps, KernelError, bpffs},
    listener::{
        self,
        direct::{
            Direct,
            watch::{NO_WORKER, Watch, WatchParts},
        },
    },
    node::{
        Netns, PodTable,
        cgroup::{Cgroup, CgroupError},
    },
    runtime::{WorkerError, Workers, worker::Shared},
    state::Store,
    telemetry::{AccessLog, Budgets, FlowLog, Flushed, Registry, metrics::Metrics},
};
use beginning::{Beginning, begin, give_way, lock_pins};
use enrol::{Enrolment, Scope};
use follow::Configuration;
use inspect::Inspector;
use lifecycle::{Lifecycle, Locks, Phase};
pub use logging::LogFormat;
pub use options::{Access, Options, SameNode};
pub use preflight::PreflightError;

/// How long the reader of the access log may take for its last lines.
const ACCESS_PATIENCE: Duration = Duration::from_secs(2);
/// How long an agent that gave way goes on accepting at least: requests are still on their way to its listeners.
const HANDOVER_GRACE: Duration = Duration::from_secs(5);
/// How often a condition is looked at that nothing announces.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// How long the start waits for the first certificates.
const CERTIFICATE_PATIENCE: Duration = Duration::from_secs(5);

/// Why an agent does not run, or ended.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "each variant is the error of the part it names")]
pub enum AgentError {
    #[error(transparent)]
    Preflight(#[from] PreflightError),
    #[error(
        "log filter `{0}`: {1}; use a level like `info` or directives like `info,mesh_agent::outbound=debug`"
    )]
    Log(String, String),
    #[error("run directory {}: {source}; name a writable one with --run-dir", path.display())]
    RunDir { path: PathBuf, source: io::Error },
    #[error("{0}; stop it, or start with --takeover to replace it without losing a connection")]
    Running(LockError),
    #[error(transparent)]
    Lock(LockError),
    #[error("another agent, of another run directory, uses the pins in {}; name another directory with --bpffs", path.display())]
    PinsInUse { path: PathBuf },
    #[error("taking over: {0}")]
    Dial(#[from] DialError),
    #[error("taking over: the running agent refuses: {0}")]
    Refused(Box<tonic::Status>),
    #[error(
        "taking over: the running agent has kernel ABI {found}, this one {ABI_VERSION}; stop the other agent, run \
         `mesh-agent uninstall`, then start this one"
    )]
    Abi { found: u32 },
    #[error(transparent)]
    Authority(#[from] DirectoryError),
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error(transparent)]
    Worker(#[from] WorkerError),
    #[error(transparent)]
    Config(#[from] config::SourceError),
    #[error(transparent)]
    Socket(#[from] SocketError),
    #[error(transparent)]
    Serve(#[from] ServeError),
    #[error("{what}: {source}")]
    Io { what: &'static str, source: io::Error },
}

impl AgentError {
    fn io(what: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::Io { what, source }
    }
}

/// Runs an agent until it is told to end, or until something it cannot do without fails.
pub fn run(options: Options) -> Result<(), AgentError> {
    let log = logging::start(&options.log, options.log_format)?;
    preflight::check()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(AgentError::io("starting the admin runtime"))?;
    runtime.block_on(Agent::start_and_serve(options, log))
}

/// The parts of a running agent that end together.
struct Agent {
    run_dir: RunDir,
    lifecycle: Arc<Lifecycle>,
    enrolment: Arc<Enrolment>,
    workers: Arc<Workers>,
    tasks: TaskTracker,
    access: Option<Arc<AccessLog>>,
    stop: CancellationToken,
    takeover: bool,
    /// Ends the following of direct connections, which are a successor's from then on.
    given_away: CancellationToken,
}

impl Agent {
    async fn start_and_serve(options: Options, log: logging::Handle) -> Result<(), AgentError> {
        let run_dir = RunDir::new(&options.run_dir);
        run_dir.create().map_err(|source| AgentError::RunDir {
            path: options.run_dir.clone(),
            source,
        })?;
        let beginning = begin(&run_dir, options.takeover).await?;
        tracing::info!(
            node = options.node,
            version = env!("CARGO_PKG_VERSION"),
            takeover = matches!(beginning, Beginning::Takeover(_)),
            "starting"
        );

        let store = Arc::new(Store::with_root_namespace(&options.root_namespace));
        let configuration = Configuration::open(&options.config, Arc::clone(&store))?;

        let home = Arc::new(
            Netns::open("/proc/self/ns/net".as_ref())
                .map_err(AgentError::io("opening the agent's own network namespace"))?,
        );
        let object = kernel::load::object_bytes(options.ebpf_object.as_deref())?;
        let pods_cgroup = Cgroup::of_pods(options.pods_cgroup.as_deref())?;
        let agent_cgroup = Cgroup::of_agent()?;
        if let Some(mounted) = bpffs::ensure(&options.bpffs).map_err(KernelError::from)? {
            note_mount(&run_dir, &mounted);
        }
        let beginning = match beginning {
            Beginning::Alone(agent) => Ok(Locks {
                agent,
                _pins: lock_pins(&options.bpffs)?,
            }),
            Beginning::Takeover(predecessor) => Err(predecessor),
        };
        let letting_go = options.letting_go();
        let loaded = kernel::load::load(
            &object,
            &options.bpffs,
            &pods_cgroup,
            &agent_cgroup,
            options.worker_count(),
            &options.direct_room(letting_go),
        )?;
        let (kernel, worker_maps, ring, direct_maps) = loaded;

        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let certificates = match &options.ca {
            Some(directory) => {
                let certificates = certificate_store(directory, options.certificate_lifetime)?;
                tasks.spawn(Arc::clone(&certificates).run(stop.clone()));
                first_certificates(&certificates, &store, &options.node).await;
                Some(certificates)
            }
            None => None,
        };
        tasks.spawn(keys::follow(
            Arc::clone(&store),
            options.node.clone(),
            stop.clone(),
        ));
        let pods = Arc::new(PodTable::default());
        let metrics = Arc::new(Metrics::new());
        let flows = Arc::new(FlowLog::new(Arc::clone(&metrics)));
        let trust_domain = match &certificates {
            Some(certificates) => certificates.trust_domain().clone(),
            None => options.trust_domain.clone(),
        };
        let access = match options.access {
            Access::Told => Some(Arc::new(
                AccessLog::start().map_err(AgentError::io("starting the access log"))?,
            )),
            Access::Untold => None,
        };
        let budgets = Budgets::new(options.limits());
        let DirectMaps {
            verdicts,
            passages,
            events: direct_ring,
        } = direct_maps;
        let direct = Arc::new(Direct::new(
            verdicts,
            Arc::clone(&store),
            Arc::clone(&pods),
            trust_domain.clone(),
        ));
        let by_themselves = Registry::new(NO_WORKER, Arc::clone(&budgets));
        let shared = Shared {
            store: Arc::clone(&store),
            pods: Arc::clone(&pods),
            flows: Arc::clone(&flows),
            metrics: Arc::clone(&metrics),
            access: access.clone(),
            budgets: Arc::clone(&budgets),
            certificates: certificates.clone(),
            trust_domain: trust_domain.clone(),
            direct: Arc::clone(&direct),
            home: Arc::clone(&home),
        };
        let workers = Arc::new(Workers::start(worker_maps, &shared)?);
        let standings = Arc::new(ArcSwap::default());

        let (locks, generation) = match beginning {
            Ok(locks) => (locks, 0),
            Err(predecessor) => {
                let (agent, generation) = give_way(*predecessor, &run_dir).await?;
                (
                    Locks {
                        agent,
                        _pins: lock_pins(&options.bpffs)?,
                    },
                    generation,
                )
            }
        };
        let enrolment = Enrolment::start(Scope {
            node: options.node.clone(),
            kernel,
            workers: Arc::clone(&workers),
            store: Arc::clone(&store),
            pods: Arc::clone(&pods),
            home: Arc::clone(&home),
            certificates: certificates.clone(),
            direct: Arc::clone(&direct),
            standings: Arc::clone(&standings),
        })
        .map_err(AgentError::io("starting the enrolment thread"))?;
        let enrolment = Arc::new(enrolment);
        enrolment.look().await;

        let lifecycle = Arc::new(Lifecycle::new(
            locks,
            options.drain_timeout,
            options.handover_timeout,
        ));
        let inspector = Inspector {
            node: options.node,
            pins: options.bpffs,
            started_at: SystemTime::now(),
            started: Instant::now(),
            generation: AtomicU32::new(generation),
            store: Arc::clone(&store),
            workers: Arc::clone(&workers),
            budgets,
            by_themselves: Arc::clone(&by_themselves),
            direct: Arc::clone(&direct),
            standings,
            trust_domain,
            certificates,
            flows: Arc::clone(&flows),
            metrics: Arc::clone(&metrics),
            lifecycle: Arc::clone(&lifecycle),
            enrolment: Arc::clone(&enrolment),
            log,
        };
        let socket = AdminSocket::bind(&run_dir.socket())?;
        let inspector = Arc::new(inspector);
        for (door, address) in [
            (Door::Metrics, options.metrics_address),
            (Door::Health, options.health_address),
        ] {
            if let DoorAddress(Some(address)) = address {
                let expose = Arc::clone(&inspector);
                tasks.spawn(admin::serve_http(door, address, expose, lifecycle.admin_stop()));
            }
        }
        let serving = admin::serve(socket, inspector, lifecycle.admin_stop());
        tasks.spawn(async move {
            if let Err(error) = serving.await {
                tracing::error!(%error, "the admin API is gone; traffic is not affected");
            }
        });
        let watch = Watch::new(
            direct,
            WatchParts {
                passages,
                ring: direct_ring,
                registry: by_themselves,
                flows: Arc::clone(&flows),
                metrics,
                home,
            },
        );
        let given_away = stop.child_token();
        tasks.spawn(watch.run(letting_go, given_away.clone()));
        tasks.spawn(events::run(ring, Arc::clone(&workers), pods, flows, stop.clone()));
        tasks.spawn(configuration.follow(Arc::clone(&enrolment), stop.clone()));
        if generation == 0 {
            enrolment.alone();
        } else {
            enrolment.succeed();
        }
        lifecycle.ready();
        tracing::info!(generation, "ready");
        // The start reads the kernel's types and the configuration, which takes more memory than they do.
        kernel::raw::trim_heap();

        let agent = Self {
            run_dir,
            lifecycle,
            enrolment,
            workers,
            tasks,
            access,
            stop,
            takeover: generation > 0,
            given_away,
        };
        agent.serve().await
    }

    /// Serves until told to end, then ends.
    async fn serve(self) -> Result<(), AgentError> {
        let mut terminate =
            signal(SignalKind::terminate()).map_err(AgentError::io("listening for SIGTERM"))?;
        let mut interrupt =
            signal(SignalKind::interrupt()).map_err(AgentError::io("listening for SIGINT"))?;
        let mut phases = self.lifecycle.watch();
        loop {
            tokio::select! {
                _ = terminate.recv() => { self.lifecycle.drain(None); }
                _ = interrupt.recv() => { self.lifecycle.drain(None); }
                _ = phases.changed() => {}
            }
            if *phases.borrow_and_update() != Phase::Ready {
                break;
            }
        }
        self.end(&mut terminate).await;
        Ok(())
    }

    async fn end(self, terminate: &mut tokio::signal::unix::Signal) {
        let phase = self.lifecycle.phase();
        tracing::info!(%phase, connections = self.workers.connections(), takeover = self.takeover, "ending");
        if phase == Phase::HandedOver {
            self.given_away.cancel();
            // Listeners stay: requests are on their way to them until the successor's have taken every pod.
            let grace = Instant::now() + HANDOVER_GRACE;
            tokio::select! {
                _ = terminate.recv() => {}
                () = tokio::time::sleep(HANDOVER_GRACE) => {
                    // Those who keep a connection for their requests make the next one, which the successor serves.
                    self.workers.part();
                    self.wait_idle(grace, terminate).await;
                }
            }
        }
        self.workers.stop_listening().await;
        self.wait_idle(Instant::now(), terminate).await;
        let left = self.workers.connections();
        if left > 0 {
            tracing::warn!(
                connections = left,
                "the time to drain is over; cutting what is left"
            );
        }
        self.workers.cut();
        // The cut is instant; the deadline only guards against a worker that hangs.
        if tokio::time::timeout(Duration::from_secs(2), self.workers.drained())
            .await
            .is_err()
        {
            tracing::error!("connections were left when the agent ended");
        }
        self.stop.cancel();
        self.lifecycle.stop_admin();
        self.tasks.close();
        if tokio::time::timeout(Duration::from_secs(2), self.tasks.wait())
            .await
            .is_err()
        {
            tracing::error!("a task was left when the agent ended");
        }
        if let Ok(enrolment) = Arc::try_unwrap(self.enrolment).map_err(|_| ()) {
            enrolment.join();
        }
        if let Ok(workers) = Arc::try_unwrap(self.workers).map_err(|_| ()) {
            workers.join();
        }
        self.lifecycle.release(&self.run_dir);
        // Nothing else is left for this thread to do.
        if let Some(access) = self.access
            && access.flush(ACCESS_PATIENCE).await == Flushed::Partly
        {
            tracing::warn!("nobody takes the last lines of the access log");
        }
        tracing::info!("ended");
    }

    /// Waits until no connection is open, but not before `earliest` and not after the deadline. A second signal
    /// ends the wait.
    async fn wait_idle(&self, earliest: Instant, terminate: &mut tokio::signal::unix::Signal) {
        loop {
            let now = Instant::now();
            let deadline = self.lifecycle.deadline();
            if now >= deadline || (now >= earliest && self.workers.are_idle()) {
                return;
            }
            tokio::select! {
                _ = terminate.recv() => return,
                () = tokio::time::sleep(LOOK_AGAIN) => {}
            }
        }
    }
}

/// Remembers for `uninstall` that the agent mounted the BPF file system, whatever becomes of the agent next.
fn note_mount(run_dir: &RunDir, mounted: &Path) {
    if let Err(error) = std::fs::write(run_dir.bpffs_note(), mounted.as_os_str().as_encoded_bytes()) {
        tracing::warn!(%error, "`uninstall` will leave the BPF file system mounted");
    }
}

/// The keys and certificates of this node, issued by the authority in `directory`.
fn certificate_store(directory: &Path, lifetime: Duration) -> Result<Arc<CertificateStore>, AgentError> {
    identity::forbid_core_dumps().map_err(AgentError::io("keeping keys out of core dumps"))?;
    let directory = CaDirectory::new(directory);
    let clock = Clock::system();
    let trust_domain = directory.open(clock.now())?.trust_domain().clone();
    let settings = Settings {
        lifetime,
        ..Settings::new(trust_domain)
    };
    let issuer = Arc::new(EmbeddedCa::new(directory, clock.clone()));
    Ok(Arc::new(CertificateStore::new(settings, issuer, clock)))
}

/// Waits a moment for the certificates of the workloads that are here already, so that the first connections need not
/// be refused for want of them.
async fn first_certificates(certificates: &CertificateStore, store: &Store, node: &str) {
    let accounts: BTreeSet<_> = store
        .load()
        .workloads_on(node)
        .map(|entry| listener::account_of(&entry.workload))
        .collect();
    certificates.want(accounts.clone());
    let all = async {
        for account in &accounts {
            certificates.obtained(account).await;
        }
    };
    if tokio::time::timeout(CERTIFICATE_PATIENCE, all).await.is_err() {
        tracing::warn!(
            "some workloads have no certificate yet; their connections to other nodes are refused until then"
        );
    }
}
