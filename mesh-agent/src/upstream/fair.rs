//! The turns of those who want to work on one data worker.
//!
//! A worker's runtime polls its tasks in the order in which they became ready, and looks for new events when none is left or
//! many were polled. Without more, a workload with many busy connections has as many turns as it has connections, each as
//! long as it likes. Here time goes in rounds: each [`Claim`] has [`TURN`](crate::telemetry::TURN) in a round, all of its
//! tasks together; who has had it waits for the next, which begins when the worker has looked for events. What became ready
//! meanwhile comes first.
//!
//! `listener` and `session` run what works for a workload inside of [`fair`]; what may work for long asks [`poll_turn`] now and
//! then; the worker's thread runs [`rounds`], and tells of its rests ([`rest`]). Elsewhere, without `rounds`, nobody waits.
//! Invariant: whoever waits is woken by the next round, and a round begins whenever somebody waits.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use pin_project_lite::pin_project;

use crate::telemetry::Claim;

thread_local! {
    static ROUND: Round = const { Round::new() };
}

/// The round that a thread is in.
struct Round {
    /// The data worker whose thread it is.
    worker: Cell<Option<usize>>,
    began: Cell<Option<Instant>>,
    number: Cell<u64>,
    /// Tasks whose turn comes in the next one, first.
    waiting: RefCell<Vec<Waker>>,
    /// Tasks that have worked in this one and go on in the next, after those.
    stopped: RefCell<Vec<Waker>>,
    /// What begins the next one.
    bell: RefCell<Option<Waker>>,
    /// Of the task that works now: since when, and for how long it may.
    turn: Cell<Option<(Instant, Duration)>>,
    /// Who worked last, and whether anybody else did in this round.
    last: Cell<usize>,
    shared: Cell<bool>,
}

pin_project! {
    /// Work in the turns of a claim.
    pub struct Fair<F> {
        claim: Option<Arc<Claim>>,
        #[pin]
        work: F,
    }
}

/// Does `work` in the turns of `claim`; without one whenever it is ready.
pub fn fair<F>(claim: Option<Arc<Claim>>, work: F) -> Fair<F> {
    Fair { claim, work }
}

/// How much of a turn something may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// What comes first, so that something is left for what comes after it.
    Half,
    /// What comes last.
    Whole,
}

/// Ready as long as the task that is polled has not had this part of its turn; else it is woken for the next.
pub fn poll_turn(cx: &mut Context<'_>, part: Part) -> Poll<()> {
    ROUND.with(|round| {
        let Some((began, left)) = round.turn.get() else {
            return Poll::Ready(());
        };
        let due = match part {
            Part::Half => left / 2,
            Part::Whole => left,
        };
        if began.elapsed() < due {
            return Poll::Ready(());
        }
        round.wait(&round.stopped, cx.waker());
        Poll::Pending
    })
}

/// Begins the rounds of this thread, which is that of a data worker, for ever.
pub async fn rounds(worker: usize) {
    ROUND.with(|round| {
        round.worker.set(Some(worker));
        round.began.set(Some(Instant::now()));
    });
    loop {
        poll_fn(|cx| ROUND.with(|round| round.poll_wanted(cx))).await;
        // Comes back after the runtime has looked for events.
        tokio::task::yield_now().await;
        ROUND.with(Round::next);
    }
}

/// The thread has nothing to do: whatever comes next is in another round.
pub fn rest() {
    ROUND.with(Round::next);
}

impl<F: Future> Future for Fair<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let Some(claim) = this.claim else {
            return this.work.poll(cx);
        };
        ROUND.with(|round| {
            let Some(worker) = round.worker.get() else {
                return this.work.poll(cx);
            };
            let left = claim.time_left(worker, round.number.get());
            if left.is_zero() {
                round.wait(&round.waiting, cx.waker());
                round.over(claim, worker);
                return Poll::Pending;
            }
            round.meet(Arc::as_ptr(claim).addr());
            let began = Instant::now();
            round.turn.set(Some((began, left)));
            let polled = this.work.poll(cx);
            round.turn.set(None);
            let spent = began.elapsed();
            claim.spend(worker, round.number.get(), spent);
            if spent >= left {
                round.over(claim, worker);
            }
            polled
        })
    }
}

impl Round {
    const fn new() -> Self {
        Self {
            worker: Cell::new(None),
            began: Cell::new(None),
            number: Cell::new(1),
            waiting: RefCell::new(Vec::new()),
            stopped: RefCell::new(Vec::new()),
            bell: RefCell::new(None),
            turn: Cell::new(None),
            last: Cell::new(0),
            shared: Cell::new(false),
        }
    }

