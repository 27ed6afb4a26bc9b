//! What a snapshot is made of: objects, and what follows from several of them together.
//!
//! Invariant: an entry is never changed after it was published; an update replaces it and hands its [`Load`] on.
//! Counters and kept answers inside it do change.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use mesh_common::model::{Service, ServicePort, Workload};

use super::policies::Answer;
use crate::balance::{Load, Loaded};

/// A workload of the mesh.
#[derive(Debug)]
pub struct WorkloadEntry {
    /// The workload.
    pub workload: Arc<Workload>,
    /// Connections to one of its own addresses, not through a service. Outlives changes of the workload.
    pub load: Arc<Load>,
    /// The last answer to which policies concern it.
    pub(super) answer: Answer,
}

/// A service of the mesh.
#[derive(Debug)]
pub struct ServiceEntry {
    /// The service.
    pub service: Arc<Service>,
    /// One backend for each of its ports and address families, in the order of its ports.
    pub backends: Vec<Arc<ServiceBackend>>,
}

/// One port of a service in one address family, and who serves it now.
#[derive(Debug)]
pub struct ServiceBackend {
    /// The service.
    pub service: Arc<Service>,
    /// The port that clients dial.
    pub port: ServicePort,
    /// The family of the virtual address, and of every endpoint.
    pub family: Family,
    /// The ready workloads that serve the port, in the order of their keys.
    pub endpoints: Vec<Arc<Endpoint>>,
}

/// A workload in its role as a server of one service port.
#[derive(Debug)]
pub struct Endpoint {
    /// The workload.
    pub workload: Arc<Workload>,
    /// Where it serves the port.
    pub addr: SocketAddr,
    /// Connections now. Outlives changes that leave `addr` as it is.
    pub load: Arc<Load>,
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address in canonical form.
    pub fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

impl ServiceEntry {
    /// The backend of the port that clients of this family dial.
    pub fn backend(&self, port: u16, family: Family) -> Option<&Arc<ServiceBackend>> {
        self.backends
            .iter()
            .find(|backend| backend.port.port == port && backend.family == family)
    }
}

impl Loaded for Endpoint {
    fn load(&self) -> &Arc<Load> {
        &self.load
    }
}

impl Loaded for WorkloadEntry {
    fn load(&self) -> &Arc<Load> {
        &self.load
    }
}
