//! The Gateway API's HTTPRoute and GRPCRoute (`gateway.networking.k8s.io/v1`).
//!
//! What the API server would refuse is a fault here. What is well formed and cannot be followed (a parent or a backend
//! that is not there, filters that exclude each other, a value that is not supported) is accepted: the route's
//! conditions say so.

mod filters;
mod matches;
mod values;

use std::sync::Arc;

use mesh_common::model::{
    BackendRef, BackendTarget, ObjectKey, ParentRef, PathMatch, Route, RouteFilter, RouteKind, RouteMatch,
    RouteRetry, RouteRule, RouteTimeouts,
};
use serde::Deserialize;
use serde::de::IgnoredAny;

use self::filters::{RawFilter, filters};
use self::matches::{RawGrpcMatch, RawHttpMatch, grpc_match, http_match};
use self::values::{at_most, created, duration, hostname};
use super::Faults;
use super::metadata::{self, Metadata, NAME, check};
use super::ports::{Unique, plain, port};
use crate::config::decode::{At, Rules, decode};
use crate::config::fault::{Fault, Place};
use crate::config::names::{dns_label, dns_name};
use crate::config::object::{Object, Parsed};
use crate::config::tree::Node;

/// Reads and checks an HTTPRoute.
pub(in crate::config) fn http_route(node: &Node) -> Result<Parsed, Vec<Fault>> {
    let object = decode::<RouteObject<RawHttpRule>>(node, RULES)?;
    read(node, RouteKind::Http, object, http_rule)
}

/// Reads and checks a GRPCRoute.
pub(in crate::config) fn grpc_route(node: &Node) -> Result<Parsed, Vec<Fault>> {
    let object = decode::<RouteObject<RawGrpcRule>>(node, RULES)?;
    read(node, RouteKind::Grpc, object, grpc_rule)
}

const RULES: Rules = &[
    ("RouteObject", &["apiVersion", "kind", "status"]),
    ("Metadata", metadata::IGNORED),
];

