//! The windows of a tunnel: of each of its streams, kept at what the workload's budget has for each, and of all together.
//!
//! The task of a tunnel waits for [`Windows::due`] before it does what its connection wants, and then calls
//! [`Windows::apply`]. All streams together have as much as their windows make once those are as they should be, and beside
//! that what streams hold that nobody reads. So nobody waits for another one's reader; and streams that begin all at once,
//! faster than smaller windows can be announced (each waits for the acknowledgement of the one before), hold little.
//!
//! Invariant: no stream has a larger window than the budget has for it, but for the moment that an announcement takes, and in
//! that moment all together get no more than they have; and what busy tunnels do does not keep idle ones busy, of which there
//! may be thousands.

use std::{future::poll_fn, sync::Arc, task::Poll, time::Duration};

use tokio::{sync::watch, time::Instant};

use super::tuning;
use crate::{
    telemetry::{Budget, WINDOW_MOST, WINDOW_REST},
    upstream::Unread,
};

/// A change that could not be announced yet is tried again after this. The one before waits for its acknowledgement.
pub(crate) const AGAIN: Duration = Duration::from_millis(20);

/// What the streams of one tunnel have, and should have.
pub(crate) struct Windows {
    each: Each,
    together: Together,
}

/// What is to be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// The window of each stream.
    Each(usize),
    /// That of all together.
    Together(usize),
}

/// An HTTP/2 connection whose windows can be changed.
pub(crate) trait Announce {
    /// Tells the peer of another window for each stream. Fails while it has not acknowledged the one before.
    fn announce(&mut self, window: u32) -> Result<(), h2::Error>;
    /// Has another window for all streams together.
    fn have_together(&mut self, window: u32);
}

struct Each {
    budget: Arc<Budget>,
    wanted: watch::Receiver<usize>,
    /// The smallest that was ever wanted. Idle tunnels with no more than that need not know what is wanted now.
    least: watch::Receiver<usize>,
    announced: usize,
    /// When to try again what could not be announced. Kept here, since whoever waits may stop and begin anew.
    again: Instant,
    /// When to ask the budget once for more, if nobody else came to ask. After its rest whoever leaves makes it grow.
    ask: Option<Instant>,
}

/// The window of all streams of one connection together.
pub(crate) struct Together {
    budget: Arc<Budget>,
    unread: Arc<Unread>,
    least: usize,
    most: usize,
    now: usize,
}

impl Windows {
    /// As the budget has it now, or had it when it had least: a tunnel that is about to be used is soon told of more.
    /// `unread` is counted by its streams.
    pub(crate) fn of(budget: &Arc<Budget>, unread: &Arc<Unread>) -> Self {
        let (mut wanted, mut least) = (budget.windows(), budget.least_window());
        let announced = (*wanted.borrow_and_update()).min(*least.borrow_and_update());
        let together = Together::of(budget, unread, tuning::together_least(budget));
        let each = Each {
            budget: Arc::clone(budget),
            wanted,
            least,
            announced,
            again: Instant::now(),
            ask: Some(Instant::now() + WINDOW_REST),
        };
        Self { each, together }
    }

    /// The window to begin with.
    pub(crate) fn first(&self) -> u32 {
        as_window(self.each.announced)
    }

    /// The window of all streams together to begin with.
    pub(crate) fn first_together(&self) -> u32 {
        as_window(self.together.now)
    }

    /// Waits until there is something to change, and says what. A smaller window is always announced; a larger one only while
    /// the tunnel has streams. `in_use` is asked again whenever this is polled: when a stream begins.
    pub(crate) async fn due(&mut self, in_use: impl Fn() -> bool) -> Due {
        let announced = self.each.announced;
        tokio::select! {
            biased;
            each = self.each.due(in_use) => Due::Each(each),
            together = self.together.due(announced) => Due::Together(together),
        }
    }

    /// Changes what was due.
    pub(crate) fn apply(&mut self, connection: &mut impl Announce, due: Due) {
        match due {
            Due::Each(window) => match connection.announce(as_window(window)) {
                Ok(()) => self.each.announced = window,
                Err(_) => self.each.again = Instant::now() + AGAIN,
            },
            Due::Together(window) => self.together.apply(connection, window),
        }
    }
}

