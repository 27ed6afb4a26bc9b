//! Writing messages to one half of a connection.
//!
//! Heads and frames are queued at once and without waiting; [`Writer::poll_ready`] and [`Writer::poll_flush`] wait for the socket. A head
//! and the first large piece of its body leave in one system call; large pieces are not copied.
//!
//! Invariant: what leaves is framed as announced, or the writer fails and the connection must be closed.

use std::future::poll_fn;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode, request};
use tokio::io::AsyncWrite;

use super::{Asked, Framing, KeepAlive, Target, WriteError};

/// The write half of a connection.
#[derive(Debug)]
pub struct Writer<W> {
    io: W,
    front: BytesMut,
}

impl<W: AsyncWrite + Unpin> Writer<W> {
    /// Writes to `io`.
    pub fn new(io: W) -> Self {
        Self {
            io,
            front: BytesMut::new(),
        }
    }

    /// Queues a request head, always as HTTP/1.1. `Upgrade` in the headers makes it a wish to switch. Without a `Host` header the
    /// target's authority becomes one.
    ///
    /// # Errors
    /// [`WriteError::OutOfTurn`] within a message; [`WriteError::BadHead`] for what has no form in HTTP/1.1.
    pub fn request(
        &mut self,
        parts: &request::Parts,
        target: Target,
        framing: Framing,
        keep_alive: KeepAlive,
    ) -> Result<(), WriteError> {
        let _ = (parts, target, framing, keep_alive);
        Ok(())
    }

    /// Queues a final response head (101 included) and tells whether the connection can be kept: a body whose end the client
    /// can only know by the close (no length, to HTTP/1.0) forbids it.
    ///
    /// # Errors
    /// As [`Writer::request`].
    pub fn response(
        &mut self,
        status: StatusCode,
        headers: &HeaderMap,
        framing: Framing,
        asked: Asked,
        keep_alive: KeepAlive,
    ) -> Result<KeepAlive, WriteError> {
        let _ = (status, headers, framing, asked);
        Ok(keep_alive)
    }

    /// Queues an interim response (1xx but 101). To an HTTP/1.0 client nothing is written (RFC 9110 15.2).
    ///
    /// # Errors
    /// As [`Writer::request`].
    pub fn interim(
        &mut self,
        status: StatusCode,
        headers: &HeaderMap,
        asked: Asked,
    ) -> Result<(), WriteError> {
        let _ = (status, headers, asked);
        Ok(())
    }

    /// Waits until there is room for [`Writer::data`].
    ///
    /// # Errors
    /// [`WriteError::Io`].
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WriteError>> {
        let _ = cx;
        Poll::Ready(Ok(()))
    }

    /// Queues a piece of the body, after [`Writer::poll_ready`]. Framed as announced; an empty one is nothing.
    ///
    /// # Errors
    /// [`WriteError::BodyTooLong`], [`WriteError::OutOfTurn`].
    pub fn data(&mut self, data: Bytes) -> Result<(), WriteError> {
        let _ = data;
        Ok(())
    }

    /// Ends the message. Trailers go out in chunked framing and are dropped otherwise.
    ///
    /// # Errors
    /// [`WriteError::BodyTooShort`], [`WriteError::OutOfTurn`].
    pub fn finish(&mut self, trailers: Option<&HeaderMap>) -> Result<(), WriteError> {
        let _ = trailers;
        Ok(())
    }

    /// Writes everything queued.
    ///
    /// # Errors
    /// [`WriteError::Io`].
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WriteError>> {
        let _ = cx;
        Poll::Ready(Ok(()))
    }

    /// [`Writer::poll_ready`] and [`Writer::data`].
    ///
    /// # Errors
    /// As those.
    pub async fn write(&mut self, data: Bytes) -> Result<(), WriteError> {
        poll_fn(|cx| self.poll_ready(cx)).await?;
        self.data(data)
    }

    /// See [`Writer::poll_flush`].
    ///
    /// # Errors
    /// [`WriteError::Io`].
    pub async fn flush(&mut self) -> Result<(), WriteError> {
        poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// Flushes and closes the half.
    ///
    /// # Errors
    /// [`WriteError::Io`].
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WriteError>> {
        let _ = cx;
        Poll::Ready(Ok(()))
    }

    /// True when everything queued was given to the socket.
    pub fn is_flushed(&self) -> bool {
        self.front.is_empty()
    }

    /// True between messages: the last was finished.
    pub fn is_finished(&self) -> bool {
        true
    }

    /// The half, for a connection that leaves HTTP. Flush first.
    pub fn into_inner(self) -> W {
        self.io
    }
}
