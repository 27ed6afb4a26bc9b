//! What is read and refused, and what is written, shown on whole messages.
//!
//! [`Pieces`] is a connection that gives its bytes in given pieces with a pause between them; [`read_requests`] and
//! [`read_responses`] turn everything on it into text, so that a test compares whole outcomes.

mod bodies;
mod random;
mod requests;
mod responses;
mod speed;
mod writing;

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::HeaderMap;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::*;

/// Bytes that arrive in pieces. Each piece is announced by a `Pending`; the end follows the last.
struct Pieces {
    pieces: VecDeque<Bytes>,
    paused: bool,
}

impl Pieces {
    fn new(pieces: impl IntoIterator<Item = Bytes>) -> Self {
        Self {
            pieces: pieces.into_iter().filter(|piece| !piece.is_empty()).collect(),
            paused: false,
        }
    }

    fn whole(bytes: &[u8]) -> Self {
        Self::new([Bytes::copy_from_slice(bytes)])
    }

    fn one_by_one(bytes: &[u8]) -> Self {
        Self::new(bytes.iter().map(|byte| Bytes::copy_from_slice(&[*byte])))
    }
}

impl AsyncRead for Pieces {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.paused = !self.paused;
        if self.paused {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if let Some(mut piece) = self.pieces.pop_front() {
            let now = piece.split_to(piece.len().min(buf.remaining()));
            buf.put_slice(&now);
            if !piece.is_empty() {
                self.pieces.push_front(piece);
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// Polls to the end. Between two polls the state is in what is polled and nowhere else.
fn poll_until<T>(mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> T {
    let mut cx = Context::from_waker(Waker::noop());
    for _ in 0..1_000_000 {
        if let Poll::Ready(value) = poll(&mut cx) {
            return value;
        }
    }
    panic!("it never comes to an end");
}

/// All requests on a connection with their bodies, and how it ends, as text.
fn read_requests(io: Pieces, limits: Limits) -> String {
    let mut reader = Reader::new(io, limits);
    let mut out = String::new();
    loop {
        let result = poll_until(|cx| reader.poll_request(cx));
        match result {
            Ok(Some(head)) => {
                let RequestHead {
                    parts,
                    target,
                    body,
                    keep_alive,
                    expect,
                    switch,
                } = &head;
                writeln!(
                    out,
                    "{} {} {:?} {target:?}",
                    parts.method, parts.uri, parts.version
                )
                .unwrap();
                show_headers(&mut out, &parts.headers);
                writeln!(out, "= {body:?} {keep_alive:?} {expect:?} {}", shown(switch)).unwrap();
                if let Err(error) = read_body(&mut reader, &mut out) {
                    writeln!(out, "! {}", error.word()).unwrap();
                    return out;
                }
            }
            Ok(None) => {
                writeln!(out, "end").unwrap();
                return out;
            }
            Err(error) => {
                writeln!(out, "! {}", error.word()).unwrap();
                return out;
            }
        }
    }
}

/// All responses on a connection, each to the next of `asked`, as text.
fn read_responses(io: Pieces, limits: Limits, asked: &[Asked]) -> String {
    let mut reader = Reader::new(io, limits);
    let mut out = String::new();
    for asked in asked {
        loop {
            let head = match poll_until(|cx| reader.poll_response(cx, *asked)) {
                Ok(head) => head,
                Err(error) => {
                    writeln!(out, "! {}", error.word()).unwrap();
                    return out;
                }
            };
            writeln!(out, "{} {:?}", head.parts.status.as_u16(), head.parts.version).unwrap();
            show_headers(&mut out, &head.parts.headers);
            writeln!(
                out,
                "= {:?} {:?} {}",
                head.body,
                head.keep_alive,
                shown(&head.switch)
            )
            .unwrap();
            if let Err(error) = read_body(&mut reader, &mut out) {
                writeln!(out, "! {}", error.word()).unwrap();
                return out;
            }
            if head.switch != Switch::Stay {
                poll_until(|cx| reader.poll_closed(cx)).unwrap();
                let (_, left) = reader.into_parts();
                writeln!(out, "switched, {} bytes", left.len()).unwrap();
                return out;
            }
            if !head.is_interim() {
                break;
            }
        }
    }
    poll_until(|cx| reader.poll_closed(cx)).unwrap();
    let left = if reader.has_buffered() {
        "with bytes left"
    } else {
        "clean"
    };
    writeln!(out, "{left}").unwrap();
    out
}

/// The body as one line, so that the sizes of the pieces do not matter.
fn read_body(reader: &mut Reader<Pieces>, out: &mut String) -> Result<(), ReadError> {
    let mut body = Vec::new();
    let mut result = Ok(());
    let mut trailers = None;
    while let Some(frame) = poll_until(|cx| reader.poll_frame(cx)) {
        match frame.map(http_body::Frame::into_data) {
            Ok(Ok(data)) => {
                assert!(!data.is_empty() && trailers.is_none());
                body.extend_from_slice(&data);
            }
            Ok(Err(frame)) => trailers = frame.into_trailers().ok(),
            Err(error) => {
                result = Err(error);
                break;
            }
        }
    }
    assert_eq!(reader.is_body_done(), result.is_ok());
    if !body.is_empty() {
        writeln!(out, "< {}", body.escape_ascii()).unwrap();
    }
    if let Some(trailers) = trailers {
        writeln!(out, "trailers").unwrap();
        show_headers(out, &trailers);
    }
    result
}

fn show_headers(out: &mut String, headers: &HeaderMap) {
    for (name, value) in headers {
        writeln!(out, "  {name}: {}", value.as_bytes().escape_ascii()).unwrap();
    }
}

fn shown(switch: &Switch) -> String {
    match switch {
        Switch::Stay => "stay".to_owned(),
        Switch::Upgrade(to) => format!("upgrade {}", to.to_str().unwrap()),
        Switch::Tunnel => "tunnel".to_owned(),
    }
}

/// The word of the refusal of a request, or `ok`.
fn request_word(bytes: &[u8]) -> &'static str {
    request_word_with(bytes, Limits::default())
}

fn request_word_with(bytes: &[u8], limits: Limits) -> &'static str {
    word_of(bytes, |io| {
        let mut reader = Reader::new(io, limits);
        match poll_until(|cx| reader.poll_request(cx)) {
            Ok(Some(_)) => "ok",
            Ok(None) => "end",
            Err(error) => {
                let again = poll_until(|cx| reader.poll_request(cx));
                assert!(matches!(again, Err(ReadError::OutOfTurn)));
                error.word()
            }
        }
    })
}

/// The same for a response.
fn response_word(bytes: &[u8], asked: Asked) -> &'static str {
    word_of(bytes, |io| {
        let mut reader = Reader::new(io, Limits::default());
        match poll_until(|cx| reader.poll_response(cx, asked)) {
            Ok(_) => "ok",
            Err(error) => error.word(),
        }
    })
}

/// What comes of these bytes at once, which has to be what comes of them one by one.
fn word_of(bytes: &[u8], outcome: impl Fn(Pieces) -> &'static str) -> &'static str {
    let word = outcome(Pieces::whole(bytes));
    assert_eq!(
        word,
        outcome(Pieces::one_by_one(bytes)),
        "{}",
        bytes.escape_ascii()
    );
    word
}

fn get() -> Asked {
    Asked::of(&Method::GET, &Switch::Stay)
}

/// A peer that takes a few bytes at a time, and pauses.
#[derive(Debug, Default)]
struct Sink {
    taken: Vec<u8>,
    /// At most so many bytes a write; 0 is no limit.
    most: usize,
    writes: usize,
    paused: bool,
}

impl Sink {
    fn taking(most: usize) -> Self {
        Self {
            most,
            ..Self::default()
        }
    }

    fn poll_take(&mut self, cx: &mut Context<'_>, pieces: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if self.most > 0 {
            self.paused = !self.paused;
            if self.paused {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
        self.writes += 1;
        let mut room = if self.most == 0 { usize::MAX } else { self.most };
        let mut count = 0;
        for piece in pieces {
            let now = piece.len().min(room);
            self.taken.extend_from_slice(&piece[..now]);
            room -= now;
            count += now;
        }
        Poll::Ready(Ok(count))
    }
}

impl AsyncWrite for Sink {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_take(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_take(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
