//! From what an enrolled pod dialled to where its connection goes.
//!
//! The listener asks [`resolve`] once a connection; the answer is acted on by the upstream dialer. Pure but for
//! the randomness of balancing. Invariant: an address the mesh knows is never passed through as if it were
//! unknown.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use crate::{
    balance::{self, Active},
    node::{Pod, PodTable},
    state::{Resolution, Snapshot},
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
}

/// The way to a destination.
#[derive(Debug)]
pub enum Way {
    /// From the source pod's namespace to this address.
    Direct(SocketAddr),
    /// To an application in an enrolled pod of this node, in one hop.
    Local(Arc<Pod>, SocketAddr),
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
                },
                None => Plan {
                    destination: Destination::Service {
                        service,
                        endpoint: None,
                    },
                    way: Err(Unroutable::NoEndpoint),
                    active: None,
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
        },
        Resolution::Workload(entry) => Plan {
            destination: Destination::Workload(entry.workload.key.clone()),
            way: way_to(pods, dialled),
            active: Some(Active::on(&**entry)),
        },
        Resolution::Unknown => Plan {
            destination: Destination::Passthrough,
            way: way_to(pods, dialled),
            active: None,
        },
    }
}

/// The source address to dial from: the client's, if it chose one, else the kernel's choice.
pub fn source_for(client: SocketAddr, addr: SocketAddr) -> Option<IpAddr> {
    let chosen = !client.ip().is_loopback() && client.is_ipv4() == addr.is_ipv4();
    chosen.then(|| client.ip())
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
        let source = |client: &str, addr: &str| source_for(client.parse().unwrap(), addr.parse().unwrap());
        assert_eq!(source("127.0.0.1:9", "10.0.0.2:80"), None);
        assert_eq!(source("[::1]:9", "[fd00::2]:80"), None);
        assert_eq!(
            source("10.0.0.1:9", "10.0.0.2:80"),
            Some("10.0.0.1".parse().unwrap())
        );
        assert_eq!(source("10.0.0.1:9", "[fd00::2]:80"), None);
    }
}
