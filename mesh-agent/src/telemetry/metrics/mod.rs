//! What is counted for Prometheus.
//!
//! The data path and the agent count into [`Metrics`], the metrics endpoint asks it for [`Metrics::text`]. Invariants:
//! memory does not grow beyond a number of series, whatever peers do; adding to a counter takes no lock once its cell
//! is known.

mod histogram;
mod labels;
mod node;
mod policy;
mod refused;
mod request;
mod series;
mod tcp;
mod view;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use prometheus_client::{encoding::text, registry};

use mesh_common::model::ObjectKey;

use super::{Direction, Flow, FlowKind};
pub use labels::{Party, Protocol, Reporter, Security, Traffic};
use node::Node;
pub use node::{CertificateFacts, DirectFacts, NodeFacts, ShareFacts};
use policy::{MatchLabels, RehearsalLabels};
pub use request::{Outcome, RequestMeter, Spent};
pub use tcp::{Flags, TcpMeter};

use refused::RefusedLabels;
use series::Series;
use view::Counters;

/// The word of a connection that one of its ends, or the network, broke off.
pub const BROKEN: &str = "broken";
/// The word of one that was cut because the agent ended.
pub const DRAINED: &str = "drained";

/// Series of refused connections at most: reasons times workloads of a node.
const REFUSED_MAX: usize = 4096;
/// Series of what policies that decide nothing would have said.
const REHEARSED_MAX: usize = 1024;

/// Everything that is counted.
pub struct Metrics {
    registry: registry::Registry,
    refused: Arc<Series<RefusedLabels, AtomicU64>>,
    revoked: Arc<Series<RefusedLabels, AtomicU64>>,
    failed: Arc<Series<RefusedLabels, AtomicU64>>,
    rehearsed: Arc<Series<RehearsalLabels, AtomicU64>>,
    matched: Arc<Series<MatchLabels, AtomicU64>>,
    tcp: Arc<tcp::TcpSeries>,
    requests: Arc<request::RequestSeries>,
    node: Node,
}

impl Metrics {
    /// Nothing counted yet.
    pub fn new() -> Self {
        let mut registry = registry::Registry::default();
        let refused = Arc::new(Series::new(REFUSED_MAX));
        registry.register(
            "nodemesh_connections_refused",
            "Connections that did not come to be, by reason",
            Counters::new(&refused, |cell: &AtomicU64| cell),
        );
        let revoked = Arc::new(Series::new(REFUSED_MAX));
        registry.register(
            "nodemesh_connections_revoked",
            "Open connections that ended because they were not permitted any more, by reason",
            Counters::new(&revoked, |cell: &AtomicU64| cell),
        );
        let failed = Arc::new(Series::new(REFUSED_MAX));
        registry.register(
            "nodemesh_requests_failed",
            "Requests that the mesh answered itself or broke off, by reason",
            Counters::new(&failed, |cell: &AtomicU64| cell),
        );
        let rehearsed = Arc::new(Series::new(REHEARSED_MAX));
        registry.register(
            "nodemesh_dry_run_decisions",
            "Decisions as they would be if the policies in dry run were enforced, beside those in force",
            Counters::new(&rehearsed, |cell: &AtomicU64| cell),
        );
        let matched = Arc::new(Series::new(REHEARSED_MAX));
        registry.register(
            "nodemesh_policy_reports",
            "Matches with policies that decide nothing: AUDIT, and those in dry run",
            Counters::new(&matched, |cell: &AtomicU64| cell),
        );
        let tcp = tcp::register(&mut registry);
        let requests = request::register(&mut registry);
        let node = Node::default();
        registry.register_collector(Box::new(node.clone()));
        Self {
            registry,
            refused,
            revoked,
            failed,
            rehearsed,
            matched,
            tcp,
            requests,
            node,
        }
    }

    /// Counts what became of a connection.
    pub(super) fn count_flow(&self, flow: &Flow) {
        let Some(labels) = RefusedLabels::of(flow) else {
            return;
        };
        let series = match flow.kind {
            FlowKind::Reset => &self.revoked,
            _ => &self.refused,
        };
        series.cell(&labels).fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a request that the mesh answered itself, or broke off, on the side of `workload`.
    pub fn count_failed_request(&self, direction: Direction, reason: &'static str, workload: &ObjectKey) {
        let labels = RefusedLabels::new(direction, reason, Some(workload));
        self.failed.cell(&labels).fetch_add(1, Ordering::Relaxed);
    }

    /// Counts what would have been decided about a connection to `workload` with the policies in dry run.
    pub fn count_rehearsal(&self, workload: &ObjectKey, verdict: &'static str, enforced: &'static str) {
        let labels = RehearsalLabels::new(workload, verdict, enforced);
        self.rehearsed.cell(&labels).fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a match with a policy that decides nothing.
    pub fn count_report(&self, policy: &ObjectKey) {
        let labels = MatchLabels {
            policy: Arc::clone(&policy.name),
            policy_namespace: Arc::clone(&policy.namespace),
        };
        self.matched.cell(&labels).fetch_add(1, Ordering::Relaxed);
    }

    /// Everything in the OpenMetrics text format, version 1.0.0.
    pub fn text(&self, now: Instant, node: NodeFacts) -> Result<String, fmt::Error> {
        self.node.set(node);
        let mut text = String::new();
        text::encode(&mut text, &self.registry)?;
        self.refused.sweep(now);
        self.revoked.sweep(now);
        self.failed.sweep(now);
        self.rehearsed.sweep(now);
        self.matched.sweep(now);
        self.tcp.sweep(now);
        self.requests.sweep(now);
        Ok(text)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

#[cfg(test)]
mod tests;