impl Each {
    async fn due(&mut self, in_use: impl Fn() -> bool) -> usize {
        loop {
            let idle = !in_use();
            if idle {
                // What changes meanwhile is not looked at.
                self.ask = Some(Instant::now() + WINDOW_REST);
            }
            let wanted = *self.wanted.borrow();
            let due = if idle { wanted.min(self.announced) } else { wanted };
            if due != self.announced {
                tokio::time::sleep_until(self.again).await;
                return due;
            }
            let parked = idle && self.announced <= *self.least.borrow();
            let begins = poll_fn(|_| match idle && in_use() {
                true => Poll::Ready(()),
                false => Poll::Pending,
            });
            let ask = self.ask.filter(|_| !idle && self.announced < WINDOW_MOST);
            let rested = async {
                match ask {
                    Some(ask) => tokio::time::sleep_until(ask).await,
                    None => std::future::pending().await,
                }
            };
            let changes = if parked { &mut self.least } else { &mut self.wanted };
            tokio::select! {
                changed = changes.changed() => match changed {
                    Ok(()) => self.ask = Some(Instant::now() + WINDOW_REST),
                    // Cannot be: the budget is held here.
                    Err(_) => std::future::pending().await,
                },
                () = begins => {}
                () = rested => {
                    self.ask = None;
                    self.budget.settle();
                }
            }
        }
    }
}

impl Together {
    /// `least` is what there is while everything is read. `unread` is counted by the streams.
    pub(crate) fn of(budget: &Arc<Budget>, unread: &Arc<Unread>, least: usize) -> Self {
        Self {
            budget: Arc::clone(budget),
            unread: Arc::clone(unread),
            least,
            most: tuning::together_most(budget),
            now: least,
        }
    }

    /// Waits until another window is due, and says which. `announced` is what each stream has.
    pub(crate) async fn due(&self, announced: usize) -> usize {
        loop {
            let changes = poll_fn(|_| self.change(announced).map_or(Poll::Pending, Poll::Ready));
            tokio::select! {
                biased;
                change = changes => return change,
                () = self.unread.more() => {}
            }
        }
    }

    /// Changes what was due.
    pub(crate) fn apply(&mut self, connection: &mut impl Announce, window: usize) {
        connection.have_together(as_window(window));
        self.now = window;
    }

    /// More only after streams were told of smaller windows: the peer then hears of those first.
    fn change(&self, announced: usize) -> Option<usize> {
        let due = (self.least + self.unread.in_steps()).min(self.most);
        let may = due < self.now || due > self.now && announced <= self.budget.window();
        may.then_some(due)
    }
}

impl<T, B> Announce for h2::client::Connection<T, B>
where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    B: bytes::Buf,
{
    fn announce(&mut self, window: u32) -> Result<(), h2::Error> {
        self.set_initial_window_size(window)
    }

    fn have_together(&mut self, window: u32) {
        self.set_target_window_size(window);
    }
}

impl<T, B> Announce for h2::server::Connection<T, B>
where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    B: bytes::Buf,
{
    fn announce(&mut self, window: u32) -> Result<(), h2::Error> {
        self.set_initial_window_size(window)
    }

    fn have_together(&mut self, window: u32) {
        self.set_target_window_size(window);
    }
}

fn as_window(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX).min(u32::MAX >> 1)
}

#[cfg(test)]
mod tests {
    use std::{
        cell::Cell,
        pin::pin,
        sync::Arc,
        task::{Context, Wake, Waker},
    };

    use mesh_common::model::ObjectKey;
    use tokio::time;

    use super::*;
    use crate::telemetry::{Budgets, Limits, WINDOW_LEAST};

    /// Takes every announcement.
    struct Willing;

    impl Announce for Willing {
        fn announce(&mut self, _window: u32) -> Result<(), h2::Error> {
            Ok(())
        }

        fn have_together(&mut self, _window: u32) {}
    }

    /// Counts how often it was woken.
    #[derive(Default)]
    struct Woken(std::sync::atomic::AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    }

    fn budget() -> Arc<Budget> {
        Budgets::new(Limits::default()).of(&ObjectKey::new("shop", "web"))
    }

