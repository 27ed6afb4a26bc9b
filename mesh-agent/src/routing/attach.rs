//! Which routes lead the requests to a service: for each of its ports, and for the clients of each namespace.
//!
//! Routes of the service's own namespace (producer routes) are for all clients. A namespace that has routes of its own
//! for the service (consumer routes) sees these instead: the two groups are never merged. In a group, routes of the
//! greatest kind alone are in force.
//!
//! Invariant: a table is made when somebody first asks for it, and kept as long as its routes are the same.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use mesh_common::model::{Declared, ParentRef, RouteKind, Service, ServicePort};

use super::compile::CompiledRoute;
use super::table::RouteTable;

/// The routes of one service.
#[derive(Debug)]
pub struct Attached {
    ports: Vec<PortRoutes>,
}

#[derive(Debug)]
struct PortRoutes {
    port: u16,
    producer: Option<Group>,
    consumers: BTreeMap<Arc<str>, Group>,
}

/// Routes of one kind that are in force together, at least one.
#[derive(Debug)]
struct Group {
    kind: RouteKind,
    routes: Vec<Arc<CompiledRoute>>,
    table: OnceLock<Arc<RouteTable>>,
}

impl Attached {
    /// Attaches routes to a service: those of them that name it as a parent. `before` is what there was until now.
    pub fn new<'r>(
        service: &Service,
        routes: impl IntoIterator<Item = &'r Arc<CompiledRoute>>,
        before: Option<&Self>,
    ) -> Self {
        let mut ports: Vec<_> = service
            .ports
            .iter()
            .filter(|port| opaque(port).is_none())
            .map(|port| PortRoutes {
                port: port.port,
                producer: None,
                consumers: BTreeMap::new(),
            })
            .collect();
        for route in routes {
            for port in &mut ports {
                let mut parents = route.route().parents.iter();
                if parents.any(|parent| ports_of(parent, service).any(|number| number == port.port)) {
                    port.add(service, route);
                }
            }
        }
        ports.retain(|port| port.producer.is_some() || !port.consumers.is_empty());
        for port in &mut ports {
            if let Some(before) = before.and_then(|before| before.port(port.port)) {
                port.keep(before);
            }
        }
        Self { ports }
    }

    /// Whether there is no route.
    pub fn is_empty(&self) -> bool {
        self.ports.is_empty()
    }

    /// Whether there is a route for a port, for whatever clients.
    pub fn has_routes(&self, port: u16) -> bool {
        self.port(port).is_some()
    }

    /// The table for requests of a namespace's clients to a port; none when they are to be sent on without one.
    pub fn table(&self, port: u16, client_namespace: Option<&str>) -> Option<&Arc<RouteTable>> {
        let routes = self.port(port)?;
        let own = client_namespace.and_then(|namespace| routes.consumers.get(namespace));
        own.or(routes.producer.as_ref()).map(|group| group.table(port))
    }

    /// The route that is in force for a port instead of `route`, if one is.
    pub(super) fn stronger(
        &self,
        port: u16,
        route: &CompiledRoute,
        service: &Service,
    ) -> Option<&CompiledRoute> {
        let routes = self.port(port)?;
        let namespace = &route.route().key.namespace;
        let group = if *namespace == service.key.namespace {
            routes.producer.as_ref()?
        } else {
            routes.consumers.get(namespace)?
        };
        let strongest = group.routes.first()?;
        (group.kind > route.route().kind).then_some(&**strongest)
    }

    fn port(&self, port: u16) -> Option<&PortRoutes> {
        self.ports.iter().find(|routes| routes.port == port)
    }
}

/// The ports of the service that a parent means; none if it means another service.
pub(super) fn ports_of<'a>(
    parent: &'a ParentRef,
    service: &'a Service,
) -> impl Iterator<Item = u16> + use<'a> {
    let same = parent.service == service.key;
    let meant = service.ports.iter().filter(move |port| {
        let section = parent.section_name.as_deref();
        same && parent.port.is_none_or(|number| number == port.port)
            && section.is_none_or(|name| port.name.as_deref() == Some(name))
    });
    meant.map(|port| port.port)
}

/// The `appProtocol` of a port whose connections are carried as bytes whatever routes say: they have no requests to lead.
pub(super) fn opaque(port: &ServicePort) -> Option<&str> {
    let protocol = port.app_protocol.as_deref()?;
    (port.declared() == Declared::Bytes).then_some(protocol)
}

impl PortRoutes {
    fn add(&mut self, service: &Service, route: &Arc<CompiledRoute>) {
        if !route.is_usable() {
            return;
        }
        let namespace = &route.route().key.namespace;
        if *namespace == service.key.namespace {
            match &mut self.producer {
                Some(group) => group.add(route),
                none => *none = Some(Group::of(route)),
            }
        } else {
            match self.consumers.get_mut(namespace) {
                Some(group) => group.add(route),
                None => {
                    self.consumers.insert(Arc::clone(namespace), Group::of(route));
                }
            }
        }
    }

    /// Takes over the tables of groups that are the same as before.
    fn keep(&mut self, before: &Self) {
        if let (Some(group), Some(before)) = (&mut self.producer, &before.producer) {
            group.keep(before);
        }
        for (namespace, group) in &mut self.consumers {
            if let Some(before) = before.consumers.get(namespace) {
                group.keep(before);
            }
        }
    }
}

impl Group {
    fn of(route: &Arc<CompiledRoute>) -> Self {
        Self {
            kind: route.route().kind,
            routes: vec![Arc::clone(route)],
            table: OnceLock::new(),
        }
    }

    fn add(&mut self, route: &Arc<CompiledRoute>) {
        match route.route().kind {
            weaker if weaker < self.kind => {}
            kind if kind > self.kind => *self = Self::of(route),
            _ => self.routes.push(Arc::clone(route)),
        }
    }

    fn keep(&mut self, before: &Self) {
        let same = self.routes.len() == before.routes.len()
            && self
                .routes
                .iter()
                .zip(&before.routes)
                .all(|(a, b)| Arc::ptr_eq(a, b));
        if same {
            self.table = before.table.clone();
        }
    }

    fn table(&self, port: u16) -> &Arc<RouteTable> {
        self.table
            .get_or_init(|| Arc::new(RouteTable::new(port, self.kind, self.routes.clone())))
    }
}
