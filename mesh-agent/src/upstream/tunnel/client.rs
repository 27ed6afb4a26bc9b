//! The dialling side of a tunnel.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use h2::{
    SendStream,
    client::{ResponseFuture, SendRequest},
};
use http::{Method, Request, StatusCode, Uri};
use mesh_common::model::{TunnelProtocol, Workload};
use rustls::ClientConfig;
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use tokio_util::task::TaskTracker;

use super::{Stream, baggage, keepalive, protocol, read_refusal, tuning, write_forwarded};
use crate::{
    identity::{self, server_name},
    upstream::{Refusal, in_order},
};

/// Streams in one tunnel before another is established beside it.
const STREAMS_MAX: usize = 100;

/// An established tunnel; streams are opened in it.
#[derive(Clone)]
pub struct Tunnel {
    protocol: TunnelProtocol,
    requests: SendRequest<Bytes>,
    streams: Arc<AtomicUsize>,
}

/// What a stream is asked for with.
#[derive(Clone, Copy)]
pub struct Asking<'a> {
    /// Where to.
    pub target: SocketAddr,
    /// On behalf of whom.
    pub client: SocketAddr,
    /// The workload that the client belongs to.
    pub workload: &'a Workload,
}

/// A stream's place in its tunnel.
pub struct Place(Arc<AtomicUsize>);

/// Room for one more stream.
pub struct Room {
    requests: SendRequest<Bytes>,
    place: Place,
}

/// Why there is no tunnel, or no stream in it.
#[derive(Debug, Error)]
pub enum TunnelError {
    /// The handshake failed.
    #[error("mTLS with {addr}: {source}")]
    Tls {
        /// Who was dialled.
        addr: SocketAddr,
        /// What went wrong.
        source: io::Error,
    },
    /// Who is there is not to be believed, or does not believe us.
    #[error("mTLS with {addr}: {source}")]
    Peer {
        /// Who was dialled.
        addr: SocketAddr,
        /// Why.
        source: identity::Refusal,
    },
    /// TLS stands, but who is there speaks another protocol in it.
    #[error("mTLS with {addr}: it did not agree to speak {protocol:?}")]
    Protocol {
        /// Who was dialled.
        addr: SocketAddr,
        /// What we offered.
        protocol: TunnelProtocol,
    },
    /// TLS or HTTP/2 took too long.
    #[error("mTLS with {addr} did not finish in time")]
    TimedOut {
        /// Who was dialled.
        addr: SocketAddr,
    },
    /// The tunnel broke.
    #[error("tunnel to {addr}: {source}")]
    Http {
        /// Who was dialled.
        addr: SocketAddr,
        /// What went wrong.
        source: h2::Error,
    },
    /// The other agent answered, but did not join the stream.
    #[error("the agent of {target} answers {status}")]
    Answered {
        /// Who was asked for.
        target: SocketAddr,
        /// The answer.
        status: StatusCode,
        /// How the client is to be told.
        refusal: Refusal,
    },
}

impl Tunnel {
    /// Shakes hands over an established TCP connection. The tunnel lives as a task of `tasks` until nobody uses it.
    pub async fn establish(
        tcp: TcpStream,
        addr: SocketAddr,
        protocol: TunnelProtocol,
        config: Arc<ClientConfig>,
        tasks: &TaskTracker,
    ) -> Result<Self, TunnelError> {
        // A tunnel that ends tells so itself, with a GOAWAY.
        in_order(&tcp);
        let handshake = async {
            let tls = TlsConnector::from(config)
                .connect(server_name(addr.ip()), tcp)
                .await
                .map_err(|error| TunnelError::handshake(addr, error))?;
            if protocol::agreed(tls.get_ref().1.alpn_protocol()) != Some(protocol) {
                return Err(TunnelError::Protocol { addr, protocol });
            }
            h2_over(tls, addr, protocol, tasks).await
        };
        tokio::time::timeout(tuning::HANDSHAKE, handshake)
            .await
            .map_err(|_| TunnelError::TimedOut { addr })?
    }

    /// An HTTP/2 connection in the clear, to a server that is known to speak it. Carries requests only.
    pub async fn plain(tcp: TcpStream, addr: SocketAddr, tasks: &TaskTracker) -> Result<Self, TunnelError> {
        in_order(&tcp);
        let handshake = h2_over(tcp, addr, TunnelProtocol::default(), tasks);
        tokio::time::timeout(tuning::HANDSHAKE, handshake)
            .await
            .map_err(|_| TunnelError::TimedOut { addr })?
    }

