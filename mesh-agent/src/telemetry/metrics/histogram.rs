//! How often a number fell between which bounds. Adding takes no lock.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts by upper bound, and the sum.
#[derive(Debug)]
pub(super) struct Histogram {
    bounds: &'static [f64],
    /// One more than bounds.
    counts: Box<[AtomicU64]>,
    /// In thousandths, so that it can be added to in one step.
    sum: AtomicU64,
}

impl Histogram {
    /// Bounds in ascending order.
    pub(super) fn new(bounds: &'static [f64]) -> Self {
        Self {
            bounds,
            counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
            sum: AtomicU64::new(0),
        }
    }

    /// Counts a number that is not negative.
    pub(super) fn observe(&self, value: f64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a cast of a float saturates"
        )]
        self.sum.fetch_add((value * 1000.0) as u64, Ordering::Relaxed);
    }

    /// The sum of what was counted.
    pub(super) fn sum(&self) -> f64 {
        self.sum.load(Ordering::Relaxed) as f64 / 1000.0
    }

    /// Upper bounds, and how often what was up to each and above the one before.
    pub(super) fn buckets(&self) -> Vec<(f64, u64)> {
        let bounds = self.bounds.iter().copied().chain([f64::INFINITY]);
        bounds
            .zip(self.counts.iter().map(|count| count.load(Ordering::Relaxed)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_what_is_below_it() {
        let histogram = Histogram::new(&[1.0, 10.0]);
        for value in [0.0, 0.5, 1.0, 1.5, 10.0, 11.0] {
            histogram.observe(value);
        }
        assert_eq!(histogram.buckets(), [(1.0, 3), (10.0, 2), (f64::INFINITY, 1)]);
        assert_eq!(histogram.sum(), 24.0);
    }
}
