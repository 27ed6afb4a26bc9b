//! The places of streams in one HTTP/2 connection that we opened.
//!
//! A stream that is given up is over for us at once, but not for the other end, which has to take note of its request and
//! of the reset, one after the other. Whoever opens and gives up without pause would pile them up there until the other end
//! takes the connection for an attack and ends it, with everybody else's streams in it. So a stream that was given up before
//! it was answered keeps its place until the other end has answered a PING that was sent after the reset.
//!
//! Invariant: streams open, and streams given up of which the other end may not know, are together no more than there are places.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use h2::RecvStream;
use tokio::sync::Notify;

use super::{Unread, incoming::Incoming};

/// The places of one connection.
#[derive(Debug, Default)]
pub(crate) struct Seats {
    taken: AtomicUsize,
    /// Of those taken, the ones whose streams were given up.
    given_up: AtomicUsize,
    /// Told when a stream is given up.
    changed: Notify,
    /// Nobody asks the other end what it knows: the connection is over, or the other end does not take PINGs.
    gone: AtomicBool,
    /// What their streams hold that nobody reads.
    pub(super) unread: Arc<Unread>,
}

/// A stream's place in its connection.
#[derive(Debug)]
pub struct Seat {
    seats: Arc<Seats>,
    stage: Stage,
}

/// How far the stream of a seat is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nothing was sent.
    Empty,
    /// Its request was sent.
    Asked,
    /// The other end has looked at it.
    Heard,
}

/// Held by whoever asks the other end what it knows.
#[derive(Debug)]
pub(crate) struct Asking(Arc<Seats>);

impl Seats {
    /// A seat, however many are taken.
    pub(super) fn take(self: &Arc<Self>) -> Seat {
        self.taken.fetch_add(1, Ordering::Relaxed);
        self.seat()
    }

    /// A seat, if fewer are taken than `limit`.
    pub(super) fn take_below(self: &Arc<Self>, limit: usize) -> Option<Seat> {
        self.taken
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| {
                (taken < limit).then_some(taken + 1)
            })
            .ok()
            .map(|_| self.seat())
    }

    fn seat(self: &Arc<Self>) -> Seat {
        Seat {
            seats: Arc::clone(self),
            stage: Stage::Empty,
        }
    }

    /// How many are taken.
    pub(super) fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// Lives as long as the other end is asked.
    pub(super) fn asking(self: &Arc<Self>) -> Asking {
        Asking(Arc::clone(self))
    }

    /// Waits until a stream is given up.
    pub(crate) async fn any_given_up(&self) {
        while self.given_up() == 0 {
            self.changed.notified().await;
        }
    }

    /// How many streams were given up of which the other end may not know yet.
    pub(crate) fn given_up(&self) -> usize {
        self.given_up.load(Ordering::Acquire)
    }

    /// The other end knows of so many of them.
    pub(crate) fn known(&self, count: usize) {
        self.given_up.fetch_sub(count, Ordering::Relaxed);
        self.taken.fetch_sub(count, Ordering::Relaxed);
    }

    /// Nobody is there to know of them.
    fn forget(&self) {
        let count = self.given_up.swap(0, Ordering::AcqRel);
        self.taken.fetch_sub(count, Ordering::Relaxed);
    }
}

impl Seat {
    /// Its request was sent.
    pub(super) fn asked(&mut self) {
        self.stage = Stage::Asked;
    }

    /// The other end has looked at its request: it answered, refused it, or is gone.
    pub(crate) fn heard(&mut self) {
        self.stage = Stage::Heard;
    }

    /// Those of its connection.
    pub(super) fn seats(&self) -> &Arc<Seats> {
        &self.seats
    }

    /// What arrives on its stream.
    pub(crate) fn incoming(&self, recv: RecvStream) -> Incoming {
        Incoming::new(recv, Some(Arc::clone(&self.seats.unread)))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if self.stage != Stage::Asked {
            self.seats.taken.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        self.seats.given_up.fetch_add(1, Ordering::AcqRel);
        if self.seats.gone.load(Ordering::Acquire) {
            self.seats.forget();
        } else {
            self.seats.changed.notify_one();
        }
    }
}

impl Asking {
    /// Those of its connection.
    pub(crate) fn seats(&self) -> &Seats {
        &self.0
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.gone.store(true, Ordering::Release);
        self.0.forget();
    }
}
