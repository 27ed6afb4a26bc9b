//! Connections from other agents: one TLS handshake, then streams, each of them a connection of its own.
//!
//! `serve` hands over a connection from a workload of another node, and any to the port of HBONE, where other
//! implementations come. Invariant: no stream is joined before its peer's identity was proved, and none reaches anything
//! but the pod that the connection was steered to.

mod error;

use std::{
    io,
    net::SocketAddr,
    pin::pin,
    sync::Arc,
    time::{Instant, SystemTime},
};

use bytes::Bytes;
use h2::server::SendResponse;
use http::{Method, Request, Response, StatusCode};
use mesh_common::model::{SpiffeId, TunnelProtocol};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use self::error::MeshError;
use super::{
    accept::{HeldRequest, PodListener, canonical},
    admission::Place,
    data_path::{Busy, DataPath},
    journey::{self, account_of, takes_mtls},
    requests::{Arrivals, Inspected, SWEEP},
    serve::{self, ACCEPT_DEADLINE},
    terms::Terms,
};
use crate::{
    identity::{Alpn, Credentials, Identity, PeerIdentity},
    inbound::Proof,
    node::Pod,
    telemetry::{Budget, Cause, Claim, Direction, Entry, Flow, FlowKind, FlowSubject, Guest, Kind, Side},
    upstream::{
        self, Refusal, Unread, Upstream,
        fair::fair,
        incoming::Incoming,
        tunnel::{self, Stream, Windows, Wire, baggage, keepalive, protocol, tuning},
    },
};

/// First byte of a TLS record that carries a handshake (RFC 8446, 5.1).
const TLS_HANDSHAKE: u8 = 22;

/// How a connection from another agent begins.
enum Beginning {
    Tls,
    Plain,
    /// It was broken off already.
    Broken,
}

/// An accepted connection that may be another agent's.
struct Arrived {
    path: Arc<DataPath>,
    pod: Arc<Pod>,
    client: SocketAddr,
    addressed: SocketAddr,
    claim: Arc<Claim>,
    /// As long as it may be no tunnel.
    busy: Option<Busy>,
}

/// Whether a connection request to `pod` is another agent's: it is for the port of HBONE, or its source is a workload of
/// another node; and the port takes mutual TLS.
pub(super) fn is_from_mesh(path: &DataPath, pod: &Pod, client: SocketAddr, addressed: SocketAddr) -> bool {
    path.certificates.is_some()
        && pod.has_address(addressed.ip())
        && !pod.is_own_listener(addressed)
        && (addressed.port() == protocol::HBONE_PORT
            || path
                .store
                .load()
                .workload_at(client.ip())
                .is_some_and(|entry| entry.workload.node != pod.workload.node))
        && takes_mtls(path, &pod.workload, addressed)
}

/// Serves a held request of another agent: accepts at once, since what it wants is inside.
pub(super) fn held(path: &Arc<DataPath>, mut held: HeldRequest, client: SocketAddr, addressed: SocketAddr) {
    let arrived = Arrived::new(path, held.listener(), client, addressed);
    let claim = Arc::clone(&arrived.claim);
    path.tunnels.spawn(fair(Some(claim), async move {
        if let Ok(Some(stream)) = tokio::time::timeout(ACCEPT_DEADLINE, held.send_on()).await {
            drop(held);
            arrived.serve(stream).await;
        }
    }));
}

/// Serves a connection of another agent that was let through at once.
pub(super) fn accepted(
    path: &Arc<DataPath>,
    listener: &PodListener,
    stream: TcpStream,
    client: SocketAddr,
    addressed: SocketAddr,
) {
    let arrived = Arrived::new(path, listener, client, addressed);
    let claim = Arc::clone(&arrived.claim);
    path.tunnels.spawn(fair(Some(claim), arrived.serve(stream)));
}

