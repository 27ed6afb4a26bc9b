//! What becomes known of a workload that wanted more than it may have: a count, a line in the log, and a mark for those
//! who look.
//!
//! Invariant: however often it is told, the log gets one line for each resource in [`QUIET`].

use std::{
    fmt::Display,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use mesh_common::model::ObjectKey;

use super::Resource;

/// How long nothing more is logged of one resource of one workload.
const QUIET: Duration = Duration::from_secs(10);
/// How long a workload is marked after the last time.
const MARKED: Duration = Duration::from_secs(600);

/// What one workload was denied.
#[derive(Debug, Default)]
pub(super) struct Mark([Mutex<Denied>; Resource::ALL.len()]);

/// How often a workload wanted more of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limited {
    /// Of what.
    pub resource: Resource,
    /// How often, since the agent knows it.
    pub times: u64,
    /// When last.
    pub last: SystemTime,
}

#[derive(Debug, Default)]
struct Denied {
    times: u64,
    last: Option<SystemTime>,
    logged: Option<Instant>,
    logged_times: u64,
}

impl Mark {
    /// Tells of one more time.
    pub(super) fn tell(&self, workload: &ObjectKey, resource: Resource, why: &dyn Display, now: Instant) {
        let mut denied = self.lock(resource);
        denied.times += 1;
        denied.last = Some(SystemTime::now());
        let due = denied
            .logged
            .is_none_or(|logged| now.saturating_duration_since(logged) >= QUIET);
        if !due {
            return;
        }
        let times = denied.times - denied.logged_times;
        denied.logged = Some(now);
        denied.logged_times = denied.times;
        drop(denied);
        tracing::warn!(%workload, %resource, times, %why, "a workload wants more than its share");
    }

    /// Everything it was denied, ever.
    pub(super) fn all(&self) -> Vec<Limited> {
        let each = Resource::ALL.into_iter().filter_map(|resource| {
            let denied = self.lock(resource);
            Some(Limited {
                resource,
                times: denied.times,
                last: denied.last?,
            })
        });
        each.collect()
    }

    /// What it was denied lately.
    pub(super) fn lately(&self, now: SystemTime) -> Vec<Limited> {
        let mut all = self.all();
        all.retain(|limited| now.duration_since(limited.last).is_ok_and(|ago| ago < MARKED));
        all
    }

    fn lock(&self, resource: Resource) -> MutexGuard<'_, Denied> {
        self.0[resource as usize]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_counts_and_goes_by_itself() {
        let (mark, key, now) = (Mark::default(), ObjectKey::new("n", "a"), Instant::now());
        assert_eq!(mark.all(), []);
        for _ in 0..3 {
            mark.tell(&key, Resource::Requests, &"too many", now);
        }
        let lately = mark.lately(SystemTime::now());
        assert_eq!(lately.len(), 1);
        assert_eq!((lately[0].resource, lately[0].times), (Resource::Requests, 3));
        assert_eq!(mark.lately(SystemTime::now() + MARKED), []);
        assert_eq!(mark.all().len(), 1);
    }
}
