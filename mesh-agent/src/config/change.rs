//! One difference between what a source said before and what it says now.

use mesh_common::model::{
    AuthorizationPolicy, ObjectKey, PeerAuthentication, RequestAuthentication, Service, Workload,
};

/// One object that came, changed or went. A source emits only real differences.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The workload is new, or differs from the one with its key.
    PutWorkload(Workload),
    /// The workload is gone.
    RemoveWorkload(ObjectKey),
    /// The service is new, or differs from the one with its key.
    PutService(Service),
    /// The service is gone.
    RemoveService(ObjectKey),
    /// The authorization policy is new, or differs from the one with its key.
    PutAuthorizationPolicy(AuthorizationPolicy),
    /// The authorization policy is gone.
    RemoveAuthorizationPolicy(ObjectKey),
    /// The peer authentication is new, or differs from the one with its key.
    PutPeerAuthentication(PeerAuthentication),
    /// The peer authentication is gone.
    RemovePeerAuthentication(ObjectKey),
    /// The request authentication is new, or differs from the one with its key.
    PutRequestAuthentication(RequestAuthentication),
    /// The request authentication is gone.
    RemoveRequestAuthentication(ObjectKey),
}
