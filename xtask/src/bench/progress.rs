//! How far a run is, and how long the rest will take if it takes as long as what was.

use std::fmt;
use std::time::{Duration, Instant};

/// Counts the measurements of all scenarios.
pub(super) struct Progress {
    began: Instant,
    done: u32,
    total: u32,
}

impl Progress {
    /// So many are to come.
    pub(super) fn new(total: u32) -> Self {
        Self {
            began: Instant::now(),
            done: 0,
            total,
        }
    }

    /// So many are over, measured or not.
    pub(super) fn advance(&mut self, by: u32) {
        self.done = (self.done + by).min(self.total);
    }

    /// How many were.
    pub(super) fn done(&self) -> u32 {
        self.done
    }

    fn left(&self, elapsed: Duration) -> Option<Duration> {
        (self.done > 0).then(|| elapsed * (self.total - self.done) / self.done)
    }
}

/// `[12 of 90, about 5 min left]`.
impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{} of {}", self.done, self.total)?;
        match self.left(self.began.elapsed()).map(|left| left.as_secs()) {
            Some(0) | None => f.write_str("]"),
            Some(seconds @ 1..100) => write!(f, ", about {seconds} s left]"),
            Some(seconds) => write!(f, ", about {} min left]", seconds.div_ceil(60)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_takes_as_long_as_what_was() {
        let mut progress = Progress::new(10);
        assert_eq!(progress.left(Duration::from_secs(7)), None);
        progress.advance(4);
        assert_eq!(
            progress.left(Duration::from_secs(8)),
            Some(Duration::from_secs(12))
        );
        progress.advance(100);
        assert_eq!(progress.left(Duration::from_secs(9)), Some(Duration::ZERO));
        assert_eq!(progress.to_string(), "[10 of 10]");
    }
}
