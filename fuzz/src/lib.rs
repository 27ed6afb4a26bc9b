//! What the fuzz targets share: the sources under test, and a way to read all of a connection.
//!
//! The modules are taken in by their files. They use nothing else of the agent, so that a fuzzer is built in seconds and spends its
//! attention on them. `cargo xtask fuzz` runs the targets.
//!
//! Invariant: a target asserts something. Not to panic is the least.

#[path = "../../mesh-agent/src/http/detect.rs"]
pub mod detect;
#[path = "../../mesh-agent/src/http/h1/mod.rs"]
pub mod h1;
#[path = "../../mesh-agent/src/routing/tests/oracle.rs"]
mod oracle;
#[path = "../../mesh-agent/src/routing/mod.rs"]
pub mod routing;

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use http::HeaderMap;
use http::request::Parts;
use mesh_common::model::Route;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::h1::{Limits, ReadError, Reader};

/// Limits that short inputs reach.
pub const LIMITS: Limits = Limits {
    head_bytes: 512,
    target_bytes: 64,
    headers: 8,
    trailer_bytes: 64,
    chunk_line_bytes: 32,
    body_bytes: 1 << 20,
};

/// Which route and rule leads a request by the words of the Gateway API: `namespace/name index`.
pub fn scan(routes: &[Route], request: &Parts) -> Option<String> {
    oracle::naive(routes, request)
}

/// Polls what never waits for anything but the next piece.
pub fn poll_until<T>(mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> T {
    let mut cx = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(value) = poll(&mut cx) {
            return value;
        }
    }
}

/// Bytes that arrive in pieces, each after a `Pending`.
pub struct Pieces {
    pieces: VecDeque<Vec<u8>>,
    paused: bool,
}

impl Pieces {
    /// Pieces of that size each; 0 is all in one.
    pub fn new(bytes: &[u8], size: u8) -> Self {
        let size = if size == 0 {
            bytes.len().max(1)
        } else {
            usize::from(size)
        };
        Self {
            pieces: bytes.chunks(size).map(<[u8]>::to_vec).collect(),
            paused: false,
        }
    }
}

impl AsyncRead for Pieces {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.paused = !self.paused;
        if self.paused {
            return Poll::Pending;
        }
        if let Some(mut piece) = self.pieces.pop_front() {
            let rest = piece.split_off(piece.len().min(buf.remaining()));
            buf.put_slice(&piece);
            if !rest.is_empty() {
                self.pieces.push_front(rest);
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// The rest of the current message.
pub fn body(reader: &mut Reader<Pieces>) -> Result<(Vec<u8>, HeaderMap), ReadError> {
    let (mut data, mut trailers) = (Vec::new(), HeaderMap::new());
    while let Some(frame) = poll_until(|cx| reader.poll_frame(cx)) {
        match frame?.into_data() {
            Ok(piece) => data.extend_from_slice(&piece),
            Err(frame) => trailers = frame.into_trailers().unwrap_or_default(),
        }
    }
    Ok((data, trailers))
}

/// Keeps what is written to it.
#[derive(Default)]
pub struct Kept(pub Vec<u8>);

impl AsyncWrite for Kept {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.0.extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
