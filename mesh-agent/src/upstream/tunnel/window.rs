//! The window of a tunnel's streams, kept at what the workload's budget has for each.
//!
//! The task of a tunnel waits for [`Windows::due`] beside its connection, and then calls [`Windows::apply`].

use std::time::Duration;

use tokio::{sync::watch, time::Instant};

use crate::telemetry::Budget;

/// A change that could not be announced yet is tried again after this. The one before waits for its acknowledgement.
const AGAIN: Duration = Duration::from_millis(100);

/// What the streams of one tunnel have, and should have.
pub(crate) struct Windows {
    wanted: watch::Receiver<usize>,
    announced: usize,
    /// When to try again what could not be announced. Kept here, since whoever waits may stop and begin anew.
    again: Instant,
}

/// An HTTP/2 connection that can tell its peer of another window.
pub(crate) trait Announce {
    fn announce(&mut self, window: u32) -> Result<(), h2::Error>;
}

impl Windows {
    /// As the budget has it now.
    pub(crate) fn of(budget: &Budget) -> Self {
        let mut wanted = budget.windows();
        let announced = *wanted.borrow_and_update();
        Self {
            wanted,
            announced,
            again: Instant::now(),
        }
    }

    /// The window to begin with.
    pub(crate) fn first(&self) -> u32 {
        as_window(self.announced)
    }

    /// Waits until there is something to announce.
    pub(crate) async fn due(&mut self) {
        if self.announced != *self.wanted.borrow() {
            return tokio::time::sleep_until(self.again).await;
        }
        if self.wanted.changed().await.is_err() {
            // The budget is gone, and with it every stream.
            std::future::pending().await
        }
    }

    /// Announces what is wanted now.
    pub(crate) fn apply(&mut self, connection: &mut impl Announce) {
        let wanted = *self.wanted.borrow_and_update();
        if wanted == self.announced {
            return;
        }
        match connection.announce(as_window(wanted)) {
            Ok(()) => self.announced = wanted,
            Err(_) => self.again = Instant::now() + AGAIN,
        }
    }
}

fn as_window(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX >> 1)
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
