//! The window of a tunnel's streams, kept at what the workload's budget has for each.
//!
//! The task of a tunnel waits for [`Windows::due`] beside its connection, and then calls [`Windows::apply`]. Invariant: no
//! stream has a larger window than the budget has for it, but for the moment that an announcement takes; and what busy
//! tunnels do does not keep idle ones busy, of which there may be thousands.

use std::{future::poll_fn, sync::Arc, task::Poll, time::Duration};

use tokio::{sync::watch, time::Instant};

use crate::telemetry::{Budget, WINDOW_MOST, WINDOW_REST};

/// A change that could not be announced yet is tried again after this. The one before waits for its acknowledgement.
const AGAIN: Duration = Duration::from_millis(100);

/// What the streams of one tunnel have, and should have.
pub(crate) struct Windows {
    budget: Arc<Budget>,
    wanted: watch::Receiver<usize>,
    /// The smallest that was ever wanted. Idle tunnels with no more than that need not know what is wanted now.
    least: watch::Receiver<usize>,
    announced: usize,
    /// When to try again what could not be announced. Kept here, since whoever waits may stop and begin anew.
    again: Instant,
}

/// An HTTP/2 connection that can tell its peer of another window.
pub(crate) trait Announce {
    fn announce(&mut self, window: u32) -> Result<(), h2::Error>;
}

impl Windows {
    /// As the budget has it now, or had it when it had least: a tunnel that is about to be used is soon told of more.
    pub(crate) fn of(budget: &Arc<Budget>) -> Self {
        let (mut wanted, mut least) = (budget.windows(), budget.least_window());
        let announced = (*wanted.borrow_and_update()).min(*least.borrow_and_update());
        Self {
            budget: Arc::clone(budget),
            wanted,
            least,
            announced,
            again: Instant::now(),
        }
    }

    /// The window to begin with.
    pub(crate) fn first(&self) -> u32 {
        as_window(self.announced)
    }

    /// Waits until there is something to announce, and says what. A smaller window always is; a larger one only while the
    /// tunnel has streams. `in_use` is asked again whenever this is polled: when a stream begins.
    pub(crate) async fn due(&mut self, in_use: impl Fn() -> bool) -> usize {
        loop {
            let idle = !in_use();
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
            let changes = if parked { &mut self.least } else { &mut self.wanted };
            tokio::select! {
                changed = changes.changed() => if changed.is_err() {
                    // The budget is gone, and with it every stream.
                    std::future::pending::<()>().await;
                },
                () = begins => {}
                // Nobody else may come to ask for more.
                () = tokio::time::sleep(WINDOW_REST), if !idle && self.announced < WINDOW_MOST => {
                    self.budget.settle();
                }
            }
        }
    }

    /// Announces what was due.
    pub(crate) fn apply(&mut self, connection: &mut impl Announce, window: usize) {
        match connection.announce(as_window(window)) {
            Ok(()) => self.announced = window,
            Err(_) => self.again = Instant::now() + AGAIN,
        }
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
}

impl<T, B> Announce for h2::server::Connection<T, B>
where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    B: bytes::Buf,
{
    fn announce(&mut self, window: u32) -> Result<(), h2::Error> {
        self.set_initial_window_size(window)
    }
}

fn as_window(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX >> 1)
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
    fn settle(windows: &mut Windows, in_use: bool) -> Option<usize> {
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
        let mut windows = Windows::of(&budget);
        assert_eq!(settle(&mut windows, false), None);
        let seats: Vec<_> = (0..2000).map(|_| budget.join()).collect();
        assert_eq!(settle(&mut windows, false), Some(WINDOW_LEAST));
        drop(seats);
        time::advance(WINDOW_REST).await;
        budget.settle();
        assert_eq!(settle(&mut windows, false), None);
        assert_eq!(settle(&mut windows, true), Some(WINDOW_MOST));
        // In use no more, but more than the least there ever was: a smaller one concerns it again.
        let _seats: Vec<_> = (0..9).map(|_| budget.join()).collect();
        assert_eq!(settle(&mut windows, false), Some(WINDOW_MOST / 2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_begins_is_noticed_by_whoever_waits() {
        let budget = budget();
        drop((0..2000).map(|_| budget.join()).collect::<Vec<_>>());
        time::advance(WINDOW_REST).await;
        budget.settle();
        let (mut windows, used) = (Windows::of(&budget), Cell::new(false));
        assert_eq!(windows.first() as usize, WINDOW_LEAST);
        let mut due = pin!(windows.due(|| used.get()));
        let mut cx = Context::from_waker(Waker::noop());
        assert_eq!(due.as_mut().poll(&mut cx), Poll::Pending);
        used.set(true);
        assert_eq!(due.as_mut().poll(&mut cx), Poll::Ready(WINDOW_MOST));
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_left_alone_gets_more_without_anybody_coming() {
        let budget = budget();
        let _one = budget.join();
        drop((0..2000).map(|_| budget.join()).collect::<Vec<_>>());
        let mut windows = Windows::of(&budget);
        let begun = Instant::now();
        assert_eq!(windows.due(|| true).await, WINDOW_MOST);
        assert_eq!(begun.elapsed(), WINDOW_REST);
    }

    #[tokio::test(start_paused = true)]
    async fn what_others_do_wakes_no_idle_tunnel_with_the_least() {
        let budget = budget();
        drop((0..2000).map(|_| budget.join()).collect::<Vec<_>>());
        let (mut windows, woken) = (Windows::of(&budget), Arc::new(Woken::default()));
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
}
