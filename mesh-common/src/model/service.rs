//! A service: a name and addresses that stand for a changing set of workloads.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::ObjectKey;

/// A Kubernetes Service as far as the mesh needs it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Its name.
    pub key: ObjectKey,
    /// The virtual addresses; empty for a headless service.
    pub cluster_ips: Vec<IpAddr>,
    /// Its TCP ports.
    pub ports: Vec<ServicePort>,
    /// The labels that a workload of the same namespace must have; empty selects nothing.
    pub selector: BTreeMap<String, String>,
}

/// A TCP port of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePort {
    /// Its name; may be absent when it is the only port.
    pub name: Option<String>,
    /// The port that clients dial, 1 to 65535.
    pub port: u16,
    /// The port of the workload it leads to.
    pub target: TargetPort,
    /// The protocol spoken on it, in Kubernetes' `appProtocol` terms.
    pub app_protocol: Option<String>,
}

/// The port of a workload that a service port leads to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum TargetPort {
    /// This port of every workload.
    Number(u16),
    /// The port that each workload gives this name to.
    Name(String),
}

/// What the `appProtocol` of a service port says of the bytes on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Declared {
    /// They are requests of HTTP, in one of its versions.
    Requests,
    /// They are nothing that the mesh reads: `tcp`, `tls`, `https`, `kubernetes.io/wss`.
    Bytes,
    /// Nothing that is known.
    Nothing,
}

impl Declared {
    /// What an `appProtocol` says.
    pub fn of(app_protocol: Option<&str>) -> Self {
        const REQUESTS: [&str; 6] = [
            "http",
            "grpc",
            "kubernetes.io/h2c",
            "kubernetes.io/ws",
            "http2",
            "h2c",
        ];
        const BYTES: [&str; 4] = ["tcp", "tls", "https", "kubernetes.io/wss"];
        let Some(protocol) = app_protocol else {
            return Self::Nothing;
        };
        let among = |known: &[&str]| known.iter().any(|one| protocol.eq_ignore_ascii_case(one));
        if among(&REQUESTS) {
            Self::Requests
        } else if among(&BYTES) {
            Self::Bytes
        } else {
            Self::Nothing
        }
    }
}

impl ServicePort {
    /// What its `appProtocol` says.
    pub fn declared(&self) -> Declared {
        Declared::of(self.app_protocol.as_deref())
    }
}

impl Service {
    /// Whether the service stands for workloads with these labels.
    pub fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        !self.selector.is_empty()
            && self
                .selector
                .iter()
                .all(|(key, value)| labels.get(key) == Some(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn a_selector_needs_every_label() {
        let mut service = Service {
            key: ObjectKey::new("shop", "web"),
            cluster_ips: Vec::new(),
            ports: Vec::new(),
            selector: map(&[("app", "web"), ("tier", "front")]),
        };
        assert!(service.selects(&map(&[("app", "web"), ("tier", "front"), ("more", "x")])));
        assert!(!service.selects(&map(&[("app", "web")])));
        assert!(!service.selects(&map(&[("app", "web"), ("tier", "back")])));
        service.selector.clear();
        assert!(
            !service.selects(&map(&[("app", "web")])),
            "an empty selector selects nothing"
        );
    }
}
