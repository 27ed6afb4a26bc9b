//! Which policies hold for a workload, worked out when somebody asks.
//!
//! A change of a policy only notes at which version the policies of its namespace changed. The
//! [`WorkloadPolicy`] of a workload is put together at the first question after that and kept beside the workload's
//! entry; since a node is asked about its own workloads only, a change costs every node what it needs and no more,
//! whatever the size of the mesh. The policies themselves are compiled once each, when they come.
//!
//! Invariant: the answer for a snapshot depends on this snapshot's objects alone, whichever snapshot was asked before.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use mesh_common::model::{
    AuthorizationPolicy, ObjectKey, PeerAuthentication, RequestAuthentication, Target, Workload,
};

use super::snapshot::in_namespace;
use super::{Snapshot, WorkloadEntry};
use crate::policy::jwt::{CompiledAuthentication, KeyCell};
use crate::policy::{CompiledPolicy, Governing, Modes, WorkloadPolicy};

/// The last answer about one workload.
#[derive(Default)]
pub(super) struct Answer(ArcSwapOption<Answered>);

struct Answered {
    /// The version at which the policies had last changed.
    version: u64,
    policy: Arc<WorkloadPolicy>,
}

impl Snapshot {
    /// The policies that concern a workload of this snapshot. As long as nothing changes about them, the answer is
    /// the same [`Arc`].
    pub fn policy_of(&self, entry: &WorkloadEntry) -> Arc<WorkloadPolicy> {
        let workload = &entry.workload;
        let version = self.policies_changed(workload);
        let last = entry.answer.0.load();
        if let Some(last) = last.as_ref().filter(|last| last.version == version) {
            return Arc::clone(&last.policy);
        }
        let found = self.find_policy(workload);
        let policy = match last.as_ref() {
            Some(last) if *last.policy == found => Arc::clone(&last.policy),
            _ => Arc::new(found),
        };
        // Readers of an older snapshot leave the newer answer alone.
        if last.as_ref().is_none_or(|last| last.version < version) {
            let policy = Arc::clone(&policy);
            entry.answer.0.store(Some(Arc::new(Answered { version, policy })));
        }
        policy
    }

    /// All authorization policies in the order of their keys.
    pub fn authorization_policies(&self) -> impl Iterator<Item = &Arc<CompiledPolicy>> {
        self.authorization.values()
    }

    /// The authorization policy with this key.
    pub fn authorization_policy(&self, key: &ObjectKey) -> Option<&Arc<CompiledPolicy>> {
        self.authorization.get(key)
    }

    /// All peer authentications in the order of their keys.
    pub fn peer_authentications(&self) -> impl Iterator<Item = &Arc<PeerAuthentication>> {
        self.peer_authentications.values()
    }

    /// All request authentications in the order of their keys.
    pub fn request_authentications(&self) -> impl Iterator<Item = &Arc<CompiledAuthentication>> {
        self.request_authentications.values()
    }

    /// The namespace whose policies concern the whole mesh.
    pub fn root_namespace(&self) -> &Arc<str> {
        &self.root_namespace
    }

    /// The version at which something last changed that decides which policies concern the workload, the workload
    /// itself aside.
    fn policies_changed(&self, workload: &Workload) -> u64 {
        let changed = |namespace: &Arc<str>| self.policies_changed.get(namespace).copied().unwrap_or(0);
        let named = workload.policies.iter().map(|key| changed(&key.namespace));
        let own = changed(&workload.key.namespace).max(changed(&self.root_namespace));
        named.fold(own, u64::max)
    }

    fn find_policy(&self, workload: &Workload) -> WorkloadPolicy {
        let serves = |key: &ObjectKey| {
            key.namespace == workload.key.namespace
                && self
                    .service(key)
                    .is_some_and(|entry| entry.service.selects(&workload.labels))
        };
        let governing = Governing {
            root_namespace: &self.root_namespace,
            workload,
            serves: &serves,
        };
        let own = &workload.key.namespace;
        let root = Some(&self.root_namespace).filter(|root| *root != own);
        let namespaces = || root.into_iter().chain([own]);
        let modes = Modes::new(
            &governing,
            namespaces()
                .flat_map(|namespace| in_namespace(&self.peer_authentications, namespace))
                .map(|policy| &**policy),
        );
        let mut policies: Vec<Arc<CompiledPolicy>> = namespaces()
            .flat_map(|namespace| in_namespace(&self.authorization, namespace))
            .filter(|policy| governing.authorization(policy.policy()))
            .cloned()
            .collect();
        let mut unknown = Vec::new();
        for key in &workload.policies {
            match self.authorization.get(key) {
                Some(policy) if policies.iter().any(|known| Arc::ptr_eq(known, policy)) => {}
                Some(policy) => policies.push(Arc::clone(policy)),
                None => unknown.push(key.clone()),
            }
        }
        let authentications = namespaces()
            .flat_map(|namespace| in_namespace(&self.request_authentications, namespace))
            .filter(|policy| governing.request_authentication(policy.policy()))
            .cloned()
            .collect();
        WorkloadPolicy::new(modes, policies, unknown).with_authentications(authentications)
    }

    /// Puts a policy in place. Returns whether anything differs.
    pub(super) fn put_authorization(&mut self, policy: &Arc<AuthorizationPolicy>) -> bool {
        if self
            .authorization
            .get(&policy.key)
            .is_some_and(|known| *known.policy() == *policy)
        {
            return false;
        }
        let compiled = CompiledPolicy::new(Arc::clone(policy));
        self.authorization.insert(policy.key.clone(), Arc::new(compiled));
        true
    }

    /// Puts a peer authentication in place. Returns whether anything differs.
    pub(super) fn put_peer_authentication(&mut self, policy: &Arc<PeerAuthentication>) -> bool {
        if self
            .peer_authentications
            .get(&policy.key)
            .is_some_and(|known| known == policy)
        {
            return false;
        }
        self.peer_authentications
            .insert(policy.key.clone(), Arc::clone(policy));
        true
    }

    /// Puts a request authentication in place. Returns whether anything differs.
    pub(super) fn put_request_authentication(&mut self, policy: &Arc<RequestAuthentication>) -> bool {
        let known = self.request_authentications.get(&policy.key);
        if known.is_some_and(|known| *known.policy() == *policy) {
            return false;
        }
        // Keys that were fetched stay, whatever else changes about those who name their URL.
        let known = self.request_authentications.values();
        let mut fetched: Vec<Arc<KeyCell>> = known.flat_map(|known| known.keys()).cloned().collect();
        let compiled = CompiledAuthentication::new(Arc::clone(policy), |rule, url| {
            let same = |cell: &&Arc<KeyCell>| cell.url() == Some(url) && cell.timeout() == rule.timeout;
            if let Some(cell) = fetched.iter().find(same) {
                return Arc::clone(cell);
            }
            let cell = Arc::new(KeyCell::fetched(url, rule.timeout));
            fetched.push(Arc::clone(&cell));
            cell
        });
        self.request_authentications
            .insert(policy.key.clone(), Arc::new(compiled));
        true
    }

    /// Whether a policy of the namespace is bound to the service, which thereby decides whom it concerns.
    pub(super) fn is_target(&self, service: &ObjectKey) -> bool {
        let names =
            |target: &Target| matches!(target, Target::Services(services) if services.contains(service));
        in_namespace(&self.authorization, &service.namespace).any(|policy| names(&policy.policy().target))
            || in_namespace(&self.request_authentications, &service.namespace)
                .any(|policy| names(&policy.policy().target))
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer").finish_non_exhaustive()
    }
}
