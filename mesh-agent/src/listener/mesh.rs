//! Connections from other agents: one TLS handshake, then streams, each of them a connection of its own.
//!
//! `serve` hands over an accepted connection whose first bytes are a TLS handshake from a workload of the mesh.
//! Invariant: no stream is joined before its peer's identity was proved, and none reaches anything but the pod that
//! the connection was steered to.

use std::{io, net::SocketAddr, pin::pin, sync::Arc, time::SystemTime};

use bytes::Bytes;
use h2::server::SendResponse;
use http::{Method, Request, Response, StatusCode};
use mesh_common::model::{ServiceAccountKey, SpiffeId, SpiffeIdError};
use thiserror::Error;
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{
    accept::{HeldRequest, PodListener},
    journey::{self, account_of, takes_mtls},
    serve::{self, ACCEPT_DEADLINE, DataPath},
    terms::Terms,
};
use crate::{
    identity::{self, Credentials, Identity, PeerIdentity},
    inbound::Proof,
    node::Pod,
    telemetry::{Cause, Direction, Flow, FlowKind, FlowSubject, Side},
    upstream::{
        self, Refusal, Upstream,
        tunnel::{self, ALPNS, Stream, tuning},
    },
};

/// First byte of a TLS record that carries a handshake (RFC 8446, 5.1).
const TLS_HANDSHAKE: u8 = 22;

