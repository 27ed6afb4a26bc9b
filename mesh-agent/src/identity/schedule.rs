//! When to ask for the next certificate. Pure: `now` and the randomness are handed in.
//!
//! The store keeps one [`Schedule`] for each service account and asks it what is due. A certificate is renewed at
//! about half of its life, never all at once; a failed attempt is repeated after a growing pause, which shrinks again
//! as the end comes near. Invariant: while nothing succeeds, an attempt is always due at some later time.

use std::time::{Duration, SystemTime};

use serde::Serialize;

/// The renewal of one certificate.
#[derive(Clone, Debug)]
pub struct Schedule {
    due: SystemTime,
    held: Option<Held>,
    failures: u32,
}

/// The certificate that is in use.
#[derive(Clone, Copy, Debug)]
struct Held {
    since: SystemTime,
    until: SystemTime,
}

/// How a certificate is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// There has not been one yet.
    Missing,
    /// It is valid, and there is time.
    Valid,
    /// It is valid, but it should have been renewed long ago.
    ExpiresSoon,
    /// It is not valid any more.
    Expired,
}

/// A number from 0 up to but not including 1, drawn evenly.
pub(super) type Chance = f64;

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// While nothing valid is held, and connections are refused for it.
const LONGEST_PAUSE_WITHOUT: Duration = Duration::from_secs(5);
/// Even when the end is near.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
/// A pause is at most this part of the life that is left, so that several attempts remain.
const PAUSE_PART: u32 = 8;
/// Renewal comes at half of the life, give or take this part of it.
const JITTER: f64 = 0.1;
/// Renewal should have succeeded by the time that only this part of the life is left.
const SOON_PART: u32 = 3;

impl Schedule {
    /// Nothing is held; the first attempt is due at once.
    pub fn new(now: SystemTime) -> Self {
        Self {
            due: now,
            held: None,
            failures: 0,
        }
    }

    /// A certificate came that ends at `until`.
    pub fn succeeded(&mut self, now: SystemTime, until: SystemTime, chance: Chance) {
        let life = until.duration_since(now).unwrap_or_default();
        self.held = Some(Held { since: now, until });
        self.failures = 0;
        self.due = now
            + life
                .mul_f64(0.5 - JITTER + 2.0 * JITTER * chance)
                .max(SHORTEST_PAUSE);
    }

