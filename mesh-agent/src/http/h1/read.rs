//! Reading messages from one half of a connection.
//!
//! The first bytes of a message are read into the stack and copied, so that a connection that waits holds no buffer and a head
//! takes no more memory than it has bytes; what follows is read in place. Data leaves as slices of the buffer.
//!
//! Invariant: all state is in the reader, so that every future made here may be dropped and made again.

use std::future::poll_fn;
use std::mem::{self, MaybeUninit};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use http_body::Frame;
use tokio::io::{AsyncRead, ReadBuf};
use tokio_util::io::poll_read_buf;

use super::chunked::{Chunks, Step};
use super::scan::Scan;
use super::{Asked, Framing, Limits, ReadError, RequestHead, ResponseHead, Switch, head};

/// What the first read of a message takes at most. A stack is made for more.
const FIRST_READ: usize = 16 * 1024;
/// What a read within a message takes at first, and at most: it doubles while reads fill it.
const SMALL_READ: usize = 8 * 1024;
const LARGE_READ: usize = 64 * 1024;
/// Room for the rest of a head that came in parts.
const HEAD_READ: usize = 4 * 1024;

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
    state: State,
    end: End,
    read_size: usize,
}

/// Where in the sequence of messages the reader stands.
#[derive(Debug)]
enum State {
    /// Before or within a head.
    Head {
        scan: Scan,
        empty_line: EmptyLine,
    },
    Length(u64),
    Chunked(Chunks),
    UntilClose,
    /// HTTP has ended in an orderly way: by the close that ended a body, or by a switch.
    Over,
    /// An error was returned.
    Failed,
}

/// The one empty line before a request that is overlooked (RFC 9112 2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EmptyLine {
    Allowed,
    Seen,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Open,
    Reached,
}

impl State {
    fn before_head() -> Self {
        Self::Head {
            scan: Scan::default(),
            empty_line: EmptyLine::Allowed,
        }
    }

