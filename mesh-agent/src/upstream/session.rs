//! An HTTP/2 connection that we opened, and how many streams it carries.
//!
//! A tunnel is one under mutual TLS; the HTTP engine opens others in the clear, to servers that speak HTTP/2. Invariant: each
//! stream has a [`Seat`], and keeps it until the other end has seen that it is over.

use std::{net::SocketAddr, pin::pin, sync::Arc};

use bytes::Bytes;
use h2::{
    SendStream,
    client::{ResponseFuture, SendRequest},
};
use http::Request;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_util::task::TaskTracker;

pub use super::seats::Seat;
use super::{
    fair::fair,
    in_order,
    seats::Seats,
    tunnel::{Windows, keepalive, tuning},
};
use crate::telemetry::{Budget, Claim, Seat as Share};

/// Streams in one connection before another is established beside it.
const STREAMS_MAX: usize = 100;

/// An established connection; streams are opened in it.
#[derive(Clone)]
pub struct Session {
    requests: SendRequest<Bytes>,
    seats: Arc<Seats>,
    budget: Arc<Budget>,
}

/// What the other end makes of PINGs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pinging {
    /// It answers them, as agents do.
    Taken,
    /// It may end the connection: servers of gRPC do for a few of them.
    Resented,
}

/// Tells a connection from others.
#[derive(Clone)]
pub struct Mark(Arc<Seats>);

/// Room for one more stream.
pub struct Room {
    requests: SendRequest<Bytes>,
    seat: Seat,
    budget: Arc<Budget>,
}

impl Session {
    /// Speaks HTTP/2 over an established connection, which lives as a task of `tasks` until nobody uses it.
    /// It works in the turns of `claim`, in whose budget is what its streams may hold.
    pub async fn over<T>(
        io: T,
        addr: SocketAddr,
        claim: &Arc<Claim>,
        tasks: &TaskTracker,
        pinging: Pinging,
    ) -> Result<Self, h2::Error>
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let budget = claim.budget();
        let seats = Arc::<Seats>::default();
        let mut windows = Windows::of(budget, &seats.unread);
        let (requests, mut connection) = tuning::client(budget, &windows).handshake(io).await?;
        let asking = seats.asking();
        let pings = match pinging {
            Pinging::Taken => connection.ping_pong().map(|pings| (pings, asking)),
            Pinging::Resented => None,
        };
        let counted = Arc::clone(&seats);
        let carry = async move {
            let mut silent = pin!(keepalive::silent_beside(pings));
            let ended = loop {
                tokio::select! {
                    biased;
                    // First: smaller windows are announced, and what is read now no more made up for, before a stream is
                    // opened and before more is granted.
                    due = windows.due(|| counted.taken() > 0) => windows.apply(&mut connection, due),
                    ended = &mut connection => break ended,
                    () = &mut silent => {
                        tracing::warn!(
                            %addr,
                            "the other end of an HTTP/2 connection does not answer any more; its streams are reset"
                        );
                        return;
                    }
                }
            };
            if let Err(error) = ended {
                tracing::debug!(%addr, %error, "an HTTP/2 connection broke");
            }
        };
        tasks.spawn(fair(Some(Arc::clone(claim)), carry));
        Ok(Self {
            requests,
            seats,
            budget: Arc::clone(budget),
        })
    }

    /// In the clear, to a server that is known to speak HTTP/2.
    pub async fn plain(
        tcp: TcpStream,
        addr: SocketAddr,
        claim: &Arc<Claim>,
        tasks: &TaskTracker,
    ) -> Result<Self, h2::Error> {
        in_order(&tcp);
        Self::over(tcp, addr, claim, tasks, Pinging::Resented).await
    }

    /// Room for a stream, as soon as the peer allows one more.
    pub async fn room(&self) -> Result<Room, h2::Error> {
        self.seated(self.seats.take()).await
    }

    /// A seat for one more stream; `None` when it would have to wait for another one's.
    pub fn take_seat(&self) -> Option<Seat> {
        self.seats.take_below(self.limit())
    }

    /// Room for the stream that has this seat.
    pub async fn seated(&self, seat: Seat) -> Result<Room, h2::Error> {
        let requests = self.requests.clone().ready().await?;
        Ok(Room {
            requests,
            seat,
            budget: Arc::clone(&self.budget),
        })
    }

    /// Streams open or being opened, and those given up of which the other end does not know yet.
    pub fn streams(&self) -> usize {
        self.seats.taken()
    }

    /// Whether another stream would not have to wait for one that ends.
    pub fn has_room(&self) -> bool {
        self.streams() < self.limit()
    }

    /// True for a clone of this one.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.seats, &other.seats)
    }

    /// True when the mark is this one's.
    pub fn has(&self, Mark(seats): &Mark) -> bool {
        Arc::ptr_eq(&self.seats, seats)
    }

    fn limit(&self) -> usize {
        // A peer may allow fewer streams than we would open. One that allows none is not worth another connection.
        self.requests.current_max_send_streams().clamp(1, STREAMS_MAX)
    }
}

impl Room {
    /// Which connection it is in.
    pub fn mark(&self) -> Mark {
        Mark(Arc::clone(self.seat.seats()))
    }

    /// Counts what is about to be sent among the streams of its workload: the more there are, the smaller are their windows.
    pub fn share(&self) -> Share {
        self.budget.join()
    }

    /// Sends a request in it; `over` when it has no body.
    pub fn send(
        mut self,
        request: Request<()>,
        over: bool,
    ) -> Result<(ResponseFuture, SendStream<Bytes>, Seat), h2::Error> {
        let (response, send) = self.requests.send_request(request, over)?;
        self.seat.asked();
        Ok((response, send, self.seat))
    }

    /// True when the other end takes extended CONNECT requests (RFC 8441). It says so at the beginning of a connection; on
    /// one that was just made, waits a little for that.
    pub async fn takes_extended_connect(&self) -> bool {
        for _ in 0..tuning::SETTINGS_LOOKS {
            if self.requests.is_extended_connect_protocol_enabled() {
                return true;
            }
            tokio::time::sleep(tuning::SETTINGS_LOOK).await;
        }
        self.requests.is_extended_connect_protocol_enabled()
    }
}

#[cfg(test)]
mod bursts;
#[cfg(test)]
mod tests;
