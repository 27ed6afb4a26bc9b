//! Kubernetes `v1` Service. Every field of the real object is accepted; what the mesh has no use for is not read.

use std::net::IpAddr;
use std::sync::Arc;

use mesh_common::model::{Service, ServicePort, TargetPort};
use serde::Deserialize;

use super::metadata::{self, Labels, Metadata, NAME, check};
use super::ports::{NumberOrName, Unique, plain, port};
use super::{Faults, address};
use crate::config::decode::{At, Rules, decode};
use crate::config::fault::Fault;
use crate::config::names::{dns_label, port_name};
use crate::config::object::{Claim, Object, Parsed};
use crate::config::tree::Node;

/// Reads and checks a service.
pub(in crate::config) fn service(node: &Node) -> Result<Parsed, Vec<Fault>> {
    let ServiceObject { metadata, spec } = decode(node, RULES)?;
    let mut faults = Faults::default();
    let key = metadata.key(dns_label, &mut faults);
    metadata.labels(&mut faults);
    let claims = cluster_ips(spec.cluster_ip, spec.cluster_ips, &mut faults);
    let (ports, ignored) = ports(spec.ports, &mut faults);
    let selector = metadata::labels(spec.selector, &mut faults);
    if !faults.0.is_empty() {
        return Err(faults.0);
    }
    let cluster_ips = claims.iter().map(|claim| claim.ip).collect();
    let service = Service {
        key,
        cluster_ips,
        ports,
        selector,
    };
    Ok(Parsed {
        object: Object::Service(Arc::new(service)),
        claims,
        ignored,
    })
}

const RULES: Rules = &[
    ("ServiceObject", &["apiVersion", "kind", "status"]),
    ("Metadata", metadata::IGNORED),
    (
        "ServiceSpec",
        &[
            "allocateLoadBalancerNodePorts",
            "externalIPs",
            "externalName",
            "externalTrafficPolicy",
            "healthCheckNodePort",
            "internalTrafficPolicy",
            "ipFamilies",
            "ipFamilyPolicy",
            "loadBalancerClass",
            "loadBalancerIP",
            "loadBalancerSourceRanges",
            "publishNotReadyAddresses",
            "sessionAffinity",
            "sessionAffinityConfig",
            "trafficDistribution",
            "type",
        ],
    ),
    ("RawServicePort", &["nodePort"]),
];

#[derive(Deserialize)]
struct ServiceObject {
    metadata: Metadata,
    spec: ServiceSpec,
}

#[derive(Deserialize)]
struct ServiceSpec {
    #[serde(rename = "clusterIP")]
    cluster_ip: Option<At<String>>,
    #[serde(rename = "clusterIPs", default)]
    cluster_ips: Vec<At<String>>,
    #[serde(default)]
    ports: Vec<At<RawServicePort>>,
    #[serde(default)]
    selector: Labels,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawServicePort {
    name: Option<At<String>>,
    port: At<i64>,
    target_port: Option<At<NumberOrName>>,
    protocol: Option<At<String>>,
    app_protocol: Option<At<String>>,
}

/// The virtual addresses. `clusterIPs` repeats `clusterIP` first; either may stand alone, and `None` says that
/// there are none.
fn cluster_ips(first: Option<At<String>>, all: Vec<At<String>>, faults: &mut Faults) -> Vec<Claim> {
    let mut unique = Unique::<IpAddr>::new("address");
    let mut claims = Vec::new();
    for text in &all {
        if matches!(text.value.as_str(), "" | HEADLESS) {
            continue;
        }
        if let Some(ip) = faults.keep(address(text))
            && faults.keep(unique.add(ip, &text.place)).is_some()
        {
            claims.push(Claim {
                ip,
                place: text.place.clone(),
            });
        }
    }
    let Some(first) = first.filter(|first| !first.value.is_empty()) else {
        return claims;
    };
    let expected = match first.value.as_str() {
        HEADLESS => None,
        _ => match faults.keep(address(&first)) {
            Some(ip) => Some(ip),
            None => return claims,
        },
    };
    if all.is_empty() {
        claims.extend(expected.map(|ip| Claim {
            ip,
            place: first.place,
        }));
    } else if claims.first().map(|claim| claim.ip) != expected {
        let reason = format!("{} is not the first of spec.clusterIPs", first.value);
        faults.0.push(
            first
                .place
                .fault(reason, "make both the same, or remove one of the fields"),
        );
    }
    claims
}

/// What Kubernetes writes as the address of a headless service.
const HEADLESS: &str = "None";

fn ports(list: Vec<At<RawServicePort>>, faults: &mut Faults) -> (Vec<ServicePort>, Vec<Fault>) {
    let several = list.len() > 1;
    let mut names = Unique::new("name");
    let mut numbers = Unique::new("port");
    let (mut ports, mut ignored) = (Vec::new(), Vec::new());
    for At { value: raw, place } in list {
        match &raw.name {
            Some(name) => {
                check(name, dns_label, NAME, faults);
                faults.keep(names.add(name.value.clone(), &name.place));
            }
            None if several => {
                let fault = place
                    .child("name")
                    .fault("missing", "name every port when there are several");
                faults.0.push(fault);
            }
            None => {}
        }
        let number = faults.keep(port(raw.port.value, &raw.port.place));
        let target = faults.keep(target(raw.target_port, number));
        let (protocol, protocol_place) = match raw.protocol {
            Some(protocol) => (protocol.value, protocol.place),
            None => ("TCP".to_owned(), place),
        };
        if let Some(number) = number {
            faults.keep(numbers.add(format!("{number}/{protocol}"), &raw.port.place));
        }
        match (protocol.as_str(), number.zip(target)) {
            ("TCP", Some((port, target))) => {
                let (name, app_protocol) = (plain(raw.name), plain(raw.app_protocol));
                ports.push(ServicePort {
                    name,
                    port,
                    target,
                    app_protocol,
                });
            }
            ("TCP", None) => {}
            ("UDP" | "SCTP", _) => {
                let reason = format!("{protocol} is not carried by the mesh");
                ignored.push(protocol_place.fault(reason, "this port is left to the network"));
            }
            _ => {
                let reason = format!("{protocol:?} is not a protocol");
                faults
                    .0
                    .push(protocol_place.fault(reason, "use TCP, UDP or SCTP"));
            }
        }
    }
    (ports, ignored)
}

/// The target of a port; the port itself when none is given.
fn target(target: Option<At<NumberOrName>>, own: Option<u16>) -> Result<TargetPort, Fault> {
    match target {
        Some(At {
            value: NumberOrName::Number(number),
            place,
        }) => port(number, &place).map(TargetPort::Number),
        Some(At {
            value: NumberOrName::Name(name),
            place,
        }) => match port_name(&name) {
            Ok(()) => Ok(TargetPort::Name(name)),
            Err(reason) => Err(place.fault(
                reason,
                "use a port number without quotes, or the name of a workload's port",
            )),
        },
        // A port that is no port was reported already; any target will do.
        None => Ok(TargetPort::Number(own.unwrap_or_default())),
    }
}
