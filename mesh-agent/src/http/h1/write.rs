//! Writing messages to one half of a connection.
//!
//! Heads and frames are queued at once and without waiting; [`Writer::poll_ready`] and [`Writer::poll_flush`] wait for the socket. A head
//! and the first large piece of its body leave in one system call; large pieces are not copied.
//!
//! Invariant: what leaves is framed as announced, or the writer fails and the connection must be closed.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::{HeaderMap, StatusCode, Version, header, request};
use tokio::io::AsyncWrite;

use super::{Asked, Framing, KeepAlive, Kind, Target, WriteError, encode};

/// A piece of a body up to this size is copied behind what is queued; a longer one is queued as it is.
const SMALL: usize = 2048;
/// With so many bytes queued there is no room for more of a body.
const FULL: usize = 16 * 1024;
/// What an idle writer keeps of its buffer.
const KEPT: usize = 1024;

/// The write half of a connection.
#[derive(Debug)]
pub struct Writer<W> {
    io: W,
    /// Three pieces that leave in this order. Small things are gathered in the outer two.
    front: Vec<u8>,
    /// So much of `front` has left.
    left: usize,
    large: Bytes,
    back: Vec<u8>,
    state: State,
}

/// What the current message may still say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The next head.
    Head,
    /// No data: there is no body.
    Empty,
    /// So many bytes.
    Length(u64),
    /// Chunks.
    Chunked,
    /// Bytes until the connection is closed.
    UntilClose,
    /// Nothing.
    Over,
}

impl<W: AsyncWrite + Unpin> Writer<W> {
    /// Writes to `io`.
    pub fn new(io: W) -> Self {
        Self {
            io,
            front: Vec::new(),
            left: 0,
            large: Bytes::new(),
            back: Vec::new(),
            state: State::Head,
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
        if self.state != State::Head {
            return Err(WriteError::OutOfTurn);
        }
        let host = {
            let mut hosts = parts.headers.get_all(header::HOST).iter();
            match (hosts.next(), hosts.next(), parts.uri.authority()) {
                (Some(_), Some(_), _) => return Err(WriteError::BadHead("more than one Host")),
                (Some(host), None, _) => host.as_bytes(),
                (None, _, Some(authority)) => authority.as_str().as_bytes(),
                (None, _, None) => return Err(WriteError::BadHead("no Host")),
            }
        };
        let state = match framing {
            Framing::None => State::Empty,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Chunked,
            Framing::UntilClose => {
                return Err(WriteError::BadHead("a request that ends with the connection"));
            }
        };
        // Checked before a byte is queued, so that a refusal leaves the connection usable.
        if matches!(target, Target::Authority | Target::Absolute) && parts.uri.authority().is_none() {
            return Err(WriteError::BadHead("a target without its authority"));
        }
        let out = self.tail(encode::room_for(&parts.headers) + parts.uri.path().len() + 256);
        encode::request_line(out, &parts.method, &parts.uri, target)?;
        encode::line(out, &header::HOST, host);
        encode::headers(out, &parts.headers);
        match framing {
            Framing::Length(length) => encode::content_length(out, length),
            Framing::Chunked => out.extend_from_slice(CHUNKED),
            Framing::None | Framing::UntilClose => {}
        }
        let lists_te = parts.headers.contains_key(header::TE);
        match (parts.headers.contains_key(header::UPGRADE), keep_alive) {
            (true, _) if lists_te => out.extend_from_slice(b"Connection: Upgrade, TE\r\n"),
            (true, _) => out.extend_from_slice(UPGRADE),
            (false, KeepAlive::Close) if lists_te => out.extend_from_slice(b"Connection: close, TE\r\n"),
            (false, KeepAlive::Close) => out.extend_from_slice(CLOSE),
            (false, KeepAlive::Keep) if lists_te => out.extend_from_slice(b"Connection: TE\r\n"),
            (false, KeepAlive::Keep) => {}
        }
        out.extend_from_slice(b"\r\n");
        self.state = state;
        Ok(())
    }

    /// Queues a final response head (101 included) and tells whether the connection can be kept. A body without a length goes to an
    /// HTTP/1.1 client in chunks; to HTTP/1.0 it ends with the connection, which cannot be kept then.
    ///
    /// [`Framing::None`] is a body of length 0, unless the response can have none: then `Content-Length` in the headers (HEAD, 304)
    /// goes out as it is.
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
        if self.state != State::Head {
            return Err(WriteError::OutOfTurn);
        }
        let switches = status == StatusCode::SWITCHING_PROTOCOLS;
        let upgrades = headers.contains_key(header::UPGRADE);
        if status.is_informational() && !switches {
            return Err(WriteError::BadHead("an interim response as a final one"));
        }
        if switches && !upgrades {
            return Err(WriteError::BadHead("101 without Upgrade"));
        }
        let tunnels = asked.kind == Kind::Connect && status.is_success();
        let (state, length) = if switches || tunnels || status == StatusCode::NO_CONTENT {
            (State::Empty, None)
        } else if asked.kind == Kind::Head || status == StatusCode::NOT_MODIFIED {
            let length = match framing {
                Framing::Length(length) => Some(length),
                _ => encode::length_in(headers),
            };
            (State::Empty, length)
        } else {
            match framing {
                Framing::None => (State::Empty, Some(0)),
                Framing::Length(length) => (State::Length(length), Some(length)),
                Framing::Chunked | Framing::UntilClose if asked.version == Version::HTTP_10 => {
                    (State::UntilClose, None)
                }
                Framing::Chunked | Framing::UntilClose => (State::Chunked, None),
            }
        };
        let keep_alive = match state {
            State::UntilClose => KeepAlive::Close,
            _ => keep_alive,
        };
        let out = self.tail(encode::room_for(headers) + 128);
        encode::status_line(out, status);
        encode::headers(out, headers);
        if let Some(length) = length {
            encode::content_length(out, length);
        }
        if state == State::Chunked {
            out.extend_from_slice(CHUNKED);
        }
        match keep_alive {
            _ if tunnels => {}
            _ if switches => out.extend_from_slice(UPGRADE),
            KeepAlive::Close if upgrades => out.extend_from_slice(b"Connection: close, Upgrade\r\n"),
            KeepAlive::Close => out.extend_from_slice(CLOSE),
            KeepAlive::Keep if upgrades => out.extend_from_slice(UPGRADE),
            KeepAlive::Keep if asked.version == Version::HTTP_10 => {
                out.extend_from_slice(b"Connection: keep-alive\r\n");
            }
            KeepAlive::Keep => {}
        }
        out.extend_from_slice(b"\r\n");
        self.state = state;
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
        if self.state != State::Head {
            return Err(WriteError::OutOfTurn);
        }
        if !status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS {
            return Err(WriteError::BadHead("a final response as an interim one"));
        }
        if asked.version == Version::HTTP_10 {
            return Ok(());
        }
        let out = self.tail(encode::room_for(headers) + 64);
        encode::status_line(out, status);
        encode::headers(out, headers);
        out.extend_from_slice(b"\r\n");
        Ok(())
    }