impl Arrived {
    fn new(path: &Arc<DataPath>, listener: &PodListener, client: SocketAddr, addressed: SocketAddr) -> Self {
        let snapshot = path.store.load();
        let guest = Guest {
            addr: client.ip(),
            workload: snapshot.workload_key_at(client.ip()).cloned(),
        };
        Self {
            path: Arc::clone(path),
            pod: Arc::clone(&listener.pod),
            client,
            addressed,
            claim: path.registry.claim_of(&listener.pod.workload.key, Some(guest)),
            busy: Some(path.busy()),
        }
    }

    async fn serve(mut self, stream: TcpStream) {
        let place = match self.path.admission.admit(self.client.ip()) {
            Ok(place) => place,
            Err(full) => {
                upstream::abort(&stream);
                return self.refused(&full.into());
            }
        };
        match beginning(&stream).await {
            Beginning::Tls => {
                self.busy = None;
                if let Err(error) = self.serve_tunnel(stream, place).await {
                    self.refused(&error);
                }
            }
            Beginning::Plain if self.addressed.port() == protocol::HBONE_PORT => {
                upstream::abort(&stream);
                self.refused(&MeshError::Plaintext);
            }
            // A workload that is not captured on its node, or not yet, speaks in the clear.
            Beginning::Plain => {
                let journey =
                    journey::inbound(&self.path, &self.pod, self.client, self.addressed, Proof::None);
                let (path, claim) = (Arc::clone(&self.path), Arc::clone(&self.claim));
                let served = serve::serve_accepted(path, stream, journey, claim);
                self.path.spawn(&self.claim, served);
            }
            Beginning::Broken => upstream::abort(&stream),
        }
    }

    async fn serve_tunnel(&self, stream: TcpStream, place: Place) -> Result<(), MeshError> {
        let Self {
            path,
            pod,
            client,
            addressed,
            claim,
            ..
        } = self;
        let account = account_of(&pod.workload);
        let certificates = path.certificates.as_ref();
        let Some(identity) = certificates.and_then(|store| store.current(&account)) else {
            upstream::abort(&stream);
            return Err(MeshError::NoCertificate(account));
        };
        upstream::in_order(&stream);
        let taken = protocol::taken_at(addressed.port());
        let budget = claim.budget();
        let unread = Arc::<Unread>::default();
        let mut windows = Windows::of(budget, &unread);
        let (mut connection, peer, protocol, credentials) =
            handshake(stream, &identity, taken, budget, &windows).await?;
        drop(place);
        is_at_home(path, &peer, protocol, *client)?;
        // A tunnel is a connection too, whatever there is in it.
        let _place = claim.take(Kind::Connection)?;
        let _carried = path.carry();
        let arrivals = Arrivals::new(path, pod, peer.id().clone(), *client, *addressed, claim);
        let mut sweep = tokio::time::interval(SWEEP);
        // The version of the snapshot in which the peer was found at home.
        let mut found = None;
        let mut silent = pin!(keepalive::silent(connection.ping_pong()));
        let mut expiry = pin!(expired(&identity, &credentials));
        let terms = Terms::of_tunnel(Arc::clone(&credentials));
        let mut broken = pin!(terms.broken(path));
        let (mut leaving, mut revoked) = (false, None);
        // Kept from one request to the next: each would pay for waiting anew.
        let (mut cut, mut left) = (pin!(path.cut.cancelled()), pin!(path.leaving.cancelled()));
        loop {
            let in_use = connection.has_streams();
            let accepted = tokio::select! {
                biased;
                // First: smaller windows are announced, and what is read now no more made up for, before more is granted.
                due = windows.due(|| in_use) => {
                    windows.apply(&mut connection, due);
                    continue;
                }
                cause = &mut broken, if revoked.is_none() => {
                    connection.abrupt_shutdown(h2::Reason::INADEQUATE_SECURITY);
                    revoked = Some(cause);
                    continue;
                }
                _ = sweep.tick() => {
                    arrivals.sweep();
                    continue;
                }
                () = &mut cut => return Ok(()),
                () = &mut silent => {
                    tracing::warn!(%client, "a tunnel's other end does not answer any more; its streams are reset");
                    return Ok(());
                }
                () = &mut expiry, if !leaving => {
                    leaving = true;
                    connection.graceful_shutdown();
                    continue;
                }
                () = &mut left, if !leaving => {
                    leaving = true;
                    connection.graceful_shutdown();
                    continue;
                }
                accepted = connection.accept() => accepted,
            };
            if let Some(cause) = revoked {
                tracing::warn!(%client, workload = %pod.workload.key, peer = %peer.id(), reason = %cause, "a tunnel is not believed any more");
                return Ok(());
            }
            let (request, respond) = match accepted {
                Some(Ok((request, respond))) => (
                    request.map(|recv| Incoming::new(recv, Some(Arc::clone(&unread)))),
                    respond,
                ),
                // We end it, since the peer does not follow the protocol or asks for too much.
                Some(Err(error)) if error.is_library() => return Err(error.into()),
                // The other agent is gone; its streams say what that means to them.
                Some(Err(error)) => {
                    tracing::debug!(%client, %error, "a tunnel broke");
                    return Ok(());
                }
                None => return Ok(()),
            };
            // The workload there may be another one since the tunnel was made.
            let version = path.store.load().version();
            if found != Some(version) {
                is_at_home(path, &peer, protocol, *client)?;
                found = Some(version);
            }
            if protocol == TunnelProtocol::Nodemesh && !is_for_stream(&request) {
                arrivals.serve(request, respond);
                continue;
            }
            match Asked::read(request, respond, pod, *client, protocol) {
                Ok(asked) => {
                    let (owned, pod, peer) = (Arc::clone(path), Arc::clone(pod), peer.id().clone());
                    let credentials = Arc::clone(&credentials);
                    let owned_claim = Arc::clone(claim);
                    path.spawn(claim, async move {
                        serve_stream(&owned, &pod, asked, peer, credentials, owned_claim).await;
                    });
                }
                Err(error) => self.refused(&error),
            }
        }
    }

