//! The byte streams that HTTP is spoken over.
//!
//! Invariant: dropping either half, or the whole, of a stream whose end was not announced by `in_order` resets it: a
//! message that was cut never looks complete.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

use crate::upstream::{
    self,
    tunnel::{
        Stream,
        duplex::{self, StreamReader, StreamWriter},
    },
};

/// What a client's bytes come over.
#[derive(Debug)]
pub enum Transport {
    /// A connection of its own.
    Tcp(TcpStream),
    /// A stream of a tunnel.
    Tunnel(StreamReader, StreamWriter),
}

/// A [`Transport`] that nobody speaks HTTP over after all.
#[derive(Debug)]
pub enum Plain {
    /// A connection of its own.
    Tcp(TcpStream),
    /// A stream of a tunnel, and what was received of it and not read.
    Tunnel(Stream, Bytes),
}

impl From<TcpStream> for Transport {
    fn from(stream: TcpStream) -> Self {
        Self::Tcp(stream)
    }
}

impl From<Stream> for Transport {
    fn from(stream: Stream) -> Self {
        let (reader, writer) = duplex::split(stream);
        Self::Tunnel(reader, writer)
    }
}

impl Transport {
    /// Lets it end in order: what was written is delivered, then the end.
    pub(super) fn in_order(&self) {
        // A stream ends in order when its writer was shut down.
        if let Self::Tcp(stream) = self {
            upstream::in_order(stream);
        }
    }

    /// Ends it: what was written is delivered, then the end.
    pub fn close(self) {
        match self {
            Self::Tcp(stream) => upstream::in_order(&stream),
            Self::Tunnel(_, writer) => writer.end(),
        }
    }

    /// Breaks it off.
    pub fn abort(self) {
        // A stream is reset when it is dropped.
        if let Self::Tcp(stream) = self {
            upstream::abort(&stream);
        }
    }

    /// For whoever carries bytes; `None` when it has ended.
    pub fn into_plain(self) -> Option<Plain> {
        match self {
            Self::Tcp(stream) => Some(Plain::Tcp(stream)),
            Self::Tunnel(reader, writer) => {
                duplex::unsplit(reader, writer).map(|(stream, rest)| Plain::Tunnel(stream, rest))
            }
        }
    }
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tunnel(reader, _) => Pin::new(reader).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, data),
            Self::Tunnel(_, writer) => Pin::new(writer).poll_write(cx, data),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, pieces),
            Self::Tunnel(_, writer) => Pin::new(writer).poll_write_vectored(cx, pieces),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tunnel(_, writer) => Pin::new(writer).poll_shutdown(cx),
        }
    }
}

/// The reading half.
#[derive(Debug)]
pub(super) enum ReadHalf {
    Tcp(OwnedReadHalf),
    /// Apart, since connections to applications, of which there are more, never are such.
    Tunnel(Box<StreamReader>),
}

/// The writing half.
#[derive(Debug)]
pub(super) struct WriteHalf(Option<Write>);

#[derive(Debug)]
enum Write {
    Tcp(OwnedWriteHalf),
    Tunnel(Box<StreamWriter>),
}

/// Divides a connection.
pub(super) fn split(transport: impl Into<Transport>) -> (ReadHalf, WriteHalf) {
    match transport.into() {
        Transport::Tcp(stream) => {
            let (read, write) = stream.into_split();
            (ReadHalf::Tcp(read), WriteHalf(Some(Write::Tcp(write))))
        }
        Transport::Tunnel(read, write) => (
            ReadHalf::Tunnel(Box::new(read)),
            WriteHalf(Some(Write::Tunnel(Box::new(write)))),
        ),
    }
}

impl ReadHalf {
    /// Lets the connection end in order: what was written is delivered, then the end.
    pub(super) fn in_order(&self) {
        // A stream ends in order when its writer was shut down.
        if let Self::Tcp(half) = self {
            upstream::in_order(half.as_ref());
        }
    }

    /// Nobody reads it now: see [`Incoming::gather`](crate::upstream::incoming::Incoming::gather).
    pub(super) fn gather(&mut self, cx: &mut Context<'_>) {
        if let Self::Tunnel(half) = self {
            half.gather(cx);
        }
    }
}

/// The half itself would announce an end of stream, which only an orderly end may do.
impl Drop for WriteHalf {
    fn drop(&mut self) {
        if let Some(Write::Tcp(half)) = self.0.take() {
            half.forget();
        }
    }
}

impl AsyncRead for ReadHalf {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(half) => Pin::new(half).poll_read(cx, buffer),
            Self::Tunnel(half) => Pin::new(half).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for WriteHalf {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().0 {
            Some(Write::Tcp(half)) => Pin::new(half).poll_write(cx, data),
            Some(Write::Tunnel(half)) => Pin::new(half).poll_write(cx, data),
            None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().0 {
            Some(Write::Tcp(half)) => Pin::new(half).poll_write_vectored(cx, pieces),
            Some(Write::Tunnel(half)) => Pin::new(half).poll_write_vectored(cx, pieces),
            None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            Some(Write::Tcp(half)) => Pin::new(half).poll_shutdown(cx),
            Some(Write::Tunnel(half)) => Pin::new(half).poll_shutdown(cx),
            None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }
}

/// A connection of which something was read already, to detect its protocol.
#[derive(Debug)]
pub(super) struct Rewound {
    seen: BytesMut,
    stream: Transport,
}

impl Rewound {
    /// `stream` with `seen` before it.
    pub(super) fn new(stream: Transport, seen: BytesMut) -> Self {
        Self { seen, stream }
    }

    /// Lets the connection end in order: what was written is delivered, then the end.
    pub(super) fn in_order(&self) {
        self.stream.in_order();
    }
}

impl AsyncRead for Rewound {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.seen.is_empty() {
            upstream::hand_out(&mut self.seen, buffer);
            if self.seen.is_empty() {
                self.seen = BytesMut::new();
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
