//! The machines of a run, several at a time: an emulated one uses one core, and waits for a third of its time.
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

/// Into how many machines the tests of each of so many kernels are shared out, so that no core is idle.
pub(crate) fn machines_for_each(kernels: usize, cores: usize) -> usize {
    cores.div_ceil(kernels.max(1))
}

/// How many machines run at once: more than cores, for while one waits another gets on.
pub(crate) fn at_once(cores: usize) -> usize {
    cores + 2
}

/// Shares tests out, as a dealer does cards: tests that take long stand side by side.
pub(crate) fn deal(tests: &[String], machines: usize) -> Vec<Vec<String>> {
    let hand = |first| tests.iter().skip(first).step_by(machines.max(1)).cloned();
    let hands = (0..machines.max(1)).map(|first| hand(first).collect::<Vec<_>>());
    hands.filter(|hand| !hand.is_empty()).collect()
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
        assert_eq!(deal(&names(5), 2), [vec!["0", "2", "4"], vec!["1", "3"]]);
        assert_eq!(deal(&names(1), 4), [["0"]]);
        assert_eq!(deal(&names(2), 1), [["0", "1"]]);
    }

    #[test]
    fn no_core_is_idle_and_no_kernel_is_cut_up_in_vain() {
        assert_eq!(machines_for_each(1, 2), 2);
        assert_eq!(machines_for_each(4, 2), 1);
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
