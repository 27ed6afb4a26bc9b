//! One difference between what a source said before and what it says now.

use std::sync::Arc;

use mesh_common::model::{
    AuthorizationPolicy, ObjectKey, PeerAuthentication, RequestAuthentication, Route, RouteKind, Service,
    Workload,
};

/// One object that came, changed or went. A source emits only real differences, and shares the objects with whoever takes
/// them in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The workload is new, or differs from the one with its key.
    PutWorkload(Arc<Workload>),
    /// The workload is gone.
    RemoveWorkload(ObjectKey),
    /// The service is new, or differs from the one with its key.
    PutService(Arc<Service>),
    /// The service is gone.
    RemoveService(ObjectKey),
    /// The authorization policy is new, or differs from the one with its key.
    PutAuthorizationPolicy(Arc<AuthorizationPolicy>),
    /// The authorization policy is gone.
    RemoveAuthorizationPolicy(ObjectKey),
    /// The peer authentication is new, or differs from the one with its key.
    PutPeerAuthentication(Arc<PeerAuthentication>),
    /// The peer authentication is gone.
    RemovePeerAuthentication(ObjectKey),
    /// The request authentication is new, or differs from the one with its key.
    PutRequestAuthentication(Arc<RequestAuthentication>),
    /// The request authentication is gone.
    RemoveRequestAuthentication(ObjectKey),
    /// The route is new, or differs from the one of its kind with its key.
    PutRoute(Arc<Route>),
    /// The route is gone.
    RemoveRoute(RouteKind, ObjectKey),
}
