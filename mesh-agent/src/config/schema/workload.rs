//! `nodemesh.io/v1alpha1` Workload.

use std::net::IpAddr;
use std::path::{Component, PathBuf};
use std::sync::Arc;

use mesh_common::model::{Locate, ObjectKey, TunnelProtocol, Workload, WorkloadPort};
use serde::Deserialize;

use super::metadata::{self, Metadata, NAME, check};
use super::ports::{Unique, plain, port};
use super::{Faults, address};
use crate::config::decode::{At, Rules, decode};
use crate::config::fault::{Fault, Place};
use crate::config::names::{dns_label, dns_name, port_name};
use crate::config::object::{Claim, Object, Parsed};
use crate::config::tree::Node;

/// Reads and checks a workload.
pub(in crate::config) fn workload(node: &Node) -> Result<Parsed, Vec<Fault>> {
    let WorkloadObject {
        metadata,
        spec: At { value: spec, place },
    } = decode(node, RULES)?;
    let mut faults = Faults::default();
    let key = metadata.key(dns_name, &mut faults);
    let labels = metadata.labels(&mut faults);
    let service_account = text_or(spec.service_account, "default", &mut faults);
    let node = match spec.node {
        Some(node) => text_or(Some(node), "", &mut faults),
        None => {
            let fault = place
                .child("node")
                .fault("missing", "name the node that the workload runs on");
            faults.0.push(fault);
            String::new()
        }
    };
    let claims = addresses(spec.addresses, &place, &mut faults);
    let ports = ports(spec.ports, &mut faults);
    let policies = policies(spec.policies, &key.namespace, &mut faults);
    let tunnel = spec
        .tunnel_protocol
        .and_then(|text| faults.keep(tunnel_protocol(&text)));
    let locate = spec.locate.and_then(|locate| faults.keep(one_way(locate)));
    if !faults.0.is_empty() {
        return Err(faults.0);
    }
    let workload = Workload {
        key,
        labels: labels.into(),
        service_account,
        node,
        addresses: claims.iter().map(|claim| claim.ip).collect(),
        ports,
        ready: spec.ready.unwrap_or(true),
        policies,
        tunnel: tunnel.unwrap_or_default(),
        locate,
    };
    Ok(Parsed {
        object: Object::Workload(Arc::new(workload)),
        claims,
        ignored: Vec::new(),
    })
}

const RULES: Rules = &[
    ("WorkloadObject", &["apiVersion", "kind", "status"]),
    ("Metadata", metadata::IGNORED),
];

