//! What the streams of one HTTP/2 connection hold because their readers take nothing.
//!
//! [`Incoming`](super::incoming::Incoming) counts it; the connection's task makes the window of the whole connection larger by
//! as much (`tunnel::Windows`), so that who does not read keeps nobody waiting who does. Invariant: bytes are counted no
//! longer than until their window opens again.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// Changes of less do not matter.
pub(super) const STEP: usize = 1 << 20;

/// The count of one connection.
#[derive(Debug, Default)]
pub(crate) struct Unread {
    bytes: AtomicUsize,
    /// Told of each step up. What becomes less matters only to a task that is awake anyway.
    more: Notify,
}

impl Unread {
    pub(super) fn add(&self, bytes: usize) {
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if (before + bytes) / STEP > before / STEP {
            self.more.notify_one();
        }
    }

    pub(super) fn sub(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// How many bytes there are, in whole steps.
    pub(crate) fn in_steps(&self) -> usize {
        self.bytes.load(Ordering::Relaxed) / STEP * STEP
    }

    /// Waits until there are more.
    pub(super) async fn more(&self) {
        self.more.notified().await;
    }
}
