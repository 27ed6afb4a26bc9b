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

use mesh_common::model::{Declared, Service, ServicePort, TunnelProtocol, Workload};
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

/// Whether the requests of a service port are led one by one though it has no routes: its `appProtocol` says that it speaks
/// HTTP. What is not in Kubernetes' list, or `tcp`, `tls` and `https`, is carried as bytes; and so is everything where HBONE is
/// spoken: requests in tunnels are our own agents' language.
pub fn leads_without_routes(backend: &ServiceBackend) -> bool {
    let mut endpoints = backend.endpoints.iter();
    speaks_http(&backend.port) && !endpoints.any(|endpoint| endpoint.workload.tunnel == TunnelProtocol::Hbone)
}

fn speaks_http(port: &ServicePort) -> bool {
    port.declared() == Declared::Requests
}

/// Whether the requests of a service port are led one by one, for any client: it speaks HTTP, or has routes. So it has all
/// that routes bring, such as timeouts and mirrors.
pub fn leads_requests(snapshot: &Snapshot, service: &Service, port: &ServicePort) -> bool {
    speaks_http(port) || snapshot.has_routes(&service.key, port.port)
}

/// Whether requests may come to this port of the workload, whatever was dialled: it says that it speaks HTTP there, or a
/// service leads requests to it.
pub fn takes_requests(snapshot: &Snapshot, workload: &Workload, port: u16) -> bool {
    let mut own = workload.ports.iter().filter(|own| own.port == port);
    own.any(|own| Declared::of(own.app_protocol.as_deref()) == Declared::Requests)
        || snapshot
            .services_to(workload, port)
            .any(|(service, port)| leads_requests(snapshot, service, port))
}

/// What a dialled address stands for, when the connection to it ended at `addr`; counted there.
pub fn stands_for(
    snapshot: &Snapshot,
    dialled: SocketAddr,
    addr: SocketAddr,
) -> (Destination, Option<Active>) {
    match snapshot.resolve(dialled) {
        Resolution::Service(backend) => {
            let endpoint = backend.endpoints.iter().find(|endpoint| endpoint.addr == addr);
            let destination = Destination::Service {
                service: backend.service.key.clone(),
                endpoint: endpoint.map(|endpoint| (endpoint.workload.key.clone(), addr)),
            };
            (destination, endpoint.map(|endpoint| Active::on(&**endpoint)))
        }
        Resolution::ServiceWithoutPort(entry) => {
            let service = entry.service.key.clone();
            (
                Destination::Service {
                    service,
                    endpoint: None,
                },
                None,
            )
        }
        Resolution::Workload(entry) => (
            Destination::Workload(entry.workload.key.clone()),
            Some(Active::on(&**entry)),
        ),
        Resolution::Unknown => (Destination::Passthrough, None),
    }
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
    use mesh_common::model::ObjectKey;

    use super::*;
    use crate::{
        config::{Directory, File},
        state::Store,
    };

    /// Services and routes, and of which ports of the workload behind them this says that requests may come.
    fn ports_with_requests(documents: &str) -> Vec<u16> {
        let workload = "apiVersion: nodemesh.io/v1alpha1\nkind: Workload\nmetadata: {name: web, namespace: shop, labels: \
                        {app: web}}\nspec: {serviceAccount: web, node: here, addresses: [10.1.0.10], ports: [{port: 1, \
                        appProtocol: grpc}, {port: 2, appProtocol: tcp}, {port: 3}]}\n---\n";
        let file = File {
            name: "a.yaml".into(),
            content: Ok(format!("{workload}{documents}")),
        };
        let update = Directory::new().load(&[file]);
        assert_eq!(update.rejections, [], "{documents}");
        let store = Store::new();
        store.apply(&update.changes);
        let snapshot = store.load();
        let web = snapshot.workload(&ObjectKey::new("shop", "web")).unwrap();
        let takes = |port: &u16| takes_requests(&snapshot, &web.workload, *port);
        (1..=9).filter(takes).collect()
    }

    #[test]
    fn requests_may_come_where_anybody_says_so() {
        let service = |namespace: &str, ports: &str| {
            format!(
                "apiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: {namespace}}}\nspec: {{clusterIP: \
                 10.2.0.{}, selector: {{app: web}}, ports: [{ports}]}}\n---\n",
                namespace.len()
            )
        };
        let route = |namespace: &str, port: &str| {
            format!(
                "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r, namespace: {namespace}}}\n\
                 spec: {{parentRefs: [{{group: '', kind: Service, name: web, namespace: shop{port}}}], rules: [{{}}]}}\n---\n"
            )
        };
        let ports = "{name: a, port: 80, targetPort: 4}, {name: b, port: 81, targetPort: 5, appProtocol: http}, {name: c, \
                     port: 82, targetPort: 6, appProtocol: tcp}";
        let shop = service("shop", ports);
        assert_eq!(ports_with_requests(""), [1]);
        assert_eq!(ports_with_requests(&shop), [1, 5]);
        assert_eq!(
            ports_with_requests(&service("other", ports)),
            [1],
            "selects others"
        );
        // A consumer's route is for its own clients; the port is the agent's for all.
        for namespace in ["shop", "elsewhere"] {
            let all = format!("{shop}{}", route(namespace, ""));
            assert_eq!(ports_with_requests(&all), [1, 4, 5], "what is TCP has no routes");
            let one = format!("{shop}{}", route(namespace, ", port: 81"));
            assert_eq!(ports_with_requests(&one), [1, 5]);
        }
    }

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
