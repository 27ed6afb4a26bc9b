//! How long answers take: an average that jumps up and comes down slowly.
//!
//! A slower answer than the average becomes the average at once; a faster one pulls it down by as much as time has passed
//! since the last, with the time constant [`DECAY`]. While nothing is heard the average sinks by itself with the same
//! constant, so an endpoint that was slow once is tried again. (Peak EWMA, as in Finagle.)
//!
//! Invariant: one atomic holds average and time together. Of two answers at the same instant one may be lost, which
//! the next one mends; no lock is taken.

use std::{
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// After so long without an answer the average is down to 37 %; one 20 times as slow as others is tried again after
/// three times as long.
pub(super) const DECAY: Duration = Duration::from_secs(5);

/// A point in time, in milliseconds, as the balancer compares them. Comes round after 49 days.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment(u32);

/// The average, and when it was that: milliseconds in the upper half, microseconds as a float in the lower. 0 before the
/// first answer.
#[derive(Debug, Default)]
pub(super) struct Latency(AtomicU64);

impl Moment {
    /// So long after any fixed point.
    pub fn after(since: Duration) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "it comes round")]
        Self(since.as_millis() as u32)
    }

    fn since(self, earlier: Self) -> f64 {
        let passed = self.0.wrapping_sub(earlier.0);
        // Another thread's clock may be a little ahead.
        if passed > u32::MAX / 2 {
            0.0
        } else {
            f64::from(passed) / 1000.0
        }
    }
}

impl From<Instant> for Moment {
    fn from(now: Instant) -> Self {
        static BEGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
        Self::after(now.saturating_duration_since(*BEGIN))
    }
}

impl Latency {
    /// The average in microseconds as it has sunk until `now`; `None` before the first answer.
    pub(super) fn at(&self, now: Moment) -> Option<f64> {
        let (average, then) = self.load()?;
        Some(average * kept(now.since(then)))
    }

    /// An answer took so long.
    pub(super) fn observe(&self, took: Duration, now: Moment) {
        let took = (took.as_secs_f64() * 1e6).max(1.0);
        let average = match self.load() {
            Some((average, then)) if took < average => {
                let kept = kept(now.since(then));
                average * kept + took * (1.0 - kept)
            }
            _ => took,
        };
        #[expect(clippy::cast_possible_truncation, reason = "less exact is exact enough")]
        let bits = (average as f32).to_bits();
        self.0
            .store(u64::from(now.0) << 32 | u64::from(bits), Ordering::Relaxed);
    }

    fn load(&self) -> Option<(f64, Moment)> {
        let both = self.0.load(Ordering::Relaxed);
        #[expect(clippy::cast_possible_truncation, reason = "it is cut into halves")]
        let (time, bits) = ((both >> 32) as u32, both as u32);
        (bits != 0).then(|| (f64::from(f32::from_bits(bits)), Moment(time)))
    }
}

/// What is left of an average after so many seconds.
fn kept(seconds: f64) -> f64 {
    (-seconds / DECAY.as_secs_f64()).exp()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: f64) -> Moment {
        Moment::after(Duration::from_secs_f64(seconds))
    }

    fn close(one: Option<f64>, other: f64) -> bool {
        one.is_some_and(|one| (one - other).abs() <= other / 1000.0)
    }

    #[test]
    fn it_jumps_up_and_sinks_slowly() {
        let latency = Latency::default();
        assert_eq!(latency.at(at(0.0)), None);
        latency.observe(Duration::from_millis(10), at(1.0));
        assert!(close(latency.at(at(1.0)), 10_000.0));
        latency.observe(Duration::from_millis(200), at(1.0));
        assert!(
            close(latency.at(at(1.0)), 200_000.0),
            "a slower one counts at once"
        );
        latency.observe(Duration::from_millis(10), at(1.0));
        assert!(
            close(latency.at(at(1.0)), 200_000.0),
            "a faster one at the same time does not"
        );
        // After a time constant 1/e is left of what was, and the rest is what is new.
        latency.observe(Duration::from_millis(10), at(6.0));
        let e = std::f64::consts::E;
        assert!(close(
            latency.at(at(6.0)),
            200_000.0 / e + 10_000.0 * (1.0 - 1.0 / e)
        ));
    }

    #[test]
    fn time_that_comes_round_or_goes_back_a_little_does_no_harm() {
        let latency = Latency::default();
        latency.observe(Duration::from_millis(10), Moment(u32::MAX));
        assert!(close(latency.at(Moment(4999)), 10_000.0 / std::f64::consts::E));
        assert!(close(latency.at(Moment(u32::MAX - 3)), 10_000.0));
    }

    proptest! {
        /// Between the fastest answer, sunk for the whole time, and the slowest.
        #[test]
        fn it_stays_among_what_was_seen(
            answers in proptest::collection::vec((1_u64..10_000_000, 0_u64..20_000), 1..100)
        ) {
            let latency = Latency::default();
            let mut now = 0;
            for (took, passed) in &answers {
                now += passed;
                latency.observe(Duration::from_micros(*took), Moment::after(Duration::from_millis(now)));
            }
            let average = latency.at(Moment::after(Duration::from_millis(now))).unwrap();
            let least = answers.iter().map(|(took, _)| *took).min().unwrap() as f64;
            let most = answers.iter().map(|(took, _)| *took).max().unwrap() as f64;
            prop_assert!((least * 0.999..=most * 1.001).contains(&average), "{average}");
            prop_assert!(average * 1.001 >= answers.last().unwrap().0 as f64, "the last one at least");
        }
    }
}