    fn wait(&self, among: &RefCell<Vec<Waker>>, waker: &Waker) {
        among.borrow_mut().push(waker.clone());
        if let Some(bell) = self.bell.borrow_mut().take() {
            bell.wake();
        }
    }

    fn poll_wanted(&self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.waiting.borrow().is_empty() || !self.stopped.borrow().is_empty() {
            return Poll::Ready(());
        }
        *self.bell.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }

    fn next(&self) {
        self.number.set(self.number.get() + 1);
        self.shared.set(false);
        self.last.set(0);
        for among in [&self.waiting, &self.stopped] {
            let mut woken = among.take();
            woken.drain(..).for_each(Waker::wake);
            // The room is kept for the next round; who was woken did not work yet.
            among.replace(woken);
        }
    }

    /// A claim has had its turn.
    fn over(&self, claim: &Claim, worker: usize) {
        if self.shared.get() {
            let now = self.began.get().map_or(Duration::ZERO, |began| began.elapsed());
            claim.gave_way(worker, now);
        }
    }

    fn meet(&self, who: usize) {
        match self.last.replace(who) {
            0 => {}
            last if last == who => {}
            _ => self.shared.set(true),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, rc::Rc};

    use mesh_common::model::ObjectKey;

    use super::*;
    use crate::telemetry::{Budgets, Limits, TURN};

    fn claim(budgets: &Arc<Budgets>, name: &str) -> Arc<Claim> {
        budgets.claim(&ObjectKey::new("n", name), None)
    }

    /// Works for so long, without a look at anything else.
    fn work(time: Duration) {
        let begin = Instant::now();
        while begin.elapsed() < time {
            std::hint::spin_loop();
        }
    }

    fn on_a_worker(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .on_thread_park(rest)
            .build()
            .unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let rounds = tokio::task::spawn_local(rounds(0));
            test.await;
            rounds.abort();
        });
        ROUND.with(|round| round.worker.set(None));
    }

    /// A crowd of tasks of one claim that always have work, and one task of another that has little.
    #[test]
    fn one_who_has_many_tasks_has_one_turn() {
        const CROWD: usize = 50;
        const STEPS: usize = 20;
        on_a_worker(async {
            let budgets = Budgets::new(Limits::default());
            let (busy, quiet) = (claim(&budgets, "busy"), claim(&budgets, "quiet"));
            let order: Rc<RefCell<Vec<&str>>> = Rc::default();
            let note = |who: &'static str| {
                let order = Rc::clone(&order);
                move || order.borrow_mut().push(who)
            };
            let crowd: Vec<_> = (0..CROWD)
                .map(|_| {
                    let note = note("busy");
                    tokio::task::spawn_local(fair(Some(Arc::clone(&busy)), async move {
                        for _ in 0..STEPS {
                            work(TURN);
                            note();
                            tokio::task::yield_now().await;
                        }
                    }))
                })
                .collect();
            let one = {
                let note = note("quiet");
                tokio::task::spawn_local(fair(Some(quiet), async move {
                    for _ in 0..STEPS {
                        note();
                        tokio::task::yield_now().await;
                    }
                }))
            };
            one.await.unwrap();
            let before = order.borrow().iter().filter(|who| **who == "busy").count();
            assert!(
                before <= 2 * STEPS,
                "{before} turns of the crowd for {STEPS} of the other"
            );
            for task in crowd {
                task.await.unwrap();
            }
            assert_eq!(
                order.borrow().len(),
                (CROWD + 1) * STEPS,
                "somebody was forgotten"
            );
            assert!(budgets.of(&ObjectKey::new("n", "busy")).worker_time() >= TURN * 900);
        });
    }

    #[test]
    fn who_asks_stops_when_the_turn_is_over() {
        on_a_worker(async {
            let budgets = Budgets::new(Limits::default());
            let long = fair(Some(claim(&budgets, "long")), async {
                let mut pieces = 0;
                let mut stops = 0;
                while pieces < 10 {
                    poll_fn(|cx| {
                        let turn = poll_turn(cx, Part::Whole);
                        stops += usize::from(turn.is_pending());
                        turn
                    })
                    .await;
                    work(TURN * 2 / 3);
                    pieces += 1;
                }
                stops
            });
            let stops = tokio::task::spawn_local(long).await.unwrap();
            assert!((4..=10).contains(&stops), "{stops} stops");
        });
    }

    #[tokio::test]
    async fn elsewhere_nobody_waits() {
        let budgets = Budgets::new(Limits::default());
        let claim = claim(&budgets, "a");
        claim.spend(0, 1, TURN);
        let done = fair(Some(claim), async {
            work(TURN);
            poll_fn(|cx| poll_turn(cx, Part::Half)).await;
        });
        tokio::time::timeout(Duration::from_secs(5), done).await.unwrap();
    }
}
