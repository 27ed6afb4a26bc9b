//! The byte streams that HTTP is spoken over.
//!
//! Invariant: dropping either half, or the whole, of a stream whose end was not announced by `in_order` resets it: a
//! message that was cut never looks complete.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

use crate::upstream;

/// The reading half.
#[derive(Debug)]
pub(super) struct ReadHalf(OwnedReadHalf);

/// The writing half.
#[derive(Debug)]
pub(super) struct WriteHalf(Option<OwnedWriteHalf>);

/// Divides a connection.
pub(super) fn split(stream: TcpStream) -> (ReadHalf, WriteHalf) {
    let (read, write) = stream.into_split();
    (ReadHalf(read), WriteHalf(Some(write)))
}

impl ReadHalf {
    /// Lets the connection end in order: what was written is delivered, then the end.
    pub(super) fn in_order(&self) {
        upstream::in_order(self.0.as_ref());
    }
}

/// The half itself would announce an end of stream, which only an orderly end may do.
impl Drop for WriteHalf {
    fn drop(&mut self) {
        if let Some(half) = self.0.take() {
            half.forget();
        }
    }
}

impl AsyncRead for ReadHalf {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl WriteHalf {
    fn half(&mut self) -> io::Result<Pin<&mut OwnedWriteHalf>> {
        match &mut self.0 {
            Some(half) => Ok(Pin::new(half)),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

impl AsyncWrite for WriteHalf {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.half()?.poll_write(cx, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.half()?.poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.half()?.poll_shutdown(cx)
    }
}

/// A connection of which something was read already, to detect its protocol.
#[derive(Debug)]
pub(super) struct Rewound {
    seen: bytes::BytesMut,
    stream: TcpStream,
}

impl Rewound {
    /// `stream` with `seen` before it.
    pub(super) fn new(stream: TcpStream, seen: bytes::BytesMut) -> Self {
        Self { seen, stream }
    }

    /// Lets the connection end in order: what was written is delivered, then the end.
    pub(super) fn in_order(&self) {
        upstream::in_order(&self.stream);
    }
}

impl AsyncRead for Rewound {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.seen.is_empty() {
            let count = self.seen.len().min(buffer.remaining());
            buffer.put_slice(&self.seen.split_to(count));
            if self.seen.is_empty() {
                self.seen = bytes::BytesMut::new();
            }
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Rewound {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
