//! Objects for unit tests of any floor: a test then writes only what matters to it.

use mesh_common::model::{Labels, ObjectKey, TunnelProtocol, Workload};

/// A ready workload on node `a`, whose service account has its name. It has no addresses, ports or labels.
pub(crate) fn workload(namespace: &str, name: &str) -> Workload {
    Workload {
        key: ObjectKey::new(namespace, name),
        labels: Labels::default(),
        service_account: name.to_owned(),
        node: "a".to_owned(),
        addresses: Vec::new(),
        ports: Vec::new(),
        ready: true,
        policies: Vec::new(),
        tunnel: TunnelProtocol::default(),
        locate: None,
    }
}