#[derive(Deserialize)]
struct WorkloadObject {
    metadata: Metadata,
    spec: At<WorkloadSpec>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WorkloadSpec {
    service_account: Option<At<String>>,
    node: Option<At<String>>,
    addresses: Option<At<Vec<At<String>>>>,
    #[serde(default)]
    ports: Vec<RawPort>,
    ready: Option<bool>,
    #[serde(default)]
    policies: Vec<At<String>>,
    tunnel_protocol: Option<At<String>>,
    locate: Option<At<RawLocate>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawPort {
    name: Option<At<String>>,
    port: At<i64>,
    app_protocol: Option<At<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawLocate {
    netns: Option<At<String>>,
    netns_path: Option<At<String>>,
    cgroup: Option<At<String>>,
    pid: Option<At<i64>>,
}

fn text_or(text: Option<At<String>>, default: &str, faults: &mut Faults) -> String {
    match text {
        Some(text) => {
            check(&text, dns_name, NAME, faults);
            text.value
        }
        None => default.to_owned(),
    }
}

/// Policies by name, or by namespace and name.
fn policies(list: Vec<At<String>>, own: &str, faults: &mut Faults) -> Vec<ObjectKey> {
    let mut unique = Unique::new("name");
    let mut keys = Vec::with_capacity(list.len());
    for text in list {
        let (namespace, name) = text.value.split_once('/').unwrap_or((own, &text.value));
        if dns_label(namespace).is_err() || dns_name(name).is_err() {
            faults.0.push(text.place.fault(
                format!("{:?} does not name a policy", text.value),
                "use the name of an AuthorizationPolicy, or its namespace, a slash and its name",
            ));
            continue;
        }
        let key = ObjectKey::new(namespace, name);
        if faults.keep(unique.add(key.clone(), &text.place)).is_some() {
            keys.push(key);
        }
    }
    keys
}

fn addresses(list: Option<At<Vec<At<String>>>>, spec: &Place, faults: &mut Faults) -> Vec<Claim> {
    let Some(list) = list else {
        faults.0.push(
            spec.child("addresses")
                .fault("missing", "list the workload's own addresses"),
        );
        return Vec::new();
    };
    if list.value.is_empty() {
        faults.0.push(
            list.place
                .fault("empty", "list at least one address of the workload"),
        );
    }
    let mut unique = Unique::<IpAddr>::new("address");
    let mut claims = Vec::new();
    for text in list.value {
        if let Some(ip) = faults.keep(address(&text))
            && faults.keep(unique.add(ip, &text.place)).is_some()
        {
            claims.push(Claim {
                ip,
                place: text.place,
            });
        }
    }
    claims.shrink_to_fit();
    claims
}

fn ports(list: Vec<RawPort>, faults: &mut Faults) -> Vec<WorkloadPort> {
    let mut numbers = Unique::new("port");
    let mut names = Unique::new("name");
    let mut ports = Vec::new();
    for raw in list {
        if let Some(name) = &raw.name {
            let remedy = "use up to 15 lower-case letters, digits and single inner hyphens, with a letter";
            check(name, port_name, remedy, faults);
            faults.keep(names.add(name.value.clone(), &name.place));
        }
        if let Some(port) = faults.keep(port(raw.port.value, &raw.port.place)) {
            faults.keep(numbers.add(port, &raw.port.place));
            let (name, app_protocol) = (plain(raw.name), plain(raw.app_protocol));
            ports.push(WorkloadPort {
                name,
                port,
                app_protocol,
            });
        }
    }
    ports.shrink_to_fit();
    ports
}

fn tunnel_protocol(text: &At<String>) -> Result<TunnelProtocol, Fault> {
    match text.value.as_str() {
        "NODEMESH" => Ok(TunnelProtocol::Nodemesh),
        "HBONE" => Ok(TunnelProtocol::Hbone),
        other => Err(text.place.fault(
            format!("{other:?} is not a tunnel protocol"),
            "use NODEMESH or HBONE; for plaintext a PeerAuthentication with mode DISABLE",
        )),
    }
}

fn one_way(At { value: raw, place }: At<RawLocate>) -> Result<Locate, Fault> {
    let ways = [
        raw.netns.is_some(),
        raw.netns_path.is_some(),
        raw.cgroup.is_some(),
        raw.pid.is_some(),
    ];
    let count = ways.into_iter().filter(|given| *given).count();
    match (raw.netns, raw.netns_path, raw.cgroup, raw.pid) {
        (Some(name), None, None, None) => netns_name(name),
        (None, Some(path), None, None) => absolute(path).map(Locate::NetnsPath),
        (None, None, Some(path), None) => cgroup(path),
        (None, None, None, Some(pid)) => pid_of(&pid),
        _ => {
            let reason = if count == 0 {
                "no way to find the workload".to_owned()
            } else {
                format!("{count} ways to find the workload")
            };
            Err(place.fault(reason, "give one of netns, netnsPath, cgroup, pid"))
        }
    }
}

fn netns_name(name: At<String>) -> Result<Locate, Fault> {
    let is_file_name = !name.value.contains(['/', '\0']) && !matches!(name.value.as_str(), "" | "." | "..");
    if is_file_name {
        Ok(Locate::NetnsName(name.value))
    } else {
        let reason = format!("{:?} is not the name of a network namespace", name.value);
        Err(name.place.fault(
            reason,
            "use a name that `ip netns` lists, or netnsPath for a path",
        ))
    }
}

fn absolute(path: At<String>) -> Result<PathBuf, Fault> {
    let parsed = PathBuf::from(&path.value);
    if parsed.is_absolute() && !path.value.contains('\0') {
        Ok(parsed)
    } else {
        Err(path.place.fault(
            format!("{:?} is not an absolute path", path.value),
            "begin it with `/`",
        ))
    }
}

fn cgroup(path: At<String>) -> Result<Locate, Fault> {
    let At { place, .. } = &path;
    let place = place.clone();
    let parsed = absolute(path)?;
    if parsed.components().any(|step| step == Component::ParentDir) {
        return Err(place.fault("`..` leads out of the cgroup", "write the path without `..`"));
    }
    Ok(Locate::Cgroup(parsed))
}

fn pid_of(pid: &At<i64>) -> Result<Locate, Fault> {
    match u32::try_from(pid.value) {
        Ok(number) if (1..=MAX_PID).contains(&number) => Ok(Locate::Pid(number)),
        _ => Err(pid.place.fault(
            format!("{} is not a process id", pid.value),
            format!("use 1 to {MAX_PID}"),
        )),
    }
}

/// The greatest process id that Linux gives out (`PID_MAX_LIMIT` on 64-bit machines).
const MAX_PID: u32 = 1 << 22;
