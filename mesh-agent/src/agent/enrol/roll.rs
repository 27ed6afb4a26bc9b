//! The roll of enrolled pods, and every step on and off it.
//!
//! A pod that should be enrolled but cannot be found any more is not let loose: its listeners go, what captures its
//! connections stays, and whatever is left of it is refused until it is found again or nobody wants it.

use std::{
    collections::{HashMap, HashSet},
    io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use mesh_common::{
    kernel::{InboundEntry, Ip, ListenerEntry, MAX_WORKERS, PodEntry},
    model::{Locate, ObjectKey, Workload},
};
use socket2::{Domain, Socket, Type};
use thiserror::Error;

use super::{Scope, Standing};
use crate::{
    kernel::KernelError,
    listener::{self, answer::Answerer, socket},
    node::{
        Netns, Pod,
        locate::{self, LocateError},
        netns::NetnsId,
    },
};

/// How long listeners of a pod that left stay for requests already on their way.
const FAREWELL: Duration = Duration::from_secs(2);

/// Which pods are enrolled, which should be, and which are on their way out.
pub(super) struct Roll {
    scope: Scope,
    /// The local workloads of the snapshot that was looked at last.
    wanted: HashMap<ObjectKey, Arc<Workload>>,
    enrolled: HashMap<ObjectKey, Enrolled>,
    /// Wanted, but not found any more: refused by what stays in the kernel.
    refused: HashMap<ObjectKey, Remains>,
    troubled: HashMap<ObjectKey, Standing>,
    leaving: Vec<(Instant, Enrolled)>,
    next_number: u32,
    seen_version: Option<u64>,
}

/// What stays in the kernel of a pod that is refused. Holds nothing of the pod itself, which may end meanwhile.
struct Remains {
    workload: ObjectKey,
    netns_cookie: u64,
    addresses: Vec<IpAddr>,
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
    NoAddress(IpAddr),
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

impl Roll {
    pub(super) fn new(scope: Scope) -> Self {
        Self {
            scope,
            wanted: HashMap::new(),
            enrolled: HashMap::new(),
            refused: HashMap::new(),
            troubled: HashMap::new(),
            leaving: Vec::new(),
            next_number: 1,
            seen_version: None,
        }
    }

    /// Brings what is enrolled in line with what should be.
    pub(super) fn look(&mut self) {
        let mut changed = self.learn();
        let gone: Vec<ObjectKey> = self
            .enrolled
            .iter()
            .filter(|(key, enrolled)| {
                !self
                    .wanted
                    .get(*key)
                    .is_some_and(|workload| still_stands(&enrolled.pod, workload))
            })
            .map(|(key, _)| key.clone())
            .collect();
        if !gone.is_empty() {
            // No connection is let go to a pod that leaves, or from it.
            self.scope.direct.pods_changed();
        }
        for key in gone {
            changed = true;
            self.unenrol(&key);
        }
        let forgotten: Vec<ObjectKey> = self
            .refused
            .keys()
            .filter(|key| !self.wanted.contains_key(*key))
            .cloned()
            .collect();
        for key in forgotten {
            if let Some(remains) = self.refused.remove(&key) {
                self.withdraw(&remains);
            }
        }
        let missing: Vec<Arc<Workload>> = self
            .wanted
            .values()
            .filter(|workload| !self.enrolled.contains_key(&workload.key))
            .cloned()
            .collect();
        for workload in missing {
            changed |= match self.enrol(&workload) {
                Ok(()) => {
                    self.troubled.remove(&workload.key);
                    true
                }
                Err(error) => self.trouble(&workload.key, &error),
            };
        }
        self.say_farewell();
        // A thread keeps the namespace it is in alive, and this one looked into many.
        if let Err(error) = self.scope.home.enter() {
            tracing::warn!(%error, "leaving a pod's network namespace failed");
        }
        if changed {
            self.publish();
        }
    }

    /// Reads the snapshot if it is a new one.
    fn learn(&mut self) -> bool {
        let snapshot = Arc::clone(&self.scope.store.load());
        if self.seen_version == Some(snapshot.version()) {
            return false;
        }
        self.seen_version = Some(snapshot.version());
        self.wanted = snapshot
            .workloads_on(&self.scope.node)
            .map(|entry| &entry.workload)
            .map(|workload| (workload.key.clone(), Arc::clone(workload)))
            .collect();
        self.troubled.retain(|key, _| self.wanted.contains_key(key));
        if let Some(certificates) = &self.scope.certificates {
            certificates.want(
                self.wanted
                    .values()
                    .map(|workload| listener::account_of(workload))
                    .collect(),
            );
        }
        true
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
            self.retreat(&enrolled);
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
            self.retreat(&enrolled);
            return Err(error.into());
        }
        if let Some(before) = self.refused.remove(&workload.key) {
            self.replace(&before, &enrolled.pod);
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

    /// Takes back everything that enrolment did in the kernel.
    fn withdraw(&mut self, remains: &Remains) {
        let kernel = &mut self.scope.kernel;
        report(&remains.workload, kernel.tables.unenrol(remains.netns_cookie));
        report(&remains.workload, kernel.release_inbound(remains.netns_cookie));
        for ip in &remains.addresses {
            report(&remains.workload, kernel.tables.remove_inbound(Ip::from(*ip)));
        }
    }

    /// Undoes an enrolment that failed half-way. A pod that was enrolled before, by this agent or one before it, stays
    /// refused, not let loose.
    fn retreat(&mut self, enrolled: &Enrolled) {
        let pod = &enrolled.pod;
        let before = self.scope.kernel.tables.is_enrolled(pod.netns.cookie());
        if !before && !self.refused.contains_key(&pod.workload.key) {
            self.withdraw(&Remains::of(pod));
        }
        self.close_listeners(enrolled);
    }

    /// Takes back what an enrolment before this one left in the kernel and this one did not overwrite.
    fn replace(&mut self, before: &Remains, now: &Pod) {
        let kernel = &mut self.scope.kernel;
        let mut outcomes = Vec::new();
        if before.netns_cookie != now.netns.cookie() {
            outcomes.push(kernel.tables.unenrol(before.netns_cookie));
            outcomes.push(kernel.release_inbound(before.netns_cookie));
        }
        let stale = before.addresses.iter().filter(|ip| !now.has_address(**ip));
        outcomes.extend(stale.map(|ip| kernel.tables.remove_inbound(Ip::from(*ip))));
        outcomes
            .into_iter()
            .for_each(|outcome| report(&before.workload, outcome));
    }

    fn unenrol(&mut self, key: &ObjectKey) {
        let Some(enrolled) = self.enrolled.remove(key) else {
            return;
        };
        if self.wanted.contains_key(key) {
            tracing::info!(workload = %key, "changed or gone: refused until it is found again");
            self.refused.insert(key.clone(), Remains::of(&enrolled.pod));
        } else {
            self.withdraw(&Remains::of(&enrolled.pod));
            tracing::info!(workload = %key, "un-enrolled");
        }
        self.leaving.push((Instant::now() + FAREWELL, enrolled));
    }

    /// A successor serves now: forgets what is this agent's alone.
    pub(super) fn bow_out(mut self) {
        let gone = self
            .enrolled
            .into_values()
            .chain(self.leaving.into_iter().map(|(_, enrolled)| enrolled));
        let cookies: Vec<u64> = gone.flat_map(|enrolled| enrolled.listener_cookies).collect();
        let kernel = &mut self.scope.kernel;
        let forgotten = cookies
            .into_iter()
            .try_for_each(|cookie| kernel.tables.forget_listener(cookie))
            .and_then(|()| kernel.bow_out());
        if let Err(error) = forgotten {
            tracing::warn!(%error, "something of this agent's stays in the kernel half");
        }
    }

    /// Closes the listeners of pods that left a while ago.
    fn say_farewell(&mut self) {
        let now = Instant::now();
        let left: Vec<_> = self.leaving.extract_if(.., |(until, _)| *until <= now).collect();
        for (_, enrolled) in left {
            self.close_listeners(&enrolled);
        }
    }

    fn close_listeners(&mut self, enrolled: &Enrolled) {
        for worker in self.scope.workers.iter() {
            worker.leave(Arc::clone(&enrolled.pod));
        }
        for cookie in &enrolled.listener_cookies {
            if let Err(error) = self.scope.kernel.tables.forget_listener(*cookie) {
                tracing::warn!(%error, "a closed listener is still known to the kernel half");
            }
        }
    }

    /// Takes over what agents before this one left in the kernel half, and forgets those agents: none of them runs.
    pub(super) fn alone(&mut self) {
        let outcome = self.forget_other_agents().and_then(|()| self.inherit());
        if let Err(error) = outcome {
            tracing::error!(%error, "cleaning up after an earlier agent failed");
        }
    }

    /// Takes over what the agent before this one left in the kernel half; it may still serve connections.
    pub(super) fn succeed(&mut self) {
        if let Err(error) = self.inherit() {
            tracing::error!(%error, "cleaning up after the replaced agent failed");
        }
    }

    fn forget_other_agents(&mut self) -> Result<(), KernelError> {
        let kernel = &mut self.scope.kernel;
        kernel.forget_other_agents()?;
        let own: Vec<u64> = self
            .enrolled
            .values()
            .flat_map(|enrolled| enrolled.listener_cookies.iter().copied())
            .collect();
        kernel.tables.forget_other_listeners(&own)
    }

    /// Un-enrols pods that nobody wants any more. One that is wanted but could not be enrolled stays refused.
    fn inherit(&mut self) -> Result<(), KernelError> {
        let mut kept: HashSet<u64> = self
            .enrolled
            .values()
            .map(|enrolled| enrolled.pod.netns.cookie())
            .collect();
        let missing: Vec<(Option<u64>, Arc<Workload>)> = self
            .wanted
            .values()
            .filter(|workload| !self.enrolled.contains_key(&workload.key))
            .map(|workload| (netns_cookie_of(workload), Arc::clone(workload)))
            .collect();
        for (cookie, entry) in self.scope.kernel.tables.enrolled() {
            if kept.contains(&cookie) {
                continue;
            }
            let own = |ip: &IpAddr| [entry.ip4, entry.ip6].contains(&Ip::from(*ip));
            let still_wanted = missing
                .iter()
                .find(|(found, workload)| *found == Some(cookie) || workload.addresses.iter().any(own));
            if let Some((_, workload)) = still_wanted {
                tracing::info!(workload = %workload.key, "not found yet: refused until it is");
                kept.insert(cookie);
                self.refused
                    .entry(workload.key.clone())
                    .or_insert_with(|| Remains {
                        workload: workload.key.clone(),
                        netns_cookie: cookie,
                        addresses: workload.addresses.clone(),
                    });
                continue;
            }
            self.scope.kernel.tables.unenrol(cookie)?;
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
                    self.scope.kernel.tables.remove_inbound(ip)?;
                }
            }
        }
        let kernel = &mut self.scope.kernel;
        for cookie in kernel.pins().looked_up() {
            if !kept.contains(&cookie) {
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
        self.scope.direct.pods_changed();
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

impl Remains {
    fn of(pod: &Pod) -> Self {
        Self {
            workload: pod.workload.key.clone(),
            netns_cookie: pod.netns.cookie(),
            addresses: pod.workload.addresses.clone(),
        }
    }
}

fn report(workload: &ObjectKey, outcome: Result<(), KernelError>) {
    if let Err(error) = outcome {
        tracing::error!(%workload, %error, "un-enrolling left something behind");
    }
}

/// True when the pod is still the one that was enrolled.
fn still_stands(pod: &Pod, workload: &Workload) -> bool {
    let before = &pod.workload;
    let found = || {
        let path = locate::netns_path(workload.locate.as_ref()?).ok()?;
        NetnsId::at(&path).ok()
    };
    before.addresses == workload.addresses
        && before.locate == workload.locate
        && before.service_account == workload.service_account
        && found() == Some(pod.netns.id())
}

/// The namespace that the workload names now, if there is one.
fn netns_cookie_of(workload: &Workload) -> Option<u64> {
    let path = locate::netns_path(workload.locate.as_ref()?).ok()?;
    Netns::open(&path).ok().map(|netns| netns.cookie())
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
fn is_configured(ip: IpAddr) -> bool {
    let addr = SocketAddr::new(ip, 0);
    Socket::new(Domain::for_address(addr), Type::DGRAM.cloexec(), None)
        .and_then(|socket| socket.bind(&addr.into()))
        .is_ok()
}
