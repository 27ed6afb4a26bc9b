//! The semantics of AuthorizationPolicy and PeerAuthentication, from the YAML to the verdict.
//!
//! A connection is written in words, see [`connection`]; a verdict is what the decision says of itself.

use std::net::IpAddr;

use super::{key, put_service, put_workload, workload};
use crate::config::{Change, Directory, File};
use crate::policy::{Channel, ConnectionFacts, Peer, Verdict};
use crate::state::Store;

mod decisions;
mod fields;
mod requests;
mod scope;

/// A mesh of a few workloads and services, with these policies.
fn mesh(policies: &str) -> Store {
    let store = Store::new();
    store.apply(&[
        put_workload("shop/web", "app=web tier=front", "10.1.0.10 fd00::10"),
        put_workload("shop/db", "app=db", "10.1.0.11"),
        put_workload("bank/db", "app=db", "10.2.0.11"),
        put_workload("nodemesh-system/dns", "app=dns", "10.3.0.10"),
        put_service("shop/web", "app=web", "10.96.0.1"),
        put_service("shop/front", "tier=front", "10.96.0.2"),
        put_service("bank/web", "app=db", "10.96.0.3"),
    ]);
    store.apply(&changes(policies));
    store
}

/// What the files say when they hold this text.
fn changes(text: &str) -> Vec<Change> {
    let file = File {
        name: "policies.yaml".into(),
        content: Ok(text.to_owned()),
    };
    let update = Directory::new().load(&[file]);
    assert_eq!(update.rejections, [], "{text}");
    update.changes
}

/// An AuthorizationPolicy `namespace/name` with this `spec`.
fn authorization(name: &str, spec: &str) -> String {
    let key = key(name);
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
         metadata: {{name: {}, namespace: {}}}\nspec: {{{spec}}}\n---\n",
        key.name, key.namespace
    )
}

fn dry_run(name: &str, spec: &str) -> String {
    authorization(name, spec).replace(
        "metadata: {",
        "metadata: {annotations: {istio.io/dry-run: 'true'}, ",
    )
}

fn peer_authentication(name: &str, spec: &str) -> String {
    authorization(name, spec).replace("AuthorizationPolicy", "PeerAuthentication")
}

/// A connection in words: who calls (`plain`, or `td/ns/sa` by mutual TLS, `kernel:td/ns/sa` on the same node), then
/// where it differs from the usual `from=10.9.0.1 remote=` (the same) `to=10.1.0.10 port=8080` without `sni=`.
fn connection(words: &str) -> ConnectionFacts<'_> {
    let mut words = words.split_whitespace();
    let caller = words.next().unwrap();
    let caller_of = |text| {
        let mut parts = str::split(text, '/');
        let mut part = || parts.next().unwrap();
        Peer {
            trust_domain: part(),
            namespace: part(),
            service_account: part(),
        }
    };
    let channel = match caller.strip_prefix("kernel:") {
        Some(peer) => Channel::SameNode(caller_of(peer)),
        None if caller == "plain" => Channel::Plaintext,
        None => Channel::MutualTls(caller_of(caller)),
    };
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    let (mut source, mut remote, mut to, mut port, mut sni) =
        (ip("10.9.0.1"), None, ip("10.1.0.10"), 8080, None);
    for word in words {
        match word.split_once('=').unwrap() {
            ("from", text) => source = ip(text),
            ("remote", text) => remote = Some(ip(text)),
            ("to", text) => to = ip(text),
            ("port", text) => port = text.parse().unwrap(),
            ("sni", text) => sni = Some(text),
            other => panic!("{other:?}"),
        }
    }
    ConnectionFacts {
        channel,
        source_ip: source,
        remote_ip: remote.unwrap_or(source),
        destination: (to, port).into(),
        sni,
    }
}

/// What is decided about a connection to a workload.
fn decided(store: &Store, to: &str, words: &str) -> String {
    let snapshot = store.load();
    let policy = snapshot.policy_of(snapshot.workload(&key(to)).unwrap());
    let facts = connection(words);
    let decision = policy.decide(&facts);
    let trace = policy.trace(facts);
    assert_eq!(trace.decision, decision, "what is explained is what is done");
    decision.to_string()
}

fn allows(store: &Store, to: &str, words: &str) -> bool {
    let snapshot = store.load();
    let policy = snapshot.policy_of(snapshot.workload(&key(to)).unwrap());
    policy.decide(&connection(words)).verdict() == Verdict::Allow
}

const WEB: &str = "cluster.local/shop/web";
const EVE: &str = "cluster.local/evil/eve";
