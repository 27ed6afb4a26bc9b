//! Parts of routes in words.

use std::time::Duration;

use mesh_common::model::{
    BackendRef, HeaderModifier, NamedMatch, PathMatch, PathModifier, RouteFilter, RouteMatch, RouteTimeouts,
    TextMatch,
};

use crate::{
    admin::proto::{ExplainedBackend, ExplainedRoute},
    routing::{RouteTable, Rule},
};

/// The routes of a service port by name.
pub(super) fn routes(table: &RouteTable) -> String {
    let names = table.routes().iter().map(|route| route.route().key.to_string());
    format!("{} {}", table.kind(), names.collect::<Vec<_>>().join(", "))
}

/// What the routes look at in requests, for each of them that does: `HTTPRoute shop/web: path, header x-user`.
pub(super) fn asked_by(table: &RouteTable) -> Vec<String> {
    let routes = table.routes().iter().filter_map(|route| {
        let route = route.route();
        let mut parts: Vec<String> = Vec::new();
        for rule in &route.rules {
            let backends = rule.backends.iter().flat_map(|backend| &backend.filters);
            let filters = rule.filters.iter().chain(backends).filter_map(looked_at);
            let matches = rule.matches.iter().flat_map(parts_of);
            for part in matches.chain(filters.map(str::to_owned)) {
                if !parts.contains(&part) {
                    parts.push(part);
                }
            }
        }
        (!parts.is_empty()).then(|| format!("{} {}: {}", route.kind, route.key, parts.join(", ")))
    });
    routes.collect()
}

/// A rule as it is shown, without its backends.
pub(super) fn ruled(rule: &Rule) -> ExplainedRoute {
    let written = rule.route.rules.get(rule.index);
    ExplainedRoute {
        kind: rule.route.kind.to_string(),
        key: rule.route.key.to_string(),
        rule: u32::try_from(rule.index).unwrap_or(u32::MAX),
        name: rule.name().unwrap_or_default().to_owned(),
        matches: written
            .into_iter()
            .flat_map(|rule| rule.matches.iter().map(matched))
            .collect(),
        filters: written
            .into_iter()
            .flat_map(|rule| rule.filters.iter().map(filter))
            .collect(),
        backends: Vec::new(),
        timeouts: limits(&rule.timeouts),
    }
}

fn limits(timeouts: &RouteTimeouts) -> Vec<String> {
    let limit = |what: &str, limit: Option<Duration>| {
        limit.map(|limit| format!("{what}: {}", humantime::format_duration(limit)))
    };
    let whole = limit("the whole request", timeouts.request);
    whole
        .into_iter()
        .chain(limit("one try", timeouts.backend_request))
        .collect()
}

/// A backend as it is shown.
pub(super) fn backend(reference: &BackendRef) -> ExplainedBackend {
    ExplainedBackend {
        target: reference.target.to_string(),
        weight: reference.weight,
        filters: reference.filters.iter().map(filter).collect(),
        fault: String::new(),
    }
}

/// The parts of requests that a match looks at.
fn parts_of(wanted: &RouteMatch) -> Vec<String> {
    let named = |what: &str, list: &[NamedMatch]| {
        let names = list.iter().map(|one| format!("{what} {}", one.name));
        names.collect::<Vec<_>>()
    };
    match wanted {
        RouteMatch::Http(wanted) => {
            let method = wanted.method.is_some().then(|| "method".to_owned());
            let path = (!is_any(&wanted.path)).then(|| "path".to_owned());
            let headers = named("header", &wanted.headers);
            let query = named("query", &wanted.query);
            method
                .into_iter()
                .chain(path)
                .chain(headers)
                .chain(query)
                .collect()
        }
        RouteMatch::Grpc(wanted) => {
            let path = (wanted.service.is_some() || wanted.method.is_some()).then(|| "path".to_owned());
            path.into_iter().chain(named("header", &wanted.headers)).collect()
        }
    }
}

