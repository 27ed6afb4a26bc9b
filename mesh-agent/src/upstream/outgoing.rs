//! Room for what goes out on a stream of HTTP/2.
//!
//! Whoever sends asks h2 for capacity, and then here for what came of it. Invariant: a stream that takes nothing more is told
//! apart from one that has no room yet.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::SendStream;

/// How much of what was asked for may be sent, once that is anything. `None`: the stream takes nothing more.
pub(crate) fn poll_room(
    send: &mut SendStream<Bytes>,
    cx: &mut Context<'_>,
) -> Poll<Result<Option<usize>, h2::Error>> {
    loop {
        // Asked for first: where the whole window is the stream's already, nobody is told of more.
        match send.capacity() {
            0 => {}
            room => return Poll::Ready(Ok(Some(room))),
        }
        if ready!(send.poll_capacity(cx)).transpose()?.is_none() {
            return Poll::Ready(Ok(None));
        }
    }
}
