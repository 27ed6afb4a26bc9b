//! What is counted for Prometheus.
//!
//! The data path and the agent count into [`Metrics`], the metrics endpoint asks it for [`Metrics::text`]. Invariants:
//! memory does not grow beyond a number of series, whatever peers do; adding to a counter takes no lock once its cell
//! is known.

mod refused;
mod series;
mod view;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use prometheus_client::{encoding::text, registry::Registry};

use super::Flow;
use refused::RefusedLabels;
use series::Series;
use view::Counters;

/// Series of refused connections at most: reasons times workloads of a node.
const REFUSED_MAX: usize = 4096;

/// Everything that is counted.
pub struct Metrics {
    registry: Registry,
    refused: Arc<Series<RefusedLabels, AtomicU64>>,
}

impl Metrics {
    /// Nothing counted yet.
    pub fn new() -> Self {
        let mut registry = Registry::default();
        let refused = Arc::new(Series::new(REFUSED_MAX));
        registry.register(
            "nodemesh_connections_refused",
            "Connections that did not come to be, by reason",
            Counters::new(&refused, |cell: &AtomicU64| cell),
        );
        Self { registry, refused }
    }

    /// Counts what became of a connection.
    pub(super) fn count_flow(&self, flow: &Flow) {
        if let Some(labels) = RefusedLabels::of(flow) {
            self.refused.cell(&labels).fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Everything in the OpenMetrics text format, version 1.0.0.
    pub fn text(&self, now: Instant) -> Result<String, fmt::Error> {
        let mut text = String::new();
        text::encode(&mut text, &self.registry)?;
        self.refused.sweep(now);
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