    /// Waits until there is room for [`Writer::data`].
    ///
    /// # Errors
    /// [`WriteError::Io`].
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WriteError>> {
        while !self.large.is_empty() || self.front.len() - self.left >= FULL {
            ready!(self.poll_write(cx))?;
        }
        Poll::Ready(Ok(()))
    }

    /// Queues a piece of the body, after [`Writer::poll_ready`]. Framed as announced; an empty one is nothing.
    ///
    /// # Errors
    /// [`WriteError::BodyTooLong`], [`WriteError::OutOfTurn`].
    pub fn data(&mut self, data: Bytes) -> Result<(), WriteError> {
        if data.is_empty() {
            return Ok(());
        }
        match &mut self.state {
            State::Head | State::Over => return Err(WriteError::OutOfTurn),
            State::Empty => return Err(self.fail(WriteError::BodyTooLong)),
            State::Length(left) => match left.checked_sub(data.len() as u64) {
                Some(rest) => {
                    *left = rest;
                    self.push(data);
                }
                None => return Err(self.fail(WriteError::BodyTooLong)),
            },
            State::Chunked => {
                encode::chunk_size(self.tail(0), data.len());
                self.push(data);
                self.tail(0).extend_from_slice(b"\r\n");
            }
            State::UntilClose => self.push(data),
        }
        Ok(())
    }

