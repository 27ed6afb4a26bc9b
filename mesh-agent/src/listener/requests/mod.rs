//! Where requests are led one by one: connections to service ports that speak HTTP, and requests in tunnels.
//!
//! `serve` asks [`routed`] about each captured connection before it looks for an endpoint; `mesh` gives the requests of a
//! tunnel to [`Arrivals`]; both give what may be requests to [`Inspected`] where policies ask for them. All of them steer the
//! engine in `http`, which does the rest.
//!
//! Invariant: each request is judged at its destination before the application hears of it, wherever it came from.

mod account;
mod addressed;
mod arrivals;
mod copies;
mod inspected;
mod led;
mod look;
mod outbound;
mod server;
mod standing;
mod ways;

use std::{net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use mesh_common::kernel::{LetInKey, SocketRecord};
use tokio::net::TcpStream;

pub(super) use arrivals::Arrivals;
pub(super) use copies::COPIES_MAX;
pub(super) use inspected::Inspected;
pub(crate) use outbound::backend_of;
pub(crate) use server::ShelfKey;

use self::outbound::Outbound;
use super::{
    accept::HeldRequest,
    data_path::DataPath,
    journey,
    serve::{self, ACCEPT_DEADLINE},
    terms::Terms,
};
use crate::{
    http::{
        self,
        exchange::Message,
        fault::{Cause, Fault, Judgement, Side},
    },
    inbound::{Authorized, Guard, KeptRequest, RequestDenied},
    node::Pod,
    outbound::leads_without_routes,
    state::Resolution,
    telemetry::{ConnectionState, Destination, Direction, FlowKind, Opening, Process},
    upstream,
};

/// How often connections to the application that no request uses are looked for.
pub(super) const SWEEP: Duration = Duration::from_secs(30);

/// A connection whose requests are led one by one.
pub(super) struct Routed {
    opening: Opening,
    steer: Outbound,
    destination: LetInKey,
}

/// What `pod` dialled, as the kernel half looks it up.
fn destination(pod: &Pod, record: &SocketRecord) -> LetInKey {
    LetInKey {
        netns: pod.netns.cookie(),
        dialled: record.peer,
        reserved: 0,
    }
}

/// Connections of the pod to what was dialled are held from now on: whether they may be is not known before they are made.
pub(super) fn hold_from_now_on(path: &DataPath, pod: &Pod, record: &SocketRecord) {
    hold(path, destination(pod, record));
}

fn hold(path: &DataPath, destination: LetInKey) {
    if let Err(error) = path.let_in.remove(destination) {
        tracing::warn!(%error, "connections are let in that should be held");
    }
}

/// The next ones are let in by the kernel half.
fn let_in(path: &DataPath, destination: LetInKey) {
    if let Err(error) = path.let_in.insert(destination) {
        tracing::warn!(%error, "connections are held that need not be");
    }
}

/// What a captured connection is when its requests are led one by one; `None` when it is not. They are where the port is
/// declared to speak HTTP, by itself or by a route that is attached to it.
pub(super) fn routed(
    path: &Arc<DataPath>,
    pod: &Arc<Pod>,
    src: SocketAddr,
    record: &SocketRecord,
) -> Option<Routed> {
    let dialled: SocketAddr = record.peer.into();
    let snapshot = path.store.load();
    let Resolution::Service(backend) = snapshot.resolve(dialled) else {
        return None;
    };
    let namespace = &*pod.workload.key.namespace;
    let routes = snapshot.routes_of(&backend.service.key, backend.port.port, Some(namespace));
    if routes.is_none() && !leads_without_routes(backend) {
        return None;
    }
    let client = journey::shown(pod, src, dialled);
    let opening = Opening {
        direction: Direction::Outbound,
        workload: Arc::clone(&pod.workload),
        client,
        client_workload: Some(pod.workload.key.clone()),
        original_destination: dialled,
        destination: Destination::Service {
            service: backend.service.key.clone(),
            endpoint: None,
        },
        process: Some(Process {
            pid: record.pid,
            comm: record.comm,
        }),
        peer: None,
        ruling: None,
        state: ConnectionState::Held,
    };
    let steer = Outbound::new(path, pod, client, dialled);
    Some(Routed {
        opening,
        steer,
        destination: destination(pod, record),
    })
}

/// Serves a held connection: lets it in at once. Its destination is there; whether an endpoint is, each request learns.
pub(super) fn held(path: &Arc<DataPath>, mut held: HeldRequest, routed: Routed) {
    let owned = Arc::clone(path);
    let claim = routed.steer.claim();
    path.spawn(&claim, async move {
        let mut entry = owned.registry.open_as(routed.opening, routed.steer.claim());
        if let Err(full) = entry.seat() {
            held.refuse(upstream::Refusal::Refused);
            return serve::full(&owned, &entry, &full);
        }
        let_in(&owned, routed.destination);
        match tokio::time::timeout(ACCEPT_DEADLINE, held.send_on()).await {
            Ok(Some(stream)) => {
                drop(held);
                serve_routed(&owned, &entry, stream, routed.steer).await;
            }
            _ => {
                let cause = serve::abandoned("the client was gone when it was let in");
                serve::refused(&owned, &entry, FlowKind::Abandoned, cause);
            }
        }
    });
}

/// Serves a connection that was let through at once.
pub(super) fn accepted(path: &Arc<DataPath>, stream: TcpStream, routed: Routed) {
    let owned = Arc::clone(path);
    let claim = routed.steer.claim();
    path.spawn(&claim, async move {
        let mut entry = owned.registry.open_as(routed.opening, routed.steer.claim());
        if let Err(full) = entry.seat() {
            // The next ones learn it before they stand.
            hold(&owned, routed.destination);
            upstream::abort(&stream);
            return serve::full(&owned, &entry, &full);
        }
        serve_routed(&owned, &entry, stream, routed.steer).await;
    });
}

async fn serve_routed(
    path: &DataPath,
    entry: &crate::telemetry::Entry,
    stream: TcpStream,
    mut steer: Outbound,
) {
    steer.connection = Some(Arc::clone(entry.connection()));
    let steer = Arc::new(steer);
    let served = http::server::serve(stream, bytes::BytesMut::new(), &steer, &path.tasks, &path.leaving);
    let terms = Terms::default();
    serve::attend(path, entry, &terms, pin!(served), || {}).await;
}

/// Names what was dialled where a request names no host: HTTP/1.0 knows no Host and HTTP/2 wants none, but what goes on from
/// here has one.
fn name_host(message: &mut Message, dialled: SocketAddr) -> Result<(), Fault> {
    let spoken = message.spoken;
    http::host::name(&mut message.parts, spoken, dialled)
}

/// Judges a request, and changes it as the judgement wants. Says what to judge it by later on.
async fn authorize(
    path: &DataPath,
    guard: &Guard,
    parts: &mut ::http::request::Parts,
) -> Result<KeptRequest, Fault> {
    let metrics = path.meters.metrics();
    match guard.authorize(&path.store, &path.gate, metrics, parts).await {
        Ok(authorized) => {
            let kept = guard.keep(&path.store.load(), &authorized, parts);
            Authorized::apply(authorized, parts);
            Ok(kept)
        }
        Err(denied) => Err(denial(&denied)),
    }
}

/// The answer to a request that may not be.
fn denial(denied: &RequestDenied) -> Fault {
    let cause = match denied {
        RequestDenied::Forbidden { .. } => Cause::Denied,
        RequestDenied::Unauthenticated { .. } => Cause::Unauthenticated,
        RequestDenied::BadPath(_) => Cause::BadRequest,
        RequestDenied::NoKeys(_) | RequestDenied::Unknown(_) => Cause::Unavailable,
    };
    let (policy, rule) = match denied {
        RequestDenied::Forbidden { policy, rule, .. } => (policy.clone(), *rule),
        _ => (None, None),
    };
    Fault::new(cause, denied.to_string())
        .judged(Judgement {
            word: denied.word(),
            policy,
            rule,
        })
        .at(Side::Destination)
        .challenge(denied.challenge().cloned())
}

/// The answer when a leg does not stand.
fn unreached(error: &journey::LegError) -> Fault {
    Fault::new(Cause::Connect, error.to_string())
}

/// Breaks off what must not stand.
fn not_tcp(other: upstream::Upstream) -> Fault {
    other.abort();
    Fault::new(
        Cause::Internal,
        "the endpoint is reached by HBONE now: connect again",
    )
}
