//! Choosing an endpoint: two at random, the less loaded of them wins.
//!
//! `outbound` asks [`pick`] once per connection and holds an [`Active`] for as long as the connection lives.
//! Pure: no clock, no sockets, the randomness is handed in.
//!
//! Invariant: a [`Load`] is exactly the number of [`Active`] guards that are alive for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rand::{Rng, RngExt};

/// The connections that something is serving now. Shared by the versions of an endpoint.
#[derive(Debug, Default)]
pub struct Load(AtomicU32);

/// Something that connections can be counted on.
pub trait Loaded {
    /// Its counter.
    fn load(&self) -> &Arc<Load>;
}

/// One connection counted on a [`Load`], for as long as this value lives.
#[derive(Debug)]
pub struct Active(Arc<Load>);

/// Takes two different endpoints at random and returns the one with fewer active connections, the first of the
/// two when they have the same. `None` only if there are no endpoints.
pub fn pick<'a, E: Loaded>(endpoints: &'a [Arc<E>], rng: &mut impl Rng) -> Option<&'a Arc<E>> {
    let count = endpoints.len();
    if count < 2 {
        return endpoints.first();
    }
    let first = rng.random_range(0..count);
    // One of the others: shift past `first`, so that every pair is equally likely.
    let second = rng.random_range(0..count - 1);
    let second = if second >= first { second + 1 } else { second };
    let (first, second) = (&endpoints[first], &endpoints[second]);
    Some(if second.load().active() < first.load().active() {
        second
    } else {
        first
    })
}

impl Load {
    /// The number of connections now.
    pub fn active(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Active {
    /// Counts one connection on `target`.
    pub fn on(target: &impl Loaded) -> Self {
        let load = Arc::clone(target.load());
        load.0.fetch_add(1, Ordering::Relaxed);
        Self(load)
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