    /// Ends the message. Trailers go out in chunked framing and are dropped otherwise, as are those that have no place there
    /// (RFC 9110 6.5.1).
    ///
    /// # Errors
    /// [`WriteError::BodyTooShort`], [`WriteError::OutOfTurn`].
    pub fn finish(&mut self, trailers: Option<&HeaderMap>) -> Result<(), WriteError> {
        self.state = match self.state {
            State::Head | State::Over => return Err(WriteError::OutOfTurn),
            State::Empty | State::Length(0) => State::Head,
            State::Length(missing) => return Err(self.fail(WriteError::BodyTooShort { missing })),
            State::Chunked => {
                let out = self.tail(0);
                out.extend_from_slice(b"0\r\n");
                if let Some(trailers) = trailers {
                    encode::trailer_lines(out, trailers);
                }
                out.extend_from_slice(b"\r\n");
                State::Head
            }
            State::UntilClose => State::Over,
        };
        Ok(())
    }

    /// Writes everything queued.
    ///
    /// # Errors
    /// [`WriteError::Io`].
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WriteError>> {
        while !self.is_flushed() {
            ready!(self.poll_write(cx))?;
        }
        ready!(Pin::new(&mut self.io).poll_flush(cx))?;
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
        ready!(self.poll_flush(cx))?;
        ready!(Pin::new(&mut self.io).poll_shutdown(cx))?;
        Poll::Ready(Ok(()))
    }

    /// True when everything queued was given to the socket.
    pub fn is_flushed(&self) -> bool {
        self.front.len() == self.left && self.large.is_empty() && self.back.is_empty()
    }

    /// True between messages: the last was finished, and another may follow.
    pub fn is_finished(&self) -> bool {
        self.state == State::Head
    }

    /// The half, for a connection that leaves HTTP. Flush first.
    pub fn into_inner(self) -> W {
        self.io
    }

    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.front.capacity() + self.back.capacity()
    }

    /// Where small things go: behind everything queued.
    fn tail(&mut self, room: usize) -> &mut Vec<u8> {
        let tail = match self.large.is_empty() {
            true => &mut self.front,
            false => &mut self.back,
        };
        tail.reserve(room);
        tail
    }

    fn push(&mut self, data: Bytes) {
        if data.len() <= SMALL || !self.large.is_empty() {
            self.tail(0).extend_from_slice(&data);
        } else {
            self.large = data;
        }
    }

    /// Writes once. There is something to write.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WriteError>> {
        let pieces = [
            IoSlice::new(&self.front[self.left..]),
            IoSlice::new(&self.large),
            IoSlice::new(&self.back),
        ];
        let from = pieces
            .iter()
            .position(|piece| !piece.is_empty())
            .unwrap_or(pieces.len());
        let to = pieces
            .iter()
            .rposition(|piece| !piece.is_empty())
            .map_or(from, |last| last + 1);
        let io = Pin::new(&mut self.io);
        let result = ready!(match &pieces[from..to] {
            [piece] => io.poll_write(cx, piece),
            pieces => io.poll_write_vectored(cx, pieces),
        });
        match result {
            Ok(0) => {
                let zero = io::Error::from(io::ErrorKind::WriteZero);
                Poll::Ready(Err(self.fail(WriteError::Io(zero))))
            }
            Ok(count) => {
                self.advance(count);
                Poll::Ready(Ok(()))
            }
            Err(error) => Poll::Ready(Err(self.fail(WriteError::Io(error)))),
        }
    }

    fn advance(&mut self, count: usize) {
        let of_front = count.min(self.front.len() - self.left);
        self.left += of_front;
        let of_large = (count - of_front).min(self.large.len());
        self.large.advance(of_large);
        let of_back = count - of_front - of_large;
        if self.left == self.front.len() && self.large.is_empty() {
            // The back is the front of what is left.
            self.front.clear();
            mem::swap(&mut self.front, &mut self.back);
            self.left = of_back;
            self.large = Bytes::new();
        }
        if self.is_flushed() {
            self.front.clear();
            self.left = 0;
            if self.state == State::Head {
                self.front.shrink_to(KEPT);
                self.back.shrink_to(0);
            }
        }
    }

    fn fail(&mut self, error: WriteError) -> WriteError {
        self.state = State::Over;
        error
    }
}

const CHUNKED: &[u8] = b"Transfer-Encoding: chunked\r\n";
const CLOSE: &[u8] = b"Connection: close\r\n";
const UPGRADE: &[u8] = b"Connection: Upgrade\r\n";