    /// Room for a request, or for a stream.
    pub async fn room(&self) -> Result<Room, h2::Error> {
        let place = Place::take(&self.streams);
        let requests = self.requests.clone().ready().await?;
        Ok(Room { requests, place })
    }

    /// True for a clone of this one.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.streams, &other.streams)
    }

    /// Asks for a stream.
    pub async fn open(&self, asking: Asking<'_>) -> Result<(Stream, Place), TunnelError> {
        let target = asking.target;
        let http = |source| TunnelError::Http { addr: target, source };
        let place = Place::take(&self.streams);
        let mut requests = self.requests.clone().ready().await.map_err(http)?;
        let (response, send) = requests
            .send_request(request(self.protocol, asking), false)
            .map_err(http)?;
        let response = response.await.map_err(http)?;
        let (head, recv) = response.into_parts();
        if head.status != StatusCode::OK {
            let refusal = read_refusal(head.status, &head.headers);
            return Err(TunnelError::Answered {
                target,
                status: head.status,
                refusal,
            });
        }
        Ok((Stream { send, recv }, place))
    }

    /// Streams open or being opened.
    pub fn streams(&self) -> usize {
        self.streams.load(Ordering::Relaxed)
    }

    /// Whether another stream would not have to wait for one that ends.
    pub fn has_room(&self) -> bool {
        // A peer may allow fewer streams than we would open. One that allows none is not worth another tunnel.
        let allowed = self.requests.current_max_send_streams().max(1);
        self.streams() < allowed.min(STREAMS_MAX)
    }
}

/// Speaks HTTP/2 as the client over an established connection.
async fn h2_over<T>(
    io: T,
    addr: SocketAddr,
    protocol: TunnelProtocol,
    tasks: &TaskTracker,
) -> Result<Tunnel, TunnelError>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (requests, mut connection) = tuning::client()
        .handshake(io)
        .await
        .map_err(|source| TunnelError::Http { addr, source })?;
    let pings = connection.ping_pong();
    tasks.spawn(async move {
        tokio::select! {
            ended = connection => if let Err(error) = ended {
                tracing::debug!(%addr, %error, "an HTTP/2 connection broke");
            },
            () = keepalive::silent(pings) => {
                tracing::warn!(%addr, "the other end of an HTTP/2 connection does not answer any more; its streams are reset");
            }
        }
    });
    Ok(Tunnel {
        protocol,
        requests,
        streams: Arc::default(),
    })
}

fn request(protocol: TunnelProtocol, asking: Asking<'_>) -> Request<()> {
    let mut request = Request::new(());
    *request.method_mut() = Method::CONNECT;
    // An address and a port are always a valid authority.
    *request.uri_mut() = Uri::try_from(asking.target.to_string()).unwrap_or_default();
    write_forwarded(request.headers_mut(), asking.client);
    if protocol == TunnelProtocol::Hbone {
        baggage::write(request.headers_mut(), asking.workload);
    }
    request
}

impl Room {
    /// Sends a request in it; `over` when it has no body.
    pub fn send(
        mut self,
        request: Request<()>,
        over: bool,
    ) -> Result<(ResponseFuture, SendStream<Bytes>, Place), h2::Error> {
        let (response, send) = self.requests.send_request(request, over)?;
        Ok((response, send, self.place))
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

impl Place {
    fn take(streams: &Arc<AtomicUsize>) -> Self {
        streams.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(streams))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl TunnelError {
    fn handshake(addr: SocketAddr, error: io::Error) -> Self {
        match identity::Refusal::of_io(&error) {
            Some(source) => Self::Peer { addr, source },
            None => Self::Tls { addr, source: error },
        }
    }

    /// How the client is to be told. A failed handshake is a refusal: never a reason to try in the clear.
    pub fn refusal(&self) -> Refusal {
        match self {
            Self::Answered { refusal, .. } => *refusal,
            Self::Tls { .. }
            | Self::Peer { .. }
            | Self::Protocol { .. }
            | Self::TimedOut { .. }
            | Self::Http { .. } => Refusal::Refused,
        }
    }

    /// True when the tunnel itself is of no use any more.
    pub fn is_broken(&self) -> bool {
        !matches!(self, Self::Answered { .. })
    }
}
