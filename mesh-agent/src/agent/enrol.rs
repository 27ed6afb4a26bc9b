//! Enrolment: which pods of this node the agent carries, and the kernel half that makes it so.
//!
//! One thread owns the shared maps and the links. It compares what the snapshot says should be enrolled with what
//! is, whenever the snapshot changes and a few times a second, since namespaces come and go without telling.
//!
//! Order is everything. Enrolling: listeners first, then what steers inbound connections to them, then the entry
//! that captures outbound ones. Un-enrolling: the reverse, and the listeners stay a little for requests already
//! on their way. Invariant: whatever happens in between, a connection is carried or refused, never let past.

use std::{
    collections::{HashMap, HashSet},
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, mpsc},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use mesh_common::{
    kernel::{InboundEntry, Ip, ListenerEntry, MAX_WORKERS, PodEntry},
    model::{Locate, ObjectKey, Workload},
};
use socket2::{Domain, Socket, Type};
use thiserror::Error;
use tokio::sync::oneshot;

use crate::{
    kernel::{Kernel, KernelError},
    listener::{answer::Answerer, socket},
    node::{
        Netns, Pod, PodTable,
        locate::{self, LocateError},
        netns::NetnsId,
    },
    runtime::Workers,
    state::Store,
};

/// How often namespaces are looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// How long listeners of a pod that left stay for requests already on their way.
const FAREWELL: Duration = Duration::from_secs(2);

/// How long a look around may take at most before the thread counts as stuck.
const FREEZE_PATIENCE: Duration = Duration::from_secs(5);

/// Where each local workload stands; read by the admin API.
pub(super) type Standings = Arc<ArcSwap<HashMap<ObjectKey, Standing>>>;

/// Where a local workload stands.
#[derive(Clone, Debug)]
pub(super) enum Standing {
    /// Its traffic is carried.
    Enrolled(Arc<Pod>),
    /// Something it needs is not there yet.
    Waiting(String),
    /// It cannot be enrolled; its connections are refused if it was before.
    Failed(String),
}

/// The enrolment thread, seen from outside.
pub(super) struct Enrolment {
    orders: mpsc::Sender<Order>,
    thread: JoinHandle<()>,
}

enum Order {
    /// Look now, and say when that is done.
    Look(Option<oneshot::Sender<()>>),
    /// Touch nothing from now on: a successor does.
    Freeze(mpsc::Sender<()>),
    /// Forget other agents: this one runs alone now.
    Alone,
}

/// What enrolment works on.
pub(super) struct Scope {
    pub(super) node: String,
    pub(super) kernel: Kernel,
    pub(super) workers: Arc<Workers>,
    pub(super) store: Arc<Store>,
    pub(super) pods: Arc<PodTable>,
    pub(super) home: Arc<Netns>,
    pub(super) standings: Standings,
}