    /// An attempt failed.
    pub fn failed(&mut self, now: SystemTime, chance: Chance) {
        let doubled = FIRST_PAUSE.saturating_mul(1 << self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        let mut pause = doubled.min(LONGEST_PAUSE);
        let left = self.held.and_then(|held| held.until.duration_since(now).ok());
        pause = pause.min(left.map_or(LONGEST_PAUSE_WITHOUT, |left| left / PAUSE_PART));
        // From half of the pause to all of it: agents that failed together do not come back together.
        self.due = now + pause.mul_f64(0.5 + chance / 2.0).max(SHORTEST_PAUSE);
    }

    /// Asks for a new certificate within `spread`, because what the present one leads to has changed.
    pub fn hurry(&mut self, now: SystemTime, spread: Duration, chance: Chance) {
        let left = self.held.and_then(|held| held.until.duration_since(now).ok());
        let spread = left.map_or(spread, |left| spread.min(left / PAUSE_PART));
        self.due = self.due.min(now + spread.mul_f64(chance));
    }

    /// When the next attempt is due.
    pub fn due(&self) -> SystemTime {
        self.due
    }

    /// Attempts that failed since the last one that did not.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// How the certificate is.
    pub fn standing(&self, now: SystemTime) -> Standing {
        let Some(Held { since, until }) = self.held else {
            return Standing::Missing;
        };
        let life = until.duration_since(since).unwrap_or_default();
        match until.duration_since(now) {
            Err(_) => Standing::Expired,
            Ok(left) if left < life / SOON_PART => Standing::ExpiresSoon,
            Ok(_) => Standing::Valid,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use proptest::prelude::*;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_700_000_000)
    }

    #[test]
    fn the_first_attempt_is_due_at_once() {
        let schedule = Schedule::new(now());
        assert_eq!(schedule.due(), now());
        assert_eq!(schedule.standing(now()), Standing::Missing);
    }

    #[test]
    fn renewal_comes_at_about_half_of_the_life() {
        let mut schedule = Schedule::new(now());
        for (chance, hours) in [(0.0, 9.6), (0.5, 12.0), (1.0, 14.4)] {
            schedule.succeeded(now(), now() + 24 * HOUR, chance);
            let due = schedule.due().duration_since(now()).unwrap();
            assert!((due.as_secs_f64() / 3600.0 - hours).abs() < 0.001, "{due:?}");
        }
    }

    #[test]
    fn pauses_grow_to_a_limit_and_then_shrink_towards_the_end() {
        let mut schedule = Schedule::new(now());
        schedule.succeeded(now(), now() + 24 * HOUR, 0.5);
        let mut time = schedule.due();
        let mut pauses = Vec::new();
        while schedule.standing(time) != Standing::Expired {
            schedule.failed(time, 1.0);
            pauses.push(schedule.due().duration_since(time).unwrap());
            time = schedule.due();
        }
        assert_eq!(
            pauses[..5],
            [1, 2, 4, 8, 16].map(Duration::from_secs),
            "doubling from a second"
        );
        assert_eq!(pauses.iter().max(), Some(&LONGEST_PAUSE));
        assert!(
            pauses[pauses.len() - 2] < Duration::from_secs(1),
            "several attempts near the end"
        );
        assert!(pauses.len() < 400, "but not too many: {}", pauses.len());
    }

    #[test]
    fn without_a_valid_certificate_pauses_stay_short() {
        for held in [false, true] {
            let mut schedule = Schedule::new(now());
            if held {
                schedule.succeeded(now(), now() + HOUR, 0.5);
            }
            let mut time = now() + 2 * HOUR;
            for _ in 0..40 {
                schedule.failed(time, 1.0);
                let pause = schedule.due().duration_since(time).unwrap();
                assert!(pause <= LONGEST_PAUSE_WITHOUT, "{pause:?}");
                time = schedule.due();
            }
        }
    }

    #[test]
    fn a_late_renewal_warns_before_the_end() {
        let mut schedule = Schedule::new(now());
        schedule.succeeded(now(), now() + 24 * HOUR, 0.5);
        for (hours, standing) in [
            (0, Standing::Valid),
            (15, Standing::Valid),
            (17, Standing::ExpiresSoon),
            (24, Standing::ExpiresSoon),
            (25, Standing::Expired),
        ] {
            assert_eq!(schedule.standing(now() + hours * HOUR), standing, "{hours}");
        }
    }

    #[test]
    fn a_new_root_hurries_and_never_delays() {
        let mut schedule = Schedule::new(now());
        schedule.succeeded(now(), now() + 24 * HOUR, 0.5);
        schedule.hurry(now(), Duration::from_secs(30), 0.5);
        assert_eq!(schedule.due(), now() + Duration::from_secs(15));
        schedule.hurry(now(), Duration::from_secs(300), 0.9);
        assert_eq!(schedule.due(), now() + Duration::from_secs(15));
    }

    proptest! {
        #[test]
        fn something_is_always_due_later(life in 1u64..1_000_000, steps in prop::collection::vec((any::<bool>(), 0.0..1.0), 1..60)) {
            let mut time = now();
            let mut schedule = Schedule::new(time);
            for (success, chance) in steps {
                if success {
                    schedule.succeeded(time, time + Duration::from_secs(life), chance);
                    prop_assert!(schedule.due() < time + Duration::from_secs(life));
                } else {
                    schedule.failed(time, chance);
                    prop_assert!(schedule.due() <= time + LONGEST_PAUSE);
                }
                prop_assert!(schedule.due() > time);
                time = schedule.due();
            }
        }
    }
}
