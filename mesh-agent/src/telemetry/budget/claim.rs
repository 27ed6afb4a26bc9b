//! Places for connections and requests, and time of the workers, as one who wants them sees it.
//!
//! A workload claims for what it begins itself. Who connects to it from elsewhere is a guest: a guest's places and turns are
//! its own within those of the workload, so that one cannot keep the others out. Invariant: a place that was taken is
//! given back exactly once, and what is not to be had is told under the name of whoever wants it.

use std::{
    fmt,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use mesh_common::model::ObjectKey;
use thiserror::Error;

use super::{Budget, Budgets, Limits, Resource, turn::Turns};

/// What there is a number of places for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Connections, tunnels, and streams of tunnels.
    Connection,
    /// Requests.
    Request,
}

/// Who connects to a workload.
#[derive(Clone, Debug)]
pub struct Guest {
    /// From where.
    pub addr: IpAddr,
    /// Who that is, if it is known.
    pub workload: Option<ObjectKey>,
}

/// One who wants places, and time.
#[derive(Debug)]
pub struct Claim {
    budget: Arc<Budget>,
    guest: Option<(Guest, Arc<Taken>)>,
    budgets: Arc<Budgets>,
}

/// A place that was taken; dropping it gives it back.
#[derive(Debug)]
pub struct Place {
    claim: Arc<Claim>,
    kind: Kind,
}

/// There is no place.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub struct Full {
    kind: Kind,
    limit: usize,
    workload: ObjectKey,
    guest: Option<IpAddr>,
}

/// What somebody has.
#[derive(Debug, Default)]
pub(super) struct Taken {
    connections: AtomicUsize,
    requests: AtomicUsize,
    turns: Turns,
}

impl Claim {
    pub(super) fn new(budgets: &Arc<Budgets>, workload: &ObjectKey, guest: Option<Guest>) -> Arc<Self> {
        let budget = budgets.of(workload);
        Arc::new(Self {
            guest: guest.map(|guest| {
                let taken = budget.guest(guest.addr);
                (guest, taken)
            }),
            budget,
            budgets: Arc::clone(budgets),
        })
    }

    /// What the workload's connections may hold.
    pub fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// How many places it has, of every kind.
    pub fn places(&self) -> usize {
        let taken = match &self.guest {
            Some((_, taken)) => taken,
            None => &self.budget.taken,
        };
        taken.count(Kind::Connection) + taken.count(Kind::Request)
    }

    /// A place, now or not at all.
    pub fn take(self: &Arc<Self>, kind: Kind) -> Result<Place, Full> {
        let limit = self.budget.limits.of(kind);
        if !self.budget.taken.add(kind, limit) {
            return Err(self.full(kind, limit, None));
        }
        if let Some((guest, taken)) = &self.guest {
            let limit = Limits::of_guest(limit);
            if !taken.add(kind, limit) {
                self.budget.taken.remove(kind);
                return Err(self.full(kind, limit, Some(guest.addr)));
            }
        }
        Ok(Place {
            claim: Arc::clone(self),
            kind,
        })
    }

    /// The time it has left in a round of a worker.
    pub fn time_left(&self, worker: usize, round: u64) -> Duration {
        self.turns().left(worker, round)
    }

    /// It took time of a worker.
    pub fn spend(&self, worker: usize, round: u64, time: Duration) {
        if let Some(told) = self.turns().spend(worker, round, time) {
            self.budget.count_time(told);
        }
    }

    /// It has to wait for the next round, and others have work in this one; `now` is since some beginning.
    pub fn gave_way(&self, worker: usize, now: Duration) {
        if self.turns().is_most(worker, now) {
            let why =
                format!("its connections took more than half of data worker {worker}, and others waited");
            self.tell(Resource::WorkerTime, &why);
        }
    }

    fn turns(&self) -> &Turns {
        match &self.guest {
            Some((_, taken)) => &taken.turns,
            None => &self.budget.taken.turns,
        }
    }

    fn full(&self, kind: Kind, limit: usize, guest: Option<IpAddr>) -> Full {
        let full = Full {
            kind,
            limit,
            workload: self.budget.workload.clone(),
            guest,
        };
        self.tell(kind.resource(), &full);
        full
    }

    /// Tells under the name of the guest, if that is a workload, else of the workload itself.
    fn tell(&self, resource: Resource, why: &dyn fmt::Display) {
        let guest = self.guest.as_ref().and_then(|(guest, _)| guest.workload.as_ref());
        match guest {
            Some(guest) => self.budgets.of(guest).tell(resource, why, Instant::now()),
            None => self.budget.tell(resource, why, Instant::now()),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.claim.budget.taken.remove(self.kind);
        if let Some((_, taken)) = &self.claim.guest {
            taken.remove(self.kind);
        }
    }
}

impl Taken {
    /// How many it has.
    pub(super) fn count(&self, kind: Kind) -> usize {
        self.of(kind).load(Ordering::Relaxed)
    }

    /// One more, if that is within the limit.
    fn add(&self, kind: Kind, limit: usize) -> bool {
        let count = self.of(kind);
        let within = count.fetch_add(1, Ordering::Relaxed) < limit;
        if !within {
            count.fetch_sub(1, Ordering::Relaxed);
        }
        within
    }