    /// Tells of a connection that was refused before its sender proved who it is, or of a stream that leads nowhere.
    fn refused(&self, error: &MeshError) {
        let Self {
            path,
            pod,
            client,
            addressed,
            ..
        } = self;
        path.registry.count_refused();
        // What is beyond a limit was told by whoever keeps it.
        if !matches!(error, MeshError::Limit(_))
            && let Some(left_out) = path.told.admit(Instant::now())
        {
            let workload = &pod.workload.key;
            tracing::warn!(%client, %workload, %error, left_out, "a connection of another agent is refused");
        }
        path.flows.push(Flow {
            time: SystemTime::now(),
            kind: FlowKind::Refused,
            subject: FlowSubject::Request {
                workload: Some(Arc::clone(&pod.workload)),
                direction: Direction::Inbound,
                client: *client,
                original_destination: *addressed,
                process: None,
            },
            duration: None,
            cause: Some(Cause::of(error.word(), error)),
        });
    }
}

/// Whether the workload at the client's address is who the peer proved to be. HBONE also comes from addresses that are
/// no workload's, such as those of gateways.
fn is_at_home(
    path: &DataPath,
    peer: &PeerIdentity,
    protocol: TunnelProtocol,
    client: SocketAddr,
) -> Result<(), MeshError> {
    let snapshot = path.store.load();
    let expected = match (snapshot.workload_at(client.ip()), protocol) {
        (Some(entry), _) => path.identities.of(&entry.workload)?,
        (None, TunnelProtocol::Hbone) => return Ok(()),
        (None, TunnelProtocol::Nodemesh) => return Err(MeshError::Unknown(client)),
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

/// Whether a request asks for a stream of bytes; else it is one to the application. An extended CONNECT (RFC 8441) is.
fn is_for_stream(request: &Request<Incoming>) -> bool {
    request.method() == Method::CONNECT && request.extensions().get::<h2::ext::Protocol>().is_none()
}

/// The life of one stream.
async fn serve_stream(
    path: &Arc<DataPath>,
    pod: &Arc<Pod>,
    mut asked: Asked,
    peer: SpiffeId,
    credentials: Arc<Credentials>,
    claim: Arc<Claim>,
) {
    let journey = journey::inbound(path, pod, asked.client, asked.target, Proof::Certificate(peer));
    let mut inspected = Inspected::of(&journey, Some(&credentials));
    let mut entry = path.registry.open_as(journey.opening, claim);
    if let Err(full) = entry.seat() {
        asked.refuse(StatusCode::SERVICE_UNAVAILABLE, Refusal::Refused);
        return serve::full(path, &entry, &full);
    }
    if let Some(inspected) = inspected.take_if(|inspected| inspected.is_of_requests_only()) {
        return match asked.join(pod) {
            Ok(stream) => inspected.serve(path, &entry, stream, None).await,
            Err(error) => gone(path, &entry, &error),
        };
    }
    let opened = match &journey.leg {
        Ok(leg) => tokio::select! {
            opened = tokio::time::timeout(tuning::CONNECT, leg.open(path, &entry.connection().claim)) => match opened {
                Ok(opened) => opened.map_err(|error| (error.refusal(), error.cause())),
                Err(_) => {
                    let said = format!("{} did not answer in time", asked.target);
                    Err((Refusal::Silent, Cause::of("timed-out", &said)))
                }
            },
            // A stream that is reset leaves room for another in its tunnel, and must not go on costing anything here.
            () = asked.given_up() => {
                let cause = serve::abandoned("the client gave up");
                return serve::refused(path, &entry, FlowKind::Abandoned, cause);
            }
            () = path.cut.cancelled() => {
                return asked.refuse(StatusCode::SERVICE_UNAVAILABLE, Refusal::Refused);
            }
        },
        Err(cause) => {
            asked.refuse(StatusCode::UNAUTHORIZED, Refusal::Refused);
            return serve::denied(path, &entry, cause.clone());
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
    match asked.join(pod) {
        Ok(stream) if let Some(inspected) = inspected => {
            inspected.serve(path, &entry, stream, Some(app)).await;
        }
        Ok(stream) => {
            let carried = tunnel::carry::carry(&app, stream, entry.connection(), Side::ToDownstream, None);
            let terms = Terms::of(
                &path.store.load(),
                entry.connection(),
                journey.guard.as_ref(),
                Some(credentials),
            );
            serve::measure(path, &entry);
            serve::attend(path, &entry, &terms, pin!(carried), || upstream::abort(&app)).await;
        }
        Err(error) => {
            upstream::abort(&app);
            gone(path, &entry, &error);
        }
    }
}

/// Records that who asked for a stream did not wait for it.
fn gone(path: &DataPath, entry: &Entry, error: &h2::Error) {
    let cause = serve::abandoned(error.to_string());
    serve::refused(path, entry, FlowKind::Abandoned, cause);
}

/// A request for a stream that may be joined.
struct Asked {
    /// Where in the pod it is to go.
    target: SocketAddr,
    /// Who asks, as its own agent says.
    client: SocketAddr,
    protocol: TunnelProtocol,
    request: Request<Incoming>,
    respond: SendResponse<Bytes>,
}

/// How a connection begins. Waits for its first byte, but not long: who waits for us speaks no TLS.
async fn beginning(stream: &TcpStream) -> Beginning {
    let mut first = [0];
    match tokio::time::timeout(tuning::SILENCE, stream.peek(&mut first)).await {
        Ok(Ok(1)) if first[0] == TLS_HANDSHAKE => Beginning::Tls,
        // Who ends its half at once may still listen.
        Ok(Ok(_)) | Err(_) => Beginning::Plain,
        Ok(Err(_)) => Beginning::Broken,
    }
}

/// A connection, who is there, what it speaks, and what both proved.
type Shaken = (
    h2::server::Connection<TlsStream<Wire>, Bytes>,
    PeerIdentity,
    TunnelProtocol,
    Arc<Credentials>,
);

/// Shakes hands as `identity`, within a deadline, and says who came.
async fn handshake(
    stream: TcpStream,
    identity: &Identity,
    taken: Alpn,
    budget: &Budget,
    windows: &Windows,
) -> Result<Shaken, MeshError> {
    let config = identity
        .server_config(taken)
        .map_err(|error| MeshError::Tls(io::Error::other(error)))?;
    let shake = async {
        let mut tls = TlsAcceptor::from(config)
            .accept(Wire::new(stream))
            .await
            .map_err(MeshError::handshake)?;
        let (wire, session) = tls.get_mut();
        wire.shaken();
        session.set_buffer_limit(Some(tuning::SEALED));
        let peer = PeerIdentity::of(tls.get_ref().1, identity.clock())?;
        let credentials = Credentials::of_client(tls.get_ref().1, identity)?;
        let protocol = protocol::agreed(tls.get_ref().1.alpn_protocol()).ok_or(MeshError::NoProtocol)?;
        let connection = tuning::server(budget, windows).handshake(tls).await?;
        Ok((connection, peer, protocol, credentials))
    };
    tokio::time::timeout(tuning::HANDSHAKE, shake)
        .await
        .map_err(|_| MeshError::TimedOut)?
}

impl Asked {
    /// Reads a request; answers it at once when it is none for this pod, and says whom it asked for and what is wrong
    /// with that. `peer` is where the connection came from.
    fn read(
        request: Request<Incoming>,
        mut respond: SendResponse<Bytes>,
        pod: &Pod,
        peer: SocketAddr,
        protocol: TunnelProtocol,
    ) -> Result<Self, MeshError> {
        let target = match destination(&request, pod) {
            Ok(target) => target,
            Err(error) => {
                let (status, refusal) = match error {
                    MeshError::Headers(_) => (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, None),
                    MeshError::NotConnect => (StatusCode::BAD_REQUEST, None),
                    _ => (StatusCode::SERVICE_UNAVAILABLE, Some(Refusal::Refused)),
                };
                answer(&mut respond, status, refusal);
                return Err(error);
            }
        };
        // An agent speaks for the pod its connection comes from, and for no other address.
        let client = tunnel::read_forwarded(request.headers()).filter(|client| client.ip() == peer.ip());
        Ok(Self {
            target,
            client: client.unwrap_or(peer),
            protocol,
            request,
            respond,
        })
    }

    /// Waits until the stream is reset, by the peer or with its tunnel.
    async fn given_up(&mut self) {
        // Either way, how it is told does not matter any more.
        let _ = std::future::poll_fn(|cx| self.respond.poll_reset(cx)).await;
    }

    /// Joins the stream.
    fn join(mut self, pod: &Pod) -> Result<Stream, h2::Error> {
        let mut response = Response::new(());
        if self.protocol == TunnelProtocol::Hbone {
            baggage::write(response.headers_mut(), &pod.workload);
        }
        let send = self.respond.send_response(response, false)?;
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

/// Where in the pod a request wants to go.
fn destination(request: &Request<Incoming>, pod: &Pod) -> Result<SocketAddr, MeshError> {
    let size = header_list(request);
    if size > tuning::HEADER_LIST {
        return Err(MeshError::Headers(size));
    }
    if request.method() != Method::CONNECT {
        return Err(MeshError::NotConnect);
    }
    let authority = request.uri().authority();
    let target: Option<SocketAddr> = authority.and_then(|authority| authority.as_str().parse().ok());
    match target.map(canonical) {
        None => Err(MeshError::NotConnect),
        Some(target) if !pod.has_address(target.ip()) => Err(MeshError::NotThisPod(target)),
        Some(target) if pod.is_own_listener(target) => Err(MeshError::OwnListener),
        Some(target) => Ok(target),
    }
}

/// The size of a request's headers as RFC 9113 (6.5.2) counts them, the fields beginning with a colon left out.
fn header_list(request: &Request<Incoming>) -> usize {
    let fields = request.headers().iter();
    fields
        .map(|(name, value)| name.as_str().len() + value.len() + 32)
        .sum()
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
