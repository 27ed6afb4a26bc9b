//! Which connections between pods of this node need no agent, told to the kernel half.
//!
//! A data worker that has carried a connection to a pod of this node asks [`Direct::consider`]; if nothing about such
//! connections needs the agent, the kernel half lets the next ones go by themselves. [`watch`] follows those that were
//! let go, and all of this again at each change.
//!
//! Invariant: what is let go is what the agent would carry as bytes, permitted by the same policies on the same proof;
//! a change of the configuration or of the pods makes every verdict of before void first, and looks again then.

pub mod watch;
mod ways;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use mesh_common::{
    kernel::DIRECT_TARGETS,
    model::{PeerMode, TrustDomain},
};
use socket2::{Domain, Socket, Type};
use tokio::sync::Notify;

use self::ways::{Way, Ways};
use super::{
    journey::identity_of,
    terms::{Party, check_unread},
};
use crate::{
    inbound::{Guard, Proof},
    kernel::direct::Verdicts,
    node::{Pod, PodTable},
    outbound,
    state::{Resolution, Snapshot, Store},
    telemetry::{Cause, metrics::DirectFacts},
};

/// How long a way is the agent's after its network has failed.
const SHUNNED: Duration = Duration::from_secs(600);

/// Who needs no agent to reach what.
pub struct Direct {
    verdicts: Verdicts,
    store: Arc<Store>,
    pods: Arc<PodTable>,
    trust_domain: TrustDomain,
    ways: Mutex<Ways<Arc<Pod>>>,
    /// Connections that were carried because there were too many ways.
    wayless: AtomicU64,
    /// The same because too many went directly; [`watch`] writes it.
    turned_away: AtomicU64,
    pods_changed: Notify,
}

/// Whether a way is looked at for the first time.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Look {
    First,
    Again,
}

impl Direct {
    /// Lets nobody go until [`watch`] has begun.
    pub fn new(
        verdicts: Verdicts,
        store: Arc<Store>,
        pods: Arc<PodTable>,
        trust_domain: TrustDomain,
    ) -> Self {
        Self {
            verdicts,
            store,
            pods,
            trust_domain,
            ways: Mutex::new(Ways::new()),
            wayless: AtomicU64::new(0),
            turned_away: AtomicU64::new(0),
            pods_changed: Notify::new(),
        }
    }

    /// The pods of this node have changed, or are about to: every verdict is void until it was looked at again.
    pub fn pods_changed(&self) {
        if self.is_on() {
            self.advance();
            self.pods_changed.notify_one();
        }
    }

    /// A connection of `source` to `dialled` was carried to a pod of this node: are the next ones to go by themselves?
    pub(super) fn consider(&self, source: &Arc<Pod>, dialled: SocketAddr) {
        let generation = self.verdicts.generation();
        if generation == 0 {
            return;
        }
        let way = (source.netns.cookie(), dialled);
        {
            let mut ways = self.lock();
            let Ok(known) = ways.enter(way, source, Instant::now()) else {
                self.wayless.fetch_add(1, Ordering::Relaxed);
                return;
            };
            if known.generation == generation {
                return;
            }
            known.generation = generation;
            known.source = Arc::clone(source);
        }
        self.judge(way, generation, Look::First);
    }

    /// Looks at everything again. What does not hold any more counts no more before this returns.
    fn review(&self) {
        self.advance();
        let generation = self.verdicts.generation();
        let now = Instant::now();
        let mut ways: Vec<Way> = Vec::new();
        self.lock().retain(|way, known| {
            let stays = is_enrolled(&self.pods, &known.source);
            known.shunned = known.shunned.filter(|until| *until > now);
            if stays {
                known.generation = generation;
                ways.push(*way);
            }
            stays
        });
        for way in ways {
            self.judge(way, generation, Look::Again);
        }
    }

    /// The network between the pods has failed where the agent would not have: the way is the agent's for a while.
    fn shun(&self, way: Way) {
        self.lock().shun(&way, Instant::now() + SHUNNED);
        if let Err(error) = self.verdicts.keep(way.0, way.1) {
            tracing::warn!(%error, "connections still go where the network does not lead");
        }
    }

    /// Drops the ways that nobody uses any more.
    fn forget_unused(&self) {
        let unused = self.lock().forget_unused(Instant::now());
        for way in unused {
            if let Err(error) = self.verdicts.keep(way.0, way.1) {
                tracing::warn!(%error, "the kernel half still knows a way that nobody looks after");
            }
        }
    }

    /// For metrics; `None` when nobody is let go.
    pub fn facts(&self, connections: usize) -> Option<DirectFacts> {
        self.is_on().then(|| DirectFacts {
            connections,
            ways: self.lock().len(),
            carried: [
                ("connections", self.turned_away.load(Ordering::Relaxed)),
                ("ways", self.wayless.load(Ordering::Relaxed)),
            ],
        })
    }

    /// Tells the kernel half of one way.
    fn judge(&self, way: Way, generation: u64, look: Look) {
        let source = match self.lock().get(&way) {
            Some(known) if known.shunned.is_none() => Arc::clone(&known.source),
            _ => return,
        };
        let (netns, dialled) = way;
        let targets = self
            .targets(&self.store.load(), &source, dialled)
            .filter(|targets| {
                // Costs some system calls. The kernel half notices what changes later.
                look == Look::Again || targets.iter().all(|addr| chooses_own_address(&source, *addr))
            });
        let told = match targets {
            Some(targets) => self.verdicts.let_go(netns, dialled, &targets, generation),
            None => self.verdicts.keep(netns, dialled),
        };
        if let Err(error) = told {
            tracing::warn!(%error, "the kernel half was not told which connections need no agent; they are carried");
        }
    }

