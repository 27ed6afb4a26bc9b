//! Choosing an endpoint: two at random, the less loaded of them wins.
//!
//! `outbound` asks [`pick`] once per connection, or [`pick_fastest`] once per request, and holds an [`Active`] for as
//! long as the connection or the request lives. A connection's load is the number of those that live; a request's also
//! counts how long the endpoint's answers take: see [`latency`]. Pure: no clock, no sockets; time and randomness are
//! handed in.
//!
//! Invariant: a [`Load`] is exactly the number of [`Active`] guards that are alive for it.

mod latency;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rand::{Rng, RngExt};

use self::latency::Latency;
pub use self::latency::Moment;

/// What something is serving now, and how fast it answers. Shared by the versions of an endpoint.
#[derive(Debug, Default)]
pub struct Load {
    active: AtomicU32,
    latency: Latency,
}

/// Something that connections and requests can be counted on.
pub trait Loaded {
    /// Its counter.
    fn load(&self) -> &Arc<Load>;
}

/// One connection or request counted on a [`Load`], for as long as this value lives.
#[derive(Debug)]
pub struct Active(Arc<Load>);

/// What a request that was not answered counts as, at least: a server that fails at once is not a fast one.
const FAILED: Duration = Duration::from_secs(1);

/// Takes two different endpoints at random and returns the one with fewer active connections, the first of the
/// two when they have the same. `None` only if there are no endpoints.
pub fn pick<'a, E: Loaded>(endpoints: &'a [Arc<E>], rng: &mut impl Rng) -> Option<&'a Arc<E>> {
    pick_by(endpoints, rng, |first, second| second.active() < first.active())
}

/// Takes two different endpoints at random and returns the one where a request is likely to be answered first: by the
/// peak-sensitive average of its answers' times, multiplied with the requests it would then have. As long as nothing is
/// known of one of the two, by the requests alone: a new endpoint gets no more than its share before its first answer.
pub fn pick_fastest<'a, E: Loaded>(
    endpoints: &'a [Arc<E>],
    now: Moment,
    rng: &mut impl Rng,
) -> Option<&'a Arc<E>> {
    pick_by(endpoints, rng, |first, second| {
        let waiting = |load: &Load| f64::from(load.active()) + 1.0;
        match (first.latency.at(now), second.latency.at(now)) {
            (Some(one), Some(other)) => other * waiting(second) < one * waiting(first),
            _ => second.active() < first.active(),
        }
    })
}

fn pick_by<'a, E: Loaded>(
    endpoints: &'a [Arc<E>],
    rng: &mut impl Rng,
    is_second_better: impl FnOnce(&Load, &Load) -> bool,
) -> Option<&'a Arc<E>> {
    let count = endpoints.len();
    if count < 2 {
        return endpoints.first();
    }
    let first = rng.random_range(0..count);
    // One of the others: shift past `first`, so that every pair is equally likely.
    let second = rng.random_range(0..count - 1);
    let second = if second >= first { second + 1 } else { second };
    let (first, second) = (&endpoints[first], &endpoints[second]);
    Some(if is_second_better(first.load(), second.load()) {
        second
    } else {
        first
    })
}

impl Load {
    /// The number of connections or requests now.
    pub fn active(&self) -> u32 {
        self.active.load(Ordering::Relaxed)
    }
}

impl Active {
    /// Counts one connection or request on `target`.
    pub fn on(target: &impl Loaded) -> Self {
        let load = Arc::clone(target.load());
        load.active.fetch_add(1, Ordering::Relaxed);
        Self(load)
    }

    /// The answer began, so long after its request. The request is counted until it is over all the same.
    pub fn answered(&self, took: Duration, now: Moment) {
        self.0.latency.observe(took, now);
    }

    /// The endpoint did not answer, or not as it should.
    pub fn failed(&self, took: Duration, now: Moment) {
        self.0.latency.observe(took.max(FAILED), now);
    }

    /// On what it is counted.
    pub fn load(&self) -> &Arc<Load> {
        &self.0
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
