//! The life of one connection: what it means, whether its destination answers, and the bytes.
//!
//! Requests held by the kernel half come from `held`, connections that were let through from `accept`. Each becomes a
//! task of its worker's [`DataPath`], recorded from its first state to its end. What another agent opened goes to
//! `mesh`, what is led request by request to `requests`.

use std::{
    net::SocketAddr,
    os::fd::AsRawFd,
    pin::{Pin, pin},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use mesh_common::kernel::{RecordKind, SynEvent};
use tokio::net::TcpStream;

use super::{
    accept::{HeldRequest, PodListener},
    data_path::DataPath,
    journey::{self, Journey, Leg},
    measure::Ends,
    mesh,
    requests::{self, Inspected},
    terms::Terms,
};
use crate::{
    inbound::{Guard, Proof},
    telemetry::{
        Cause, Claim, ConnectionState, Direction, Entry, Flow, FlowKind, FlowSubject, Full, Side,
        metrics::{BROKEN, DRAINED},
    },
    upstream::{self, Ending, Refusal, Upstream, tunnel},
};

/// How long the client may take to complete a handshake that the agent let through. Its kernel answers at once
/// unless the client is gone.
pub(super) const ACCEPT_DEADLINE: Duration = Duration::from_secs(10);

/// Serves a request held by the kernel half: dials first, then lets the client in.
pub(super) fn held(path: &Arc<DataPath>, held: HeldRequest, event: &SynEvent) {
    let client: SocketAddr = event.src.into();
    let dst: SocketAddr = event.dst.into();
    let pod = &held.listener().pod;
    let record = (event.record.kind == RecordKind::Captured as u32).then_some(event.record);
    if record.is_none() && mesh::is_from_mesh(path, pod, client, dst) {
        return mesh::held(path, held, client, dst);
    }
    if let Some(record) = &record
        && let Some(routed) = requests::routed(path, pod, client, record)
    {
        return requests::held(path, held, routed);
    }
    let journey = match record {
        Some(record) => journey::outbound(path, pod, client, &record),
        None => journey::inbound(path, pod, client, dst, Proof::None),
    };
    let path = Arc::clone(path);
    let serving = Arc::clone(&path);
    let claim = path.registry.claim(&journey.opening);
    let owned = Arc::clone(&claim);
    let cookie = record.map(|record| record.cookie);
    let connection = async move { serve_held(path, held, journey, owned, cookie).await };
    serving.spawn(&claim, connection);
}

/// Serves a connection that was let through at once: dials after the accept.
pub(super) fn accepted(
    path: &Arc<DataPath>,
    listener: &Arc<PodListener>,
    stream: TcpStream,
    client: SocketAddr,
    local: SocketAddr,
) {
    let record = path.dialer.record_of(&stream.as_raw_fd());
    if record.is_none() && mesh::is_from_mesh(path, &listener.pod, client, local) {
        return mesh::accepted(path, listener, stream, client, local);
    }
    let captured = record.filter(|record| record.kind == RecordKind::Captured as u32);
    if let Some(record) = &captured
        && let Some(routed) = requests::routed(path, &listener.pod, client, record)
    {
        return requests::accepted(path, stream, routed);
    }
    let journey = match captured {
        Some(record) => {
            requests::hold_from_now_on(path, &listener.pod, &record);
            journey::outbound(path, &listener.pod, client, &record)
        }
        None => {
            let journey = journey::inbound(path, &listener.pod, client, local, Proof::None);
            if journey.leg.is_err() {
                journey::hold_from_now_on(path, &listener.pod, local);
            }
            journey
        }
    };
    let path = Arc::clone(path);
    let serving = Arc::clone(&path);
    let claim = path.registry.claim(&journey.opening);
    let owned = Arc::clone(&claim);
    serving.spawn(&claim, async move {
        serve_accepted(path, stream, journey, owned).await;
    });
}

async fn serve_held(
    path: Arc<DataPath>,
    mut held: HeldRequest,
    journey: Journey,
    claim: Arc<Claim>,
    cookie: Option<u64>,
) {
    let mut inspected = Inspected::of(&journey, None);
    let mut entry = path.registry.open_as(journey.opening, claim);
    let _active = journey.active;
    if let Err(full) = entry.seat() {
        held.refuse(Refusal::Refused);
        return self::full(&path, &entry, &full);
    }
    let leg = match journey.leg {
        Ok(leg) => leg,
        Err(cause) => {
            held.refuse(Refusal::Refused);
            return denied(&path, &entry, cause);
        }
    };
    if let Some(inspected) = inspected.take_if(|inspected| inspected.is_of_requests_only()) {
        // Nothing leads to the application before a request may.
        return match tokio::time::timeout(ACCEPT_DEADLINE, held.send_on()).await {
            Ok(Some(downstream)) => {
                drop(held);
                inspected.serve(&path, &entry, downstream, None).await;
            }
            _ => refused(
                &path,
                &entry,
                FlowKind::Abandoned,
                abandoned("the client was gone when it was let in"),
            ),
        };
    }
    let dialled = match cookie.map(|cookie| path.may_give_up(cookie)) {
        Some((gave_up, _forget)) => tokio::select! {
            dialled = leg.open(&path, &entry.connection().claim) => dialled,
            Ok(()) = gave_up => {
                return refused(&path, &entry, FlowKind::Abandoned, abandoned("the client gave up"));
            }
            () = path.cut.cancelled() => return held.refuse(Refusal::Refused),
        },
        None => tokio::select! {
            dialled = leg.open(&path, &entry.connection().claim) => dialled,
            () = path.cut.cancelled() => return held.refuse(Refusal::Refused),
        },
    };
    let upstream = match dialled {
        Ok(upstream) => upstream,
        Err(error) => {
            leg.not_opened(&path);
            held.refuse(error.refusal());
            return refused(&path, &entry, kind_of(error.refusal()), error.cause());
        }
    };
    leg.opened(&path);
    established(&entry, &leg);
    if let (Upstream::Tcp(upstream), Leg::Dial { .. }, Some(cookie)) = (&upstream, &leg, cookie) {
        path.dialer.tell_source(cookie, upstream);
    }
    match tokio::time::timeout(ACCEPT_DEADLINE, held.send_on()).await {
        Ok(Some(downstream)) => {
            drop(held);
            carry(
                &path,
                &entry,
                journey.guard.as_ref(),
                inspected,
                downstream,
                upstream,
            )
            .await;
        }
        _ => {
            upstream.abort();
            refused(
                &path,
                &entry,
                FlowKind::Abandoned,
                abandoned("the client was gone when its destination answered"),
            );
        }
    }
}

pub(super) async fn serve_accepted(
    path: Arc<DataPath>,
    downstream: TcpStream,
    journey: Journey,
    claim: Arc<Claim>,
) {
    let mut inspected = Inspected::of(&journey, None);
    let mut entry = path.registry.open_as(journey.opening, claim);
    entry.connection().set_state(ConnectionState::Connecting);
    let _active = journey.active;
    if let Err(full) = entry.seat() {
        upstream::abort(&downstream);
        return self::full(&path, &entry, &full);
    }
    let leg = match journey.leg {
        Ok(leg) => leg,
        Err(cause) => {
            upstream::abort(&downstream);
            return denied(&path, &entry, cause);
        }
    };
    if let Some(inspected) = inspected.take_if(|inspected| inspected.is_of_requests_only()) {
        return inspected.serve(&path, &entry, downstream, None).await;
    }
    let dialled = tokio::select! {
        dialled = leg.open(&path, &entry.connection().claim) => dialled,
        () = path.cut.cancelled() => return upstream::abort(&downstream),
    };
    match dialled {
        Ok(upstream) => {
            established(&entry, &leg);
            carry(
                &path,
                &entry,
                journey.guard.as_ref(),
                inspected,
                downstream,
                upstream,
            )
            .await;
        }
        Err(error) => {
            leg.not_opened(&path);
            upstream::abort(&downstream);
            refused(&path, &entry, kind_of(error.refusal()), error.cause());
        }
    }
}

/// The agent's own side stands: records where it leads, and to whom.
fn established(entry: &Entry, leg: &Leg) {
    entry.connection().set_upstream(leg.addr());
    if let Some(peer) = leg.peer() {
        entry.connection().set_peer(peer.clone());
    }
}

/// A connection between pods of this node stands: perhaps the next ones need no agent.
fn consider_the_next(path: &DataPath, entry: &Entry) {
    let connection = entry.connection();
    if connection.direction != Direction::Local || !path.direct.is_on() {
        return;
    }
    let own = connection.workload.addresses.first();
    if let Some(source) = own.and_then(|ip| path.pods.at(*ip))
        && source.workload.key == connection.workload.key
    {
        path.direct.consider(&source, connection.original_destination);
    }
}

/// Both sides stand: carries bytes until the end, or has what may be requests looked at.
async fn carry(
    path: &Arc<DataPath>,
    entry: &Entry,
    guard: Option<&Guard>,
    inspected: Option<Inspected>,
    downstream: TcpStream,
    upstream: Upstream,
) {
    consider_the_next(path, entry);
    let connection = entry.connection();
    match upstream {
        Upstream::Tcp(upstream) if let Some(inspected) = inspected => {
            inspected.serve(path, entry, downstream, Some(upstream)).await;
        }
        Upstream::Tcp(upstream) => {
            measure(path, entry);
            let cut = || {
                upstream::abort(&downstream);
                upstream::abort(&upstream);
            };
            let terms = Terms::of(&path.store.load(), connection, guard, None);
            let carried = pin!(upstream::relay(&downstream, &upstream, connection, None));
            attend(path, entry, &terms, carried, cut).await;
        }
        Upstream::Tunnel(stream, place) => {
            measure(path, entry);
            let credentials = Some(Arc::clone(place.credentials()));
            let terms = Terms::of(&path.store.load(), connection, guard, credentials);
            let carried = pin!(tunnel::carry::carry(
                &downstream,
                stream,
                connection,
                Side::ToUpstream,
                None
            ));
            attend(path, entry, &terms, carried, || upstream::abort(&downstream)).await;
        }
    }
}

/// Counts a connection whose bytes are carried as they are; where requests are led one by one, these are counted.
pub(super) fn measure(path: &DataPath, entry: &Entry) {
    let connection = entry.connection();
    connection.measure(path.meters.tcp(&path.store.load(), &Ends::from(&**connection)));
}

/// Records the life of a connection whose bytes are carried by `carried`; `cut` breaks it off, when the agent's time to
/// drain is over or the `terms` do not hold any more. Taken pinned: by value, every connection would hold it twice.
pub(super) async fn attend(
    path: &DataPath,
    entry: &Entry,
    terms: &Terms<'_>,
    carried: Pin<&mut impl Future<Output = Ending>>,
    cut: impl FnOnce(),
) {
    path.registry.count_accepted();
    let connection = entry.connection();
    connection.set_state(ConnectionState::Open);
    record(path, entry, FlowKind::Opened, None, None);
    let started = Instant::now();
    let broken = tokio::select! {
        ending = carried => match ending {
            Ending::Closed => None,
            // The tunnel of a peer that is not believed any more goes as well, perhaps first.
            Ending::Broken(error) => match terms.check(&path.store.load(), path.certificates.as_deref()) {
                Ok(()) => Some(Cause::of(BROKEN, &error)),
                Err(cause) => Some(no_longer_permitted(entry, cause)),
            },
        },
        () = path.cut.cancelled() => {
            cut();
            Some(Cause::new(DRAINED, "cut: the agent's time to drain was over"))
        }
        cause = terms.broken(path) => {
            cut();
            Some(no_longer_permitted(entry, cause))
        }
    };
    let duration = Some(started.elapsed());
    match broken {
        None => record(path, entry, FlowKind::Closed, duration, None),
        Some(cause) => {
            path.registry.count_failed();
            record(path, entry, FlowKind::Reset, duration, Some(cause));
        }
    }
}

/// Says that an open connection ends because its terms do not hold any more.
fn no_longer_permitted(entry: &Entry, cause: Cause) -> Cause {
    let connection = entry.connection();
    connection.set_unauthorized();
    tracing::info!(
        workload = %connection.workload.key,
        client = %connection.client,
        destination = %connection.original_destination,
        peer = connection.peer().map(tracing::field::display),
        reason = %cause,
        "an open connection is not permitted any more"
    );
    cause
}

/// Records, and logs, a connection that leads nowhere or must not be.
pub(super) fn denied(path: &DataPath, entry: &Entry, cause: Cause) {
    if let Some(left_out) = path.told.admit(Instant::now()) {
        let connection = entry.connection();
        tracing::warn!(
            client = %connection.client,
            workload = %connection.workload.key,
            dialled = %connection.original_destination,
            error = %cause,
            left_out,
            "a connection is refused"
        );
    }
    refused(path, entry, FlowKind::Refused, cause);
}

/// Records a connection for which its workload has no place. Whoever keeps the places has logged it.
pub(super) fn full(path: &DataPath, entry: &Entry, full: &Full) {
    refused(path, entry, FlowKind::Refused, Cause::of(full.word(), full));
}

pub(super) fn refused(path: &DataPath, entry: &Entry, kind: FlowKind, cause: Cause) {
    path.registry.count_refused();
    record(path, entry, kind, None, Some(cause));
}

/// The client did not wait.
pub(super) fn abandoned(text: impl Into<String>) -> Cause {
    Cause::new("abandoned", text)
}

pub(super) fn record(
    path: &DataPath,
    entry: &Entry,
    kind: FlowKind,
    duration: Option<Duration>,
    cause: Option<Cause>,
) {
    let subject = FlowSubject::Connection(Arc::clone(entry.connection()));
    path.flows.push(Flow {
        time: SystemTime::now(),
        kind,
        subject,
        duration,
        cause,
    });
}

pub(super) fn kind_of(refusal: Refusal) -> FlowKind {
    match refusal {
        Refusal::Refused => FlowKind::Refused,
        Refusal::HostUnreachable | Refusal::NetworkUnreachable => FlowKind::Unreachable,
        Refusal::Silent => FlowKind::TimedOut,
    }
}
