//! The dialling side of a tunnel.

use std::{io, net::SocketAddr, sync::Arc};

use http::{Method, Request, StatusCode, Uri};
use mesh_common::model::{TunnelProtocol, Workload};
use rustls::ClientConfig;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::task::TaskTracker;

use super::{Stream, Wire, baggage, protocol, read_refusal, tuning, write_forwarded};
use crate::{
    identity::{self, Credentials, Identity, server_name},
    telemetry::Claim,
    upstream::{
        Refusal, in_order,
        session::{Pinging, Seat, Session},
    },
};

/// An established tunnel; streams are opened in it.
#[derive(Clone)]
pub struct Tunnel {
    protocol: TunnelProtocol,
    session: Session,
    credentials: Arc<Credentials>,
}

/// What a tunnel is established on.
pub struct Footing<'a> {
    /// What both ends must speak.
    pub protocol: TunnelProtocol,
    /// Who we are.
    pub identity: &'a Identity,
    /// As whom, and whom we expect there.
    pub config: Arc<ClientConfig>,
    /// In whose turns it works, and what its streams may hold.
    pub claim: &'a Arc<Claim>,
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
pub struct Place {
    _seat: Seat,
    credentials: Arc<Credentials>,
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
        footing: Footing<'_>,
        tasks: &TaskTracker,
    ) -> Result<Self, TunnelError> {
        let Footing {
            protocol,
            identity,
            config,
            claim,
        } = footing;
        // A tunnel that ends tells so itself, with a GOAWAY.
        in_order(&tcp);
        let handshake = async {
            let mut tls = TlsConnector::from(config)
                .connect(server_name(addr.ip()), Wire::new(tcp))
                .await
                .map_err(|error| TunnelError::handshake(addr, error))?;
            let (wire, session) = tls.get_mut();
            wire.shaken();
            session.set_buffer_limit(Some(tuning::SEALED));
            if protocol::agreed(tls.get_ref().1.alpn_protocol()) != Some(protocol) {
                return Err(TunnelError::Protocol { addr, protocol });
            }
            let credentials = Credentials::of_server(tls.get_ref().1, identity)
                .map_err(|source| TunnelError::Peer { addr, source })?;
            let session = Session::over(tls, addr, claim, tasks, Pinging::Taken)
                .await
                .map_err(|source| TunnelError::Http { addr, source })?;
            Ok(Self {
                protocol,
                session,
                credentials,
            })
        };
        tokio::time::timeout(tuning::HANDSHAKE, handshake)
            .await
            .map_err(|_| TunnelError::TimedOut { addr })?
    }

    /// Asks for a stream.
    pub async fn open(&self, asking: Asking<'_>, seat: Seat) -> Result<(Stream, Place), TunnelError> {
        let target = asking.target;
        let http = |source| TunnelError::Http { addr: target, source };
        let room = self.session.seated(seat).await.map_err(http)?;
        let (response, send, mut seat) = room.send(request(self.protocol, asking), false).map_err(http)?;
        let response = response.await;
        seat.heard();
        let response = response.map(|response| response.map(|recv| seat.incoming(recv)));
        let place = Place {
            _seat: seat,
            credentials: Arc::clone(&self.credentials),
        };
        let (head, recv) = response.map_err(http)?.into_parts();
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

    /// What both ends proved.
    pub fn credentials(&self) -> &Arc<Credentials> {
        &self.credentials
    }

    /// The connection that it is made of.
    pub fn session(&self) -> &Session {
        &self.session
    }
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

impl Place {
    /// What both ends of the tunnel proved.
    pub fn credentials(&self) -> &Arc<Credentials> {
        &self.credentials
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

    /// The reason in one word, for metrics.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Tls { .. } => "handshake",
            Self::Peer { source, .. } => source.label(),
            Self::Protocol { .. } => "no-protocol",
            Self::TimedOut { .. } => "handshake-timed-out",
            Self::Http { .. } => "tunnel-broken",
            Self::Answered { status, .. } if *status == StatusCode::UNAUTHORIZED => "denied-by-peer",
            Self::Answered { refusal, .. } => refusal.word(),
        }
    }

    /// True when the tunnel itself is of no use any more.
    pub fn is_broken(&self) -> bool {
        !matches!(self, Self::Answered { .. })
    }
}
