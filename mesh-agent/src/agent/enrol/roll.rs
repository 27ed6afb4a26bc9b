//! The roll of enrolled pods, and every step on and off it.
//!
//! A pod that should be enrolled but cannot be found any more is not let loose: its listeners go, what captures its
//! connections stays, and whatever is left of it is refused until it is found again or nobody wants it.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use mesh_common::{
    kernel::Ip,
    model::{ObjectKey, Workload},
};

use super::{
    Scope, Standing,
    ready::{EnrolError, Enrolled, Ready},
};
use crate::{
    kernel::KernelError,
    listener,
    node::{Captured, Netns, Pod, locate, netns::NetnsId},
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
        changed |= self.enrol_all(&missing);
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

    /// Enrols what can be enrolled. True when that changed anything.
    ///
    /// A pod that is captured may dial any other at once. So the data path knows all of them before the first is captured;
    /// else a connection would be sent to a neighbour as to another node's pod, and be refused there as forged.
    fn enrol_all(&mut self, missing: &[Arc<Workload>]) -> bool {
        let mut changed = false;
        let mut ready: Vec<Ready> = Vec::new();
        for workload in missing {
            let taken = self
                .enrolled
                .values()
                .chain(ready.iter().map(|pod| &pod.enrolled));
            match Ready::open(&self.scope, workload, self.next_number, taken) {
                Ok(pod) => {
                    self.next_number += 1;
                    ready.push(pod);
                }
                Err(error) => changed |= self.trouble(&workload.key, &error),
            }
        }
        if ready.is_empty() {
            return changed;
        }
        let enrolled = self.enrolled.values().map(|enrolled| &enrolled.pod);
        self.scope
            .pods
            .replace(enrolled.chain(ready.iter().map(|pod| &pod.enrolled.pod)));
        for pod in ready {
            match pod.carry(&mut self.scope) {
                Ok(()) => self.enter(pod.enrolled),
                Err(error) => self.fail(&pod, &error),
            }
        }
        true
    }

    /// The pod is carried.
    fn enter(&mut self, enrolled: Enrolled) {
        let key = enrolled.pod.workload.key.clone();
        if let Some(before) = self.refused.remove(&key) {
            self.replace(&before, &enrolled.pod);
        }
        self.troubled.remove(&key);
        tracing::info!(workload = %key, netns = %enrolled.pod.netns.path().display(), "enrolled");
        self.enrolled.insert(key, enrolled);
    }

    /// Undoes an enrolment that failed half-way. A pod that was enrolled before, by this agent or one before it, stays
    /// refused, not let loose.
    fn fail(&mut self, ready: &Ready, error: &EnrolError) {
        let pod = &ready.enrolled.pod;
        if pod.captured() == Captured::No && !self.refused.contains_key(&pod.workload.key) {
            self.withdraw(&Remains::of(pod));
        }
        self.close_listeners(&ready.enrolled);
        self.trouble(&pod.workload.key, error);
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
            enrolled.pod.set_captured(Captured::No);
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
