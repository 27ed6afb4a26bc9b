//! The machines of a run, one at a time on each core: an emulated one keeps a core busy.
//!
//! [`super`] says which kernels and which tests; this module shares the tests out among machines and runs these side by
//! side. Invariant: every test that was asked for is in exactly one machine of each kernel.

use std::num::NonZero;
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Result, anyhow};

/// However many cores there are: each machine has memory of its own.
const MOST: usize = 4;

/// How many cores there are for machines.
pub(crate) fn cores() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get).min(MOST)
}

/// Into how many machines the tests of each of so many kernels are shared out, so that all cores get equally much to do.
pub(crate) fn machines_for_each(kernels: usize, cores: usize) -> usize {
    (1..cores)
        .find(|machines| (kernels.max(1) * machines).is_multiple_of(cores))
        .unwrap_or(cores)
}

/// Shares tests out, there and back: tests that take long stand side by side, and the last ones take longest.
pub(crate) fn deal(tests: &[String], machines: usize) -> Vec<Vec<String>> {
    let machines = machines.max(1);
    let mut hands = vec![Vec::new(); machines.min(tests.len())];
    for (place, test) in tests.iter().enumerate() {
        let (round, seat) = (place / machines, place % machines);
        let hand = match round.is_multiple_of(2) {
            true => seat,
            false => machines - 1 - seat,
        };
        hands[hand].push(test.clone());
    }
    hands
}

/// Runs all jobs, so many at once, and hands over what became of them in their order. The first error ends the run: the
/// jobs that have begun are finished, no other begins.
///
/// A job is made when its turn comes, one at a time.
pub(crate) fn run<J: Send, T: Send>(
    jobs: impl ExactSizeIterator<Item = Result<J>> + Send,
    at_once: usize,
    work: impl Fn(J) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let count = jobs.len();
    let queue = Mutex::new(jobs.enumerate());
    let done = Mutex::new(Vec::with_capacity(count));
    let worker = || -> Result<()> {
        loop {
            let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some((place, job)) = next else {
                return Ok(());
            };
            let outcome = job.and_then(&work).inspect_err(|_| {
                let mut rest = queue.lock().unwrap_or_else(PoisonError::into_inner);
                let _ = rest.nth(count);
            })?;
            let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
            done.push((place, outcome));
        }
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..at_once.clamp(1, count.max(1)))
            .map(|_| scope.spawn(worker))
            .collect();
        workers.into_iter().try_for_each(|worker| {
            worker
                .join()
                .unwrap_or_else(|_| Err(anyhow!("what watches a machine panicked")))
        })
    })?;
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(place, _)| *place);
    Ok(done.into_iter().map(|(_, outcome)| outcome).collect())
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|number| number.to_string()).collect()
    }

    #[test]
    fn each_test_is_dealt_once_and_no_machine_without() {
        assert_eq!(deal(&names(5), 2), [vec!["0", "3", "4"], vec!["1", "2"]]);
        assert_eq!(deal(&names(1), 4), [["0"]]);
        assert_eq!(deal(&names(2), 1), [["0", "1"]]);
    }

    #[test]
    fn no_core_has_less_and_no_kernel_is_cut_up_in_vain() {
        assert_eq!(machines_for_each(1, 2), 2);
        assert_eq!(machines_for_each(4, 2), 1);
        assert_eq!(machines_for_each(3, 4), 4);
        assert_eq!(machines_for_each(2, 4), 2);
        assert_eq!(machines_for_each(1, 1), 1);
    }

    #[test]
    fn outcomes_come_in_the_order_of_the_jobs() {
        let jobs = (0..7).map(Ok);
        assert_eq!(run(jobs, 3, |job| Ok(job * 2)).unwrap(), [0, 2, 4, 6, 8, 10, 12]);
    }

    #[test]
    fn an_error_ends_the_run() {
        let begun = Mutex::new(0);
        let outcome = run((0..9).map(Ok), 1, |job| {
            *begun.lock().unwrap() += 1;
            if job == 2 { bail!("no disk") } else { Ok(job) }
        });
        assert_eq!(outcome.unwrap_err().to_string(), "no disk");
        assert_eq!(*begun.lock().unwrap(), 3);
    }
}
