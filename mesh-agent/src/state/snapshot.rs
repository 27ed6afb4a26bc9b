//! One consistent view of the mesh, for reading.

use std::net::IpAddr;
use std::sync::Arc;

use imbl::{HashMap, OrdMap, OrdSet};
use mesh_common::model::{ObjectKey, PeerAuthentication};

use super::routes::RouteId;
use super::selectors::Selectors;
use super::{ServiceEntry, WorkloadEntry};
use crate::policy::{CompiledPolicy, ROOT_NAMESPACE, jwt::CompiledAuthentication};
use crate::routing::{Attached, CompiledRoute};

/// The mesh at one moment. Cheap to clone; clones share everything.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub(super) version: u64,
    pub(super) workloads: OrdMap<ObjectKey, Arc<WorkloadEntry>>,
    pub(super) services: OrdMap<ObjectKey, Arc<ServiceEntry>>,
    pub(super) addresses: HashMap<IpAddr, Holder>,
    /// The workloads of each node. Nodes without any are not in it.
    pub(super) nodes: HashMap<Arc<str>, OrdMap<ObjectKey, Arc<WorkloadEntry>>>,
    /// The services that a workload with a label may be selected by.
    pub(super) selectors: Selectors,
    pub(super) authorization: OrdMap<ObjectKey, Arc<CompiledPolicy>>,
    pub(super) peer_authentications: OrdMap<ObjectKey, Arc<PeerAuthentication>>,
    pub(super) request_authentications: OrdMap<ObjectKey, Arc<CompiledAuthentication>>,
    /// The version at which the policies of a namespace, or the services that they are bound to, last changed.
    pub(super) policies_changed: HashMap<Arc<str>, u64>,
    pub(super) root_namespace: Arc<str>,
    pub(super) routes: OrdMap<RouteId, Arc<CompiledRoute>>,
    /// The routes that name a service as their parent, whether it is there or not.
    pub(super) routes_to: HashMap<ObjectKey, OrdSet<RouteId>>,
    /// Those that are in force. Services without any are not in it.
    pub(super) attached: HashMap<ObjectKey, Arc<Attached>>,
}

/// Whose address it is.
#[derive(Clone, Debug)]
pub(super) enum Holder {
    Workload(Arc<WorkloadEntry>),
    Service(Arc<ServiceEntry>),
}

impl Snapshot {
    /// An empty mesh, in which the policies of one namespace concern every other.
    pub(super) fn new(root_namespace: &str) -> Self {
        Self {
            version: 0,
            workloads: OrdMap::new(),
            services: OrdMap::new(),
            addresses: HashMap::new(),
            nodes: HashMap::new(),
            selectors: Selectors::default(),
            authorization: OrdMap::new(),
            peer_authentications: OrdMap::new(),
            request_authentications: OrdMap::new(),
            policies_changed: HashMap::new(),
            root_namespace: root_namespace.into(),
            routes: OrdMap::new(),
            routes_to: HashMap::new(),
            attached: HashMap::new(),
        }
    }

    /// How many updates led here; each publishes a greater number.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The workload with this key.
    pub fn workload(&self, key: &ObjectKey) -> Option<&Arc<WorkloadEntry>> {
        self.workloads.get(key)
    }

    /// The workload that has this address.
    pub fn workload_at(&self, ip: IpAddr) -> Option<&Arc<WorkloadEntry>> {
        match self.holder(ip.to_canonical()) {
            Some(Holder::Workload(entry)) => Some(entry),
            Some(Holder::Service(_)) | None => None,
        }
    }

    /// The key of the workload that has this address.
    pub fn workload_key_at(&self, ip: IpAddr) -> Option<&ObjectKey> {
        self.workload_at(ip).map(|entry| &entry.workload.key)
    }

    /// The service with this key.
    pub fn service(&self, key: &ObjectKey) -> Option<&Arc<ServiceEntry>> {
        self.services.get(key)
    }

    /// All workloads in the order of their keys.
    pub fn workloads(&self) -> impl Iterator<Item = &Arc<WorkloadEntry>> {
        self.workloads.values()
    }

    /// The workloads of one node in the order of their keys.
    pub fn workloads_on(&self, node: &str) -> impl Iterator<Item = &Arc<WorkloadEntry>> {
        self.nodes.get(node).into_iter().flat_map(OrdMap::values)
    }

    /// How many workloads there are.
    pub fn workload_count(&self) -> usize {
        self.workloads.len()
    }

    /// How many services there are.
    pub fn service_count(&self) -> usize {
        self.services.len()
    }

    /// All services in the order of their keys.
    pub fn services(&self) -> impl Iterator<Item = &Arc<ServiceEntry>> {
        self.services.values()
    }

    /// The workloads of one namespace in the order of their names.
    pub(super) fn workloads_in(&self, namespace: &Arc<str>) -> impl Iterator<Item = &Arc<WorkloadEntry>> {
        in_namespace(&self.workloads, namespace)
    }

    pub(super) fn holder(&self, canonical: IpAddr) -> Option<&Holder> {
        self.addresses.get(&canonical)
    }
}

/// An empty mesh with the usual root namespace.
impl Default for Snapshot {
    fn default() -> Self {
        Self::new(ROOT_NAMESPACE)
    }
}

/// The part of an ordered map that belongs to one namespace.
pub(super) fn in_namespace<'a, V>(
    map: &'a OrdMap<ObjectKey, V>,
    namespace: &Arc<str>,
) -> impl Iterator<Item = &'a V> + use<'a, V> {
    let namespace = Arc::clone(namespace);
    map.range(ObjectKey::new(Arc::clone(&namespace), "")..)
        .take_while(move |(key, _)| key.namespace == namespace)
        .map(|(_, value)| value)
}
