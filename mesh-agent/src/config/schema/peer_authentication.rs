//! Istio's `security.istio.io` PeerAuthentication.

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh_common::model::{PeerAuthentication, PeerMode};
use serde::Deserialize;

use super::Faults;
use super::authorization::Selector;
use super::metadata::{self, Metadata};
use crate::config::decode::{At, Rules, decode};
use crate::config::fault::Fault;
use crate::config::names::dns_name;
use crate::config::object::{Object, Parsed};
use crate::config::tree::Node;

/// Reads and checks a peer authentication.
pub(in crate::config) fn peer_authentication(node: &Node) -> Result<Parsed, Vec<Fault>> {
    let PeerAuthenticationObject { metadata, spec } = decode(node, RULES)?;
    let mut faults = Faults::default();
    let key = metadata.key(dns_name, &mut faults);
    metadata.labels(&mut faults);
    let spec = spec.unwrap_or_default();
    let labels = spec.selector.map(|selector| selector.match_labels);
    let selector = metadata::labels(labels.unwrap_or_default(), &mut faults);
    let mode = spec.mtls.and_then(|mtls| mode(mtls, &mut faults));
    let ports = match spec.port_level_mtls {
        Some(list) => {
            if selector.is_empty() {
                let fault = list.place.fault(
                    "modes of single ports need a selector",
                    "add selector.matchLabels with a label of the workloads that have these ports",
                );
                faults.0.push(fault);
            }
            ports(list, &mut faults)
        }
        None => BTreeMap::new(),
    };
    if !faults.0.is_empty() {
        return Err(faults.0);
    }
    let policy = PeerAuthentication {
        key,
        selector,
        mode,
        ports,
    };
    Ok(Parsed {
        object: Object::PeerAuthentication(Arc::new(policy)),
        claims: Vec::new(),
        ignored: Vec::new(),
    })
}

const RULES: Rules = &[
    ("PeerAuthenticationObject", &["apiVersion", "kind", "status"]),
    ("Metadata", metadata::IGNORED),
];

#[derive(Deserialize)]
struct PeerAuthenticationObject {
    metadata: Metadata,
    spec: Option<PeerAuthenticationSpec>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PeerAuthenticationSpec {
    selector: Option<Selector>,
    mtls: Option<MutualTls>,
    port_level_mtls: Option<At<BTreeMap<String, At<MutualTls>>>>,
}

#[derive(Deserialize)]
struct MutualTls {
    mode: Option<At<String>>,
}

/// The mode; `None` inherits.
fn mode(mtls: MutualTls, faults: &mut Faults) -> Option<PeerMode> {
    let text = mtls.mode?;
    match text.value.as_str() {
        "UNSET" => None,
        "DISABLE" => Some(PeerMode::Disable),
        "PERMISSIVE" => Some(PeerMode::Permissive),
        "STRICT" => Some(PeerMode::Strict),
        other => {
            let reason = format!("{other:?} is not a mode");
            faults.0.push(
                text.place
                    .fault(reason, "use UNSET, DISABLE, PERMISSIVE or STRICT"),
            );
            None
        }
    }
}

fn ports(list: At<BTreeMap<String, At<MutualTls>>>, faults: &mut Faults) -> BTreeMap<u16, Option<PeerMode>> {
    if list.value.is_empty() {
        faults.0.push(
            list.place
                .fault("empty", "name at least one port, or remove the field"),
        );
    }
    let mut ports = BTreeMap::new();
    for (number, At { value: mtls, place }) in list.value {
        let port = faults.keep(port(&number, &place));
        let mode = mode(mtls, faults);
        if let Some(port) = port {
            ports.insert(port, mode);
        }
    }
    ports
}

/// A port that stands as the key of a map, without leading zeros, so that no two keys mean one port.
fn port(number: &str, place: &crate::config::fault::Place) -> Result<u16, Fault> {
    match number.parse::<u16>() {
        Ok(port) if port > 0 && port.to_string() == number => Ok(port),
        _ => Err(place.fault(format!("{number:?} is not a port"), "use 1 to 65535")),
    }
}
