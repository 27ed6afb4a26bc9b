//! Reading messages from one half of a connection.
//!
//! Invariant: all state is in the reader, so that every future made here may be dropped and made again.

use std::future::poll_fn;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http_body::Frame;
use tokio::io::AsyncRead;

use super::{Asked, Limits, ReadError, RequestHead, ResponseHead};

/// What an idle connection turned out to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// Bytes of a next message (or of the switched protocol) are buffered.
    Bytes,
    /// The peer has closed its side, and nothing is buffered.
    Closed,
}

/// The read half of a connection.
#[derive(Debug)]
pub struct Reader<R> {
    io: R,
    buffer: BytesMut,
    limits: Limits,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    /// Reads from `io`.
    pub fn new(io: R, limits: Limits) -> Self {
        Self::with_buffered(io, BytesMut::new(), limits)
    }

    /// Reads `buffered` (what was read already, to detect the protocol) and then from `io`.
    pub fn with_buffered(io: R, buffered: BytesMut, limits: Limits) -> Self {
        Self {
            io,
            buffer: buffered,
            limits,
        }
    }

    /// The next request head; `None` when the client closed in an orderly way between two messages.
    ///
    /// # Errors
    /// The rule that was broken, or [`ReadError::OutOfTurn`] while the last body is unread.
    pub async fn request(&mut self) -> Result<Option<RequestHead>, ReadError> {
        poll_fn(|cx| self.poll_request(cx)).await
    }

    /// See [`Reader::request`].
    pub fn poll_request(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<RequestHead>, ReadError>> {
        let _ = (cx, &self.io, self.limits);
        Poll::Pending
    }

    /// The next response head, interim ones included.
    ///
    /// # Errors
    /// As for [`Reader::request`]; [`ReadError::ClosedBeforeHead`] when the server closed without a byte.
    pub async fn response(&mut self, asked: Asked) -> Result<ResponseHead, ReadError> {
        poll_fn(|cx| self.poll_response(cx, asked)).await
    }

    /// See [`Reader::response`].
    pub fn poll_response(
        &mut self,
        cx: &mut Context<'_>,
        asked: Asked,
    ) -> Poll<Result<ResponseHead, ReadError>> {
        let _ = (cx, asked);
        Poll::Pending
    }

    /// The next piece of the current body: data without copy, then trailers if there are any; `None` at its end.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ReadError>>> {
        let _ = cx;
        Poll::Ready(None)
    }

    /// See [`Reader::poll_frame`].
    pub async fn frame(&mut self) -> Option<Result<Frame<Bytes>, ReadError>> {
        poll_fn(|cx| self.poll_frame(cx)).await
    }

    /// True when the current body was read to its end, trailers included; also before the first message.
    pub fn is_body_done(&self) -> bool {
        true
    }

    /// True when bytes behind the current message (or its unread body) are buffered.
    pub fn has_buffered(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// Waits between messages until there is something to read, without holding a buffer.
    ///
    /// # Errors
    /// [`ReadError::Io`] when the connection broke.
    pub fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<Result<Readiness, ReadError>> {
        let _ = cx;
        Poll::Pending
    }

    /// Waits until the peer closes or the connection breaks, whatever it sends meanwhile: that is kept, up to `Limits::head_bytes`, beyond
    /// which nothing is watched any more. For a connection whose request was read and whose response is not there yet.
    pub fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ReadError>> {
        let _ = cx;
        Poll::Pending
    }

    /// The half.
    pub fn io(&self) -> &R {
        &self.io
    }

    /// The half and the bytes that were read but belong to no message: for a connection that leaves HTTP.
    pub fn into_parts(self) -> (R, BytesMut) {
        (self.io, self.buffer)
    }
}
