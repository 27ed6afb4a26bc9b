//! Carries bytes between two TCP connections so that neither side notices.
//!
//! Each way reads into one buffer of the worker's thread and writes at once; only what the other side does not
//! take is kept, and nothing more is read until it is gone. An idle connection therefore holds no buffer, and a
//! slow reader holds at most one. An end of stream is passed on as an end of stream, a reset as a reset.

use std::{
    cell::RefCell,
    future::{Future, poll_fn},
    io::{self, Read},
    pin::pin,
    task::{Context, Poll, ready},
};

use socket2::SockRef;
use tokio::{io::Interest, net::TcpStream};

use super::{in_order, tap::Tap};
use crate::{
    kernel::raw,
    telemetry::{Connection, ConnectionState, Side},
};

/// Bytes read at once, and the most that is kept for a slow reader.
const BUFFER: usize = 128 * 1024;
/// Reads in a row before the other way, and then other connections of the worker, get their turn. How often this one comes
/// again before others is up to [`fair`](super::fair).
const TURNS: usize = 2;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER].into_boxed_slice());
}

/// How a relayed connection ended.
#[derive(Debug)]
pub enum Ending {
    /// Both sides said that they were done.
    Closed,
    /// One side broke off, and so did the agent towards the other.
    Broken(io::Error),
}

/// Carries bytes both ways until both have ended or one side breaks off. `tap` gets a copy of what the downstream sends.
pub async fn relay(
    downstream: &TcpStream,
    upstream: &TcpStream,
    connection: &Connection,
    tap: Option<&Tap>,
) -> Ending {
    let mut to_upstream = Way::new(downstream, upstream, Side::ToUpstream, connection);
    to_upstream.tap = tap;
    let mut to_downstream = Way::new(upstream, downstream, Side::ToDownstream, connection);
    let mut broken = pin!(broken(downstream, upstream));
    let ended = poll_fn(|cx| {
        // Both ways every time: the wake-up does not say for which it came.
        let up = to_upstream.poll(cx)?;
        let down = to_downstream.poll(cx)?;
        if up.is_ready() && down.is_ready() {
            return Poll::Ready(Ok(()));
        }
        if up.is_ready() != down.is_ready() {
            connection.set_state(ConnectionState::HalfClosed);
        }
        // A way that waits for a slow reader does not read, nor does one that has ended: neither would see its own
        // side break off.
        if to_upstream.is_deaf() || to_downstream.is_deaf() {
            return broken.as_mut().poll(cx).map(Err);
        }
        Poll::Pending
    })
    .await;
    match ended {
        Ok(()) => {
            in_order(downstream);
            in_order(upstream);
            Ending::Closed
        }
        Err(error) => {
            abort(downstream);
            abort(upstream);
            Ending::Broken(error)
        }
    }
}

/// Waits until one of the two connections is in error, and returns the error.
async fn broken(downstream: &TcpStream, upstream: &TcpStream) -> io::Error {
    loop {
        let ready = tokio::select! {
            ready = downstream.ready(Interest::ERROR) => ready.map(|_| downstream.take_error()),
            ready = upstream.ready(Interest::ERROR) => ready.map(|_| upstream.take_error()),
        };
        match ready {
            Ok(Ok(Some(error))) | Ok(Err(error)) | Err(error) => return error,
            // Readiness without an error is a soft one that the kernel has dealt with; it does not come back.
            Ok(Ok(None)) => std::future::pending().await,
        }
    }
}

/// Makes the coming close a reset, so that the peer does not take it for an orderly end.
pub fn abort(stream: &TcpStream) {
    // Fails only on a socket that is no socket.
    let _ = SockRef::from(stream).set_linger(Some(std::time::Duration::ZERO));
}

/// One way: from a reader to a writer.
struct Way<'a> {
    from: &'a TcpStream,
    to: &'a TcpStream,
    side: Side,
    connection: &'a Connection,
    /// Gets a copy.
    tap: Option<&'a Tap>,
    /// Read, but not yet taken by `to`.
    kept: Vec<u8>,
    written: usize,
    state: State,
}

#[derive(PartialEq)]
enum State {
    Copying,
    /// The reader has ended; what is kept goes first.
    Ending,
    Ended,
}

impl<'a> Way<'a> {
    fn new(from: &'a TcpStream, to: &'a TcpStream, side: Side, connection: &'a Connection) -> Self {
        Self {
            from,
            to,
            side,
            connection,
            tap: None,
            kept: Vec::new(),
            written: 0,
            state: State::Copying,
        }
    }

    /// True while nothing is read: bytes wait for a slow reader, or the reader has ended.
    fn is_deaf(&self) -> bool {
        !self.kept.is_empty() || self.state == State::Ended
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.state == State::Ended {
            return Poll::Ready(Ok(()));
        }
        for _ in 0..TURNS {
            ready!(self.poll_flush_kept(cx))?;
            if self.state == State::Ending {
                SockRef::from(self.to).shutdown(std::net::Shutdown::Write)?;
                self.state = State::Ended;
                return Poll::Ready(Ok(()));
            }
            ready!(SCRATCH.with_borrow_mut(|scratch| self.poll_copy(cx, scratch)))?;
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Writes what was kept; ready when nothing is left.
    fn poll_flush_kept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.kept.len() {
            ready!(self.to.poll_write_ready(cx))?;
            match self.to.try_write(&self.kept[self.written..]) {
                Ok(taken) => {
                    self.written += taken;
                    self.connection.count(self.side, taken as u64);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        if !self.kept.is_empty() {
            self.connection.budget().release(self.kept.len());
            self.kept = Vec::new();
            self.written = 0;
        }
        Poll::Ready(Ok(()))
    }

    /// Reads once and writes as much as the other side takes.
    fn poll_copy(&mut self, cx: &mut Context<'_>, scratch: &mut [u8]) -> Poll<io::Result<()>> {
        // What the other side does not take is held; a workload that has much of that reads less.
        let room = self.connection.budget().room(scratch.len());
        let scratch = &mut scratch[..room];
        let read = loop {
            ready!(self.from.poll_read_ready(cx))?;
            if let Some(read) = try_read(self.from, scratch)? {
                break &scratch[..read];
            }
        };
        if read.is_empty() {
            self.state = State::Ending;
            return Poll::Ready(Ok(()));
        }
        if let Some(tap) = self.tap {
            tap.show(read);
        }
        let taken = match self.to.try_write(read) {
            Ok(taken) => taken,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Poll::Ready(Err(error)),
        };
        self.connection.count(self.side, taken as u64);
        if taken < read.len() {
            self.kept = read[taken..].to_vec();
            self.connection.budget().hold(self.kept.len());
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Way<'_> {
    fn drop(&mut self) {
        self.connection.budget().release(self.kept.len());
    }
}

/// Reads once; `None` when there is nothing yet. A read that does not fill the buffer has emptied the socket, so
/// its readiness is given back at once: that saves the system call that would only say so. The exception is a read
/// that ended at urgent data, which the kernel never reads across (tcp(7)): more may wait behind the mark. The urgent
/// byte itself is not carried.
pub(super) fn try_read(stream: &TcpStream, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    let mut read = None;
    let outcome = stream.try_io(Interest::READABLE, || {
        let count = (&*SockRef::from(stream)).read(buffer)?;
        read = Some(count);
        if count > 0 && count < buffer.len() && !raw::at_urgent_mark(stream)? {
            Err(io::ErrorKind::WouldBlock.into())
        } else {
            Ok(())
        }
    });
    match outcome {
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
        _ => Ok(read),
    }
}