#[derive(Debug, Error)]
enum EnrolError {
    #[error("the workload says no `locate`; name its netns, netnsPath, cgroup or pid")]
    NoLocate,
    #[error(transparent)]
    Locate(#[from] LocateError),
    #[error("network namespace {}: {source}", path.display())]
    Netns { path: PathBuf, source: io::Error },
    #[error(
        "{} is the agent's own network namespace; a workload on the host's network cannot be enrolled", path.display()
    )]
    HostNetwork { path: PathBuf },
    #[error("its network namespace is workload {0}'s; correct the `locate` of one of them")]
    SameNetns(ObjectKey),
    #[error("address {0} is not configured in its network namespace yet; it is looked for again")]
    NoAddress(std::net::IpAddr),
    #[error("opening sockets in its network namespace: {0}")]
    Sockets(#[source] io::Error),
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

impl EnrolError {
    fn standing(&self) -> Standing {
        match self {
            Self::Locate(LocateError::Absent { .. } | LocateError::NoProcess { .. }) | Self::NoAddress(_) => {
                Standing::Waiting(self.to_string())
            }
            _ => Standing::Failed(self.to_string()),
        }
    }
}

/// One enrolled pod.
struct Enrolled {
    pod: Arc<Pod>,
    listener_cookies: Vec<u64>,
}

impl Enrolment {
    /// Starts the thread.
    pub(super) fn start(scope: Scope) -> io::Result<Self> {
        let (orders, inbox) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("enrolment".to_owned())
            .spawn(move || Enroller::new(scope).run(&inbox))?;
        Ok(Self { orders, thread })
    }

    /// Looks at once, and returns when that is done.
    pub(super) async fn look(&self) {
        let (done, looked) = oneshot::channel();
        self.order(Order::Look(Some(done)));
        // An error means that the thread is gone, which is reported where it is joined.
        let _ = looked.await;
    }

    /// Looks soon.
    pub(super) fn look_soon(&self) {
        self.order(Order::Look(None));
    }

    /// Leaves the kernel half to a successor. False when the thread does not answer; otherwise nothing of the
    /// kernel half is touched any more once this returns.
    pub(super) fn freeze(&self) -> bool {
        let (done, frozen) = mpsc::channel();
        self.order(Order::Freeze(done));
        frozen.recv_timeout(FREEZE_PATIENCE).is_ok()
    }

    /// This agent runs alone: what agents before it left behind goes.
    pub(super) fn alone(&self) {
        self.order(Order::Alone);
    }

    /// Ends the thread. Pins, maps and links stay: the pods' connections are refused until an agent comes.
    pub(super) fn join(self) {
        drop(self.orders);
        if self.thread.join().is_err() {
            tracing::error!("the enrolment thread had panicked");
        }
    }

    fn order(&self, order: Order) {
        if self.orders.send(order).is_err() {
            tracing::error!(
                "the enrolment thread is gone; pods are neither enrolled nor un-enrolled any more"
            );
        }
    }
}

struct Enroller {
    scope: Scope,
    enrolled: HashMap<ObjectKey, Enrolled>,
    troubled: HashMap<ObjectKey, Standing>,
    leaving: Vec<(Instant, Enrolled)>,
    next_number: u32,
    seen_version: Option<u64>,
}

impl Enroller {
    fn new(scope: Scope) -> Self {
        Self {
            scope,
            enrolled: HashMap::new(),
            troubled: HashMap::new(),
            leaving: Vec::new(),
            next_number: 1,
            seen_version: None,
        }
    }

    fn run(mut self, inbox: &mpsc::Receiver<Order>) {
        loop {
            let order = match inbox.recv_timeout(LOOK_AGAIN) {
                Ok(order) => order,
                Err(mpsc::RecvTimeoutError::Timeout) => Order::Look(None),
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
            };
            match order {
                Order::Look(done) => {
                    self.look();
                    if let Some(done) = done {
                        // Whoever asked may have gone.
                        let _ = done.send(());
                    }
                }
                Order::Alone => self.alone(),
                Order::Freeze(done) => {
                    // Whoever asked may have gone; frozen all the same.
                    let _ = done.send(());
                    // Until the agent ends.
                    while inbox.recv().is_ok() {}
                    return;
                }
            }
        }
    }

    /// Brings what is enrolled in line with what should be.
    fn look(&mut self) {
        let snapshot = Arc::clone(&self.scope.store.load());
        let version = snapshot.version();
        let wanted: HashMap<ObjectKey, Arc<Workload>> = snapshot
            .workloads()
            .map(|entry| &entry.workload)
            .filter(|workload| workload.node == self.scope.node)
            .map(|workload| (workload.key.clone(), Arc::clone(workload)))
            .collect();
        let mut changed = self.seen_version != Some(version);
        self.seen_version = Some(version);

        let gone: Vec<ObjectKey> = self
            .enrolled
            .iter()
            .filter(|(key, enrolled)| {
                !wanted
                    .get(*key)
                    .is_some_and(|workload| self.still_stands(enrolled, workload))
            })
            .map(|(key, _)| key.clone())
            .collect();
        for key in gone {
            changed = true;
            self.unenrol(&key);
        }
        self.troubled.retain(|key, _| wanted.contains_key(key));
        for (key, workload) in &wanted {
            if self.enrolled.contains_key(key) {
                continue;
            }
            changed |= match self.enrol(workload) {
                Ok(()) => {
                    self.troubled.remove(key);
                    true
                }
                Err(error) => self.trouble(key, &error),
            };
        }
        self.say_farewell();
        if changed {
            self.publish();
        }
    }

    /// True when the pod is still the one that was enrolled.
    fn still_stands(&self, enrolled: &Enrolled, workload: &Workload) -> bool {
        let before = &enrolled.pod.workload;
        before.addresses == workload.addresses
            && before.locate == workload.locate
            && before.service_account == workload.service_account
            && workload
                .locate
                .as_ref()
                .and_then(|locate| locate::netns_path(locate).ok())
                .and_then(|path| NetnsId::at(&path).ok())
                == Some(enrolled.pod.netns.id())
    }

    fn trouble(&mut self, key: &ObjectKey, error: &EnrolError) -> bool {
        let standing = error.standing();
        let known = match (self.troubled.get(key), &standing) {
            (Some(Standing::Waiting(before)), Standing::Waiting(now))
            | (Some(Standing::Failed(before)), Standing::Failed(now)) => before == now,
            _ => false,
        };
        if known {
            return false;
        }
        match &standing {
            Standing::Failed(reason) => tracing::error!(workload = %key, %reason, "not enrolled"),
            _ => tracing::info!(workload = %key, reason = %error, "not enrolled yet"),
        }
        self.troubled.insert(key.clone(), standing);
        true
    }

    fn enrol(&mut self, workload: &Arc<Workload>) -> Result<(), EnrolError> {
        let netns = self.locate(workload.locate.as_ref().ok_or(EnrolError::NoLocate)?)?;
        for ip in &workload.addresses {
            if !is_configured(*ip) {
                return Err(EnrolError::NoAddress(*ip));
            }
        }
        let number = self.next_number;
        let mut sockets = Vec::with_capacity(self.scope.workers.len());
        for _ in self.scope.workers.iter() {
            sockets.push(socket::open(&netns).map_err(EnrolError::Sockets)?);
        }
        let answerer =
            Arc::new(Answerer::open(&netns, self.scope.kernel.mark()).map_err(EnrolError::Sockets)?);
        let listener_ports = sockets
            .iter()
            .map(socket::port)
            .collect::<Result<Vec<_>, _>>()
            .map_err(EnrolError::Sockets)?;
        let listener_cookies = sockets
            .iter()
            .map(Socket::cookie)
            .collect::<Result<Vec<_>, _>>()
            .map_err(EnrolError::Sockets)?;
        let pod = Arc::new(Pod {
            number,
            workload: Arc::clone(workload),
            netns,
            listener_ports,
        });
        self.next_number += 1;

        let enrolled = Enrolled {
            pod,
            listener_cookies,
        };
        if let Err(error) = self.steer(&enrolled, &sockets) {
            self.withdraw(&enrolled);
            return Err(error.into());
        }
        for (worker, socket) in self.scope.workers.iter().zip(sockets) {
            worker.listen(Arc::clone(&enrolled.pod), socket.into(), Arc::clone(&answerer));
        }
        // Only now outbound connections are captured: everything they meet stands.
        if let Err(error) = self
            .scope
            .kernel
            .tables
            .enrol(enrolled.pod.netns.cookie(), pod_entry(&enrolled.pod))
        {
            self.withdraw(&enrolled);
            return Err(error.into());
        }
        tracing::info!(workload = %workload.key, netns = %enrolled.pod.netns.path().display(), "enrolled");
        self.enrolled.insert(workload.key.clone(), enrolled);
        Ok(())
    }

    fn locate(&self, locate: &Locate) -> Result<Arc<Netns>, EnrolError> {
        let path = locate::netns_path(locate)?;
        let netns = Netns::open(&path).map_err(|source| EnrolError::Netns {
            path: path.clone(),
            source,
        })?;
        if netns.cookie() == self.scope.home.cookie() {
            return Err(EnrolError::HostNetwork { path });
        }
        let other = self
            .enrolled
            .iter()
            .find(|(_, other)| other.pod.netns.cookie() == netns.cookie());
        match other {
            Some((key, _)) => Err(EnrolError::SameNetns(key.clone())),
            None => Ok(Arc::new(netns)),
        }
    }

    /// Points inbound connections at the pod's listeners.
    fn steer(&mut self, enrolled: &Enrolled, sockets: &[Socket]) -> Result<(), KernelError> {
        let pod = &enrolled.pod;
        let kernel = &mut self.scope.kernel;
        for (worker, (socket, cookie)) in (0..).zip(sockets.iter().zip(&enrolled.listener_cookies)) {
            let entry = ListenerEntry {
                netns: pod.netns.cookie(),
                pod: pod.number,
                worker,
            };
            kernel.tables.describe_listener(*cookie, entry)?;
            kernel.hold(socket)?;
            for ip in &pod.workload.addresses {
                kernel.tables.set_listener(*ip, worker, socket)?;
            }
        }
        for ip in &pod.workload.addresses {
            kernel.tables.set_inbound(
                *ip,
                InboundEntry {
                    pod: pod.number,
                    workers: worker_count(sockets.len()),
                },
            )?;
        }
        kernel.capture_inbound(&pod.netns)
    }

    /// Takes back what [`Self::steer`] and enrolment did in the kernel.
    fn withdraw(&mut self, enrolled: &Enrolled) {
        let pod = &enrolled.pod;
        let kernel = &mut self.scope.kernel;
        let report = |result: Result<(), KernelError>| {
            if let Err(error) = result {
                tracing::error!(workload = %pod.workload.key, %error, "un-enrolling left something behind");
            }
        };
        report(kernel.tables.unenrol(pod.netns.cookie()));
        report(kernel.release_inbound(pod.netns.cookie()));
        for ip in &pod.workload.addresses {
            report(kernel.tables.remove_inbound(Ip::from(*ip)));
        }
    }

    fn unenrol(&mut self, key: &ObjectKey) {
        let Some(enrolled) = self.enrolled.remove(key) else {
            return;
        };
        self.withdraw(&enrolled);
        tracing::info!(workload = %key, "un-enrolled");
        self.leaving.push((Instant::now() + FAREWELL, enrolled));
    }

    /// Closes the listeners of pods that left a while ago.
    fn say_farewell(&mut self) {
        let now = Instant::now();
        for (_, enrolled) in self.leaving.extract_if(.., |(until, _)| *until <= now) {
            for worker in self.scope.workers.iter() {
                worker.leave(Arc::clone(&enrolled.pod));
            }
            for cookie in &enrolled.listener_cookies {
                if let Err(error) = self.scope.kernel.tables.forget_listener(*cookie) {
                    tracing::warn!(%error, "a closed listener is still known to the kernel half");
                }
            }
            // A thread keeps the namespace it is in alive, and this one was in it.
            if let Err(error) = crate::node::netns::leave(enrolled.pod.netns.id(), &self.scope.home) {
                tracing::warn!(%error, "leaving a pod's network namespace failed");
            }
        }
    }

    /// Un-enrols what an agent before this one had enrolled and nobody wants any more, and forgets that agent.
    fn alone(&mut self) {
        if let Err(error) = self.forget_the_past() {
            tracing::error!(%error, "cleaning up after an earlier agent failed");
        }
    }

    fn forget_the_past(&mut self) -> Result<(), KernelError> {
        let kernel = &mut self.scope.kernel;
        kernel.forget_other_agents()?;
        let own: Vec<u64> = self
            .enrolled
            .values()
            .flat_map(|enrolled| enrolled.listener_cookies.iter().copied())
            .collect();
        kernel.tables.forget_other_listeners(&own)?;
        // A workload that is wanted but could not be enrolled may be one of them: refused, not let loose.
        if self
            .troubled
            .values()
            .any(|standing| matches!(standing, Standing::Failed(_)))
        {
            return Ok(());
        }
        let wanted: HashSet<u64> = self
            .enrolled
            .values()
            .map(|enrolled| enrolled.pod.netns.cookie())
            .collect();
        for (cookie, entry) in kernel.tables.enrolled() {
            if !wanted.contains(&cookie) {
                kernel.tables.unenrol(cookie)?;
                tracing::info!(netns = cookie, "un-enrolled a pod that is no longer configured");
                for ip in [entry.ip4, entry.ip6] {
                    let now_anothers = self.enrolled.values().any(|enrolled| {
                        enrolled
                            .pod
                            .workload
                            .addresses
                            .iter()
                            .any(|own| Ip::from(*own) == ip)
                    });
                    if !ip.is_unspecified() && !now_anothers {
                        kernel.tables.remove_inbound(ip)?;
                    }
                }
            }
        }
        for cookie in kernel.pins().looked_up() {
            if !wanted.contains(&cookie) {
                kernel.release_inbound(cookie)?;
            }
        }
        Ok(())
    }

    /// Tells the data workers and the admin API.
    fn publish(&self) {
        self.scope
            .pods
            .replace(self.enrolled.values().map(|enrolled| &enrolled.pod));
        let enrolled = self
            .enrolled
            .iter()
            .map(|(key, enrolled)| (key.clone(), Standing::Enrolled(Arc::clone(&enrolled.pod))));
        let troubled = self
            .troubled
            .iter()
            .map(|(key, standing)| (key.clone(), standing.clone()));
        self.scope
            .standings
            .store(Arc::new(enrolled.chain(troubled).collect()));
    }
}

fn pod_entry(pod: &Pod) -> PodEntry {
    let own = |v4: bool| {
        let found = pod.workload.addresses.iter().find(|ip| ip.is_ipv4() == v4);
        found.map_or(Ip::UNSPECIFIED, |ip| Ip::from(*ip))
    };
    let mut ports = [0; MAX_WORKERS];
    ports
        .iter_mut()
        .zip(&pod.listener_ports)
        .for_each(|(slot, port)| *slot = *port);
    PodEntry {
        ip4: own(true),
        ip6: own(false),
        pod: pod.number,
        workers: worker_count(pod.listener_ports.len()),
        ports,
    }
}

fn worker_count(count: usize) -> u32 {
    u32::try_from(count.min(MAX_WORKERS)).unwrap_or(0)
}

/// Whether the namespace the thread is in has this address and it may be used (IPv6 addresses are checked for
/// duplicates first).
fn is_configured(ip: std::net::IpAddr) -> bool {
    let addr = SocketAddr::new(ip, 0);
    Socket::new(Domain::for_address(addr), Type::DGRAM.cloexec(), None)
        .and_then(|socket| socket.bind(&addr.into()))
        .is_ok()
}
