//! Which connections and flows a caller asked for.
//!
//! The server hands every connection and every flow through here. Invariant: an empty field of a filter lets
//! everything pass, and several fields must all agree.

use std::net::SocketAddr;

use super::proto::{Direction, Flow, FlowKind, Path, PathFilter, WatchFlowsRequest};

impl PathFilter {
    /// Whether a way passes. One without a known way passes only the empty filter.
    pub(super) fn lets(&self, path: Option<&Path>) -> bool {
        let Some(path) = path else {
            return *self == Self::default();
        };
        let to = path.destination.as_ref();
        let workloads = [path.workload.as_str(), path.client_workload.as_str()];
        let workload = |key: &str| key.contains(&self.workload);
        let direction = Direction::try_from(self.direction).unwrap_or_default();
        (workloads.into_iter().any(workload) || to.is_some_and(|to| workload(&to.workload)))
            && (direction == Direction::Unspecified || path.direction == self.direction)
            && (self.service.is_empty() || to.is_some_and(|to| to.service.contains(&self.service)))
            && (self.port == 0 || port_of(&path.original_destination) == Some(self.port))
    }
}

impl WatchFlowsRequest {
    /// Whether a flow passes.
    pub(super) fn lets(&self, flow: &Flow) -> bool {
        let kind = self.kind == i32::from(FlowKind::Unspecified) || self.kind == flow.kind;
        kind && self
            .filter
            .as_ref()
            .is_none_or(|filter| filter.lets(flow.path.as_ref()))
    }
}

fn port_of(address: &str) -> Option<u32> {
    address
        .parse::<SocketAddr>()
        .ok()
        .map(|address| address.port().into())
}
