//! What became of a route: its conditions in the Gateway API's terms, for each of its parents.

use std::fmt;

use mesh_common::model::{BackendTarget, ObjectKey, ParentRef, RouteFilter, Service};

use super::attach::{Attached, opaque, ports_of};
use super::compile::{CompiledRoute, DropReason, Dropped};

/// Who writes these conditions.
pub const CONTROLLER: &str = "nodemesh.io/mesh";

/// The conditions of a route at one of its parents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParentStatus {
    /// The parent.
    pub parent: ParentRef,
    /// The ports of it on which the route is in force.
    pub ports: Vec<u16>,
    /// `Accepted` and `ResolvedRefs`, and `PartiallyInvalid` if some rules are not in force.
    pub conditions: Vec<Condition>,
}

/// One thing that is so, or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// What.
    pub kind: ConditionKind,
    /// Whether it is so.
    pub holds: bool,
    /// Why, in one word.
    pub reason: Reason,
    /// Why, in a sentence.
    pub message: String,
}

/// A type of condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConditionKind {
    /// The route leads requests to this parent.
    Accepted,
    /// Everything that the route refers to is there.
    ResolvedRefs,
    /// Some of its rules are in force and others are not.
    PartiallyInvalid,
}

/// Why a condition holds or does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Nothing is in the way.
    Accepted,
    /// There is no such service, or no such port of it.
    NoMatchingParent,
    /// The route asks for something that the mesh cannot do.
    UnsupportedValue,
    /// Filters of it exclude each other.
    IncompatibleFilters,
    /// A route of a greater kind is attached to the same port.
    Conflicted,
    /// Everything is there.
    ResolvedRefs,
    /// A reference names something that cannot be what it is used for.
    InvalidKind,
    /// A backend is not there.
    BackendNotFound,
}

/// Where conditions look things up.
pub trait Surroundings {
    /// The service with this key.
    fn service(&self, key: &ObjectKey) -> Option<&Service>;

    /// The routes attached to the service with this key.
    fn attached(&self, key: &ObjectKey) -> Option<&Attached>;
}

/// The conditions of a route, in the order of its parents.
pub fn conditions(route: &CompiledRoute, around: &impl Surroundings) -> Vec<ParentStatus> {
    let references = references(route, around);
    let parents = route.route().parents.iter();
    parents
        .map(|parent| {
            let (accepted, ports) = accepted(route, parent, around);
            let mut conditions = vec![accepted, references.clone()];
            if let Some(first) = route.dropped().first().filter(|_| route.is_usable()) {
                conditions.push(Condition {
                    kind: ConditionKind::PartiallyInvalid,
                    holds: true,
                    reason: first.reason.into(),
                    message: format!("Dropped Rule {}", list(route, route.dropped())),
                });
            }
            ParentStatus {
                parent: parent.clone(),
                ports,
                conditions,
            }
        })
        .collect()
}

fn accepted(route: &CompiledRoute, parent: &ParentRef, around: &impl Surroundings) -> (Condition, Vec<u16>) {
    let condition = |reason: Reason, message: String| Condition {
        kind: ConditionKind::Accepted,
        holds: reason == Reason::Accepted,
        reason,
        message,
    };
    let refused = |reason, message| (condition(reason, message), Vec::new());
    let Some(service) = around.service(&parent.service) else {
        let message = format!("the service {} is not known", parent.service);
        return refused(Reason::NoMatchingParent, message);
    };
    let mut ports: Vec<u16> = ports_of(parent, service).collect();
    if ports.is_empty() {
        let wanted = match (parent.port, &parent.section_name) {
            (Some(port), Some(name)) => format!("TCP port {port} with the name {name}"),
            (Some(port), None) => format!("TCP port {port}"),
            (None, Some(name)) => format!("TCP port with the name {name}"),
            (None, None) => "TCP port".to_owned(),
        };
        let message = format!("the service {} has no {wanted}", parent.service);
        return refused(Reason::NoMatchingParent, message);
    }
    if !route.is_usable() {
        let reason = if route
            .dropped()
            .iter()
            .any(|rule| rule.reason == DropReason::UnsupportedValue)
        {
            Reason::UnsupportedValue
        } else {
            Reason::IncompatibleFilters
        };
        return refused(
            reason,
            format!("no rule can be in force: {}", list(route, route.dropped())),
        );
    }
    let carried = carried_as_bytes(service, &mut ports);
    if ports.is_empty() {
        return refused(Reason::UnsupportedValue, carried.join(", "));
    }
    let attached = around.attached(&parent.service);
    let stronger = |port: u16| attached.and_then(|attached| attached.stronger(port, route, service));
    let lost: Vec<_> = ports
        .iter()
        .filter_map(|port| {
            let stronger = stronger(*port)?.route();
            Some((
                *port,
                format!("{} {} leads port {port}", stronger.kind, stronger.key),
            ))
        })
        .collect();
    ports.retain(|port| !lost.iter().any(|(gone, _)| gone == port));
    let lost = lost.into_iter().map(|(_, words)| words);
    if ports.is_empty() {
        let lost: Vec<_> = lost.collect();
        return refused(Reason::Conflicted, lost.join(", "));
    }
    let remarks: Vec<_> = lost.chain(carried).chain(without_effect(route)).collect();
    (condition(Reason::Accepted, remarks.join(", ")), ports)
}

