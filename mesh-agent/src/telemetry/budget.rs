//! How many bytes the connections of one workload may make the agent hold.
//!
//! What a slow reader does not take is either held by the agent, and then counted here, or still at the other agent,
//! for want of room in the stream's window. The more streams a workload has, the smaller are their windows, so that all
//! of them filled stay below the limit: an eighth of it at once at full size, then half as much for each
//! doubling. Who is over the limit reads in small pieces, one at a time: slower, but never not at all.
//!
//! Invariant: no connection waits for another one's reader.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

use mesh_common::model::ObjectKey;
use tokio::sync::watch;

/// The window of a stream whose workload has few of them, in bytes.
pub const WINDOW_MOST: usize = 1 << 20;
/// The window of a stream however many there are, in bytes.
pub const WINDOW_LEAST: usize = 16 << 10;
/// What one workload may make the agent hold unless somebody says otherwise, in bytes.
pub const LIMIT: usize = 32 << 20;
/// The least that makes sense as a limit, in bytes: one full window, four times. See [`window`].
pub const LIMIT_LEAST: usize = 4 * WINDOW_MOST;
/// Read at once by a connection whose workload is over its limit, in bytes.
const SMALL: usize = 4 << 10;

/// The budgets of all workloads that have connections.
#[derive(Debug)]
pub struct Budgets {
    limit: usize,
    of: Mutex<HashMap<ObjectKey, Weak<Budget>>>,
}

/// What the connections of one workload hold, and may hold.
#[derive(Debug)]
pub struct Budget {
    limit: usize,
    streams: AtomicUsize,
    held: AtomicUsize,
    window: watch::Sender<usize>,
}

/// The place of one stream; leaving it gives the others more room.
#[derive(Debug)]
pub struct Seat(Arc<Budget>);

impl Budgets {
    /// The same limit for each workload, in bytes.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            of: Mutex::default(),
        })
    }

    /// The budget of a workload.
    pub fn of(&self, workload: &ObjectKey) -> Arc<Budget> {
        let mut budgets = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        let known = budgets.get(workload);
        if let Some(budget) = known.and_then(Weak::upgrade) {
            return budget;
        }
        if known.is_none() {
            // A workload is new: a moment to forget those that are gone.
            budgets.retain(|_, budget| budget.strong_count() > 0);
        }
        let budget = Arc::new(Budget::new(self.limit));
        budgets.insert(workload.clone(), Arc::downgrade(&budget));
        budget
    }
}

impl Default for Budgets {
    fn default() -> Self {
        Self {
            limit: LIMIT,
            of: Mutex::default(),
        }
    }
}

impl Budget {
    fn new(limit: usize) -> Self {
        Self {
            limit,
            streams: AtomicUsize::new(0),
            held: AtomicUsize::new(0),
            window: watch::Sender::new(window(limit, 0)),
        }
    }

    /// What may be held, in bytes.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// What is held now for readers that do not take it, in bytes; what lies in windows is not known.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Counts bytes that stay for a while.
    pub fn hold(&self, bytes: usize) {
        self.held.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts bytes that are gone.
    pub fn release(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Whether no more should be held than is needed to go on.
    pub fn is_spent(&self) -> bool {
        self.held() >= self.limit
    }

    /// How much of `room` may be read at once.
    pub fn room(&self, room: usize) -> usize {
        if self.is_spent() { room.min(SMALL) } else { room }
    }

    /// Counts a stream in a tunnel.
    pub fn join(self: &Arc<Self>) -> Seat {
        self.streams.fetch_add(1, Ordering::Relaxed);
        self.settle();
        Seat(Arc::clone(self))
    }

    /// The window that each stream of the workload is to have, as it changes.
    pub fn windows(&self) -> watch::Receiver<usize> {
        self.window.subscribe()
    }

    fn settle(&self) {
        let due = |now: usize| {
            let streams = self.streams.load(Ordering::Relaxed);
            match window(self.limit, streams) {
                less if less < now => less,
                // Given back only once half as many again would still have it: no back and forth.
                _ => window(self.limit, streams * 2).max(now),
            }
        };
        let now = *self.window.borrow();
        if due(now) != now {
            self.window.send_if_modified(|window| {
                let before = std::mem::replace(window, due(*window));
                before != *window
            });
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
        self.0.settle();
    }
}

/// The window for each of so many streams.
///
/// The full one as long as that makes a quarter of the limit; then half for each doubling. Each doubling that fills up
/// therefore adds an eighth of the limit to what the ones before it hold; from the full window down to the least there
/// are six, which with the first quarter makes the limit.
fn window(limit: usize, streams: usize) -> usize {
    (limit / 4 / streams.max(1).next_power_of_two()).clamp(WINDOW_LEAST, WINDOW_MOST)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn windows_shrink_with_the_streams_and_grow_again() {
        let budgets = Budgets::new(LIMIT);
        let budget = budgets.of(&ObjectKey::new("a", "b"));
        let windows = budget.windows();
        let mut seats: Vec<Seat> = (0..8).map(|_| budget.join()).collect();
        assert_eq!(*windows.borrow(), WINDOW_MOST);
        seats.push(budget.join());
        assert_eq!(*windows.borrow(), WINDOW_MOST / 2);
        seats.truncate(5);
        assert_eq!(*windows.borrow(), WINDOW_MOST / 2);
        seats.truncate(4);
        assert_eq!(*windows.borrow(), WINDOW_MOST);
        seats.extend((0..2000).map(|_| budget.join()));
        assert_eq!(*windows.borrow(), WINDOW_LEAST);
    }

    #[test]
    fn a_spent_budget_leaves_room_to_go_on() {
        let budget = Budgets::new(LIMIT).of(&ObjectKey::new("a", "b"));
        assert_eq!(budget.room(100_000), 100_000);
        budget.hold(LIMIT);
        assert!(budget.is_spent());
        assert_eq!(budget.room(100_000), SMALL);
        budget.release(1);
        assert_eq!(budget.room(100_000), 100_000);
    }

    #[test]
    fn a_workload_has_one_budget_while_it_is_used() {
        let budgets = Budgets::new(LIMIT);
        let (a, b) = (ObjectKey::new("n", "a"), ObjectKey::new("n", "b"));
        let first = budgets.of(&a);
        assert!(Arc::ptr_eq(&first, &budgets.of(&a)));
        drop(first);
        budgets.of(&b);
        assert_eq!(budgets.of.lock().unwrap().len(), 1);
    }

    proptest! {
        /// Streams come and go and each may fill the smallest window it has had since it came: at the time when
        /// all stand still, what is held is below the limit.
        #[test]
        fn filled_windows_stay_below_the_limit(
            limit in LIMIT_LEAST..=64 * LIMIT,
            steps in proptest::collection::vec((any::<bool>(), 1_usize..200), 1..60),
        ) {
            let budget = Budgets::new(limit).of(&ObjectKey::new("a", "b"));
            let windows = budget.windows();
            // Each with what it holds: a full window of when it came.
            let mut streams: Vec<(Seat, usize)> = Vec::new();
            for (come, count) in steps {
                if come {
                    for _ in 0..count {
                        let seat = budget.join();
                        streams.push((seat, *windows.borrow()));
                    }
                } else {
                    streams.truncate(streams.len().saturating_sub(count));
                }
                let held: usize = streams.iter().map(|(_, window)| window).sum();
                prop_assert!(held <= limit + streams.len() * WINDOW_LEAST, "{held} bytes in {} streams", streams.len());
            }
        }
    }
}
