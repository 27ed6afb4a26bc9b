//! Moves one body: frames from a [`Source`] into a [`Sink`], one at a time.
//!
//! Nothing more is read before what was read is taken, so that back-pressure reaches the sender whatever lies between. After
//! [`AT_ONCE`] the other way, and then other connections of the worker, get their turn.
//! Invariant: an end is passed on only when the source said so; a source that breaks never looks complete.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;

use super::{Broken, mirror::Copies, wire};

/// Where a body comes from.
pub(super) trait Source {
    /// The next piece, then trailers if there are any, then `None`.
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>>;
    /// So many bytes were taken by the other side.
    fn release(&mut self, bytes: usize);
    /// The other side takes nothing now: see [`Incoming::gather`](crate::upstream::incoming::Incoming::gather).
    fn gather(&mut self, _: &mut Context<'_>) {}
    /// True when it is known that nothing follows, trailers included.
    fn is_done(&self) -> bool;
}

/// Where a body goes to.
pub(super) trait Sink {
    /// Takes as much of `data` as there is room for, at least one byte of it. `last` when nothing follows it: once all of
    /// it is taken the body has ended.
    fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
        data: &mut Bytes,
        last: Last,
    ) -> Poll<Result<usize, Broken>>;
    /// The body ends.
    fn finish(&mut self, trailers: Option<HeaderMap>) -> Result<(), Broken>;
    /// Gives on what was queued.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>>;
}

/// Whether anything follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Last {
    Yes,
    No,
}

/// Which side a body broke at.
#[derive(Debug)]
pub(super) enum PumpError {
    Source(Broken),
    Sink(Broken),
}

/// One body on its way.
#[derive(Debug)]
pub(super) struct Pump {
    state: State,
    data: Bytes,
    /// True once a frame was read.
    begun: bool,
    /// Bytes taken by the other side and not asked for yet.
    carried: usize,
    kept: Kept,
    copies: Copies,
}

/// What was taken out of the source so far, to be sent once more.
#[derive(Debug)]
enum Kept {
    /// It cannot be sent again.
    Nothing,
    /// Everything so far. Nothing is copied: the pieces are shared with whoever sends them.
    Whole {
        data: Vec<Bytes>,
        bytes: usize,
        trailers: Option<HeaderMap>,
        ended: bool,
    },
}

/// Bytes moved in a row.
const AT_ONCE: usize = 256 << 10;

/// The most that is kept of a body.
const KEPT_MAX: usize = 64 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// Everything was queued.
    Flushing,
    Done,
}

impl Pump {
    /// For a body that follows.
    pub(super) fn new() -> Self {
        Self::at(State::Open)
    }

    /// For a message without a body; what was queued of it is flushed.
    pub(super) fn flush_only() -> Self {
        Self::at(State::Flushing)
    }

    fn at(state: State) -> Self {
        Self {
            state,
            data: Bytes::new(),
            begun: false,
            carried: 0,
            kept: Kept::Nothing,
            copies: Copies::default(),
        }
    }

    /// Shares what is read from now on.
    pub(super) fn share(&mut self, copies: Copies) {
        self.copies = copies;
    }

    /// Keeps what is sent from now on, as long as it is little, so that it can be sent again.
    pub(super) fn keep(&mut self) {
        self.kept = Kept::Whole {
            data: Vec::new(),
            bytes: 0,
            trailers: None,
            ended: self.state != State::Open,
        };
    }

    /// Sends nothing again from now on.
    pub(super) fn keep_no_more(&mut self) {
        self.kept = Kept::Nothing;
    }

    /// Begins again, with what it returns before what is left in the source. `None` when too much was sent already, or when it
    /// has begun again before.
    pub(super) fn rewind(&mut self) -> Option<Again> {
        let Kept::Whole {
            data,
            trailers,
            ended,
            ..
        } = std::mem::replace(&mut self.kept, Kept::Nothing)
        else {
            return None;
        };
        let unreleased = std::mem::take(&mut self.data).len();
        self.state = if ended { State::Flushing } else { State::Open };
        Some(Again {
            data,
            trailers,
            ended,
            unreleased,
        })
    }

    /// Bytes that the other side took since this was asked last.
    pub(super) fn take_carried(&mut self) -> usize {
        std::mem::take(&mut self.carried)
    }

