//! Copies of requests for further servers, whose answers nobody reads.
//!
//! Whoever steers a request asks it for copies ([`Message::copy`]) and serves each as a task of its own ([`serve`]), steered by
//! itself. A body is shared with its copies as it comes by, not duplicated.
//!
//! Invariant: a request never waits for its copies. A copy whose server falls behind by more than [`BEHIND_MAX`] is broken off,
//! and so is one whose request broke off.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;
use tokio::sync::{mpsc, oneshot};

use super::{
    Broken,
    downstream::Downstream,
    exchange::{Message, Steer, exchange},
    h1::Switch,
    streams::is_empty,
    trail::{Attached, Attended},
};

/// So much of a body may wait for a copy's server.
const BEHIND_MAX: usize = 256 << 10;
/// What a piece costs besides its bytes.
const PIECE: usize = 256;
/// How long a copy's server may take once the request was sent.
const PATIENCE: Duration = Duration::from_secs(30);

/// A copy of a request.
pub struct Mirrored {
    /// The copy, with a head of its own.
    pub message: Message,
    body: Followed,
    /// Ends when nothing more is sent.
    over: oneshot::Receiver<()>,
}

/// The copies that a request's body goes to.
#[derive(Debug, Default)]
pub(super) struct Copies(Vec<Feed>);

#[derive(Debug)]
struct Feed {
    pieces: mpsc::UnboundedSender<Piece>,
    behind: Arc<AtomicUsize>,
    _over: oneshot::Sender<()>,
}

#[derive(Debug)]
enum Piece {
    Data(Bytes),
    End(Option<HeaderMap>),
}

/// A body that follows that of another request.
#[derive(Debug)]
pub(super) struct Followed {
    pieces: mpsc::UnboundedReceiver<Piece>,
    behind: Arc<AtomicUsize>,
    ended: bool,
}

impl Message {
    /// A copy of the request as it is now; its body follows. `None` for one that wants to leave HTTP.
    pub fn copy(&mut self) -> Option<Mirrored> {
        if self.switch != Switch::Stay {
            return None;
        }
        let (pieces, followed) = mpsc::unbounded_channel();
        let (ending, over) = oneshot::channel();
        let behind = Arc::<AtomicUsize>::default();
        let without_body = is_empty(self.body);
        if !without_body {
            self.copies.0.push(Feed {
                pieces,
                behind: Arc::clone(&behind),
                _over: ending,
            });
        }
        Some(Mirrored {
            message: Self {
                parts: self.parts.clone(),
                spoken: self.spoken,
                target: self.target,
                body: self.body,
                switch: Switch::Stay,
                copies: Copies::default(),
                attached: Attached::default(),
            },
            body: Followed {
                pieces: followed,
                behind,
                ended: without_body,
            },
            over,
        })
    }
}

/// Sends a copy where it is steered, and lets its answer go by.
pub async fn serve<S: Steer>(steer: &S, copy: Mirrored) {
    let Mirrored { message, body, over } = copy;
    let mut attended = Attended::new(steer, &message);
    let mut down = Downstream::Copy(body, &mut attended.trail);
    let bound = async {
        // Without a sender everything was sent.
        let _ = over.await;
        tokio::time::sleep(PATIENCE).await;
    };
    tokio::select! {
        _ = exchange(steer, message, &mut down) => {}
        () = bound => tracing::debug!("a copy of a request is given up: its server does not answer"),
    }
}

impl Copies {
    /// Shares a piece of the body.
    pub(super) fn push(&mut self, data: &Bytes) {
        self.0.retain(|feed| {
            let cost = data.len() + PIECE;
            let waiting = feed.behind.fetch_add(cost, Ordering::Relaxed) + cost;
            let kept = waiting <= BEHIND_MAX.max(cost) && feed.pieces.send(Piece::Data(data.clone())).is_ok();
            if !kept {
                tracing::debug!(
                    waiting,
                    "a copy of a request is broken off: its server is slower than the request"
                );
            }
            kept
        });
    }

    /// Says that the body has ended.
    pub(super) fn end(&mut self, trailers: Option<&HeaderMap>) {
        for feed in self.0.drain(..) {
            // Whoever is not there any more needs no end.
            let _ = feed.pieces.send(Piece::End(trailers.cloned()));
        }
    }
}

impl Followed {
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        Poll::Ready(match ready!(self.pieces.poll_recv(cx)) {
            Some(Piece::Data(data)) => {
                self.behind.fetch_sub(data.len() + PIECE, Ordering::Relaxed);
                Some(Ok(Frame::data(data)))
            }
            Some(Piece::End(trailers)) => {
                self.ended = true;
                trailers.map(|trailers| Ok(Frame::trailers(trailers)))
            }
            None => Some(Err(Broken::Closed)),
        })
    }

    pub(super) fn is_done(&self) -> bool {
        self.ended
    }
}

#[cfg(test)]
mod tests;
