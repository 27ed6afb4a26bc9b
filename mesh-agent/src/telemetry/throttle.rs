//! Bounds how much is logged about what others cause.
//!
//! Whoever is about to write such a line asks first. Invariant: strangers cannot make the log grow faster than
//! so many lines a second for each throttle.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Lines in each [`WINDOW`], where nothing else is said.
const LINES: u32 = 50;
const WINDOW: Duration = Duration::from_secs(1);

/// Lets so many lines pass, and counts the rest.
#[derive(Debug)]
pub struct Throttle {
    lines: u32,
    window: Mutex<Window>,
}

#[derive(Debug, Default)]
struct Window {
    began: Option<Instant>,
    written: u32,
    left_out: u64,
}

impl Throttle {
    /// So many a second.
    pub fn of(lines: u32) -> Self {
        Self {
            lines,
            window: Mutex::default(),
        }
    }

    /// Whether a line may be written now. If so, says how many were left out before it, if any.
    pub fn admit(&self, now: Instant) -> Option<Option<u64>> {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        let over = |began: Instant| now.saturating_duration_since(began) >= WINDOW;
        if window.began.is_none_or(over) {
            window.began = Some(now);
            window.written = 0;
        }
        if window.written >= self.lines {
            window.left_out += 1;
            return None;
        }
        window.written += 1;
        let left_out = std::mem::take(&mut window.left_out);
        Some((left_out > 0).then_some(left_out))
    }
}

impl Default for Throttle {
    fn default() -> Self {
        Self::of(LINES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_is_counted_and_told_with_the_next_line() {
        let throttle = Throttle::default();
        let now = Instant::now();
        for _ in 0..LINES {
            assert_eq!(throttle.admit(now), Some(None));
        }
        assert_eq!(throttle.admit(now + WINDOW / 2), None);
        assert_eq!(throttle.admit(now + WINDOW / 2), None);
        assert_eq!(throttle.admit(now + WINDOW), Some(Some(2)));
        assert_eq!(throttle.admit(now + WINDOW), Some(None));
    }
}
