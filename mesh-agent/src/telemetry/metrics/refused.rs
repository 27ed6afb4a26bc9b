//! Connections that did not come to be, open ones that were not permitted any more, and requests that the mesh answered
//! itself, by reason.

use std::sync::Arc;

use mesh_common::model::ObjectKey;
use prometheus_client::encoding::EncodeLabelSet;

use super::{
    BROKEN, DRAINED,
    series::{Labels, OVERFLOW},
};
use crate::telemetry::{Direction, Flow, FlowKind, FlowSubject};

/// Whose connections, which way, why not.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct RefusedLabels {
    direction: &'static str,
    reason: &'static str,
    workload: Arc<str>,
    workload_namespace: Arc<str>,
}

impl RefusedLabels {
    /// The labels of a flow that tells of a connection refused, unreachable, unanswered, given up or dropped, or
    /// broken off by the agent because it is not permitted any more.
    pub(super) fn of(flow: &Flow) -> Option<Self> {
        let word = flow.cause.as_ref().map_or("unknown", |cause| cause.word);
        match flow.kind {
            FlowKind::Refused
            | FlowKind::Unreachable
            | FlowKind::TimedOut
            | FlowKind::Abandoned
            | FlowKind::Dropped => {}
            FlowKind::Reset if !matches!(word, BROKEN | DRAINED) => {}
            // Requests are counted by whoever tells of them: not each becomes a flow.
            FlowKind::Denied | FlowKind::Failed => return None,
            FlowKind::Opened | FlowKind::Closed | FlowKind::Reset => return None,
        }
        let (direction, workload) = match &flow.subject {
            FlowSubject::Connection(connection) => (connection.direction, Some(&connection.workload)),
            FlowSubject::Http(connection, request) => (request.direction, Some(&connection.workload)),
            FlowSubject::Request {
                workload, direction, ..
            } => (*direction, workload.as_ref()),
        };
        Some(Self::new(direction, word, workload.map(|workload| &workload.key)))
    }

    /// The labels of what failed for `reason` on the side of `workload`.
    pub(super) fn new(direction: Direction, reason: &'static str, workload: Option<&ObjectKey>) -> Self {
        let unknown = || Arc::from("unknown");
        Self {
            direction: match direction {
                Direction::Outbound => "outbound",
                Direction::Inbound => "inbound",
                Direction::Local => "local",
            },
            reason,
            workload: workload.map_or_else(unknown, |key| Arc::clone(&key.name)),
            workload_namespace: workload.map_or_else(unknown, |key| Arc::clone(&key.namespace)),
        }
    }
}

impl Labels for RefusedLabels {
    fn overflow() -> Self {
        Self {
            direction: OVERFLOW,
            reason: OVERFLOW,
            workload: OVERFLOW.into(),
            workload_namespace: OVERFLOW.into(),
        }
    }
}