    fn of(body: Framing) -> Self {
        match body {
            Framing::None | Framing::Length(0) => Self::before_head(),
            Framing::Length(length) => Self::Length(length),
            Framing::Chunked => Self::Chunked(Chunks::new()),
            Framing::UntilClose => Self::UntilClose,
        }
    }
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
            state: State::before_head(),
            end: End::Open,
            read_size: SMALL_READ,
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
        let result = ready!(self.poll_head(cx, Kind::Request))
            .and_then(|bytes| bytes.map(|bytes| head::request(&bytes, &self.limits)).transpose());
        Poll::Ready(match result {
            Ok(Some(head)) => {
                self.state = State::of(head.body);
                Ok(Some(head))
            }
            Ok(None) => Ok(None),
            Err(error) => Err(self.fail(error)),
        })
    }

    /// The next response head, interim ones included. After a head with a `switch` the reader only gives [`Reader::into_parts`].
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
        let result = ready!(self.poll_head(cx, Kind::Response)).and_then(|bytes| match bytes {
            Some(bytes) => head::response(&bytes, &self.limits, asked),
            None => Err(ReadError::ClosedBeforeHead),
        });
        Poll::Ready(match result {
            Ok(head) => {
                self.state = match head.switch {
                    Switch::Stay => State::of(head.body),
                    Switch::Upgrade(_) | Switch::Tunnel => State::Over,
                };
                Ok(head)
            }
            Err(error) => Err(self.fail(error)),
        })
    }

    /// The next piece of the current body: data without copy, then trailers if there are any; `None` at its end.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ReadError>>> {
        loop {
            let room = match &mut self.state {
                State::Head { .. } | State::Over | State::Failed => return Poll::Ready(None),
                State::Length(left) => {
                    if !self.buffer.is_empty() {
                        let data = take(&mut self.buffer, *left);
                        *left -= data.len() as u64;
                        if *left == 0 {
                            self.end_body();
                        }
                        return Poll::Ready(Some(Ok(Frame::data(data))));
                    }
                    usize::try_from(*left).unwrap_or(usize::MAX)
                }
                State::Chunked(chunks) => match chunks.step(&mut self.buffer, &self.limits) {
                    Ok(Step::More) => usize::MAX,
                    Ok(Step::Data(data)) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                    Ok(Step::Trailers(trailers)) => {
                        self.end_body();
                        return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                    }
                    Ok(Step::End) => {
                        self.end_body();
                        return Poll::Ready(None);
                    }
                    Err(error) => return Poll::Ready(Some(Err(self.fail(error)))),
                },
                State::UntilClose => {
                    if !self.buffer.is_empty() {
                        return Poll::Ready(Some(Ok(Frame::data(take(&mut self.buffer, u64::MAX)))));
                    }
                    if self.end == End::Reached {
                        self.state = State::Over;
                        return Poll::Ready(None);
                    }
                    usize::MAX
                }
            };
            if let Err(error) = ready!(self.poll_fill(cx, room)) {
                return Poll::Ready(Some(Err(self.fail(error))));
            }
            if self.end == End::Reached && !matches!(self.state, State::UntilClose) {
                return Poll::Ready(Some(Err(self.fail(ReadError::ClosedInBody))));
            }
        }
    }

    /// See [`Reader::poll_frame`].
    pub async fn frame(&mut self) -> Option<Result<Frame<Bytes>, ReadError>> {
        poll_fn(|cx| self.poll_frame(cx)).await
    }

    /// True when the current body was read to its end, trailers included; also before the first message.
    pub fn is_body_done(&self) -> bool {
        matches!(self.state, State::Head { .. } | State::Over)
    }

    /// True when bytes behind what was given out are buffered: a pipelined request, or what a server sends unasked. A connection
    /// to a server with such bytes between two exchanges is not to be used again.
    pub fn has_buffered(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// Waits between messages until there is something to read, without holding a buffer.
    ///
    /// # Errors
    /// [`ReadError::Io`] when the connection broke.
    pub fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<Result<Readiness, ReadError>> {
        if self.buffer.is_empty() && self.end == End::Open {
            ready!(self.poll_fill(cx, usize::MAX))?;
        }
        Poll::Ready(Ok(match self.buffer.is_empty() {
            true => Readiness::Closed,
            false => Readiness::Bytes,
        }))
    }

    /// Waits until the peer closes its side (it may still read) or the connection breaks, whatever it sends meanwhile: that is kept,
    /// up to `Limits::head_bytes`, beyond which nothing is watched any more. For a connection whose request was read and
    /// whose response is not there yet.
    ///
    /// # Errors
    /// [`ReadError::Io`] when the connection broke.
    pub fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ReadError>> {
        while self.end == End::Open {
            if self.buffer.len() >= self.limits.head_bytes {
                return Poll::Pending;
            }
            ready!(self.poll_fill(cx, HEAD_READ))?;
        }
        Poll::Ready(Ok(()))
    }

    /// The half.
    pub fn io(&self) -> &R {
        &self.io
    }

    /// The half.
    pub fn half_mut(&mut self) -> &mut R {
        &mut self.io
    }

    /// The half and the bytes that were read but belong to no message: for a connection that leaves HTTP.
    pub fn into_parts(self) -> (R, BytesMut) {
        (self.io, self.buffer)
    }

    /// The bytes of the next complete head; `None` when the connection ended before its first byte.
    fn poll_head(&mut self, cx: &mut Context<'_>, kind: Kind) -> Poll<Result<Option<Bytes>, ReadError>> {
        loop {
            let State::Head { scan, empty_line } = &mut self.state else {
                return Poll::Ready(Err(ReadError::OutOfTurn));
            };
            if kind == Kind::Request && *empty_line == EmptyLine::Allowed && self.buffer.starts_with(b"\r\n")
            {
                self.buffer.advance(2);
                *scan = Scan::default();
                *empty_line = EmptyLine::Seen;
            }
            // A handshake of TLS, for example, has no line whose end is worth waiting for.
            if kind == Kind::Request && self.buffer.first().is_some_and(|first| !may_begin(*first)) {
                return Poll::Ready(Err(ReadError::BadRequestLine));
            }
            let visible = &self.buffer[..self.buffer.len().min(self.limits.head_bytes)];
            match scan.end(visible) {
                Ok(Some(2)) => return Poll::Ready(Err(ReadError::LeadingSpace)),
                Ok(Some(end)) => return Poll::Ready(Ok(Some(take_head(&mut self.buffer, end)))),
                Ok(None) if self.buffer.len() >= self.limits.head_bytes => {
                    return Poll::Ready(Err(match kind {
                        Kind::Request if scan.is_in_first_line() => ReadError::TargetTooLong {
                            limit: self.limits.target_bytes,
                        },
                        _ => ReadError::HeadTooLarge {
                            limit: self.limits.head_bytes,
                        },
                    }));
                }
                Ok(None) => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
            if self.end == End::Open {
                ready!(self.poll_fill(cx, HEAD_READ))?;
            }
            if self.end == End::Reached {
                return Poll::Ready(match self.buffer.is_empty() {
                    true => Ok(None),
                    false => Err(ReadError::ClosedInHead),
                });
            }
        }
    }

    /// Reads once, at most `room` bytes beyond what one read of a fresh message takes.
    fn poll_fill(&mut self, cx: &mut Context<'_>, room: usize) -> Poll<Result<(), ReadError>> {
        let count = if self.buffer.capacity() == 0 && !self.is_in_body() {
            let mut scratch = [const { MaybeUninit::<u8>::uninit() }; FIRST_READ];
            let mut read = ReadBuf::uninit(&mut scratch);
            ready!(Pin::new(&mut self.io).poll_read(cx, &mut read))?;
            self.buffer.extend_from_slice(read.filled());
            read.filled().len()
        } else {
            let size = room.min(self.read_size);
            self.buffer.reserve(size);
            let count = ready!(poll_read_buf(Pin::new(&mut self.io), cx, &mut self.buffer))?;
            if count >= self.read_size {
                self.read_size = (self.read_size * 2).min(LARGE_READ);
            }
            count
        };
        if count == 0 {
            self.end = End::Reached;
        }
        Poll::Ready(Ok(()))
    }

    fn is_in_body(&self) -> bool {
        matches!(
            self.state,
            State::Length(_) | State::Chunked(_) | State::UntilClose
        )
    }

    fn end_body(&mut self) {
        self.state = State::before_head();
        self.read_size = SMALL_READ;
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
    }

    fn fail(&mut self, error: ReadError) -> ReadError {
        self.state = State::Failed;
        error
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Request,
    Response,
}

/// True of what a method may begin with (RFC 9110, 5.6.2), and of blanks and line ends, which have rules of their own.
fn may_begin(first: u8) -> bool {
    first.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~ \t\r\n".contains(&first)
}

/// Takes at most `most` bytes, and all there are otherwise.
pub(super) fn take(bytes: &mut BytesMut, most: u64) -> Bytes {
    let count = usize::try_from(most).unwrap_or(usize::MAX).min(bytes.len());
    bytes.split_to(count).freeze()
}

/// Takes a head, and lets go of the buffer if there is nothing behind it.
fn take_head(bytes: &mut BytesMut, end: usize) -> Bytes {
    if end == bytes.len() {
        return mem::take(bytes).freeze();
    }
    bytes.split_to(end).freeze()
}
