//! What is told of a request that is over: to its series always; as a flow and a line of the log when the mesh answered it
//! itself, or it broke off.
//!
//! Invariant: what clients cause fills neither the memory of flows nor the log: beyond so many a second, requests are only
//! counted.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Instant, SystemTime},
};

use mesh_common::model::{ObjectKey, Workload};

use super::addressed::Services;
use crate::{
    http::{fault::Cause as Why, trail::Trail},
    listener::data_path::DataPath,
    state::Snapshot,
    telemetry::{Cause, Connection, Flow, FlowKind, FlowSubject, RequestEnds, RequestFlow, escaped},
};

/// Between whom the requests of one connection to a workload go, by one version of the snapshot.
#[derive(Default)]
pub(super) struct KnownEnds(Mutex<Known>);

#[derive(Default)]
struct Known {
    /// None before the first request.
    version: Option<u64>,
    /// Those that lead to the port.
    services: Services,
    /// For each of them, and for requests that are for none.
    ends: Vec<(Option<ObjectKey>, Arc<RequestEnds>)>,
}

impl KnownEnds {
    /// Those of a request that names `host`, to `port` of `workload`; `find` is asked once for each service and version.
    pub(super) fn now(
        &self,
        path: &DataPath,
        (workload, port): (&Workload, u16),
        host: &[u8],
        find: impl FnOnce(&Snapshot, Option<&ObjectKey>) -> Arc<RequestEnds>,
    ) -> Arc<RequestEnds> {
        let snapshot = path.store.load();
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.version != Some(snapshot.version()) {
            *known = Known {
                version: Some(snapshot.version()),
                services: Services::of(&snapshot, workload, port),
                ends: Vec::new(),
            };
        }
        let service = known.services.named(host);
        if let Some((_, ends)) = known.ends.iter().find(|(other, _)| other.as_ref() == service) {
            return Arc::clone(ends);
        }
        let ends = find(&snapshot, service);
        let service = service.cloned();
        known.ends.push((service, Arc::clone(&ends)));
        ends
    }
}

/// Counts a request between these ends, and tells of it if it failed, or if each is told.
pub(super) fn over(path: &DataPath, connection: Option<&Arc<Connection>>, trail: &Trail, ends: &RequestEnds) {
    let (outcome, spent) = (trail.outcome(), trail.spent());
    ends.meter(trail.protocol()).observe(outcome, &spent);
    let failure = Failure::of(trail);
    if failure.is_none() && path.access.is_none() {
        return;
    }
    let Some(connection) = connection else {
        return;
    };
    let flow = || RequestFlow {
        direction: ends.direction,
        destination: ends.destination.clone(),
        upstream: ends.upstream,
        peer: ends.peer.clone(),
        method: trail
            .method()
            .map_or_else(String::new, |method| escaped(method.as_str().as_bytes())),
        path: escaped(trail.path().as_bytes()),
        host: escaped(trail.host()),
        word: failure.as_ref().map_or("", |failure| failure.cause.word),
        policy: failure.as_ref().and_then(|failure| failure.policy.clone()),
        outcome,
        spent,
    };
    if let Some(access) = &path.access {
        access.tell(connection, trail.protocol(), &flow());
    }
    let Some(Failure { kind, cause, .. }) = &failure else {
        return;
    };
    let metrics = path.meters.metrics();
    metrics.count_failed_request(ends.direction, cause.word, &connection.workload.key);
    if path.told_requests.admit(Instant::now()).is_none() {
        return;
    }
    let flow = flow();
    log(path, connection, &flow, cause);
    path.flows.push(Flow {
        time: SystemTime::now(),
        kind: *kind,
        duration: Some(flow.spent.duration),
        subject: FlowSubject::Http(Arc::clone(connection), Box::new(flow)),
        cause: Some(cause.clone()),
    });
}

/// Why a request was not served.
struct Failure {
    kind: FlowKind,
    cause: Cause,
    policy: Option<ObjectKey>,
}

impl Failure {
    fn of(trail: &Trail) -> Option<Self> {
        if let Some(fault) = trail.fault() {
            let judged = fault.judgement();
            return Some(Self {
                kind: match fault.cause {
                    Why::Denied | Why::Unauthenticated => FlowKind::Denied,
                    _ => FlowKind::Failed,
                },
                cause: Cause::new(fault.word(), fault.reason.clone()),
                policy: judged.and_then(|judged| judged.policy.clone()),
            });
        }
        trail.cut().map(|why| Self {
            kind: FlowKind::Failed,
            cause: Cause::new("answer-broke-off", format!("the answer broke off: {why}")),
            policy: None,
        })
    }
}

fn log(path: &DataPath, connection: &Connection, request: &RequestFlow, cause: &Cause) {
    // What is beyond a limit was told by whoever keeps it.
    if cause.word == Why::RequestLimit.label() {
        return;
    }
    let Some(left_out) = path.told.admit(Instant::now()) else {
        return;
    };
    tracing::warn!(
        client = %connection.client,
        workload = %connection.workload.key,
        method = request.method,
        host = request.host,
        path = request.path,
        status = request.outcome.code,
        grpc_status = request.outcome.grpc,
        policy = request.policy.as_ref().map(tracing::field::display),
        error = %cause,
        left_out,
        "a request is not served"
    );
}
