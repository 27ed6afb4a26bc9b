//! Which service a request was meant for that arrives at a workload.
//!
//! The source knows what was dialled, and tells nobody. Here only the port and the host that the request names can say it.
//! Invariant: a service is named only if it leads to this port of this workload.

use std::{net::IpAddr, sync::Arc};

use mesh_common::model::{ObjectKey, Service, Workload};

use crate::state::Snapshot;

/// The services that lead to one port of one workload.
#[derive(Debug, Default)]
pub(super) struct Services(Vec<Arc<Service>>);

impl Services {
    /// As they are in `snapshot`.
    pub(super) fn of(snapshot: &Snapshot, workload: &Workload, port: u16) -> Self {
        let mut services: Vec<Arc<Service>> = Vec::new();
        for (service, _) in snapshot.services_to(workload, port) {
            // One may lead there by several of its ports.
            if !services.iter().any(|one| one.key == service.key) {
                services.push(Arc::clone(service));
            }
        }
        Self(services)
    }

    /// The one that a request names by its host, by name or address; the only one, whatever the host, where there is one.
    pub(super) fn named(&self, host: &[u8]) -> Option<&ObjectKey> {
        match &*self.0 {
            [] => None,
            [only] => Some(&only.key),
            several => {
                let host = without_port(std::str::from_utf8(host).ok()?);
                let mut named = several.iter().filter(|service| is_named(service, host));
                let first = named.next()?;
                named.next().is_none().then_some(&first.key)
            }
        }
    }
}

/// A host without its port and the dot that may end a name.
fn without_port(host: &str) -> &str {
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    if let Some(bracketed) = host.strip_prefix('[') {
        return bracketed.split(']').next().unwrap_or(bracketed);
    }
    let name = match host.rsplit_once(':') {
        Some((name, _)) if !name.contains(':') => name,
        _ => host,
    };
    name.strip_suffix('.').unwrap_or(name)
}

/// Whether a host is a name of the service as Kubernetes' DNS knows it, or an address of it.
fn is_named(service: &Service, host: &str) -> bool {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return service.cluster_ips.contains(&ip.to_canonical());
    }
    let mut labels = host.split('.');
    let mut is = |wanted: &str| labels.next().map(|label| label.eq_ignore_ascii_case(wanted));
    // What follows `svc` is the cluster's domain.
    is(&service.key.name) == Some(true)
        && is(&service.key.namespace).unwrap_or(true)
        && is("svc").unwrap_or(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str, ip: &str) -> Arc<Service> {
        Arc::new(Service {
            key: ObjectKey::new("shop", name),
            cluster_ips: vec![ip.parse().unwrap()],
            ports: Vec::new(),
            selector: Default::default(),
        })
    }

    #[test]
    fn the_host_says_which_of_several_services() {
        let services = Services(vec![service("web", "10.96.0.1"), service("web-v1", "fd00::1")]);
        for (host, expected) in [
            ("web", Some("web")),
            ("WEB.shop:8080", Some("web")),
            ("web-v1.shop.svc", Some("web-v1")),
            ("web-v1.shop.svc.cluster.local.", Some("web-v1")),
            ("web-v1.shop.svc.cluster.local.:80", Some("web-v1")),
            ("10.96.0.1:80", Some("web")),
            ("[fd00::1]:80", Some("web-v1")),
            ("web.other", None),
            ("web.shop.example", None),
            ("web.example.com", None),
            ("10.96.0.9", None),
            ("", None),
        ] {
            let named = services.named(host.as_bytes()).map(|key| &*key.name);
            assert_eq!(named, expected, "{host}");
        }
        assert_eq!(services.named(b"\xff"), None);
    }

    #[test]
    fn the_only_service_is_meant_whatever_the_host() {
        let services = Services(vec![service("web", "10.96.0.1")]);
        assert_eq!(
            services.named(b"shop.example"),
            Some(&ObjectKey::new("shop", "web"))
        );
        assert_eq!(Services::default().named(b"web"), None);
    }
}