#[derive(Deserialize)]
struct RouteObject<R> {
    metadata: Metadata,
    spec: At<RouteSpec<R>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RouteSpec<R> {
    #[serde(default = "Vec::new")]
    parent_refs: Vec<At<RawParent>>,
    #[serde(default)]
    hostnames: Vec<At<String>>,
    rules: Option<At<Vec<At<R>>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawParent {
    group: Option<At<String>>,
    kind: Option<At<String>>,
    namespace: Option<At<String>>,
    name: At<String>,
    section_name: Option<At<String>>,
    port: Option<At<i64>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawHttpRule {
    name: Option<At<String>>,
    #[serde(default)]
    matches: Vec<At<RawHttpMatch>>,
    #[serde(default)]
    filters: Vec<At<RawFilter>>,
    #[serde(default)]
    backend_refs: Vec<At<RawBackend>>,
    timeouts: Option<At<RawTimeouts>>,
    retry: Option<RawRetry>,
    session_persistence: Option<At<IgnoredAny>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawGrpcRule {
    name: Option<At<String>>,
    #[serde(default)]
    matches: Vec<At<RawGrpcMatch>>,
    #[serde(default)]
    filters: Vec<At<RawFilter>>,
    #[serde(default)]
    backend_refs: Vec<At<RawBackend>>,
    session_persistence: Option<At<IgnoredAny>>,
}

#[derive(Deserialize)]
struct RawBackend {
    group: Option<At<String>>,
    kind: Option<At<String>>,
    namespace: Option<At<String>>,
    name: At<String>,
    port: Option<At<i64>>,
    weight: Option<At<i64>>,
    #[serde(default)]
    filters: Vec<At<RawFilter>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawTimeouts {
    request: Option<At<String>>,
    backend_request: Option<At<String>>,
}

#[derive(Deserialize)]
struct RawRetry {
    #[serde(default)]
    codes: Vec<At<i64>>,
    attempts: Option<At<i64>>,
    backoff: Option<At<String>>,
}

/// What is gathered while one route is read.
struct Reading<'a> {
    kind: RouteKind,
    namespace: &'a str,
    faults: Faults,
    /// What is accepted and has no effect.
    ignored: Vec<Fault>,
}

fn read<R>(
    node: &Node,
    kind: RouteKind,
    object: RouteObject<R>,
    rule: impl Fn(At<R>, &mut Reading<'_>) -> RouteRule,
) -> Result<Parsed, Vec<Fault>> {
    let RouteObject { metadata, spec } = object;
    let mut faults = Faults::default();
    let key = metadata.key(dns_name, &mut faults);
    metadata.labels(&mut faults);
    let created = faults.keep(created(node)).flatten();
    let At { value: spec, place } = spec;
    let mut reading = Reading {
        kind,
        namespace: &key.namespace,
        faults,
        ignored: Vec::new(),
    };
    let parents = parents(spec.parent_refs, &place, &mut reading);
    let hostnames = hostnames(spec.hostnames, &mut reading);
    let rules = rules(spec.rules, &place, &mut reading, rule);
    let Reading { faults, ignored, .. } = reading;
    if !faults.0.is_empty() {
        return Err(faults.0);
    }
    let route = Route {
        kind,
        key,
        created,
        parents,
        hostnames,
        rules,
    };
    Ok(Parsed {
        object: Object::Route(Arc::new(route)),
        claims: Vec::new(),
        ignored,
    })
}

/// The group of routes and gateways.
const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";

fn parents(list: Vec<At<RawParent>>, spec: &Place, reading: &mut Reading<'_>) -> Vec<ParentRef> {
    at_most(
        list.len(),
        32,
        "parents",
        &spec.child("parentRefs"),
        &mut reading.faults,
    );
    let mut parents: Vec<ParentRef> = Vec::new();
    for At { value: raw, place } in list {
        let group = plain(raw.group).unwrap_or_else(|| GATEWAY_GROUP.to_owned());
        let kind = plain(raw.kind).unwrap_or_else(|| "Gateway".to_owned());
        let namespace = namespace(raw.namespace, reading);
        let number = raw.port.map(|number| port(number.value, &number.place));
        let number = number.and_then(|number| reading.faults.keep(number));
        if let Some(section) = &raw.section_name {
            check(section, dns_name, NAME, &mut reading.faults);
        }
        if kind != "Service" || !matches!(group.as_str(), "" | "core") {
            let hint = if kind == "Service" {
                "to mean a service, write `group: \"\"`"
            } else {
                "the mesh serves routes whose parent is a Service (`group: \"\"`, `kind: Service`)"
            };
            let name = &raw.name.value;
            reading
                .ignored
                .push(place.fault(format!("{group} {kind} {name} is no parent for the mesh"), hint));
            continue;
        }
        check(&raw.name, dns_label, NAME, &mut reading.faults);
        let parent = ParentRef {
            service: ObjectKey::new(namespace, raw.name.value),
            port: number,
            section_name: plain(raw.section_name).filter(|section| !section.is_empty()),
        };
        let shape = |parent: &ParentRef| (parent.port.is_some(), parent.section_name.is_some());
        let mut others = parents.iter().filter(|known| known.service == parent.service);
        if parents.contains(&parent) {
            let fault = place.fault(format!("{parent} is a parent already"), "name each parent once");
            reading.faults.0.push(fault);
        } else if others.any(|known| shape(known) != shape(&parent)) {
            let fault = place.fault(
                format!("another reference to {} has other fields", parent.service),
                "give port or sectionName in all references to one service, or name it once",
            );
            reading.faults.0.push(fault);
        } else {
            parents.push(parent);
        }
    }
    parents
}

/// The namespace of a reference; the route's own when it names none.
fn namespace(namespace: Option<At<String>>, reading: &mut Reading<'_>) -> String {
    match namespace {
        Some(namespace) => {
            check(&namespace, dns_label, NAME, &mut reading.faults);
            namespace.value
        }
        None => reading.namespace.to_owned(),
    }
}

fn hostnames(list: Vec<At<String>>, reading: &mut Reading<'_>) -> Vec<String> {
    if let Some(first) = list.first() {
        at_most(list.len(), 16, "hostnames", &first.place, &mut reading.faults);
        reading.ignored.push(first.place.fault(
            "hostnames have no effect in a mesh",
            "routes are chosen by the address that is dialled; remove them, or match the header `host`",
        ));
    }
    for text in &list {
        let plain = text.value.strip_prefix("*.").unwrap_or(&text.value);
        reading.faults.keep(hostname(plain, &text.place));
    }
    list.into_iter().map(|text| text.value).collect()
}

fn rules<R>(
    list: Option<At<Vec<At<R>>>>,
    spec: &Place,
    reading: &mut Reading<'_>,
    rule: impl Fn(At<R>, &mut Reading<'_>) -> RouteRule,
) -> Vec<RouteRule> {
    let list = match list {
        Some(list) => list,
        // The Gateway API's own default, for an HTTPRoute: everything, to nowhere.
        None if reading.kind == RouteKind::Http => return vec![RouteRule::default()],
        None => At {
            value: Vec::new(),
            place: spec.child("rules"),
        },
    };
    if list.value.is_empty() {
        let fault = list.place.fault("there are no rules", "write at least one");
        reading.faults.0.push(fault);
    }
    at_most(list.value.len(), 16, "rules", &list.place, &mut reading.faults);
    let mut names = Unique::new("name");
    let mut rules = Vec::new();
    for raw in list.value {
        let name_place = raw.place.child("name");
        let rule = rule(raw, reading);
        if let Some(name) = &rule.name {
            reading.faults.keep(names.add(name.clone(), &name_place));
        }
        rules.push(rule);
    }
    let matches = rules.iter().map(|rule| rule.matches.len()).sum();
    at_most(
        matches,
        128,
        "matches in all rules together",
        &list.place,
        &mut reading.faults,
    );
    rules
}

fn http_rule(At { value: raw, place }: At<RawHttpRule>, reading: &mut Reading<'_>) -> RouteRule {
    at_most(
        raw.matches.len(),
        64,
        "matches",
        &place.child("matches"),
        &mut reading.faults,
    );
    let matches = raw.matches.into_iter();
    let matches = matches.map(|one| RouteMatch::Http(http_match(one.value, reading)));
    let mut rule = RouteRule {
        matches: matches.collect(),
        timeouts: timeouts(raw.timeouts, reading),
        retry: raw.retry.map(|retry| self::retry(retry, reading)),
        ..RouteRule::default()
    };
    common(
        &mut rule,
        raw.name,
        raw.filters,
        raw.backend_refs,
        &place,
        reading,
    );
    no_session(raw.session_persistence, reading);
    rule
}

fn grpc_rule(At { value: raw, place }: At<RawGrpcRule>, reading: &mut Reading<'_>) -> RouteRule {
    at_most(
        raw.matches.len(),
        8,
        "matches",
        &place.child("matches"),
        &mut reading.faults,
    );
    let matches = raw.matches.into_iter();
    let matches = matches.map(|one| RouteMatch::Grpc(grpc_match(one.value, reading)));
    let mut rule = RouteRule {
        matches: matches.collect(),
        ..RouteRule::default()
    };
    common(
        &mut rule,
        raw.name,
        raw.filters,
        raw.backend_refs,
        &place,
        reading,
    );
    no_session(raw.session_persistence, reading);
    rule
}

/// What rules of both kinds have.
fn common(
    rule: &mut RouteRule,
    name: Option<At<String>>,
    raw_filters: Vec<At<RawFilter>>,
    backends: Vec<At<RawBackend>>,
    place: &Place,
    reading: &mut Reading<'_>,
) {
    if let Some(name) = &name {
        check(name, dns_name, NAME, &mut reading.faults);
    }
    rule.name = plain(name);
    rule.filters = filters(raw_filters, &place.child("filters"), reading);
    at_most(
        backends.len(),
        16,
        "backends",
        &place.child("backendRefs"),
        &mut reading.faults,
    );
    rule.backends = backends.into_iter().map(|raw| backend(raw, reading)).collect();
    let redirects = rule
        .filters
        .iter()
        .any(|filter| matches!(filter, RouteFilter::Redirect(_)));
    if redirects && !rule.backends.is_empty() {
        let fault = place.child("backendRefs").fault(
            "RequestRedirect leaves nothing to send to backends",
            "remove the backends, or the filter",
        );
        reading.faults.0.push(fault);
    }
    let of_backends = rule.backends.iter().flat_map(|backend| &backend.filters);
    let prefix_needed = rule
        .filters
        .iter()
        .chain(of_backends)
        .any(filters::replaces_prefix);
    let one_prefix = match &rule.matches[..] {
        [] => true,
        [RouteMatch::Http(one)] => matches!(one.path, PathMatch::Prefix(_)),
        _ => false,
    };
    if prefix_needed && !one_prefix {
        let fault = place.fault(
            "ReplacePrefixMatch needs exactly one match, of type PathPrefix",
            "write one rule for each prefix",
        );
        reading.faults.0.push(fault);
    }
}

fn no_session(session: Option<At<IgnoredAny>>, reading: &mut Reading<'_>) {
    if let Some(session) = session {
        let fault = session.place.fault(
            "session persistence is not supported",
            "remove it; without it, requests of one client go to all endpoints",
        );
        reading.faults.0.push(fault);
    }
}

fn backend(At { value: raw, place }: At<RawBackend>, reading: &mut Reading<'_>) -> BackendRef {
    let weight = raw
        .weight
        .map_or(Ok(1), |weight| match u32::try_from(weight.value) {
            Ok(value) if value <= 1_000_000 => Ok(value),
            _ => Err(weight
                .place
                .fault(format!("{} is not a weight", weight.value), "use 0 to 1000000")),
        });
    let weight = reading.faults.keep(weight).unwrap_or_default();
    let object = RawObject {
        group: raw.group,
        kind: raw.kind,
        namespace: raw.namespace,
        name: raw.name,
        port: raw.port,
    };
    BackendRef {
        target: target(object, &place, reading),
        weight,
        filters: filters(raw.filters, &place.child("filters"), reading),
    }
}

/// A reference to something that requests can be sent to.
#[derive(Deserialize)]
struct RawObject {
    group: Option<At<String>>,
    kind: Option<At<String>>,
    namespace: Option<At<String>>,
    name: At<String>,
    port: Option<At<i64>>,
}

fn target(raw: RawObject, place: &Place, reading: &mut Reading<'_>) -> BackendTarget {
    let group = plain(raw.group).unwrap_or_default();
    let kind = plain(raw.kind).unwrap_or_else(|| "Service".to_owned());
    let namespace = namespace(raw.namespace, reading);
    let number = raw.port.map(|number| port(number.value, &number.place));
    if kind != "Service" || !matches!(group.as_str(), "" | "core") {
        number.map(|number| reading.faults.keep(number));
        return BackendTarget::Other {
            group,
            kind,
            key: ObjectKey::new(namespace, raw.name.value),
        };
    }
    check(&raw.name, dns_label, NAME, &mut reading.faults);
    let number = number.unwrap_or_else(|| {
        let remedy = "name the port of the service that requests go to";
        Err(place.child("port").fault("missing", remedy))
    });
    BackendTarget::Service {
        service: ObjectKey::new(namespace, raw.name.value),
        port: reading.faults.keep(number).unwrap_or_default(),
    }
}

fn timeouts(raw: Option<At<RawTimeouts>>, reading: &mut Reading<'_>) -> RouteTimeouts {
    let Some(At { value: raw, place }) = raw else {
        return RouteTimeouts::default();
    };
    let mut read = |text: Option<At<String>>| reading.faults.keep(duration(&text?));
    let timeouts = RouteTimeouts {
        request: read(raw.request),
        backend_request: read(raw.backend_request),
    };
    if let (Some(request), Some(backend)) = (timeouts.request, timeouts.backend_request)
        && !request.is_zero()
        && backend > request
    {
        let fault = place.child("backendRequest").fault(
            "longer than the timeout of the whole request",
            "make it at most as long as timeouts.request",
        );
        reading.faults.0.push(fault);
    }
    timeouts
}

fn retry(raw: RawRetry, reading: &mut Reading<'_>) -> RouteRetry {
    let mut codes = Vec::new();
    for code in raw.codes {
        match u16::try_from(code.value) {
            Ok(value @ 400..=599) if codes.contains(&value) => {
                let fault = code
                    .place
                    .fault(format!("{value} stands here twice"), "list each code once");
                reading.faults.0.push(fault);
            }
            Ok(value @ 400..=599) => codes.push(value),
            _ => {
                let reason = format!("{} is not a status to try again after", code.value);
                reading.faults.0.push(code.place.fault(reason, "use 400 to 599"));
            }
        }
    }
    let attempts = raw.attempts.map(|attempts| {
        let remedy = "use a whole number that is not negative";
        u32::try_from(attempts.value).map_err(|_| {
            attempts
                .place
                .fault(format!("{} is not a number of tries", attempts.value), remedy)
        })
    });
    RouteRetry {
        codes,
        attempts: attempts.and_then(|attempts| reading.faults.keep(attempts)),
        backoff: raw.backoff.and_then(|text| reading.faults.keep(duration(&text))),
    }
}