/// Why a connection from another agent, or a stream in it, is refused.
#[derive(Debug, Error)]
enum MeshError {
    #[error("the TLS handshake failed: {0}")]
    Tls(#[source] io::Error),
    #[error("the handshake did not finish in time")]
    TimedOut,
    #[error("HTTP/2: {0}")]
    Http(#[from] h2::Error),
    #[error("{0}")]
    Peer(#[from] identity::Refusal),
    #[error("the certificate names {found}, but the workload at {address} is {expected}")]
    Impostor {
        found: SpiffeId,
        expected: SpiffeId,
        address: SocketAddr,
    },
    #[error("service account {0} has no certificate (yet)")]
    NoCertificate(ServiceAccountKey),
    #[error("{0} is no workload's address any more")]
    Unknown(SocketAddr),
    #[error("{0}")]
    Identity(#[from] SpiffeIdError),
}

impl MeshError {
    fn handshake(error: io::Error) -> Self {
        match identity::Refusal::of_io(&error) {
            Some(refusal) => Self::Peer(refusal),
            None => Self::Tls(error),
        }
    }

    /// The reason in one word, for metrics.
    fn word(&self) -> &'static str {
        match self {
            Self::Tls(_) => "handshake",
            Self::TimedOut => "handshake-timed-out",
            Self::Http(_) => "http2",
            Self::Peer(refusal) => refusal.label(),
            Self::Impostor { .. } => "unexpected-identity",
            Self::NoCertificate(_) => "no-own-certificate",
            Self::Unknown(_) => "unknown-workload",
            Self::Identity(_) => "no-identity",
        }
    }
}

/// Whether a connection request to `pod` comes from another agent: its source is a workload of another node, and the
/// port takes mutual TLS.
pub(super) fn is_from_mesh(path: &DataPath, pod: &Pod, client: SocketAddr, addressed: SocketAddr) -> bool {
    path.certificates.is_some()
        && pod.has_address(addressed.ip())
        && !pod.is_own_listener(addressed)
        && path
            .store
            .load()
            .workload_at(client.ip())
            .is_some_and(|entry| entry.workload.node != pod.workload.node)
        && takes_mtls(path, &pod.workload, addressed)
}

/// Serves a held request of another agent: accepts at once, since what it wants is inside.
pub(super) fn held(path: &Arc<DataPath>, mut held: HeldRequest, client: SocketAddr, addressed: SocketAddr) {
    let owned = Arc::clone(path);
    let pod = Arc::clone(&held.listener().pod);
    path.tunnels.spawn(async move {
        if let Ok(Some(stream)) = tokio::time::timeout(ACCEPT_DEADLINE, held.send_on()).await {
            drop(held);
            serve(owned, pod, stream, client, addressed).await;
        }
    });
}

/// Serves a connection of another agent that was let through at once.
pub(super) fn accepted(
    path: &Arc<DataPath>,
    listener: &PodListener,
    stream: TcpStream,
    client: SocketAddr,
    addressed: SocketAddr,
) {
    let pod = Arc::clone(&listener.pod);
    path.tunnels
        .spawn(serve(Arc::clone(path), pod, stream, client, addressed));
}

async fn serve(
    path: Arc<DataPath>,
    pod: Arc<Pod>,
    stream: TcpStream,
    client: SocketAddr,
    addressed: SocketAddr,
) {
    // A workload that is not captured on its node, or not yet, speaks in the clear.
    match tokio::time::timeout(tuning::HANDSHAKE, begins_tls(&stream)).await {
        Ok(Ok(true)) => {}
        Ok(Ok(false)) => {
            let journey = journey::inbound(&path, &pod, client, addressed, Proof::None);
            return serve::serve_accepted(path, stream, journey).await;
        }
        Ok(Err(error)) => {
            upstream::abort(&stream);
            let cause = serve::abandoned(format!("the client was gone before its first byte: {error}"));
            return refused(&path, &pod, client, addressed, cause);
        }
        Err(_) => {
            upstream::abort(&stream);
            let cause = Cause::new(
                "silent-client",
                "the client sent nothing that tells TLS from plaintext",
            );
            return refused(&path, &pod, client, addressed, cause);
        }
    }
    if let Err(error) = serve_tunnel(&path, &pod, stream, client, addressed).await {
        tracing::warn!(%client, workload = %pod.workload.key, %error, "a connection of another agent is refused");
        refused(&path, &pod, client, addressed, Cause::of(error.word(), &error));
    }
}

/// Records what never became a connection.
fn refused(path: &DataPath, pod: &Pod, client: SocketAddr, addressed: SocketAddr, cause: Cause) {
    path.registry.count_refused();
    path.flows.push(Flow {
        time: SystemTime::now(),
        kind: FlowKind::Refused,
        subject: FlowSubject::Request {
            workload: Some(Arc::clone(&pod.workload)),
            direction: Direction::Inbound,
            client,
            original_destination: addressed,
            process: None,
        },
        duration: None,
        cause: Some(cause),
    });
}

async fn serve_tunnel(
    path: &Arc<DataPath>,
    pod: &Arc<Pod>,
    stream: TcpStream,
    client: SocketAddr,
    addressed: SocketAddr,
) -> Result<(), MeshError> {
    let account = account_of(&pod.workload);
    let certificates = path.certificates.as_ref();
    let Some(identity) = certificates.and_then(|store| store.current(&account)) else {
        upstream::abort(&stream);
        return Err(MeshError::NoCertificate(account));
    };
    upstream::in_order(&stream);
    let (mut connection, peer, credentials) = handshake(stream, &identity).await?;
    is_at_home(path, &peer, client)?;
    let mut expiry = pin!(expired(&identity, &credentials));
    let terms = Terms::of_tunnel(Arc::clone(&credentials));
    let mut broken = pin!(terms.broken(path));
    let (mut leaving, mut revoked) = (false, None);
    loop {
        let accepted = tokio::select! {
            accepted = connection.accept() => accepted,
            cause = &mut broken, if revoked.is_none() => {
                connection.abrupt_shutdown(h2::Reason::INADEQUATE_SECURITY);
                revoked = Some(cause);
                continue;
            }
            () = &mut expiry, if !leaving => {
                leaving = true;
                connection.graceful_shutdown();
                continue;
            }
            () = path.leaving.cancelled(), if !leaving => {
                leaving = true;
                connection.graceful_shutdown();
                continue;
            }
        };
        if let Some(cause) = revoked {
            tracing::warn!(%client, workload = %pod.workload.key, peer = %peer.id(), reason = %cause, "a tunnel is not believed any more");
            return Ok(());
        }
        let (request, respond) = match accepted {
            Some(Ok(accepted)) => accepted,
            // The other agent is gone; its streams say what that means to them.
            None => return Ok(()),
            Some(Err(error)) if error.is_io() => return Ok(()),
            Some(Err(error)) => return Err(error.into()),
        };
        // The workload there may be another one since the tunnel was made.
        is_at_home(path, &peer, client)?;
        match Asked::read(request, respond, pod, client) {
            Ok(asked) => {
                let (owned, pod, peer) = (Arc::clone(path), Arc::clone(pod), peer.id().clone());
                let credentials = Arc::clone(&credentials);
                path.spawn(async move { serve_stream(&owned, &pod, asked, peer, credentials).await });
            }
            Err((target, cause)) => {
                tracing::warn!(%client, workload = %pod.workload.key, error = %cause, "a stream of another agent is refused");
                refused(path, pod, client, target.unwrap_or(addressed), cause);
            }
        }
    }
}

/// Whether the workload at the client's address is who the peer proved to be.
fn is_at_home(path: &DataPath, peer: &PeerIdentity, client: SocketAddr) -> Result<(), MeshError> {
    let expected = match path.store.load().workload_at(client.ip()) {
        Some(entry) => SpiffeId::new(&path.trust_domain, &account_of(&entry.workload))?,
        None => return Err(MeshError::Unknown(client)),
    };
    if *peer.id() == expected {
        return Ok(());
    }
    Err(MeshError::Impostor {
        found: peer.id().clone(),
        expected,
        address: client,
    })
}

/// Waits until nothing new may rely on what the peer proved: it makes another tunnel by then.
async fn expired(identity: &Identity, credentials: &Credentials) {
    let left = credentials.until().duration_since(identity.clock().now());
    tokio::time::sleep(left.unwrap_or_default()).await;
}

/// The life of one stream.
async fn serve_stream(
    path: &DataPath,
    pod: &Arc<Pod>,
    asked: Asked,
    peer: SpiffeId,
    credentials: Arc<Credentials>,
) {
    let journey = journey::inbound(path, pod, asked.client, asked.target, Proof::Certificate(peer));
    let entry = path.registry.open(journey.opening);
    let opened = match &journey.leg {
        Ok(leg) => leg
            .open(path)
            .await
            .map_err(|error| (error.refusal(), error.cause())),
        Err(cause) => {
            asked.refuse(StatusCode::UNAUTHORIZED, Refusal::Refused);
            return serve::refused(path, &entry, FlowKind::Refused, cause.clone());
        }
    };
    let app = match opened {
        Ok(Upstream::Tcp(app)) => app,
        Ok(other) => return other.abort(),
        Err((refusal, cause)) => {
            asked.refuse(StatusCode::SERVICE_UNAVAILABLE, refusal);
            return serve::refused(path, &entry, serve::kind_of(refusal), cause);
        }
    };
    entry.connection().set_upstream(asked.target);
    match asked.join() {
        Ok(stream) => {
            let carried = tunnel::carry::carry(&app, stream, entry.connection(), Side::ToDownstream);
            let terms = Terms::of(
                &path.store.load(),
                entry.connection(),
                journey.guard.as_ref(),
                Some(credentials),
            );
            serve::attend(path, &entry, &terms, carried, || upstream::abort(&app)).await;
        }
        Err(error) => {
            upstream::abort(&app);
            serve::refused(
                path,
                &entry,
                FlowKind::Abandoned,
                serve::abandoned(error.to_string()),
            );
        }
    }
}

/// A request for a stream that may be joined.
struct Asked {
    /// Where in the pod it is to go.
    target: SocketAddr,
    /// Who asks, as its own agent says.
    client: SocketAddr,
    request: Request<h2::RecvStream>,
    respond: SendResponse<Bytes>,
}

/// Whether the first byte of a connection begins a TLS handshake. Waits for that byte.
async fn begins_tls(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0];
    let read = stream.peek(&mut first).await?;
    Ok(read == 1 && first[0] == TLS_HANDSHAKE)
}

/// A connection, who is there, and what both proved.
type Shaken = (
    h2::server::Connection<TlsStream<TcpStream>, Bytes>,
    PeerIdentity,
    Arc<Credentials>,
);

/// Shakes hands as `identity`, within a deadline, and says who came.
async fn handshake(stream: TcpStream, identity: &Identity) -> Result<Shaken, MeshError> {
    let config = identity
        .server_config(ALPNS)
        .map_err(|error| MeshError::Tls(io::Error::other(error)))?;
    let shake = async {
        let tls = TlsAcceptor::from(config)
            .accept(stream)
            .await
            .map_err(MeshError::handshake)?;
        let peer = PeerIdentity::of(tls.get_ref().1, identity.clock())?;
        let credentials = Credentials::of_client(tls.get_ref().1, identity)?;
        let connection = h2::server::Builder::new()
            .initial_window_size(tuning::STREAM_WINDOW)
            .initial_connection_window_size(tuning::CONNECTION_WINDOW)
            .max_frame_size(tuning::FRAME)
            .max_header_list_size(tuning::HEADER_LIST)
            .max_concurrent_streams(tuning::STREAMS)
            .max_send_buffer_size(tuning::SEND_BUFFER)
            .handshake(tls)
            .await?;
        Ok((connection, peer, credentials))
    };
    tokio::time::timeout(tuning::HANDSHAKE, shake)
        .await
        .map_err(|_| MeshError::TimedOut)?
}

impl Asked {
    /// Reads a request; answers it at once when it is none for this pod, and says whom it asked for and what is wrong
    /// with that. `peer` is where the connection came from.
    fn read(
        request: Request<h2::RecvStream>,
        mut respond: SendResponse<Bytes>,
        pod: &Pod,
        peer: SocketAddr,
    ) -> Result<Self, (Option<SocketAddr>, Cause)> {
        if request.method() != Method::CONNECT {
            answer(&mut respond, StatusCode::BAD_REQUEST, None);
            let text = format!("a stream asks for {}, not CONNECT", request.method());
            return Err((None, Cause::new("bad-request", text)));
        }
        let target: Option<SocketAddr> = request
            .uri()
            .authority()
            .and_then(|authority| authority.as_str().parse().ok());
        let Some(target) = target else {
            answer(&mut respond, StatusCode::BAD_REQUEST, None);
            let cause = Cause::new(
                "bad-authority",
                "a stream asks for something that is no address and port",
            );
            return Err((None, cause));
        };
        if !pod.has_address(target.ip()) || pod.is_own_listener(target) {
            answer(
                &mut respond,
                StatusCode::SERVICE_UNAVAILABLE,
                Some(Refusal::Refused),
            );
            let text = format!("a stream asks for {target}, which is not an address of this pod");
            return Err((Some(target), Cause::new("unknown-target", text)));
        }
        // An agent speaks for the pod its connection comes from, and for no other address.
        let client = tunnel::read_forwarded(request.headers()).filter(|client| client.ip() == peer.ip());
        Ok(Self {
            target,
            client: client.unwrap_or(peer),
            request,
            respond,
        })
    }

    /// Joins the stream.
    fn join(mut self) -> Result<Stream, h2::Error> {
        let send = self.respond.send_response(Response::new(()), false)?;
        Ok(Stream {
            send,
            recv: self.request.into_body(),
        })
    }

    /// Says why the stream is not joined.
    fn refuse(mut self, status: StatusCode, refusal: Refusal) {
        answer(&mut self.respond, status, Some(refusal));
    }
}

fn answer(respond: &mut SendResponse<Bytes>, status: StatusCode, refusal: Option<Refusal>) {
    let mut response = Response::new(());
    *response.status_mut() = status;
    if let Some(refusal) = refusal {
        tunnel::write_refusal(response.headers_mut(), refusal);
    }
    if let Err(error) = respond.send_response(response, true) {
        tracing::debug!(%error, "a stream was gone before it was answered");
    }
}
