//! Moves one body: frames from a [`Source`] into a [`Sink`], one at a time.
//!
//! Nothing more is read before what was read is taken, so that back-pressure reaches the sender whatever lies between.
//! Invariant: an end is passed on only when the source said so; a source that breaks never looks complete.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;

use super::Broken;

/// Where a body comes from.
pub(super) trait Source {
    /// The next piece, then trailers if there are any, then `None`.
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>>;
    /// So many bytes were taken by the other side.
    fn release(&mut self, bytes: usize);
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
}

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
        }
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
        loop {
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
                            Ok(data) => self.data = data,
                            Err(frame) => self.end(to, frame.into_trailers().ok())?,
                        }
                    }
                    Poll::Ready(None) => self.end(to, None)?,
                    Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(PumpError::Source(error))),
                },
                State::Open => {
                    let last = if from.is_done() { Last::Yes } else { Last::No };
                    let taken = ready!(to.poll_data(cx, &mut self.data, last)).map_err(PumpError::Sink)?;
                    from.release(taken);
                    if self.data.is_empty() && last == Last::Yes {
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

    fn end(&mut self, to: &mut impl Sink, trailers: Option<HeaderMap>) -> Result<(), PumpError> {
        to.finish(trailers).map_err(PumpError::Sink)?;
        self.state = State::Flushing;
        Ok(())
    }
}
