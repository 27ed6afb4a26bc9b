//! Which routes lead requests to a service, kept beside the services.
//!
//! Each route is compiled once, when it comes. A change of a route, or of the service that is its parent, puts
//! together anew which routes are attached to that service; tables whose routes stayed the same stay too, and the
//! others are made when a request first asks for them.
//!
//! Invariant: the answer depends on the objects of the snapshot alone, however they came to be there.

use std::collections::BTreeSet;
use std::sync::Arc;

use mesh_common::model::{ObjectKey, Route, RouteKind, Service};

use super::{Family, ServiceBackend, Snapshot};
use crate::routing::{Attached, CompiledRoute, ParentStatus, RouteTable, Surroundings, conditions};

/// Names a route among both kinds.
pub(super) type RouteId = (RouteKind, ObjectKey);

impl Snapshot {
    /// The table for requests to a port of a service, from clients of a namespace. `None` when there is no route for
    /// them: they are sent to the service as they are. Clients outside of the mesh have no namespace.
    pub fn routes_of(
        &self,
        service: &ObjectKey,
        port: u16,
        client_namespace: Option<&str>,
    ) -> Option<&Arc<RouteTable>> {
        if self.attached.is_empty() {
            return None;
        }
        self.attached.get(service)?.table(port, client_namespace)
    }

    /// Whether any route is attached to this port of a service, for whatever clients.
    pub fn has_routes(&self, service: &ObjectKey, port: u16) -> bool {
        let attached = self.attached.get(service);
        attached.is_some_and(|attached| attached.has_routes(port))
    }

    /// A port of a service in one address family, with its ready endpoints: what a backend of a route means.
    pub fn service_port(
        &self,
        service: &ObjectKey,
        port: u16,
        family: Family,
    ) -> Option<&Arc<ServiceBackend>> {
        self.service(service)?.backend(port, family)
    }

    /// All routes, by kind and key.
    pub fn routes(&self) -> impl Iterator<Item = &Arc<CompiledRoute>> {
        self.routes.values()
    }

    /// The route of this kind with this key.
    pub fn route(&self, kind: RouteKind, key: &ObjectKey) -> Option<&Arc<CompiledRoute>> {
        self.routes.get(&(kind, key.clone()))
    }

    /// The conditions of a route of this snapshot.
    pub fn conditions_of(&self, route: &CompiledRoute) -> Vec<ParentStatus> {
        conditions(route, self)
    }

    /// Puts a route in place. Returns its parents before and after, if anything differs.
    pub(super) fn put_route(&mut self, route: &Arc<Route>) -> Option<BTreeSet<ObjectKey>> {
        let id = (route.kind, route.key.clone());
        if self.routes.get(&id).is_some_and(|known| *known.route() == *route) {
            return None;
        }
        let mut touched = self.remove_route(route.kind, &route.key).unwrap_or_default();
        let compiled = CompiledRoute::new(Arc::clone(route));
        for parent in parents(&compiled) {
            self.routes_to
                .entry(parent.clone())
                .or_default()
                .insert(id.clone());
            touched.insert(parent);
        }
        self.routes.insert(id, Arc::new(compiled));
        Some(touched)
    }

    /// Takes a route away. Returns its parents, if it was there.
    pub(super) fn remove_route(&mut self, kind: RouteKind, key: &ObjectKey) -> Option<BTreeSet<ObjectKey>> {
        let id = (kind, key.clone());
        let route = self.routes.remove(&id)?;
        let parents = parents(&route);
        for parent in &parents {
            if let Some(routes) = self.routes_to.get_mut(parent) {
                routes.remove(&id);
                if routes.is_empty() {
                    self.routes_to.remove(parent);
                }
            }
        }
        Some(parents)
    }

    /// Works out again which routes are attached to a service.
    pub(super) fn attach(&mut self, service: &ObjectKey) {
        let attached = match (self.services.get(service), self.routes_to.get(service)) {
            (Some(entry), Some(routes)) => {
                let routes = routes.iter().filter_map(|id| self.routes.get(id));
                let before = self.attached.get(service);
                Attached::new(&entry.service, routes, before.map(|before| &**before))
            }
            _ => {
                self.attached.remove(service);
                return;
            }
        };
        if attached.is_empty() {
            self.attached.remove(service);
        } else {
            self.attached.insert(service.clone(), Arc::new(attached));
        }
    }
}

impl Surroundings for Snapshot {
    fn service(&self, key: &ObjectKey) -> Option<&Service> {
        self.services.get(key).map(|entry| &*entry.service)
    }

    fn attached(&self, key: &ObjectKey) -> Option<&Attached> {
        self.attached.get(key).map(|attached| &**attached)
    }
}

/// The services that a route names, each once.
fn parents(route: &CompiledRoute) -> BTreeSet<ObjectKey> {
    let parents = route.route().parents.iter();
    parents.map(|parent| parent.service.clone()).collect()
}
