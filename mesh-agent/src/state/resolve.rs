//! From the address an application dialled to what it means.

use std::net::SocketAddr;
use std::sync::Arc;

use mesh_common::model::{Declared, Service, ServicePort, TargetPort, Workload};

use super::{Family, ServiceBackend, ServiceEntry, Snapshot, WorkloadEntry, snapshot::Holder};

/// What an address and port stand for.
#[derive(Clone, Copy, Debug)]
pub enum Resolution<'a> {
    /// A service port: one of its endpoints must be chosen.
    Service(&'a Arc<ServiceBackend>),
    /// The address is a service's, but the service has no such port. The connection must be refused: passing it
    /// on would leave it to the network to find an address that stands for nobody.
    ServiceWithoutPort(&'a Arc<ServiceEntry>),
    /// A workload's own address, whatever the port.
    Workload(&'a Arc<WorkloadEntry>),
    /// Nothing of the mesh.
    Unknown,
}

impl Snapshot {
    /// What `dst` stands for. An IPv4-mapped IPv6 address means the IPv4 address.
    pub fn resolve(&self, dst: SocketAddr) -> Resolution<'_> {
        let ip = dst.ip().to_canonical();
        match self.holder(ip) {
            Some(Holder::Workload(entry)) => Resolution::Workload(entry),
            Some(Holder::Service(entry)) => match entry.backend(dst.port(), Family::of(ip)) {
                Some(backend) => Resolution::Service(backend),
                None => Resolution::ServiceWithoutPort(entry),
            },
            None => Resolution::Unknown,
        }
    }

    /// The services, and their ports, that lead to this port of a workload.
    pub fn services_to(
        &self,
        workload: &Workload,
        port: u16,
    ) -> impl Iterator<Item = (&Arc<Service>, &ServicePort)> {
        self.selecting(workload)
            .flat_map(|entry| entry.service.ports.iter().map(move |one| (&entry.service, one)))
            .filter(move |(_, one)| match &one.target {
                TargetPort::Number(number) => *number == port,
                TargetPort::Name(name) => workload.port_named(name) == Some(port),
            })
    }

    /// What the services that lead to this port of a workload say of the bytes on it. Where they differ it is requests.
    pub fn declared(&self, workload: &Workload, port: u16) -> Declared {
        let mut declared = Declared::Nothing;
        for (_, one) in self.services_to(workload, port) {
            match one.declared() {
                Declared::Requests => return Declared::Requests,
                Declared::Bytes => declared = Declared::Bytes,
                Declared::Nothing => {}
            }
        }
        declared
    }
}