/// Takes out the ports without requests, and says so of each.
fn carried_as_bytes(service: &Service, ports: &mut Vec<u16>) -> Vec<String> {
    let mut said = Vec::new();
    for port in &service.ports {
        if let Some(protocol) = opaque(port)
            && ports.contains(&port.port)
        {
            ports.retain(|number| *number != port.port);
            said.push(format!(
                "port {} is carried as bytes, as its appProtocol {protocol} says",
                port.port
            ));
        }
    }
    said
}

/// What is read, and does nothing.
fn without_effect(route: &CompiledRoute) -> Option<String> {
    let rules = route.route().rules.iter().enumerate();
    let retried: Vec<_> = rules
        .filter(|(_, rule)| rule.retry.is_some())
        .map(|(index, _)| format!("spec.rules[{index}].retry"))
        .collect();
    (!retried.is_empty()).then(|| {
        format!(
            "{} without effect: requests are not tried again yet",
            retried.join(" and ")
        )
    })
}

/// Whether everything is there that the rules refer to.
fn references(route: &CompiledRoute, around: &impl Surroundings) -> Condition {
    let mut missing: Vec<(Reason, String)> = Vec::new();
    let mut add = |found: Option<(Reason, String)>| {
        missing.extend(found.filter(|found| !missing.contains(found)));
    };
    for rule in &route.route().rules {
        let of_backends = rule.backends.iter().flat_map(|backend| &backend.filters);
        for filter in rule.filters.iter().chain(of_backends) {
            add(match filter {
                RouteFilter::Mirror(mirror) => unresolved(&mirror.target, around),
                RouteFilter::Extension { group, kind, name } => Some((
                    Reason::InvalidKind,
                    format!(
                        "{group} {kind} {name} is not a filter that is known, so requests are answered 500"
                    ),
                )),
                _ => None,
            });
        }
        for backend in &rule.backends {
            add(unresolved(&backend.target, around));
        }
    }
    let messages: Vec<_> = missing.iter().map(|(_, message)| message.as_str()).collect();
    let message = messages.join("; ");
    let reason = missing
        .first()
        .map_or(Reason::ResolvedRefs, |(reason, _)| *reason);
    Condition {
        kind: ConditionKind::ResolvedRefs,
        holds: reason == Reason::ResolvedRefs,
        reason,
        message,
    }
}

/// Why a backend cannot be used, if it cannot.
fn unresolved(target: &BackendTarget, around: &impl Surroundings) -> Option<(Reason, String)> {
    let BackendTarget::Service { service: key, port } = target else {
        return Some((Reason::InvalidKind, format!("{target} is not a service")));
    };
    let Some(service) = around.service(key) else {
        return Some((Reason::BackendNotFound, format!("the service {key} is not known")));
    };
    if service.ports.iter().any(|known| known.port == *port) {
        return None;
    }
    let message = format!("the service {key} has no TCP port {port}");
    Some((Reason::BackendNotFound, message))
}

/// Rules that are not in force, each with its reason.
fn list(route: &CompiledRoute, dropped: &[Dropped]) -> String {
    let rules = dropped.iter().map(|dropped| {
        let rule = route.route().rules.get(dropped.rule);
        let name = rule.and_then(|rule| rule.name.as_ref());
        let name = name.map(|name| format!(" ({name})")).unwrap_or_default();
        format!("spec.rules[{}]{name}: {}", dropped.rule, dropped.message)
    });
    rules.collect::<Vec<_>>().join("; ")
}

impl ParentStatus {
    /// The condition of a type.
    pub fn condition(&self, kind: ConditionKind) -> Option<&Condition> {
        self.conditions.iter().find(|condition| condition.kind == kind)
    }
}

impl From<DropReason> for Reason {
    fn from(reason: DropReason) -> Self {
        match reason {
            DropReason::IncompatibleFilters => Self::IncompatibleFilters,
            DropReason::UnsupportedValue => Self::UnsupportedValue,
        }
    }
}

/// The names are those of the Gateway API.
impl fmt::Display for ConditionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// The names are those of the Gateway API.
impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
