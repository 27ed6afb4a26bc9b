//! Copies of requests for the mirrors of routes, by what became of them.

use std::sync::{Arc, atomic::Ordering};

use mesh_common::model::ObjectKey;
use prometheus_client::encoding::EncodeLabelSet;

use super::{
    Metrics,
    series::{Labels, OVERFLOW},
};

/// What became of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyEnd {
    /// Its server answered it in full, whatever the answer.
    Answered,
    /// It got no answer, or half of one.
    Failed,
    /// Its server took too long for the answer.
    GivenUp,
    /// It was not sent: there was no endpoint for it, or too many were on their way.
    LeftOut,
}

/// Whose copies, and how they ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct CopyLabels {
    outcome: &'static str,
    workload: Arc<str>,
    workload_namespace: Arc<str>,
}

impl Metrics {
    /// Counts a copy of a request of `workload`.
    pub fn count_copy(&self, end: CopyEnd, workload: &ObjectKey) {
        let labels = CopyLabels {
            outcome: end.word(),
            workload: Arc::clone(&workload.name),
            workload_namespace: Arc::clone(&workload.namespace),
        };
        self.copies.cell(&labels).fetch_add(1, Ordering::Relaxed);
    }
}

impl CopyEnd {
    fn word(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Failed => "failed",
            Self::GivenUp => "given-up",
            Self::LeftOut => "left-out",
        }
    }
}

impl Labels for CopyLabels {
    fn overflow() -> Self {
        Self {
            outcome: OVERFLOW,
            workload: OVERFLOW.into(),
            workload_namespace: OVERFLOW.into(),
        }
    }
}
