//! What is told of a request that is over: to its series always; as a flow and a line of the log when the mesh answered it
//! itself, or it broke off.
//!
//! Invariant: what clients cause fills neither the memory of flows nor the log: beyond so many a second, requests are only
//! counted.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Instant, SystemTime},
};

use crate::{
    http::{fault::Cause as Why, trail::Trail},
    listener::{measure::Ends, serve::DataPath},
    telemetry::{Cause, Connection, Flow, FlowKind, FlowSubject, RequestEnds, RequestFlow, escaped},
};

/// Between whom the requests of one connection go, all of them to one destination.
#[derive(Default)]
pub(super) struct Parties {
    /// By this version of the snapshot.
    known: Mutex<Option<(u64, Arc<RequestEnds>)>>,
}

impl Parties {
    /// On this connection.
    pub(super) fn of(&self, path: &DataPath, connection: &Connection) -> Arc<RequestEnds> {
        let snapshot = path.store.load();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((version, ends)) = &*known
            && *version == snapshot.version()
        {
            return Arc::clone(ends);
        }
        let ends = Ends {
            direction: connection.direction,
            workload: &connection.workload,
            client: connection.client_workload.as_ref(),
            destination: &connection.destination,
            peer: connection.peer(),
        };
        let ends = path.meters.requests(&snapshot, &ends, connection.upstream());
        *known = Some((snapshot.version(), Arc::clone(&ends)));
        ends
    }
}

/// Counts a request between these ends, and tells of it if it failed.
pub(super) fn over(path: &DataPath, connection: Option<&Arc<Connection>>, trail: &Trail, ends: &RequestEnds) {
    let (outcome, spent) = (trail.outcome(), trail.spent());
    ends.meter(trail.protocol()).observe(outcome, &spent);
    let (kind, cause, policy) = match (trail.fault(), trail.cut()) {
        (Some(fault), _) => {
            let judged = fault.judgement();
            let kind = match fault.cause {
                Why::Denied | Why::Unauthenticated => FlowKind::Denied,
                _ => FlowKind::Failed,
            };
            let policy = judged.and_then(|judged| judged.policy.clone());
            (kind, Cause::new(fault.word(), fault.reason.clone()), policy)
        }
        (None, Some(why)) => {
            let text = format!("the answer broke off: {why}");
            (FlowKind::Failed, Cause::new("answer-broke-off", text), None)
        }
        (None, None) => return,
    };
    let Some(connection) = connection else {
        return;
    };
    let metrics = path.meters.metrics();
    metrics.count_failed_request(ends.direction, cause.word, &connection.workload.key);
    if path.told_requests.admit(Instant::now()).is_none() {
        return;
    }
    let flow = RequestFlow {
        direction: ends.direction,
        destination: ends.destination.clone(),
        upstream: ends.upstream,
        peer: ends.peer.clone(),
        method: trail
            .method()
            .map_or_else(String::new, |method| escaped(method.as_str().as_bytes())),
        path: escaped(trail.path().as_bytes()),
        host: escaped(trail.host()),
        word: cause.word,
        policy,
        outcome,
        spent,
    };
    log(path, connection, &flow, &cause);
    path.flows.push(Flow {
        time: SystemTime::now(),
        kind,
        duration: Some(flow.spent.duration),
        subject: FlowSubject::Http(Arc::clone(connection), Box::new(flow)),
        cause: Some(cause),
    });
}

fn log(path: &DataPath, connection: &Connection, request: &RequestFlow, cause: &Cause) {
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