    /// Where connections to `dialled` may end, when each of these needs no agent. Of a service all of its endpoints
    /// must: the kernel half takes any of them.
    fn targets(
        &self,
        snapshot: &Snapshot,
        source: &Arc<Pod>,
        dialled: SocketAddr,
    ) -> Option<Vec<SocketAddr>> {
        let targets: Vec<SocketAddr> = match snapshot.resolve(dialled) {
            Resolution::Workload(_) => vec![dialled],
            Resolution::Service(backend) => {
                if outbound::leads_requests(snapshot, &backend.service, &backend.port) {
                    return None;
                }
                backend.endpoints.iter().map(|endpoint| endpoint.addr).collect()
            }
            Resolution::ServiceWithoutPort(_) | Resolution::Unknown => return None,
        };
        let fits = (1..=DIRECT_TARGETS).contains(&targets.len());
        (fits
            && targets
                .iter()
                .all(|addr| self.needs_no_agent(snapshot, source, *addr)))
        .then_some(targets)
    }

    /// Whether a connection of `source` to this very address may be, and wants nothing that only the agent does.
    fn needs_no_agent(&self, snapshot: &Snapshot, source: &Arc<Pod>, addr: SocketAddr) -> bool {
        let Some(passing) = self.passing(source, addr, None) else {
            return false;
        };
        let target = &passing.target;
        let Some(entry) = snapshot.workload(&target.workload.key) else {
            return false;
        };
        let policy = snapshot.policy_of(entry);
        is_enrolled(&self.pods, source)
            && source.number != target.number
            && !target.is_own_listener(addr)
            // What needs requests, or is only told of, is the agent's to look at.
            && !policy.needs_requests()
            && !policy.has_silent()
            && !outbound::takes_requests(snapshot, &entry.workload, addr.port())
            && passing.check(snapshot).is_ok()
    }

    /// A connection of `source` to an address of a pod of this node. With the client's own address, where known.
    fn passing(&self, source: &Arc<Pod>, addr: SocketAddr, client: Option<SocketAddr>) -> Option<Passing> {
        let target = self.pods.at(addr.ip())?;
        let own = source.address_like(addr.ip())?;
        let id = identity_of(&self.trust_domain, &source.workload)?;
        let guard = Guard {
            workload: Arc::clone(&target.workload),
            proof: Proof::Kernel(id),
            client: client.unwrap_or(SocketAddr::new(own, 0)),
            addressed: addr,
        };
        Some(Passing {
            source: Arc::clone(source),
            target,
            guard,
        })
    }

    /// Whether anybody is let go at all.
    pub(super) fn is_on(&self) -> bool {
        self.verdicts.generation() != 0
    }

    fn advance(&self) {
        if let Err(error) = self.verdicts.advance() {
            tracing::error!(%error, "verdicts about direct connections may be out of date; restart the agent");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Ways<Arc<Pod>>> {
        self.ways.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A direct connection: from whom to whom, and what must hold for it.
struct Passing {
    source: Arc<Pod>,
    target: Arc<Pod>,
    guard: Guard,
}

impl Passing {
    /// Whether it may be, now and as it is: in the clear on the node's own network.
    fn check(&self, snapshot: &Snapshot) -> Result<crate::telemetry::Ruling, Cause> {
        let ruling = self
            .guard
            .check(snapshot)
            .map_err(|denied| Cause::of(denied.word(), &denied))?;
        check_unread(&self.guard, snapshot)?;
        for pod in [&self.source, &self.target] {
            Party::workload(&pod.workload).check(snapshot)?;
        }
        let port = self.guard.addressed.port();
        let strict = snapshot
            .workload(&self.target.workload.key)
            .is_some_and(|entry| snapshot.policy_of(entry).modes().at(port).mode == PeerMode::Strict);
        if strict {
            let text = "the mode is STRICT: no bytes in the clear outside of the agent; a new connection is carried by it";
            return Err(Cause::new("plaintext", text));
        }
        Ok(ruling)
    }
}

/// Whether this very pod is enrolled now.
fn is_enrolled(pods: &PodTable, pod: &Pod) -> bool {
    let first = pod.workload.addresses.first();
    first
        .and_then(|ip| pods.at(*ip))
        .is_some_and(|now| now.number == pod.number)
}

/// Whether a socket of the pod that chooses no address gets the pod's own towards `addr`: the namespace's routes decide
/// that, and the policies were asked about the pod's address.
fn chooses_own_address(pod: &Pod, addr: SocketAddr) -> bool {
    let chosen = || -> io::Result<Option<IpAddr>> {
        pod.netns.enter()?;
        let socket = Socket::new(Domain::for_address(addr), Type::DGRAM.cloexec(), None)?;
        socket.connect(&addr.into())?;
        Ok(socket.local_addr()?.as_socket().map(|chosen| chosen.ip()))
    };
    match chosen() {
        Ok(Some(chosen)) if pod.has_address(chosen) => true,
        chosen => {
            tracing::debug!(workload = %pod.workload.key, %addr, ?chosen, "not by itself: its routes choose another address");
            false
        }
    }
}