    pub(super) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// True once anything was taken out of the source.
    pub(super) fn has_begun(&self) -> bool {
        self.begun
    }

    /// True once the end was taken out of the source.
    pub(super) fn is_at_end(&self) -> bool {
        self.state != State::Open
    }

    /// Ready when the body was given on, its end included.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut impl Source,
        to: &mut impl Sink,
    ) -> Poll<Result<(), PumpError>> {
        let mut moved = 0;
        loop {
            if moved >= AT_ONCE {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            match self.state {
                State::Open if self.data.is_empty() => match from.poll_frame(cx) {
                    Poll::Pending => {
                        // What was queued goes out while nothing comes in.
                        if let Poll::Ready(Err(error)) = to.poll_flush(cx) {
                            return Poll::Ready(Err(PumpError::Sink(error)));
                        }
                        return Poll::Pending;
                    }
                    Poll::Ready(Some(Ok(frame))) => {
                        self.begun = true;
                        match frame.into_data() {
                            Ok(data) => {
                                self.kept.push(&data);
                                self.copies.push(&data);
                                self.data = data;
                            }
                            Err(frame) => self.end(to, frame.into_trailers().ok())?,
                        }
                    }
                    Poll::Ready(None) => self.end(to, None)?,
                    Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(PumpError::Source(error))),
                },
                State::Open => {
                    let last = if from.is_done() { Last::Yes } else { Last::No };
                    let Poll::Ready(taken) = to.poll_data(cx, &mut self.data, last) else {
                        from.gather(cx);
                        return Poll::Pending;
                    };
                    let taken = taken.map_err(PumpError::Sink)?;
                    from.release(taken);
                    self.carried += taken;
                    moved += taken;
                    if self.data.is_empty() && last == Last::Yes {
                        self.kept.end(None);
                        self.copies.end(None);
                        self.state = State::Flushing;
                    }
                }
                State::Flushing => {
                    ready!(to.poll_flush(cx)).map_err(PumpError::Sink)?;
                    self.state = State::Done;
                }
                State::Done => return Poll::Ready(Ok(())),
            }
        }
    }

    fn end(&mut self, to: &mut impl Sink, mut trailers: Option<HeaderMap>) -> Result<(), PumpError> {
        // Agents say nothing in trailers to each other, so whatever looks like it is an application's.
        if let Some(trailers) = &mut trailers {
            wire::clean(trailers);
        }
        self.kept.end(trailers.as_ref());
        self.copies.end(trailers.as_ref());
        to.finish(trailers).map_err(PumpError::Sink)?;
        self.state = State::Flushing;
        Ok(())
    }
}

impl Kept {
    fn push(&mut self, piece: &Bytes) {
        if let Self::Whole { data, bytes, .. } = self {
            *bytes += piece.len();
            if *bytes > KEPT_MAX {
                *self = Self::Nothing;
            } else {
                data.push(piece.clone());
            }
        }
    }

    fn end(&mut self, last: Option<&HeaderMap>) {
        if let Self::Whole { trailers, ended, .. } = self {
            *trailers = last.cloned();
            *ended = true;
        }
    }
}

/// What a request had sent when it was sent again.
#[derive(Debug)]
pub(super) struct Again {
    data: Vec<Bytes>,
    trailers: Option<HeaderMap>,
    ended: bool,
    /// So much of it was not released yet when it was sent first.
    pub(super) unreleased: usize,
}

impl Again {
    /// Sends it once more. Little enough to be queued whatever room there is.
    pub(super) async fn send(self, to: &mut impl Sink) -> Result<(), Broken> {
        let pieces = self.data.len();
        let whole = self.ended && self.trailers.is_none();
        for (at, mut piece) in self.data.into_iter().enumerate() {
            let last = if whole && at + 1 == pieces {
                Last::Yes
            } else {
                Last::No
            };
            while !piece.is_empty() {
                std::future::poll_fn(|cx| to.poll_data(cx, &mut piece, last)).await?;
            }
        }
        match (self.ended, self.trailers) {
            (true, trailers @ Some(_)) => to.finish(trailers),
            (true, None) if pieces == 0 => to.finish(None),
            _ => Ok(()),
        }
    }
}
