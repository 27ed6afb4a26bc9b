//! Routes and requests in few words.

use std::sync::Arc;

use http::request::Parts;
use mesh_common::model::{
    BackendRef, BackendTarget, GrpcMatch, HttpMatch, NamedMatch, ObjectKey, ParentRef, PathMatch, Route,
    RouteFilter, RouteKind, RouteMatch, RouteRule, Service, ServicePort, TargetPort, TextMatch,
};

use crate::routing::{CompiledRoute, RouteTable};

/// The port that all tables here are for.
pub(super) const PORT: u16 = 80;

pub(super) fn key(text: &str) -> ObjectKey {
    let (namespace, name) = text.split_once('/').unwrap();
    ObjectKey::new(namespace, name)
}

/// A service with TCP ports, each with a name.
pub(super) fn service(name: &str, ports: &[(&str, u16)]) -> Service {
    Service {
        key: key(name),
        cluster_ips: Vec::new(),
        ports: ports
            .iter()
            .map(|(name, port)| ServicePort {
                name: Some((*name).to_owned()),
                port: *port,
                target: TargetPort::Number(*port),
                app_protocol: None,
            })
            .collect(),
        selector: Default::default(),
    }
}

/// A route of the service `shop/web`.
pub(super) fn route(kind: RouteKind, name: &str, rules: Vec<RouteRule>) -> Route {
    Route {
        kind,
        key: key(name),
        created: None,
        parents: vec![parent("shop/web")],
        hostnames: Vec::new(),
        rules,
    }
}

pub(super) fn parent(service: &str) -> ParentRef {
    ParentRef {
        service: key(service),
        port: None,
        section_name: None,
    }
}

pub(super) fn rule(matches: Vec<RouteMatch>) -> RouteRule {
    RouteRule {
        matches,
        ..RouteRule::default()
    }
}

pub(super) fn filtered(filters: Vec<RouteFilter>) -> RouteRule {
    RouteRule {
        filters,
        ..RouteRule::default()
    }
}

pub(super) fn backend(service: &str, port: u16, weight: u32) -> BackendRef {
    BackendRef {
        target: BackendTarget::Service {
            service: key(service),
            port,
        },
        weight,
        filters: Vec::new(),
    }
}

pub(super) fn http(path: PathMatch) -> HttpMatch {
    HttpMatch {
        path,
        method: None,
        headers: Vec::new(),
        query: Vec::new(),
    }
}

pub(super) fn exact(path: &str) -> HttpMatch {
    http(PathMatch::Exact(path.to_owned()))
}

pub(super) fn prefix(path: &str) -> HttpMatch {
    http(PathMatch::Prefix(path.to_owned()))
}

pub(super) fn regex(path: &str) -> HttpMatch {
    http(PathMatch::Regex(path.to_owned()))
}

pub(super) fn grpc(service: Option<TextMatch>, method: Option<TextMatch>) -> RouteMatch {
    RouteMatch::Grpc(GrpcMatch {
        service,
        method,
        headers: Vec::new(),
    })
}

pub(super) fn is(text: &str) -> TextMatch {
    TextMatch::Exact(text.to_owned())
}

pub(super) fn like(text: &str) -> TextMatch {
    TextMatch::Regex(text.to_owned())
}

pub(super) fn named(name: &str, value: TextMatch) -> NamedMatch {
    NamedMatch {
        name: name.to_owned(),
        value,
    }
}

/// Further wishes of a match.
pub(super) trait Also: Sized {
    fn method(self, method: &str) -> Self;
    fn header(self, name: &str, value: TextMatch) -> Self;
    fn query(self, name: &str, value: TextMatch) -> Self;
    fn one(self) -> RouteMatch;
}

impl Also for HttpMatch {
    fn method(mut self, method: &str) -> Self {
        self.method = Some(method.to_owned());
        self
    }

    fn header(mut self, name: &str, value: TextMatch) -> Self {
        self.headers.push(named(name, value));
        self
    }

    fn query(mut self, name: &str, value: TextMatch) -> Self {
        self.query.push(named(name, value));
        self
    }

    fn one(self) -> RouteMatch {
        RouteMatch::Http(self)
    }
}

pub(super) fn compiled(route: Route) -> Arc<CompiledRoute> {
    Arc::new(CompiledRoute::new(Arc::new(route)))
}

pub(super) fn table(routes: Vec<Route>) -> RouteTable {
    let kind = routes.first().map_or(RouteKind::Http, |route| route.kind);
    RouteTable::new(PORT, kind, routes.into_iter().map(compiled).collect())
}

/// A request, such as `GET /path?query` with headers.
pub(super) fn request(line: &str, headers: &[(&str, &str)]) -> Parts {
    let (method, target) = line.split_once(' ').unwrap();
    let mut request = http::Request::builder().method(method).uri(target);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

/// Which route and rule leads a request: `shop/a 0`.
pub(super) fn led(table: &RouteTable, line: &str, headers: &[(&str, &str)]) -> Option<String> {
    let matched = table.select(&request(line, headers))?;
    Some(format!("{} {}", matched.rule.route.key, matched.rule.index))
}
