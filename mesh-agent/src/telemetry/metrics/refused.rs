//! Connections that did not come to be, and open ones that were not permitted any more, by reason.

use std::sync::Arc;

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
            FlowKind::Opened | FlowKind::Closed | FlowKind::Reset => return None,
        }
        let (direction, workload) = match &flow.subject {
            FlowSubject::Connection(connection) => (connection.direction, Some(&connection.workload)),
            FlowSubject::Request {
                workload, direction, ..
            } => (*direction, workload.as_ref()),
        };
        let key = workload.map(|workload| &workload.key);
        let unknown = || Arc::from("unknown");
        Some(Self {
            direction: match direction {
                Direction::Outbound => "outbound",
                Direction::Inbound => "inbound",
                Direction::Local => "local",
            },
            reason: word,
            workload: key.map_or_else(unknown, |key| Arc::clone(&key.name)),
            workload_namespace: key.map_or_else(unknown, |key| Arc::clone(&key.namespace)),
        })
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
