//! Series of one kind, by their labels: found or made when asked for, never more than a limit.
//!
//! Whoever counts asks for a cell once and keeps it, so that counting is an addition to an atomic. Invariants: what
//! comes when the limit is reached is counted all the same, in one cell whose labels say so; a series that nobody
//! keeps or asked for within [`KEPT`] goes, and begins anew from 0 if it comes back.

use std::{
    collections::HashMap,
    fmt,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// How long a series is told that nothing adds to.
pub(super) const KEPT: Duration = Duration::from_secs(3600);

/// What a label says of everything beyond the limit.
pub(super) const OVERFLOW: &str = "overflow";

/// Labels, and what stands for all that there is no room for.
pub(super) trait Labels: Clone + Eq + Hash + fmt::Debug {
    /// The labels of what is beyond the limit.
    fn overflow() -> Self;
}

/// The series of one kind.
#[derive(Debug)]
pub(super) struct Series<L, M> {
    limit: usize,
    held: Mutex<HashMap<L, Held<M>>>,
    overflow: Arc<M>,
}

#[derive(Debug)]
struct Held<M> {
    cell: Arc<M>,
    /// Asked for since the last sweep.
    asked: bool,
    used: Option<Instant>,
}

impl<L: Labels, M: Default> Series<L, M> {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            held: Mutex::default(),
            overflow: Arc::default(),
        }
    }

    /// The cell of these labels.
    pub(super) fn cell(&self, labels: &L) -> Arc<M> {
        let mut held = self.lock();
        if let Some(held) = held.get_mut(labels) {
            held.asked = true;
            return Arc::clone(&held.cell);
        }
        if held.len() >= self.limit {
            return Arc::clone(&self.overflow);
        }
        let cell = Arc::default();
        held.insert(
            labels.clone(),
            Held {
                cell: Arc::clone(&cell),
                asked: true,
                used: None,
            },
        );
        cell
    }

    /// All cells with their labels, and that of the overflow once something is in it.
    pub(super) fn all(&self, overflows: impl FnOnce(&M) -> bool) -> Vec<(L, Arc<M>)> {
        let mut all: Vec<_> = self
            .lock()
            .iter()
            .map(|(labels, held)| (labels.clone(), Arc::clone(&held.cell)))
            .collect();
        if overflows(&self.overflow) {
            all.push((L::overflow(), Arc::clone(&self.overflow)));
        }
        all
    }

    /// Lets go of what nobody has used for long.
    pub(super) fn sweep(&self, now: Instant) {
        self.lock().retain(|_, held| {
            let kept = Arc::strong_count(&held.cell) > 1;
            if held.asked || kept || held.used.is_none() {
                held.used = Some(now);
                held.asked = false;
            }
            held.used
                .is_none_or(|used| now.saturating_duration_since(used) < KEPT)
        });
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<L, Held<M>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    impl Labels for u8 {
        fn overflow() -> Self {
            u8::MAX
        }
    }

    fn told(series: &Series<u8, AtomicU64>) -> Vec<(u8, u64)> {
        let mut told: Vec<_> = series
            .all(|cell| cell.load(Ordering::Relaxed) > 0)
            .into_iter()
            .map(|(labels, cell)| (labels, cell.load(Ordering::Relaxed)))
            .collect();
        told.sort_unstable();
        told
    }

    fn add(series: &Series<u8, AtomicU64>, labels: u8) {
        series.cell(&labels).fetch_add(1, Ordering::Relaxed);
    }

    #[test]
    fn what_is_beyond_the_limit_is_counted_in_one_series() {
        let series = Series::new(2);
        for labels in [1, 2, 3, 4, 1] {
            add(&series, labels);
        }
        assert_eq!(told(&series), [(1, 2), (2, 1), (u8::MAX, 2)]);
    }

    #[test]
    fn a_series_goes_when_nobody_used_it_for_long_and_makes_room() {
        let series = Series::new(2);
        let begin = Instant::now();
        let kept = series.cell(&1);
        add(&series, 2);
        series.sweep(begin);
        series.sweep(begin + KEPT / 2);
        assert_eq!(told(&series), [(1, 0), (2, 1)]);
        series.sweep(begin + KEPT * 2);
        assert_eq!(told(&series), [(1, 0)], "a connection keeps it");
        drop(kept);
        series.sweep(begin + KEPT * 4);
        assert_eq!(told(&series), []);
        add(&series, 3);
        assert_eq!(told(&series), [(3, 1)]);
    }
}