    fn remove(&self, kind: Kind) {
        self.of(kind).fetch_sub(1, Ordering::Relaxed);
    }

    fn of(&self, kind: Kind) -> &AtomicUsize {
        match kind {
            Kind::Connection => &self.connections,
            Kind::Request => &self.requests,
        }
    }
}

impl Limits {
    fn of(&self, kind: Kind) -> usize {
        match kind {
            Kind::Connection => self.connections,
            Kind::Request => self.requests,
        }
    }
}

impl Kind {
    fn resource(self) -> Resource {
        match self {
            Self::Connection => Resource::Connections,
            Self::Request => Resource::Requests,
        }
    }

    /// The option that sets the limit.
    fn option(self) -> &'static str {
        match self {
            Self::Connection => "--connection-limit",
            Self::Request => "--request-limit",
        }
    }
}

impl Full {
    /// The reason in one word.
    pub fn word(&self) -> &'static str {
        match self.kind {
            Kind::Connection => "connection-limit",
            Kind::Request => "request-limit",
        }
    }
}

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kind,
            limit,
            workload,
            guest,
        } = self;
        let (what, option) = (kind.resource(), kind.option());
        match guest {
            None => write!(
                f,
                "workload {workload} has {limit} {what}, as many as one may have ({option})"
            ),
            Some(guest) => write!(
                f,
                "{guest} has {limit} {what} at workload {workload}, as many as one client may have (half of {option})"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budgets(connections: usize) -> Arc<Budgets> {
        Budgets::new(Limits {
            connections,
            requests: 1,
            ..Limits::default()
        })
    }

    fn key(name: &str) -> ObjectKey {
        ObjectKey::new("shop", name)
    }

    fn guest(number: u8, name: Option<&str>) -> Option<Guest> {
        Some(Guest {
            addr: IpAddr::from([10, 0, 0, number]),
            workload: name.map(key),
        })
    }

    fn told(budgets: &Budgets, name: &str) -> Vec<(Resource, u64)> {
        let limited = budgets.of(&key(name)).limited();
        limited.iter().map(|one| (one.resource, one.times)).collect()
    }

    #[test]
    fn a_workload_has_so_many_places_and_gets_them_back() {
        let budgets = budgets(3);
        let (one, other) = (
            Claim::new(&budgets, &key("a"), None),
            Claim::new(&budgets, &key("a"), None),
        );
        let mut places = vec![one.take(Kind::Connection).unwrap()];
        places.extend((0..2).map(|_| other.take(Kind::Connection).unwrap()));
        let full = one.take(Kind::Connection).unwrap_err();
        assert_eq!(full.word(), "connection-limit");
        assert_eq!(
            full.to_string(),
            "workload shop/a has 3 connections, as many as one may have (--connection-limit)"
        );
        assert_eq!(told(&budgets, "a"), [(Resource::Connections, 1)]);
        let _request = one
            .take(Kind::Request)
            .expect("requests have places of their own");
        let _others = Claim::new(&budgets, &key("b"), None)
            .take(Kind::Connection)
            .expect("so has another workload");
        places.clear();
        assert_eq!(one.budget.count(Kind::Connection), 0);
        assert!(one.take(Kind::Connection).is_ok());
    }

    #[test]
    fn a_guest_has_half_and_is_named() {
        let budgets = budgets(4);
        let rogue = Claim::new(&budgets, &key("web"), guest(1, Some("rogue")));
        let friend = Claim::new(&budgets, &key("web"), guest(2, Some("friend")));
        let places: Vec<_> = (0..2).map(|_| rogue.take(Kind::Connection).unwrap()).collect();
        let full = rogue.take(Kind::Connection).unwrap_err();
        assert_eq!(
            full.to_string(),
            "10.0.0.1 has 2 connections at workload shop/web, as many as one client may have (half of \
             --connection-limit)"
        );
        let again = Claim::new(&budgets, &key("web"), guest(1, Some("rogue")));
        assert!(
            again.take(Kind::Connection).is_err(),
            "by another connection as well"
        );
        assert_eq!(told(&budgets, "rogue"), [(Resource::Connections, 2)]);
        assert_eq!(told(&budgets, "web"), []);
        assert!(friend.take(Kind::Connection).is_ok());
        drop(places);
        assert_eq!(budgets.of(&key("web")).count(Kind::Connection), 0);
        assert!(rogue.take(Kind::Connection).is_ok());
    }

    #[test]
    fn nothing_is_kept_of_guests_that_are_gone() {
        let budgets = budgets(4);
        for number in 0..100 {
            drop(Claim::new(&budgets, &key("web"), guest(number, None)));
        }
        assert!(budgets.of(&key("web")).guests() < 10);
    }

    #[test]
    fn a_guest_has_turns_of_its_own() {
        let budgets = budgets(4);
        let rogue = Claim::new(&budgets, &key("web"), guest(1, None));
        let friend = Claim::new(&budgets, &key("web"), guest(2, None));
        rogue.spend(0, 1, super::super::TURN);
        assert_eq!(rogue.time_left(0, 1), Duration::ZERO);
        assert_eq!(friend.time_left(0, 1), super::super::TURN);
        rogue.spend(0, 1, Duration::from_secs(1));
        assert!(budgets.of(&key("web")).worker_time() >= Duration::from_secs(1));
    }
}
