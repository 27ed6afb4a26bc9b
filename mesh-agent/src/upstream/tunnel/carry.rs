//! Carries bytes between a TCP connection and a stream of a tunnel.
//!
//! The two ends mean the same things: an end of stream is an end of stream, a reset is `RST_STREAM`, and a reader that
//! does not read stops its writer through the stream's window. Nothing is buffered while nothing flows; what is, is
//! counted in the workload's budget.

use std::{
    future::{Future, poll_fn},
    io,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use h2::{Reason, SendStream};
use socket2::SockRef;
use tokio::{io::Interest, net::TcpStream, sync::Notify};

use super::{Stream, broken};
use crate::{
    telemetry::{Budget, Connection, ConnectionState, Side},
    upstream::{
        Ending, abort,
        buffer::{Buffer, ROOM},
        in_order,
        incoming::Incoming,
        outgoing::poll_room,
        relay::try_read,
        tap::Tap,
    },
};

/// Carries bytes both ways until both have ended or one side breaks off. `tcp_side` is the way from the TCP
/// connection into the tunnel; `tap` gets a copy of what comes out of the stream.
pub async fn carry(
    tcp: &TcpStream,
    stream: Stream,
    connection: &Connection,
    tcp_side: Side,
    tap: Option<&Tap>,
) -> Ending {
    let _seat = connection.budget().join();
    let Stream { mut send, recv } = stream;
    let other_side = match tcp_side {
        Side::ToUpstream => Side::ToDownstream,
        Side::ToDownstream => Side::ToUpstream,
    };
    let ended = {
        let mut into = pin!(into_tunnel(tcp, &mut send, connection, tcp_side));
        let mut out = pin!(out_of_tunnel(tcp, recv, connection, other_side, tap));
        let mut broken = pin!(tcp.ready(Interest::ERROR));
        let (mut into_done, mut out_done) = (false, false);
        poll_fn(|cx| {
            poll_way(into.as_mut(), &mut into_done, cx)?;
            poll_way(out.as_mut(), &mut out_done, cx)?;
            if into_done && out_done {
                return Poll::Ready(Ok(()));
            }
            if into_done || out_done {
                connection.set_state(ConnectionState::HalfClosed);
            }
            // A way that waits for the other end would not see this end break off.
            match broken.as_mut().poll(cx) {
                Poll::Ready(_) => Poll::Ready(Err(take_error(tcp))),
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    };
    match ended {
        Ok(()) => {
            in_order(tcp);
            Ending::Closed
        }
        Err(error) => {
            send.send_reset(Reason::CONNECT_ERROR);
            abort(tcp);
            Ending::Broken(error)
        }
    }
}

fn poll_way(
    way: std::pin::Pin<&mut impl Future<Output = io::Result<()>>>,
    done: &mut bool,
    cx: &mut Context<'_>,
) -> io::Result<()> {
    if !*done && let Poll::Ready(ended) = way.poll(cx) {
        ended?;
        *done = true;
    }
    Ok(())
}

fn take_error(tcp: &TcpStream) -> io::Error {
    match tcp.take_error() {
        Ok(Some(error)) | Err(error) => error,
        Ok(None) => io::ErrorKind::ConnectionReset.into(),
    }
}

async fn into_tunnel(
    tcp: &TcpStream,
    send: &mut SendStream<Bytes>,
    connection: &Connection,
    side: Side,
) -> io::Result<()> {
    let outgoing = Arc::new(Outgoing::new(Arc::clone(connection.budget())));
    loop {
        poll_fn(|cx| tcp.poll_read_ready(cx)).await?;
        outgoing.may_go_on().await;
        // Capacity is asked for only now: an idle stream must not hold a share of the tunnel's window.
        send.reserve_capacity(ROOM);
        let Some(capacity) = poll_fn(|cx| poll_room(send, cx)).await.map_err(broken)? else {
            return nobody_hears(send).await;
        };
        let mut buffer = Buffer::take();
        let room = capacity.min(connection.budget().room(ROOM));
        match try_read(tcp, &mut buffer.room()[..room])? {
            None => send.reserve_capacity(0),
            Some(0) => {
                send.reserve_capacity(0);
                return match send.send_data(Bytes::new(), true) {
                    Ok(()) => Ok(()),
                    Err(_) => nobody_hears(send).await,
                };
            }
            Some(count) => {
                connection.count(side, count as u64);
                buffer.fill(count);
                if send.send_data(outgoing.add(buffer), false).is_err() {
                    return nobody_hears(send).await;
                }
            }
        }
    }
}

/// The stream takes nothing more. That is in order when the other end has ended its way and then closed, which
/// `RST_STREAM` without an error says (RFC 9113, 8.1): what it sent is still delivered, and what follows is lost, as it
/// would be on a connection that the other end has closed.
async fn nobody_hears(send: &mut SendStream<Bytes>) -> io::Result<()> {
    let reset = poll_fn(|cx| match send.poll_reset(cx) {
        Poll::Pending => Poll::Ready(None),
        Poll::Ready(reset) => Poll::Ready(Some(reset)),
    });
    match reset.await {
        Some(Ok(Reason::NO_ERROR)) => Ok(()),
        Some(Ok(reason)) => Err(broken(reason.into())),
        Some(Err(error)) => Err(broken(error)),
        None => Err(io::ErrorKind::ConnectionReset.into()),
    }
}

/// What one stream has given to its tunnel and is not on the wire yet.
struct Outgoing {
    budget: Arc<Budget>,
    bytes: AtomicUsize,
    gone: Notify,
}

/// Bytes that are counted until they are sealed.
struct Counted {
    buffer: Buffer,
    outgoing: Arc<Outgoing>,
}

impl Outgoing {
    fn new(budget: Arc<Budget>) -> Self {
        Self {
            budget,
            bytes: AtomicUsize::new(0),
            gone: Notify::new(),
        }
    }

    /// Waits, where the workload's connections hold too much, until this one holds nothing.
    async fn may_go_on(&self) {
        while self.budget.is_spent() && self.bytes.load(Ordering::Relaxed) > 0 {
            self.gone.notified().await;
        }
    }

    fn add(self: &Arc<Self>, buffer: Buffer) -> Bytes {
        let buffer = buffer.fitted();
        let count = buffer.size();
        self.bytes.fetch_add(count, Ordering::Relaxed);
        self.budget.hold(count);
        Bytes::from_owner(Counted {
            buffer,
            outgoing: Arc::clone(self),
        })
    }
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        self.buffer.as_ref()
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let count = self.buffer.size();
        self.outgoing.budget.release(count);
        self.outgoing.bytes.fetch_sub(count, Ordering::Relaxed);
        self.outgoing.gone.notify_one();
    }
}

async fn out_of_tunnel(
    tcp: &TcpStream,
    mut recv: Incoming,
    connection: &Connection,
    side: Side,
    tap: Option<&Tap>,
) -> io::Result<()> {
    while let Some(data) = recv.data().await {
        let data = data.map_err(broken)?;
        if let Some(tap) = tap {
            tap.show(&data);
        }
        write_all(tcp, &data, &mut recv).await?;
        connection.count(side, data.len() as u64);
        recv.release(data.len());
    }
    SockRef::from(tcp).shutdown(std::net::Shutdown::Write)
}

/// Writes it all. What comes out of the tunnel meanwhile is gathered.
async fn write_all(tcp: &TcpStream, mut data: &[u8], recv: &mut Incoming) -> io::Result<()> {
    while !data.is_empty() {
        match tcp.try_write(data) {
            Ok(written) => data = &data[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                poll_fn(|cx| {
                    recv.gather(cx);
                    tcp.poll_write_ready(cx)
                })
                .await?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
