//! What is known of the node when somebody asks: numbers that are not counted but found out.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use mesh_common::model::ObjectKey;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, NoLabelSet},
    metrics::MetricType,
};

use crate::telemetry::Budget;

/// The node at one moment.
#[derive(Clone, Debug, Default)]
pub struct NodeFacts {
    /// Workloads of this node by how they are enrolled.
    pub pods: Vec<(&'static str, usize)>,
    /// Open connections.
    pub connections: usize,
    /// What workloads take up, and were denied.
    pub shares: Vec<ShareFacts>,
    /// Objects of the configuration that are not in force as they are written.
    pub rejected: usize,
    /// The certificate of each service account, where there has been one.
    pub certificates: Vec<CertificateFacts>,
    /// The end of what signs: the first of roots and intermediates that are in use.
    pub authority_until: Option<SystemTime>,
    /// Connections that go directly; nothing when none are let go.
    pub direct: Option<DirectFacts>,
    /// Whether the roots could not be refreshed the last time; nothing without an authority.
    pub roots_failing: Option<bool>,
}

/// Connections between pods of this node that the agent does not carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectFacts {
    /// Those that are open.
    pub connections: usize,
    /// How many addresses may be dialled directly, counted for each pod.
    pub ways: usize,
    /// Connections that were carried for want of room, by what there were too many of.
    pub carried: [(&'static str, u64); 2],
}

/// A workload's share of the agent.
#[derive(Clone, Debug)]
pub struct ShareFacts {
    /// Whose.
    pub workload: ObjectKey,
    /// What its connections took of the data workers.
    pub worker_time: Duration,
    /// What it wanted more of than it may have, and how often.
    pub limited: Vec<(&'static str, u64)>,
}

/// A service account's certificate.
#[derive(Clone, Debug)]
pub struct CertificateFacts {
    /// `namespace/name`
    pub account: String,
    /// Its last moment.
    pub until: Option<SystemTime>,
    /// Renewals that failed.
    pub failures: u64,
}

impl From<&Budget> for ShareFacts {
    fn from(budget: &Budget) -> Self {
        let limited = budget.limited().into_iter();
        Self {
            workload: budget.workload().clone(),
            worker_time: budget.worker_time(),
            limited: limited
                .map(|limited| (limited.resource.word(), limited.times))
                .collect(),
        }
    }
}

/// The facts that are told the next time.
#[derive(Clone, Default)]
pub(super) struct Node(Arc<Mutex<NodeFacts>>);

impl Node {
    pub(super) fn set(&self, facts: NodeFacts) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = facts;
    }
}

impl Collector for Node {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let facts = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut build =
            encoder.encode_descriptor("nodemesh_build", "The agent's version", None, MetricType::Info)?;
        build.encode_info(&[("version", env!("CARGO_PKG_VERSION"))])?;

        let mut pods = encoder.encode_descriptor(
            "nodemesh_pods",
            "Workloads of this node, by whether their traffic is captured",
            None,
            MetricType::Gauge,
        )?;
        for (state, count) in &facts.pods {
            pods.encode_family(&[("state", *state)])?
                .encode_gauge(&(*count as u64))?;
        }
        let mut gauge = |name: &str, help: &str, value: f64| {
            encoder
                .encode_descriptor(name, help, None, MetricType::Gauge)?
                .encode_gauge(&value)
        };
        gauge(
            "nodemesh_connections",
            "Open connections",
            facts.connections as f64,
        )?;
        gauge(
            "nodemesh_config_rejected_objects",
            "Objects that are not in force as they are written",
            facts.rejected as f64,
        )?;
        if let Some(direct) = facts.direct {
            gauge(
                "nodemesh_direct_connections",
                "Open connections that go directly",
                direct.connections as f64,
            )?;
            gauge(
                "nodemesh_direct_ways",
                "Addresses that may be dialled directly, counted for each pod",
                direct.ways as f64,
            )?;
        }
        if let Some(failing) = facts.roots_failing {
            gauge(
                "nodemesh_roots_refresh_failing",
                "1 while the roots cannot be asked for",
                f64::from(u8::from(failing)),
            )?;
        }
        if let Some(until) = facts.authority_until {
            gauge(
                "nodemesh_authority_expiry_seconds",
                "The end of the first root or intermediate in use, in Unix time",
                unix(until),
            )?;
        }
        if let Some(direct) = facts.direct {
            let mut carried = encoder.encode_descriptor(
                "nodemesh_direct_carried",
                "Connections that could have gone directly and were carried for want of room",
                None,
                MetricType::Counter,
            )?;
            for (full, count) in direct.carried {
                carried
                    .encode_family(&[("full", full)])?
                    .encode_counter::<NoLabelSet, u64, f64>(&count, None)?;
            }
        }
        let labels = |share: &ShareFacts| {
            [
                ("workload", Arc::clone(&share.workload.name)),
                ("workload_namespace", Arc::clone(&share.workload.namespace)),
            ]
        };
        let mut time = encoder.encode_descriptor(
            "nodemesh_workload_worker_seconds",
            "Time of data workers that the connections of a workload took",
            None,
            MetricType::Counter,
        )?;
        for share in &facts.shares {
            time.encode_family(&labels(share))?
                .encode_counter::<NoLabelSet, f64, f64>(&share.worker_time.as_secs_f64(), None)?;
        }
        let mut limited = encoder.encode_descriptor(
            "nodemesh_workload_limited",
            "How often a workload wanted more of something than it may have",
            None,
            MetricType::Counter,
        )?;
        for share in &facts.shares {
            let [name, namespace] = labels(share);
            for (resource, times) in &share.limited {
                let labels = [
                    name.clone(),
                    namespace.clone(),
                    ("resource", Arc::from(*resource)),
                ];
                limited
                    .encode_family(&labels)?
                    .encode_counter::<NoLabelSet, u64, f64>(times, None)?;
            }
        }
        let mut expiry = encoder.encode_descriptor(
            "nodemesh_certificate_expiry_seconds",
            "The last moment of a service account's certificate, in Unix time",
            None,
            MetricType::Gauge,
        )?;
        for certificate in &facts.certificates {
            if let Some(until) = certificate.until {
                let labels = [("service_account", certificate.account.as_str())];
                expiry.encode_family(&labels)?.encode_gauge(&unix(until))?;
            }
        }
        let mut failures = encoder.encode_descriptor(
            "nodemesh_certificate_renewal_failures",
            "Requests for a service account's certificate that failed",
            None,
            MetricType::Counter,
        )?;
        for certificate in &facts.certificates {
            let labels = [("service_account", certificate.account.as_str())];
            failures
                .encode_family(&labels)?
                .encode_counter::<NoLabelSet, u64, f64>(&certificate.failures, None)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Node")
    }
}

fn unix(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