/// What a filter looks at to answer requests instead of sending them on.
fn looked_at(filter: &RouteFilter) -> Option<&'static str> {
    match filter {
        RouteFilter::Redirect(_) => Some("path"),
        RouteFilter::Cors(_) => Some("origin"),
        RouteFilter::Rewrite(_)
        | RouteFilter::RequestHeaders(_)
        | RouteFilter::ResponseHeaders(_)
        | RouteFilter::Mirror(_)
        | RouteFilter::Extension { .. } => None,
    }
}

fn is_any(path: &PathMatch) -> bool {
    matches!(path, PathMatch::Prefix(prefix) if prefix == "/")
}

/// What a match wants: `GET, path prefix /api, header x-user = a`.
fn matched(wanted: &RouteMatch) -> String {
    let mut words = Vec::new();
    match wanted {
        RouteMatch::Http(wanted) => {
            words.extend(wanted.method.clone());
            if !is_any(&wanted.path) {
                words.push(match &wanted.path {
                    PathMatch::Exact(path) => format!("path {path}"),
                    PathMatch::Prefix(path) => format!("path prefix {path}"),
                    PathMatch::Regex(text) => format!("path ~ {text}"),
                });
            }
            words.extend(wanted.headers.iter().map(|header| named("header", header)));
            words.extend(wanted.query.iter().map(|header| named("query", header)));
        }
        RouteMatch::Grpc(wanted) => {
            let text = |what: &str, wanted: &Option<TextMatch>| {
                wanted
                    .as_ref()
                    .map(|wanted| format!("{what} {}", compared(wanted)))
            };
            words.extend(text("service", &wanted.service));
            words.extend(text("method", &wanted.method));
            words.extend(wanted.headers.iter().map(|header| named("header", header)));
        }
    }
    match words.is_empty() {
        true => "every request".to_owned(),
        false => words.join(", "),
    }
}

/// What a filter does: `rewrite: path prefix becomes /v1`.
fn filter(filter: &RouteFilter) -> String {
    match filter {
        RouteFilter::RequestHeaders(change) => format!("request headers: {}", changes(change)),
        RouteFilter::ResponseHeaders(change) => format!("response headers: {}", changes(change)),
        RouteFilter::Redirect(to) => {
            let words = [
                to.scheme.as_ref().map(|scheme| format!("scheme {scheme}")),
                to.hostname.as_ref().map(|host| format!("host {host}")),
                to.port.map(|port| format!("port {port}")),
                to.path.as_ref().map(path),
                Some(format!("status {}", to.status)),
            ];
            format!("redirect: {}", joined(words))
        }
        RouteFilter::Rewrite(to) => {
            let host = to.hostname.as_ref().map(|host| format!("host becomes {host}"));
            format!("rewrite: {}", joined([host, to.path.as_ref().map(path)]))
        }
        RouteFilter::Mirror(mirror) => format!(
            "mirror: {} of {} requests also to {}",
            mirror.numerator, mirror.denominator, mirror.target
        ),
        RouteFilter::Cors(cors) => format!("cors: origins {}", cors.allow_origins.join(" ")),
        RouteFilter::Extension { group, kind, name } => format!("extension: {group} {kind} {name}, unknown"),
    }
}

fn named(what: &str, wanted: &NamedMatch) -> String {
    format!("{what} {} {}", wanted.name, compared(&wanted.value))
}

fn compared(wanted: &TextMatch) -> String {
    match wanted {
        TextMatch::Exact(text) => format!("= {text}"),
        TextMatch::Regex(text) => format!("~ {text}"),
    }
}

fn path(change: &PathModifier) -> String {
    match change {
        PathModifier::Full(path) => format!("path becomes {path}"),
        PathModifier::Prefix(path) => format!("path prefix becomes {path}"),
    }
}

fn changes(change: &HeaderModifier) -> String {
    let set = change
        .set
        .iter()
        .map(|(name, value)| format!("{name} set to {value}"));
    let add = change
        .add
        .iter()
        .map(|(name, value)| format!("{value} added to {name}"));
    let remove = change.remove.iter().map(|name| format!("{name} removed"));
    joined(set.chain(add).chain(remove).map(Some))
}

fn joined(words: impl IntoIterator<Item = Option<String>>) -> String {
    let words: Vec<_> = words.into_iter().flatten().collect();
    words.join(", ")
}
