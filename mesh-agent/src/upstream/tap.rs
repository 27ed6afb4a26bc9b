//! A copy of what is carried, for whoever only watches.
//!
//! What carries bytes shows them to a [`Tap`]; whoever watches reads them from [`Overheard`], in the same task. Invariant:
//! the tap never waits and never fails. Who falls too far behind hears nothing more.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, ReadBuf},
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
};

use super::buffer::hand_out;

/// The most that waits to be read. Carrying shows less than that before it lets the watcher have its turn.
const BACKLOG: usize = 1 << 20;

/// Shows what is carried.
#[derive(Debug)]
pub struct Tap {
    shown: UnboundedSender<Bytes>,
    backlog: Arc<AtomicUsize>,
    is_lost: AtomicBool,
}

/// What a [`Tap`] was shown; it ends when the tap is dropped.
#[derive(Debug)]
pub struct Overheard {
    shown: UnboundedReceiver<Bytes>,
    backlog: Arc<AtomicUsize>,
    /// Received, and not read yet.
    rest: Bytes,
}

/// A tap and its other end.
pub fn tap() -> (Tap, Overheard) {
    let (sender, receiver) = unbounded_channel();
    let backlog = Arc::new(AtomicUsize::new(0));
    let tap = Tap {
        shown: sender,
        backlog: Arc::clone(&backlog),
        is_lost: AtomicBool::new(false),
    };
    let overheard = Overheard {
        shown: receiver,
        backlog,
        rest: Bytes::new(),
    };
    (tap, overheard)
}

impl Tap {
    /// Shows bytes in their order. A gap would be misread: after one, nothing is shown any more.
    pub fn show(&self, bytes: &[u8]) {
        // Nobody listens: nothing is copied.
        if self.is_lost.load(Ordering::Relaxed) || self.shown.is_closed() {
            return;
        }
        if self.backlog.load(Ordering::Relaxed) + bytes.len() > BACKLOG {
            tracing::debug!("what is carried comes too fast to be watched");
            return self.is_lost.store(true, Ordering::Relaxed);
        }
        self.backlog.fetch_add(bytes.len(), Ordering::Relaxed);
        // Fails only when nobody listens any more.
        let _ = self.shown.send(Bytes::copy_from_slice(bytes));
    }
}

impl AsyncRead for Overheard {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.rest.is_empty() {
            match ready!(self.shown.poll_recv(cx)) {
                Some(bytes) => self.rest = bytes,
                None => return Poll::Ready(Ok(())),
            }
        }
        let count = hand_out(&mut self.rest, buffer);
        self.backlog.fetch_sub(count, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;

    #[tokio::test]
    async fn all_is_heard_in_its_order_until_the_tap_ends() {
        let (tap, mut overheard) = tap();
        tap.show(b"ab");
        tap.show(b"c");
        let mut two = [0; 2];
        overheard.read_exact(&mut two).await.unwrap();
        tap.show(b"d");
        drop(tap);
        let mut rest = Vec::new();
        overheard.read_to_end(&mut rest).await.unwrap();
        assert_eq!((&two, &*rest), (b"ab", &b"cd"[..]));
    }

    #[tokio::test]
    async fn whoever_falls_behind_hears_nothing_more() {
        let (tap, mut overheard) = tap();
        tap.show(&vec![b'a'; BACKLOG]);
        tap.show(b"b");
        let mut all = vec![0; BACKLOG];
        overheard.read_exact(&mut all).await.unwrap();
        tap.show(b"c");
        drop(tap);
        let mut rest = Vec::new();
        overheard.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"", "there would be a gap");
    }

    #[test]
    fn nobody_needs_to_listen() {
        let (tap, overheard) = tap();
        drop(overheard);
        tap.show(b"a");
        assert_eq!(tap.backlog.load(Ordering::Relaxed), 0);
    }
}
