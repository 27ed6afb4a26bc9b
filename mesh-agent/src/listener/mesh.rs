//! Connections from other agents: one TLS handshake, then streams, each of them a connection of its own.
//!
//! `serve` hands over an accepted connection whose first bytes are a TLS handshake from a workload of the mesh.
//! Invariant: no stream is joined before its peer's identity was proved, and none reaches anything but the pod that
//! the connection was steered to.

use std::{io, net::SocketAddr, sync::Arc, time::SystemTime};

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
};
use crate::{
    identity::{self, Identity, PeerIdentity},
    inbound::Proof,
    node::Pod,
    telemetry::{Budget, Direction, Flow, FlowKind, FlowSubject, Side},
    upstream::{
        self, Refusal, Upstream,
        tunnel::{self, ALPNS, Stream, Windows, Wire, tuning},
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
        Ok(Err(_)) | Err(_) => return upstream::abort(&stream),
    }
    if let Err(error) = serve_tunnel(&path, &pod, stream, client).await {
        path.registry.count_refused();
        tracing::warn!(%client, workload = %pod.workload.key, %error, "a connection of another agent is refused");
        let subject = FlowSubject::Request {
            workload: Some(Arc::clone(&pod.workload)),
            direction: Direction::Inbound,
            client,
            original_destination: addressed,
            process: None,
        };
        let kind = FlowKind::Refused;
        path.flows.push(Flow {
            time: SystemTime::now(),
            kind,
            subject,
            duration: None,
            reason: error.to_string(),
        });
    }
}

async fn serve_tunnel(
    path: &Arc<DataPath>,
    pod: &Arc<Pod>,
    stream: TcpStream,
    client: SocketAddr,
) -> Result<(), MeshError> {
    let account = account_of(&pod.workload);
    let certificates = path.certificates.as_ref();
    let Some(identity) = certificates.and_then(|store| store.current(&account)) else {
        upstream::abort(&stream);
        return Err(MeshError::NoCertificate(account));
    };
    upstream::in_order(&stream);
    let budget = path.registry.budget_of(&pod.workload.key);
    let mut windows = Windows::of(&budget);
    let (mut connection, peer) = handshake(stream, &identity, &budget, &windows).await?;
    let expected = match path.store.load().workload_at(client.ip()) {
        Some(entry) => SpiffeId::new(identity.bundle().trust_domain(), &account_of(&entry.workload))?,
        None => return Err(MeshError::Unknown(client)),
    };
    if *peer.id() != expected {
        return Err(MeshError::Impostor {
            found: peer.id().clone(),
            expected,
            address: client,
        });
    }
    let mut leaving = false;
    loop {
        let accepted = tokio::select! {
            accepted = connection.accept() => accepted,
            () = windows.due() => {
                windows.apply(&mut connection);
                continue;
            }
            () = path.leaving.cancelled(), if !leaving => {
                leaving = true;
                connection.graceful_shutdown();
                continue;
            }
        };
        let Some(accepted) = accepted else {
            return Ok(());
        };
        let (request, respond) = accepted?;
        if let Some(asked) = Asked::read(request, respond, pod, client) {
            let (owned, pod, peer) = (Arc::clone(path), Arc::clone(pod), peer.id().clone());
            path.spawn(async move { serve_stream(&owned, &pod, asked, peer).await });
        }
    }
}

/// The life of one stream.
async fn serve_stream(path: &DataPath, pod: &Arc<Pod>, asked: Asked, peer: SpiffeId) {
    let journey = journey::inbound(path, pod, asked.client, asked.target, Proof::Certificate(peer));
    let entry = path.registry.open(journey.opening);
    let opened = match &journey.leg {
        Ok(leg) => leg
            .open(path)
            .await
            .map_err(|error| (error.refusal(), error.to_string())),
        Err(reason) => {
            asked.refuse(StatusCode::UNAUTHORIZED, Refusal::Refused);
            return serve::refused(path, &entry, FlowKind::Refused, reason.clone());
        }
    };
    let app = match opened {
        Ok(Upstream::Tcp(app)) => app,
        Ok(other) => return other.abort(),
        Err((refusal, reason)) => {
            asked.refuse(StatusCode::SERVICE_UNAVAILABLE, refusal);
            return serve::refused(path, &entry, serve::kind_of(refusal), reason);
        }
    };
    entry.connection().set_upstream(asked.target);
    match asked.join() {
        Ok(stream) => {
            let carried = tunnel::carry::carry(&app, stream, entry.connection(), Side::ToDownstream);
            serve::attend(path, &entry, journey.guard.as_ref(), carried, || {
                upstream::abort(&app)
            })
            .await;
        }
        Err(error) => {
            upstream::abort(&app);
            serve::refused(path, &entry, FlowKind::Abandoned, error.to_string());
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

/// Shakes hands as `identity`, within a deadline, and says who came.
async fn handshake(
    stream: TcpStream,
    identity: &Identity,
    budget: &Budget,
    windows: &Windows,
) -> Result<(h2::server::Connection<TlsStream<Wire>, Bytes>, PeerIdentity), MeshError> {
    let config = identity
        .server_config(ALPNS)
        .map_err(|error| MeshError::Tls(io::Error::other(error)))?;
    let shake = async {
        let mut tls = TlsAcceptor::from(config)
            .accept(Wire::new(stream))
            .await
            .map_err(MeshError::handshake)?;
        tls.get_mut().1.set_buffer_limit(Some(tuning::SEALED));
        let peer = PeerIdentity::of(tls.get_ref().1, identity.clock())?;
        let connection = h2::server::Builder::new()
            .initial_window_size(windows.first())
            .initial_connection_window_size(tuning::connection_window(budget))
            .max_frame_size(tuning::FRAME)
            .max_header_list_size(tuning::HEADER_LIST)
            .max_concurrent_streams(tuning::STREAMS)
            .max_send_buffer_size(tuning::SEND_BUFFER)
            .handshake(tls)
            .await?;
        Ok((connection, peer))
    };
    tokio::time::timeout(tuning::HANDSHAKE, shake)
        .await
        .map_err(|_| MeshError::TimedOut)?
}

impl Asked {
    /// Reads a request; answers it at once when it is none for this pod. `peer` is where the connection came from.
    fn read(
        request: Request<h2::RecvStream>,
        mut respond: SendResponse<Bytes>,
        pod: &Pod,
        peer: SocketAddr,
    ) -> Option<Self> {
        if request.method() != Method::CONNECT {
            answer(&mut respond, StatusCode::BAD_REQUEST, None);
            return None;
        }
        let target: Option<SocketAddr> = request
            .uri()
            .authority()
            .and_then(|authority| authority.as_str().parse().ok());
        let Some(target) = target else {
            answer(&mut respond, StatusCode::BAD_REQUEST, None);
            return None;
        };
        if !pod.has_address(target.ip()) || pod.is_own_listener(target) {
            answer(
                &mut respond,
                StatusCode::SERVICE_UNAVAILABLE,
                Some(Refusal::Refused),
            );
            return None;
        }
        // An agent speaks for the pod its connection comes from, and for no other address.
        let client = tunnel::read_forwarded(request.headers()).filter(|client| client.ip() == peer.ip());
        Some(Self {
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
