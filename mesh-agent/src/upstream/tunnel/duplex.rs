//! A stream of a tunnel as a reader and a writer of bytes.
//!
//! For whoever must read what comes, as the HTTP engine does; [`super::carry`] moves bytes that nobody reads. Invariant: a
//! stream that is dropped before its end was announced is reset, and its window opens again only for what was taken.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{BufMut, Bytes, BytesMut};
use h2::{Reason, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Stream, broken};
use crate::upstream::{buffer::hand_out, incoming::Incoming, outgoing::poll_room};

/// The most that is handed to the stream at once.
const PIECE: usize = 64 * 1024;

/// What comes out of a stream.
#[derive(Debug)]
pub struct StreamReader {
    recv: Incoming,
    /// Received, and not read yet.
    rest: Bytes,
}

/// What goes into a stream. Dropped before it was shut down, it resets it.
#[derive(Debug)]
pub struct StreamWriter(Option<SendStream<Bytes>>);

impl StreamReader {
    /// See [`Incoming::gather`].
    pub(crate) fn gather(&mut self, cx: &mut Context<'_>) {
        self.recv.gather(cx);
    }
}

/// Divides a stream.
pub fn split(stream: Stream) -> (StreamReader, StreamWriter) {
    let reader = StreamReader {
        recv: stream.recv,
        rest: Bytes::new(),
    };
    (reader, StreamWriter(Some(stream.send)))
}

/// Puts a stream together again, with what was received and not read; `None` when it was shut down.
pub fn unsplit(mut reader: StreamReader, mut writer: StreamWriter) -> Option<(Stream, Bytes)> {
    let send = writer.0.take()?;
    let rest = std::mem::take(&mut reader.rest);
    reader.recv.release(rest.len());
    let recv = reader.recv;
    Some((Stream { send, recv }, rest))
}

impl StreamWriter {
    /// Announces the end.
    pub fn end(mut self) {
        if let Some(mut send) = self.0.take() {
            // Fails only on a stream that is over.
            let _ = send.send_data(Bytes::new(), true);
        }
    }
}

impl AsyncRead for StreamReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.rest.is_empty() {
            match ready!(self.recv.poll_data(cx)) {
                Some(Ok(data)) => self.rest = data,
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
                None => return Poll::Ready(Ok(())),
            }
        }
        let count = hand_out(&mut self.rest, buffer);
        self.recv.release(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for StreamWriter {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(data)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Some(send) = &mut self.0 else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        let wanted = pieces.iter().map(|piece| piece.len()).sum::<usize>().min(PIECE);
        if wanted == 0 {
            return Poll::Ready(Ok(0));
        }
        send.reserve_capacity(wanted);
        let Some(room) = ready!(poll_room(send, cx)).map_err(broken)? else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        let mut data = BytesMut::with_capacity(wanted.min(room));
        for piece in pieces {
            let left = wanted.min(room) - data.len();
            data.put_slice(&piece[..left.min(piece.len())]);
        }
        let written = data.len();
        send.send_data(data.freeze(), false).map_err(broken)?;
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.0.take() {
            Some(mut send) => Poll::Ready(send.send_data(Bytes::new(), true).map_err(broken)),
            None => Poll::Ready(Ok(())),
        }
    }
}

impl Drop for StreamWriter {
    fn drop(&mut self) {
        if let Some(mut send) = self.0.take() {
            send.send_reset(Reason::CONNECT_ERROR);
        }
    }
}
