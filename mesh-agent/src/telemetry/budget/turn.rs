//! How much of a data worker's time somebody has had.
//!
//! A worker's time goes round: in each round everybody who wants to may work for [`TURN`], and who has had that waits for
//! the next. What the rounds are is the worker's business (`upstream/fair.rs`). Invariant: only the thread of a worker
//! writes what is kept for that worker, so nothing is ever waited for.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use mesh_common::kernel::MAX_WORKERS;

/// The time that a workload, or one of its clients, has in each round. Short enough that nobody minds to wait for it, long
/// enough that changing turns costs little.
pub const TURN: Duration = Duration::from_micros(250);

/// After so long it is seen who took most of the time.
const WINDOW: Duration = Duration::from_secs(1);

/// For each data worker.
#[derive(Debug, Default)]
pub(super) struct Turns([Turn; MAX_WORKERS]);

/// Times are in nanoseconds.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Turn {
    round: AtomicU64,
    spent: AtomicU64,
    total: AtomicU64,
    /// Of `total`, what [`Turns::spend`] has said.
    told: AtomicU64,
    window_began: AtomicU64,
    window_total: AtomicU64,
}

/// What is said only when it is so much, in nanoseconds.
const WORTH_TELLING: u64 = 1_000_000;

impl Turns {
    /// What is left of the turn.
    pub(super) fn left(&self, worker: usize, round: u64) -> Duration {
        let turn = self.of(worker);
        if get(&turn.round) != round {
            return TURN;
        }
        TURN.saturating_sub(Duration::from_nanos(get(&turn.spent)))
    }

    /// Time was taken. Says how much was since it last said so, once that is worth it.
    pub(super) fn spend(&self, worker: usize, round: u64, time: Duration) -> Option<Duration> {
        let turn = self.of(worker);
        let time = nanos(time);
        let spent = if get(&turn.round) == round {
            get(&turn.spent)
        } else {
            0
        };
        set(&turn.round, round);
        set(&turn.spent, spent + time);
        let total = get(&turn.total) + time;
        set(&turn.total, total);
        let untold = total - get(&turn.told);
        if untold < WORTH_TELLING {
            return None;
        }
        set(&turn.told, total);
        Some(Duration::from_nanos(untold))
    }

    /// Whether more than half of a second was taken. Asked, at `now` since some beginning, when others wait as well.
    pub(super) fn is_most(&self, worker: usize, now: Duration) -> bool {
        let turn = self.of(worker);
        let (now, began) = (nanos(now), get(&turn.window_began));
        let window = now.saturating_sub(began);
        if window < nanos(WINDOW) {
            return false;
        }
        let taken = get(&turn.total) - get(&turn.window_total);
        set(&turn.window_began, now);
        set(&turn.window_total, get(&turn.total));
        // A longer one began when nobody competed.
        window < 2 * nanos(WINDOW) && taken > window / 2
    }

    fn of(&self, worker: usize) -> &Turn {
        // The modulo is no bound that anybody reaches: an agent has no more workers.
        &self.0[worker % MAX_WORKERS]
    }
}

fn get(cell: &AtomicU64) -> u64 {
    cell.load(Ordering::Relaxed)
}

fn set(cell: &AtomicU64, value: u64) {
    cell.store(value, Ordering::Relaxed);
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORKER: usize = 3;

    #[test]
    fn a_turn_is_used_up_and_comes_again_with_the_next_round() {
        let turns = Turns::default();
        assert_eq!(turns.left(WORKER, 7), TURN);
        turns.spend(WORKER, 7, TURN / 2);
        assert_eq!(turns.left(WORKER, 7), TURN / 2);
        assert_eq!(
            turns.left(WORKER + 1, 7),
            TURN,
            "another worker's time is another"
        );
        turns.spend(WORKER, 7, TURN);
        assert_eq!(turns.left(WORKER, 7), Duration::ZERO);
        assert_eq!(turns.left(WORKER, 8), TURN);
    }

    #[test]
    fn all_time_is_told() {
        let turns = Turns::default();
        let told: Duration = (0..100)
            .filter_map(|round| turns.spend(0, round, Duration::from_micros(100)))
            .sum();
        assert_eq!(told, Duration::from_millis(10));
    }

    #[test]
    fn more_than_half_of_a_second_is_most_of_it() {
        let second = |number: u32| WINDOW * number;
        let turns = Turns::default();
        assert!(!turns.is_most(0, second(100)), "nothing was looked at before");
        turns.spend(0, 1, WINDOW * 2 / 5);
        assert!(!turns.is_most(0, second(101)));
        turns.spend(0, 2, WINDOW * 3 / 5);
        assert!(!turns.is_most(0, second(101) + WINDOW / 2), "not yet");
        assert!(turns.is_most(0, second(102)));
        assert!(!turns.is_most(0, second(103)));
    }
}
