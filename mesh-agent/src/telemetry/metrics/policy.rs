//! What policies that decide nothing would have said.

use std::sync::Arc;

use mesh_common::model::ObjectKey;
use prometheus_client::encoding::EncodeLabelSet;

use super::series::{Labels, OVERFLOW};

/// A decision with the policies in dry run, beside the one in force.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct RehearsalLabels {
    pub(super) workload: Arc<str>,
    pub(super) workload_namespace: Arc<str>,
    pub(super) verdict: &'static str,
    pub(super) enforced: &'static str,
}

/// A policy of AUDIT, or in dry run, that matched.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct MatchLabels {
    pub(super) policy: Arc<str>,
    pub(super) policy_namespace: Arc<str>,
}

impl RehearsalLabels {
    pub(super) fn new(workload: &ObjectKey, verdict: &'static str, enforced: &'static str) -> Self {
        Self {
            workload: Arc::clone(&workload.name),
            workload_namespace: Arc::clone(&workload.namespace),
            verdict,
            enforced,
        }
    }
}

impl Labels for RehearsalLabels {
    fn overflow() -> Self {
        Self {
            workload: OVERFLOW.into(),
            workload_namespace: OVERFLOW.into(),
            verdict: OVERFLOW,
            enforced: OVERFLOW,
        }
    }
}

impl Labels for MatchLabels {
    fn overflow() -> Self {
        Self {
            policy: OVERFLOW.into(),
            policy_namespace: OVERFLOW.into(),
        }
    }
}
