//! The connections of one data worker, and its sums.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use mesh_common::model::ObjectKey;

use super::{Budgets, Claim, Connection, Full, Guest, Kind, Opening, Place, Side};

/// Connection numbers are `worker << WORKER_SHIFT | count`: unique without a shared counter.
const WORKER_SHIFT: u32 = 48;

/// What one data worker carries. Written by the worker; read by the admin API.
#[derive(Debug)]
pub struct Registry {
    worker: u32,
    next: AtomicU64,
    open: Mutex<HashMap<u64, Arc<Connection>>>,
    /// Tasks that carry connections, or are about to.
    serving: AtomicU64,
    totals: TotalCounters,
    budgets: Arc<Budgets>,
}

/// A connection's place in the registry; leaving it adds the connection's bytes to the sums.
#[derive(Debug)]
pub struct Entry {
    registry: Arc<Registry>,
    connection: Arc<Connection>,
    place: Option<Place>,
}

/// Sums since the worker started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Connections joined to their destination.
    pub accepted: u64,
    /// Connections refused before they were established.
    pub refused: u64,
    /// Connections that ended in an error after that.
    pub failed: u64,
    /// Bytes from clients to destinations.
    pub bytes_to_upstream: u64,
    /// Bytes from destinations to clients.
    pub bytes_to_downstream: u64,
}

#[derive(Debug, Default)]
struct TotalCounters {
    accepted: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
    to_upstream: AtomicU64,
    to_downstream: AtomicU64,
}

impl Registry {
    /// An empty registry. All workers share the budgets.
    pub fn new(worker: u32, budgets: Arc<Budgets>) -> Arc<Self> {
        Arc::new(Self {
            worker,
            next: AtomicU64::new(1),
            open: Mutex::default(),
            serving: AtomicU64::new(0),
            totals: TotalCounters::default(),
            budgets,
        })
    }

    /// Whose it is.
    pub fn worker(&self) -> u32 {
        self.worker
    }

    /// Whose places and time a connection takes.
    pub fn claim(&self, opening: &Opening) -> Arc<Claim> {
        self.claim_of(&opening.workload.key, opening.guest())
    }

    /// Whose places and time is taken on the side of `workload`.
    pub fn claim_of(&self, workload: &ObjectKey, guest: Option<Guest>) -> Arc<Claim> {
        self.budgets.claim(workload, guest)
    }

    /// Enters a connection, in a test that does not care for its claim.
    #[cfg(test)]
    pub fn open(self: &Arc<Self>, opening: Opening) -> Entry {
        let claim = self.claim(&opening);
        self.open_as(opening, claim)
    }

    /// Enters a connection that takes places and time of `claim`.
    pub fn open_as(self: &Arc<Self>, opening: Opening, claim: Arc<Claim>) -> Entry {
        let count = self.next.fetch_add(1, Ordering::Relaxed);
        let id = u64::from(self.worker) << WORKER_SHIFT | count;
        let connection = Arc::new(Connection::new(id, self.worker, claim, opening));
        self.lock().insert(id, Arc::clone(&connection));
        Entry {
            registry: Arc::clone(self),
            connection,
            place: None,
        }
    }

    /// The connections open now.
    pub fn connections(&self) -> Vec<Arc<Connection>> {
        self.lock().values().cloned().collect()
    }

    /// How many are open now.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// True when none is open now.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Counts a task that is to carry a connection, from before it first runs.
    pub fn begin(&self) {
        self.serving.fetch_add(1, Ordering::Relaxed);
    }

    /// Such a task is over.
    pub fn end(&self) {
        self.serving.fetch_sub(1, Ordering::Relaxed);
    }

    /// How many such tasks there are.
    pub fn serving(&self) -> u64 {
        self.serving.load(Ordering::Relaxed)
    }

    /// True when no connection is open, and none is about to be entered by a task that has not run yet.
    pub fn is_idle(&self) -> bool {
        self.serving() == 0 && self.is_empty()
    }

    /// Counts a connection joined to its destination.
    pub fn count_accepted(&self) {
        self.totals.accepted.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a connection refused.
    pub fn count_refused(&self) {
        self.totals.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a connection that broke.
    pub fn count_failed(&self) {
        self.totals.failed.fetch_add(1, Ordering::Relaxed);
    }

    /// The sums, including what open connections have carried so far.
    pub fn totals(&self) -> Totals {
        let open = self.lock();
        let carried = |side| {
            open.values()
                .map(|connection| connection.bytes(side))
                .sum::<u64>()
        };
        Totals {
            accepted: self.totals.accepted.load(Ordering::Relaxed),
            refused: self.totals.refused.load(Ordering::Relaxed),
            failed: self.totals.failed.load(Ordering::Relaxed),
            bytes_to_upstream: self.totals.to_upstream.load(Ordering::Relaxed) + carried(Side::ToUpstream),
            bytes_to_downstream: self.totals.to_downstream.load(Ordering::Relaxed)
                + carried(Side::ToDownstream),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Arc<Connection>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    /// Takes a place for it among the connections of its workload.
    pub fn seat(&mut self) -> Result<(), Full> {
        self.place = Some(self.connection.claim.take(Kind::Connection)?);
        Ok(())
    }

    /// The connection entered.
    pub fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.connection.tell_end();
        let mut open = self.registry.lock();
        open.remove(&self.connection.id);
        let totals = &self.registry.totals;
        totals
            .to_upstream
            .fetch_add(self.connection.bytes(Side::ToUpstream), Ordering::Relaxed);
        totals
            .to_downstream
            .fetch_add(self.connection.bytes(Side::ToDownstream), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Limits;

    #[test]
    fn a_task_that_has_not_run_yet_is_not_idleness() {
        let registry = Registry::new(0, Budgets::new(Limits::default()));
        assert!(registry.is_idle());
        registry.begin();
        assert_eq!(registry.serving(), 1);
        assert_eq!(registry.len(), 0, "no connection is entered before the task runs");
        assert!(!registry.is_idle());
        registry.end();
        assert!(registry.is_idle());
    }
}