    /// What is due now, announced as well.
    fn settle(windows: &mut Windows, in_use: bool) -> Option<Due> {
        let mut cx = Context::from_waker(Waker::noop());
        let due = match pin!(windows.due(|| in_use)).poll(&mut cx) {
            Poll::Ready(due) => due,
            Poll::Pending => return None,
        };
        windows.apply(&mut Willing, due);
        Some(due)
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_tunnel_is_told_of_less_at_once_and_of_more_when_it_is_used() {
        let budget = budget();
        let mut windows = Windows::of(&budget, &Arc::default());
        assert_eq!(settle(&mut windows, false), None);
        let seats: Vec<_> = (0..2000).map(|_| budget.join()).collect();
        assert_eq!(settle(&mut windows, false), Some(Due::Each(WINDOW_LEAST)));
        drop(seats);
        time::advance(WINDOW_REST).await;
        budget.settle();
        assert_eq!(settle(&mut windows, false), None);
        assert_eq!(settle(&mut windows, true), Some(Due::Each(WINDOW_MOST)));
        // In use no more, but more than the least there ever was: a smaller one concerns it again.
        let _seats: Vec<_> = (0..9).map(|_| budget.join()).collect();
        assert_eq!(settle(&mut windows, false), Some(Due::Each(WINDOW_MOST / 2)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_begins_is_noticed_by_whoever_waits() {
        let budget = budget();
        drop((0..2000).map(|_| budget.join()).collect::<Vec<_>>());
        time::advance(WINDOW_REST).await;
        budget.settle();
        let (mut windows, used) = (Windows::of(&budget, &Arc::default()), Cell::new(false));
        assert_eq!(windows.first() as usize, WINDOW_LEAST);
        let mut due = pin!(windows.due(|| used.get()));
        let mut cx = Context::from_waker(Waker::noop());
        assert_eq!(due.as_mut().poll(&mut cx), Poll::Pending);
        used.set(true);
        assert_eq!(due.as_mut().poll(&mut cx), Poll::Ready(Due::Each(WINDOW_MOST)));
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_left_alone_gets_more_without_anybody_coming() {
        let budget = budget();
        let _one = budget.join();
        drop((0..2000).map(|_| budget.join()).collect::<Vec<_>>());
        let mut windows = Windows::of(&budget, &Arc::default());
        let begun = Instant::now();
        assert_eq!(windows.due(|| true).await, Due::Each(WINDOW_MOST));
        assert_eq!(begun.elapsed(), WINDOW_REST);
    }

    #[tokio::test(start_paused = true)]
    async fn what_others_do_wakes_no_idle_tunnel_with_the_least() {
        let budget = budget();
        drop((0..2000).map(|_| budget.join()).collect::<Vec<_>>());
        let (mut windows, woken) = (Windows::of(&budget, &Arc::default()), Arc::new(Woken::default()));
        let mut due = pin!(windows.due(|| false));
        let waker = Waker::from(Arc::clone(&woken));
        assert_eq!(due.as_mut().poll(&mut Context::from_waker(&waker)), Poll::Pending);
        for _ in 0..10 {
            time::advance(WINDOW_REST).await;
            budget.settle();
            drop((0..100).map(|_| budget.join()).collect::<Vec<_>>());
        }
        assert_eq!(woken.0.load(std::sync::atomic::Ordering::Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_shares_with_many_is_woken_no_more_than_once_while_nothing_changes() {
        let budget = budget();
        let seats: Vec<_> = (0..2000).map(|_| budget.join()).collect();
        let (mut windows, woken) = (Windows::of(&budget, &Arc::default()), Arc::new(Woken::default()));
        let mut due = pin!(windows.due(|| true));
        let waker = Waker::from(Arc::clone(&woken));
        let mut cx = Context::from_waker(&waker);
        for _ in 0..10 {
            assert_eq!(due.as_mut().poll(&mut cx), Poll::Pending);
            time::advance(WINDOW_REST).await;
        }
        assert_eq!(woken.0.load(std::sync::atomic::Ordering::Relaxed), 1);
        // Long after the rest the first who leaves makes it grow, and who waits hears of it.
        drop(seats);
        assert_eq!(due.as_mut().poll(&mut cx), Poll::Ready(Due::Each(WINDOW_MOST)));
    }
}
