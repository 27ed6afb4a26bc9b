//! What is explained, for each kind of source and destination.

mod requests;

use mesh_common::model::{
    Action, AuthorizationPolicy, Enforcement, Pattern, PeerAuthentication, Rule, Service, ServicePort,
    Source as From, Target, TargetPort, Values, WorkloadPort,
};

use super::*;
use crate::{admin::proto::RequestHead, config::Change, state::Store};

fn workload(name: &str, account: &str, node: &str, address: &str) -> Workload {
    Workload {
        key: key(name).unwrap(),
        labels: [("app".to_owned(), account.to_owned())].into(),
        service_account: account.to_owned(),
        node: node.to_owned(),
        addresses: vec![address.parse().unwrap()],
        ports: vec![WorkloadPort {
            name: None,
            port: 8080,
            app_protocol: None,
        }],
        ready: true,
        policies: Vec::new(),
        tunnel: Default::default(),
        locate: None,
    }
}

/// `web` on two nodes behind a service, `cart` on the first, and only `cart` may connect to `web`.
fn store() -> Store {
    let store = Store::default();
    let principal = Pattern::Exact("cluster.local/ns/shop/sa/cart".to_owned());
    store.apply(&[
        Change::PutWorkload(workload("shop/cart", "cart", "a", "10.0.0.1").into()),
        Change::PutWorkload(workload("shop/other", "other", "a", "10.0.0.9").into()),
        Change::PutWorkload(workload("shop/web-1", "web", "a", "10.0.0.2").into()),
        Change::PutWorkload(workload("shop/web-2", "web", "b", "10.0.1.2").into()),
        Change::PutWorkload(workload("shop/web-3", "web", "b", "10.0.1.3").into()),
        Change::PutService(
            Service {
                key: key("shop/web").unwrap(),
                cluster_ips: vec!["10.96.0.1".parse().unwrap()],
                ports: vec![ServicePort {
                    name: None,
                    port: 80,
                    target: TargetPort::Number(8080),
                    app_protocol: None,
                }],
                selector: [("app".to_owned(), "web".to_owned())].into(),
            }
            .into(),
        ),
        Change::PutAuthorizationPolicy(
            AuthorizationPolicy {
                key: key("shop/only-cart").unwrap(),
                action: Action::Allow,
                enforcement: Enforcement::Enforced,
                target: Target::Labels([("app".to_owned(), "web".to_owned())].into()),
                rules: vec![Rule {
                    from: vec![From {
                        principals: Values {
                            any: vec![principal],
                            none: Vec::new(),
                        },
                        ..From::default()
                    }],
                    ..Rule::default()
                }],
                provider: None,
            }
            .into(),
        ),
    ]);
    store
}

fn ask(
    store: &Store,
    encryption: Encryption,
    source: &str,
    destination: &str,
) -> Result<ExplainReply, ExplainError> {
    ask_about(store, encryption, source, destination, None)
}

fn ask_about(
    store: &Store,
    encryption: Encryption,
    source: &str,
    destination: &str,
    request: Option<RequestHead>,
) -> Result<ExplainReply, ExplainError> {
    World {
        snapshot: &store.load(),
        trust_domain: &"cluster.local".parse().unwrap(),
        node: "a",
        encryption,
    }
    .explain(&ExplainRequest {
        source: source.to_owned(),
        destination: destination.to_owned(),
        request,
    })
}

#[test]
fn endpoints_of_which_the_same_is_true_are_together() {
    let store = store();
    for destination in [
        "shop/web:80",
        "web.shop:80",
        "web.shop.svc.cluster.local:80",
        "10.96.0.1:80",
    ] {
        let reply = ask(&store, Encryption::MutualTls, "shop/cart", destination).unwrap();
        assert_eq!(reply.destination.unwrap().service, "shop/web", "{destination}");
        let ways: Vec<_> = reply
            .ways
            .iter()
            .map(|way| (way.carriage(), way.endpoints.len(), way.verdict.as_str()))
            .collect();
        let allowed = "allowed by ALLOW policy shop/only-cart, rule 0";
        assert_eq!(
            ways,
            [(Carriage::Local, 1, allowed), (Carriage::MutualTls, 2, allowed)]
        );
    }
}

#[test]
fn who_is_not_named_is_denied_and_told_why() {
    let reply = ask(&store(), Encryption::MutualTls, "10.0.0.9", "shop/web-2:8080").unwrap();
    assert_eq!(
        reply.source.unwrap().identity,
        "spiffe://cluster.local/ns/shop/sa/other"
    );
    let [way] = &*reply.ways else { panic!("one way") };
    assert!(!way.allowed);
    assert_eq!(way.verdict, "denied: no rule of the ALLOW policies matches");
    assert_eq!(
        way.policies[0].rules[0].misses,
        ["from[0] principals: no value matches"]
    );
}

#[test]
fn without_encryption_only_the_kernel_is_believed() {
    let reply = ask(&store(), Encryption::None, "shop/cart", "shop/web:80").unwrap();
    let ways: Vec<_> = reply
        .ways
        .iter()
        .map(|way| (way.carriage(), way.allowed))
        .collect();
    assert_eq!(ways, [(Carriage::Local, true), (Carriage::Plaintext, false)]);
}

#[test]
fn plaintext_under_strict_is_denied() {
    let store = store();
    store.apply(&[Change::PutPeerAuthentication(
        PeerAuthentication {
            key: key("shop/strict").unwrap(),
            selector: Default::default(),
            mode: Some(PeerMode::Strict),
            ports: Default::default(),
        }
        .into(),
    )]);
    let reply = ask(&store, Encryption::MutualTls, "192.0.2.1", "10.0.1.2:8080").unwrap();
    let [way] = &*reply.ways else { panic!("one way") };
    assert_eq!(way.mode_policy, "shop/strict");
    assert_eq!(
        way.verdict,
        "denied: plaintext, and PeerAuthentication shop/strict is STRICT"
    );
}

#[test]
fn elsewhere_the_mesh_has_no_say() {
    let reply = ask(&store(), Encryption::MutualTls, "shop/cart", "192.0.2.1:443").unwrap();
    assert_eq!(reply.ways[0].carriage(), Carriage::Passthrough);
    assert!(reply.ways[0].allowed);
}

#[test]
fn what_is_not_there_is_refused() {
    let reply = ask(&store(), Encryption::MutualTls, "shop/cart", "shop/web:81").unwrap();
    assert_eq!(reply.route, "refused: the service has no such port");
    assert!(reply.ways.is_empty());
}

#[test]
fn questions_without_an_answer_are_told_apart() {
    let said = |source, destination| {
        ask(&store(), Encryption::MutualTls, source, destination)
            .unwrap_err()
            .to_string()
    };
    assert!(said("shop/nobody", "shop/web:80").contains("`shop/nobody` is neither a workload"));
    assert!(said("shop/cart", "shop/nothing:80").contains("neither a service nor a workload `shop/nothing`"));
    for destination in ["shop/web", "shop/web:0", "shop/web:x", "fd00::1:80", ":80"] {
        assert!(
            said("shop/cart", destination).contains("HOST:PORT"),
            "{destination}"
        );
    }
}
