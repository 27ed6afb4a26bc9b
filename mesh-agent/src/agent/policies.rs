//! The policies of the mesh as the admin API shows them.
//!
//! `inspect` asks [`list`]. Invariant: a policy is listed with a workload exactly when it takes part in decisions about
//! that workload.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::UNIX_EPOCH,
};

use mesh_common::model::{AuthorizationPolicy, Enforcement, ObjectKey, PeerAuthentication, Target};

use crate::{
    admin::proto::{Policy, PolicyKind, TokenIssuer},
    policy::{CompiledPolicy, PortMode, jwt::CompiledAuthentication},
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
    let requests = snapshot.request_authentications().map(|policy| {
        let workloads = concerned.by(&concerned.request_authentication, &policy.policy().key);
        request_authentication(policy, snapshot, workloads)
    });
    authorization.chain(peers).chain(requests).collect()
}

/// Which workloads each policy concerns.
#[derive(Default)]
struct Concerned {
    authorization: HashMap<ObjectKey, Vec<String>>,
    peer_authentication: HashMap<ObjectKey, Vec<String>>,
    request_authentication: HashMap<ObjectKey, Vec<String>>,
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
            for authentication in policy.authentications() {
                let key = authentication.policy().key.clone();
                all.request_authentication
                    .entry(key)
                    .or_default()
                    .push(name.clone());
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
    Policy {
        kind: PolicyKind::Authorization.into(),
        key: policy.key.to_string(),
        action: policy.action.to_string(),
        dry_run: policy.enforcement == Enforcement::DryRun,
        scope: scope(&policy.key, snapshot.root_namespace(), &target(&policy.target)),
        rules: count(policy.rules.len()),
        remark: compiled.remark().unwrap_or_default().to_owned(),
        ..Policy::default()
    }
}

fn request_authentication(
    compiled: &CompiledAuthentication,
    snapshot: &Snapshot,
    workloads: Vec<String>,
) -> Policy {
    let policy = compiled.policy();
    let issuers = compiled.issuers().map(|(rule, cell)| {
        let standing = cell.standing();
        let since = standing
            .fetched_at
            .and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        let missing = || match (workloads.is_empty(), standing.keys) {
            (true, 0) => "not fetched: no workload of this node needs them".to_owned(),
            (false, 0) => "not fetched yet".to_owned(),
            _ => String::new(),
        };
        TokenIssuer {
            issuer: rule.issuer.clone(),
            url: cell.url().unwrap_or_default().to_owned(),
            keys: count(standing.keys),
            fetched_at: since.map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(u64::MAX)),
            error: standing.fault.clone().unwrap_or_else(missing),
        }
    });
    let issuers: Vec<_> = issuers.collect();
    Policy {
        kind: PolicyKind::RequestAuthentication.into(),
        key: policy.key.to_string(),
        scope: scope(&policy.key, snapshot.root_namespace(), &target(&policy.target)),
        rules: count(policy.rules.len()),
        remark: match policy.rules.is_empty() {
            true => "no issuers: takes no tokens".to_owned(),
            false => String::new(),
        },
        issuers,
        workloads,
        ..Policy::default()
    }
}

fn peer_authentication(policy: &PeerAuthentication, snapshot: &Snapshot) -> Policy {
    Policy {
        kind: PolicyKind::PeerAuthentication.into(),
        key: policy.key.to_string(),
        action: policy.mode.map(|mode| mode.to_string()).unwrap_or_default(),
        scope: scope(
            &policy.key,
            snapshot.root_namespace(),
            &labels_in_words(&policy.selector),
        ),
        rules: count(policy.ports.len()),
        ..Policy::default()
    }
}

fn target(target: &Target) -> String {
    match target {
        Target::All => String::new(),
        Target::Labels(labels) => labels_in_words(labels),
        Target::Services(services) => {
            let names: Vec<String> = services.iter().map(ToString::to_string).collect();
            format!(", service {}", names.join(" or "))
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{Directory, File},
        policy::jwt::{KeySet, signer::Signer},
        state::Store,
    };

    #[test]
    fn issuers_are_told_with_the_state_of_their_keys() {
        let keys = serde_json::json!({ "keys": [Signer::ed("one").jwk, Signer::ed("two").jwk] }).to_string();
        let text = format!(
            "apiVersion: nodemesh.io/v1alpha1\nkind: Workload\nmetadata: {{name: web, namespace: shop}}\n\
             spec: {{serviceAccount: web, node: here, addresses: [10.1.0.10]}}\n---\n\
             apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: tokens, namespace: shop}}\n\
             spec: {{jwtRules: [{{issuer: ci, jwks: '{keys}'}}, {{issuer: us, jwksUri: 'http://us/keys'}}]}}\n---\n\
             apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: tokens, namespace: bank}}\n\
             spec: {{jwtRules: [{{issuer: bank, jwksUri: 'http://bank/keys'}}]}}\n"
        );
        let file = File {
            name: "a.yaml".into(),
            content: Ok(text),
        };
        let update = Directory::new().load(&[file]);
        assert_eq!(update.rejections, []);
        let store = Store::new();
        store.apply(&update.changes);
        let listed = || {
            let mut policies = list(&store.load(), "here");
            policies.sort_by(|a, b| b.key.cmp(&a.key));
            policies
        };
        let [shop, bank] = &*listed() else {
            panic!("two policies")
        };
        assert_eq!(shop.kind(), PolicyKind::RequestAuthentication);
        assert_eq!((shop.rules, &*shop.workloads), (2, &["shop/web".to_owned()][..]));
        let [inline, fetched] = &*shop.issuers else {
            panic!("two issuers")
        };
        assert_eq!(
            (inline.issuer.as_str(), inline.keys, inline.error.as_str()),
            ("ci", 2, "")
        );
        assert_eq!(
            (fetched.url.as_str(), fetched.error.as_str()),
            ("http://us/keys", "not fetched yet")
        );
        assert!(bank.workloads.is_empty());
        assert_eq!(
            bank.issuers[0].error,
            "not fetched: no workload of this node needs them"
        );

        // What is fetched is told with its time, and stays when it cannot be fetched again.
        let snapshot = store.load();
        let policy = snapshot
            .request_authentications()
            .find(|policy| policy.keys().count() == 2);
        let cell = policy.unwrap().keys().nth(1).unwrap();
        let seen = || listed()[0].issuers[1].clone();
        cell.end(Err("http://us/keys: refused".to_owned()));
        assert_eq!(
            (seen().keys, seen().fetched_at, seen().error.as_str()),
            (0, 0, "http://us/keys: refused")
        );
        cell.end(Ok(KeySet::parse(keys.as_bytes()).unwrap()));
        let good = seen();
        assert!(
            good.keys == 2 && good.fetched_at > 0 && good.error.is_empty(),
            "{good:?}"
        );
        cell.end(Err("http://us/keys: refused".to_owned()));
        assert_eq!(
            (seen().keys, seen().fetched_at, seen().error.as_str()),
            (2, good.fetched_at, "http://us/keys: refused")
        );
    }
}
