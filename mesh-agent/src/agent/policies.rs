//! The policies of the mesh as the admin API shows them.
//!
//! `inspect` asks [`list`]. Invariant: a policy is listed with a workload exactly when it takes part in decisions about
//! that workload.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use mesh_common::model::{AuthorizationPolicy, Enforcement, ObjectKey, PeerAuthentication, Target};

use crate::{
    admin::proto::{Policy, PolicyKind},
    policy::{CompiledPolicy, PortMode},
    state::Snapshot,
};

/// All policies, with the workloads of this node that each concerns.
pub(super) fn list(snapshot: &Snapshot, node: &str) -> Vec<Policy> {
    let concerned = Concerned::new(snapshot, node);
    let authorization = snapshot.authorization_policies().map(|policy| Policy {
        workloads: concerned.by(&concerned.authorization, &policy.policy().key),
        ..authorization(policy, snapshot)
    });
    let peers = snapshot.peer_authentications().map(|policy| Policy {
        workloads: concerned.by(&concerned.peer_authentication, &policy.key),
        ..peer_authentication(policy, snapshot)
    });
    authorization.chain(peers).collect()
}

/// Which workloads each policy concerns.
#[derive(Default)]
struct Concerned {
    authorization: HashMap<ObjectKey, Vec<String>>,
    peer_authentication: HashMap<ObjectKey, Vec<String>>,
}

impl Concerned {
    fn new(snapshot: &Snapshot, node: &str) -> Self {
        let mut all = Self::default();
        for entry in snapshot.workloads_on(node) {
            let name = entry.workload.key.to_string();
            let policy = snapshot.policy_of(entry);
            for policy in policy.policies() {
                let key = policy.policy().key.clone();
                all.authorization.entry(key).or_default().push(name.clone());
            }
            let modes = policy.modes();
            let ports = modes.ports().iter().map(|(_, mode)| mode);
            for PortMode { from, .. } in ports.chain([modes.default_mode()]) {
                let Some(key) = from else { continue };
                let names = all.peer_authentication.entry(key.clone()).or_default();
                if names.last() != Some(&name) {
                    names.push(name.clone());
                }
            }
        }
        all
    }

    fn by(&self, lists: &HashMap<ObjectKey, Vec<String>>, key: &ObjectKey) -> Vec<String> {
        lists.get(key).cloned().unwrap_or_default()
    }
}

fn authorization(compiled: &CompiledPolicy, snapshot: &Snapshot) -> Policy {
    let policy: &AuthorizationPolicy = compiled.policy();
    let narrowed = match &policy.target {
        Target::All => String::new(),
        Target::Labels(labels) => labels_in_words(labels),
        Target::Services(services) => {
            let names: Vec<String> = services.iter().map(ToString::to_string).collect();
            format!(", service {}", names.join(" or "))
        }
    };
    Policy {
        kind: PolicyKind::Authorization.into(),
        key: policy.key.to_string(),
        action: policy.action.to_string(),
        dry_run: policy.enforcement == Enforcement::DryRun,
        scope: scope(&policy.key, snapshot.root_namespace(), &narrowed),
        rules: count(policy.rules.len()),
        workloads: Vec::new(),
        remark: compiled.remark().unwrap_or_default().to_owned(),
    }
}

fn peer_authentication(policy: &PeerAuthentication, snapshot: &Snapshot) -> Policy {
    Policy {
        kind: PolicyKind::PeerAuthentication.into(),
        key: policy.key.to_string(),
        action: policy.mode.map(|mode| mode.to_string()).unwrap_or_default(),
        dry_run: false,
        scope: scope(
            &policy.key,
            snapshot.root_namespace(),
            &labels_in_words(&policy.selector),
        ),
        rules: count(policy.ports.len()),
        workloads: Vec::new(),
        remark: String::new(),
    }
}

fn scope(key: &ObjectKey, root: &Arc<str>, narrowed: &str) -> String {
    if key.namespace == *root {
        format!("mesh{narrowed}")
    } else {
        format!("namespace {}{narrowed}", key.namespace)
    }
}

fn labels_in_words(labels: &BTreeMap<String, String>) -> String {
    if labels.is_empty() {
        return String::new();
    }
    let pairs: Vec<String> = labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    format!(", {}", pairs.join(","))
}

fn count(items: usize) -> u32 {
    u32::try_from(items).unwrap_or(u32::MAX)
}
