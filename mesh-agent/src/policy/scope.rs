//! Which policies concern a workload.
//!
//! A policy of the root namespace concerns the whole mesh, another one its own namespace; a selector, or the services
//! that it is bound to, narrow that down.

use std::collections::BTreeMap;

use mesh_common::model::{
    AuthorizationPolicy, ObjectKey, PeerAuthentication, RequestAuthentication, Target, Workload,
};

/// What must be known of a workload to say which policies concern it.
#[derive(Clone, Copy)]
pub struct Governing<'a> {
    /// The namespace whose policies concern the whole mesh.
    pub root_namespace: &'a str,
    /// The workload.
    pub workload: &'a Workload,
    /// Whether a service exists and selects the workload.
    pub serves: &'a dyn Fn(&ObjectKey) -> bool,
}

/// How closely a PeerAuthentication is bound to a workload; the closest counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Mesh,
    Namespace,
    Workload,
}

impl Governing<'_> {
    /// Whether an AuthorizationPolicy concerns the workload.
    pub fn authorization(&self, policy: &AuthorizationPolicy) -> bool {
        self.is_target(&policy.key, &policy.target)
    }

    /// Whether a RequestAuthentication concerns the workload.
    pub fn request_authentication(&self, policy: &RequestAuthentication) -> bool {
        self.is_target(&policy.key, &policy.target)
    }

    fn is_target(&self, key: &ObjectKey, target: &Target) -> bool {
        self.in_scope(key)
            && match target {
                Target::All => true,
                Target::Labels(labels) => self.has(labels),
                Target::Services(services) => services.iter().any(|service| (self.serves)(service)),
            }
    }

    /// Whether a PeerAuthentication concerns the workload, and how closely.
    pub(super) fn peer_authentication(&self, policy: &PeerAuthentication) -> Option<Level> {
        if !self.in_scope(&policy.key) || !self.has(&policy.selector) {
            None
        } else if !policy.selector.is_empty() {
            Some(Level::Workload)
        } else if *policy.key.namespace == *self.root_namespace {
            Some(Level::Mesh)
        } else {
            Some(Level::Namespace)
        }
    }

    /// Whether an object stands in the workload's own namespace.
    pub(super) fn is_own(&self, key: &ObjectKey) -> bool {
        key.namespace == self.workload.key.namespace
    }

    fn in_scope(&self, key: &ObjectKey) -> bool {
        *key.namespace == *self.root_namespace || self.is_own(key)
    }

    fn has(&self, labels: &BTreeMap<String, String>) -> bool {
        let own = &self.workload.labels;
        labels.iter().all(|(key, value)| own.get(key) == Some(value))
    }
}
