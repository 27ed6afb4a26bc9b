//! From what an enrolled pod dialled to where its connection goes.
//!
//! The listener asks [`resolve`] once a connection; the answer is acted on by the upstream dialer. Pure but for
//! the randomness of balancing. Invariant: an address the mesh knows is never passed through as if it were
//! unknown.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Instant,
};

use mesh_common::model::{Declared, Service, ServicePort, Workload};
use rand::Rng as _;

use crate::{
    balance::{self, Active, Moment},
    node::{Pod, PodTable},
    state::{Resolution, ServiceBackend, Snapshot},
    telemetry::Destination,
};

/// Where an outbound connection goes.
#[derive(Debug)]
pub struct Plan {
    /// What the dialled address stands for.
    pub destination: Destination,
    /// The way there, or why there is none.
    pub way: Result<Way, Unroutable>,
    /// Keeps the connection counted at its endpoint.
    pub active: Option<Active>,
    /// The workload at the other end, when it is one of the mesh.
    pub peer: Option<Arc<Workload>>,
}

/// The way to a destination.
#[derive(Clone, Debug)]
pub enum Way {
    /// From the source pod's namespace to this address.
    Direct(SocketAddr),
    /// To an application in an enrolled pod of this node, in one hop.
    Local(Arc<Pod>, SocketAddr),
}

impl Way {
    /// Where it ends.
    pub fn addr(&self) -> SocketAddr {
        match self {
            Self::Direct(addr) | Self::Local(_, addr) => *addr,
        }
    }
}

/// Why there is no way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unroutable {
    /// The service has no such port.
    #[error("the service has no such port")]
    NoSuchPort,
    /// The service has no ready endpoint.
    #[error("the service has no ready endpoint")]
    NoEndpoint,
    /// The address is the agent's own listener.
    #[error("the address is the agent's own listener")]
    OwnListener,
}

impl Unroutable {
    /// The reason in one word, for metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::NoSuchPort => "no-such-port",
            Self::NoEndpoint => "no-endpoint",
            Self::OwnListener => "own-listener",
        }
    }
}

/// Decides where a connection to `dialled` goes.
pub fn resolve(snapshot: &Snapshot, pods: &PodTable, dialled: SocketAddr) -> Plan {
    match snapshot.resolve(dialled) {
        Resolution::Service(backend) => {
            let service = backend.service.key.clone();
            match balance::pick(&backend.endpoints, &mut rand::rng()) {
                Some(endpoint) => Plan {
                    destination: Destination::Service {
                        service,
                        endpoint: Some((endpoint.workload.key.clone(), endpoint.addr)),
                    },
                    way: way_to(pods, endpoint.addr),
                    active: Some(Active::on(&**endpoint)),
                    peer: Some(Arc::clone(&endpoint.workload)),
                },
                None => Plan {
                    destination: Destination::Service {
                        service,
                        endpoint: None,
                    },
                    way: Err(Unroutable::NoEndpoint),
                    active: None,
                    peer: None,
                },
            }
        }
        Resolution::ServiceWithoutPort(entry) => Plan {
            destination: Destination::Service {
                service: entry.service.key.clone(),
                endpoint: None,
            },
            way: Err(Unroutable::NoSuchPort),
            active: None,
            peer: None,
        },
        Resolution::Workload(entry) => Plan {
            destination: Destination::Workload(entry.workload.key.clone()),
            way: way_to(pods, dialled),
            active: Some(Active::on(&**entry)),
            peer: Some(Arc::clone(&entry.workload)),
        },
        Resolution::Unknown => Plan {
            destination: Destination::Passthrough,
            way: way_to(pods, dialled),
            active: None,
            peer: None,
        },
    }
}

/// An endpoint of a service port, chosen for one request.
#[derive(Debug)]
pub struct Chosen {
    /// The way there.
    pub way: Result<Way, Unroutable>,
    /// The workload there.
    pub peer: Arc<Workload>,
    /// What for.
    pub service: Arc<Service>,
    /// Keeps the request counted at its endpoint.
    pub active: Active,
}

/// Chooses an endpoint for a request: where it is likely to be answered first.
pub fn choose(backend: &ServiceBackend, pods: &PodTable) -> Result<Chosen, Unroutable> {
    let now = Moment::from(Instant::now());
    let endpoint = balance::pick_fastest(&backend.endpoints, now, &mut rand::rng());
    let endpoint = endpoint.ok_or(Unroutable::NoEndpoint)?;
    Ok(Chosen {
        way: way_to(pods, endpoint.addr),
        peer: Arc::clone(&endpoint.workload),
        service: Arc::clone(&backend.service),
        active: Active::on(&**endpoint),
    })
}

/// A number, evenly drawn from all: for the choices of routes.
pub fn lot() -> u64 {
    rand::rng().next_u64()
}

/// Whether the requests of a service port are led one by one: its `appProtocol` says that it speaks HTTP. What is not in
/// Kubernetes' list, or `tcp`, `tls` and `https`, is carried as bytes.
pub fn speaks_http(port: &ServicePort) -> bool {
    port.declared() == Declared::Requests
}

/// The source to dial from: the client's, if it bound one itself, else the kernel's choice. `listener` is the
/// address of the agent's that the client was sent to: for a socket bound to a device it is the pod's own, and so is
/// the source, without the client having chosen it.
pub fn source_for(client: SocketAddr, listener: IpAddr, addr: SocketAddr) -> Option<SocketAddr> {
    let chosen = !client.ip().is_loopback() && listener.is_loopback();
    (chosen && client.is_ipv4() == addr.is_ipv4()).then_some(client)
}

fn way_to(pods: &PodTable, addr: SocketAddr) -> Result<Way, Unroutable> {
    match pods.at(addr.ip()) {
        Some(pod) if pod.is_own_listener(addr) => Err(Unroutable::OwnListener),
        Some(pod) => Ok(Way::Local(pod, addr)),
        None => Ok(Way::Direct(addr)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_source_the_client_chose_is_kept() {
        let source = |client: &str, listener: &str, addr: &str| {
            source_for(
                client.parse().unwrap(),
                listener.parse().unwrap(),
                addr.parse().unwrap(),
            )
        };
        let bound = Some("10.0.0.1:9".parse().unwrap());
        assert_eq!(source("10.0.0.1:9", "127.3.4.5", "10.0.0.2:80"), bound);
        assert_eq!(source("127.0.0.1:9", "127.3.4.5", "10.0.0.2:80"), None);
        assert_eq!(source("[::1]:9", "::1", "[fd00::2]:80"), None);
        assert_eq!(
            source("10.0.0.1:9", "10.0.0.1", "10.0.0.2:80"),
            None,
            "bound to a device"
        );
        assert_eq!(source("10.0.0.1:9", "127.3.4.5", "[fd00::2]:80"), None);
    }
}
