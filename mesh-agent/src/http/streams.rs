//! Bodies on HTTP/2 streams and HTTP/1 connections, in the terms of [`super::pump`].
//!
//! Invariant: a stream's window is opened again only for bytes that the other side has taken.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::SendStream;
use http::HeaderMap;
use http_body::Frame;

use super::{Broken, Writer, h1::Framing, pump::Last};
use crate::upstream::{incoming::Incoming, outgoing::poll_room};

/// True for a message that is over with its head.
pub(super) fn is_empty(body: Framing) -> bool {
    matches!(body, Framing::None | Framing::Length(0))
}

/// The next piece of a stream.
pub(super) fn poll_frame(
    recv: &mut Incoming,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
    match ready!(recv.poll_data(cx)) {
        Some(Ok(data)) => Poll::Ready(Some(Ok(Frame::data(data)))),
        Some(Err(error)) => Poll::Ready(Some(Err(error.into()))),
        None => match ready!(recv.poll_trailers(cx)) {
            Ok(Some(trailers)) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
            Ok(None) => Poll::Ready(None),
            Err(error) => Poll::Ready(Some(Err(error.into()))),
        },
    }
}

/// Sends what the window has room for.
pub(super) fn poll_send(
    send: &mut SendStream<Bytes>,
    cx: &mut Context<'_>,
    data: &mut Bytes,
    last: Last,
) -> Poll<Result<usize, Broken>> {
    send.reserve_capacity(data.len());
    let Some(room) = ready!(poll_room(send, cx))? else {
        return Poll::Ready(Err(Broken::Closed));
    };
    let part = data.split_to(room.min(data.len()));
    let taken = part.len();
    send.send_data(part, last == Last::Yes && data.is_empty())?;
    Poll::Ready(Ok(taken))
}

/// Ends a stream.
pub(super) fn finish(send: &mut SendStream<Bytes>, trailers: Option<HeaderMap>) -> Result<(), Broken> {
    match trailers {
        Some(trailers) => send.send_trailers(trailers)?,
        None => send.send_data(Bytes::new(), true)?,
    }
    Ok(())
}

/// Queues a piece of a body on an HTTP/1 connection.
pub(super) fn poll_write(
    writer: &mut Writer,
    cx: &mut Context<'_>,
    data: &mut Bytes,
    last: Last,
) -> Poll<Result<usize, Broken>> {
    ready!(writer.poll_ready(cx))?;
    let taken = data.len();
    writer.data(std::mem::take(data))?;
    if last == Last::Yes {
        writer.finish(None)?;
    }
    Poll::Ready(Ok(taken))
}
