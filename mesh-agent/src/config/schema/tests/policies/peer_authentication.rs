//! PeerAuthentication: what it becomes, and the exact words for what is wrong with it.

use super::*;

fn peer_authentication(text: &str) -> PeerAuthentication {
    match load(text) {
        Ok(Change::PutPeerAuthentication(policy)) => Arc::unwrap_or_clone(policy),
        other => panic!("{other:?}"),
    }
}

#[test]
fn peer_authentications() {
    let policy = |spec: &str| peer_authentication(&object("PeerAuthentication", spec));
    let full = "selector: {matchLabels: {app: web}}, mtls: {mode: STRICT}, \
                portLevelMtls: {8080: {mode: DISABLE}, '9090': {mode: PERMISSIVE}, 7070: {mode: UNSET}, 6060: {}}";
    assert_eq!(
        policy(full),
        PeerAuthentication {
            key: ObjectKey::new("shop", "p"),
            selector: labels(&[("app", "web")]),
            mode: Some(PeerMode::Strict),
            ports: [
                (8080, Some(PeerMode::Disable)),
                (9090, Some(PeerMode::Permissive)),
                (7070, None),
                (6060, None)
            ]
            .into(),
        }
    );
    for spec in ["", "mtls: {}", "mtls: {mode: UNSET}", "selector: {}", "mtls: ~"] {
        let policy = policy(spec);
        assert_eq!(
            (policy.mode, policy.selector.len(), policy.ports.len()),
            (None, 0, 0),
            "{spec}"
        );
    }
}

#[test]
fn faults_of_a_peer_authentication() {
    for (spec, column, expected) in [
        (
            "mtls: {mode: strict}",
            21,
            "mtls.mode: \"strict\" is not a mode; use UNSET, DISABLE, PERMISSIVE or STRICT",
        ),
        (
            "mtls: STRICT",
            14,
            "mtls: expected a map of fields, found the text \"STRICT\"; write `field: value` lines below it",
        ),
        ("mTLS: {}", 8, "mTLS: unknown field; did you mean mtls?"),
        (
            "portLevelMtls: {80: {mode: STRICT}}",
            23,
            "portLevelMtls: modes of single ports need a selector; \
             add selector.matchLabels with a label of the workloads that have these ports",
        ),
        (
            "selector: {matchLabels: {a: b}}, portLevelMtls: {}",
            56,
            "portLevelMtls: empty; name at least one port, or remove the field",
        ),
        (
            "selector: {matchLabels: {a: b}}, portLevelMtls: {http: {mode: STRICT}}",
            63,
            "portLevelMtls.http: \"http\" is not a port; use 1 to 65535",
        ),
        (
            "selector: {matchLabels: {a: b}}, portLevelMtls: {080: {mode: STRICT}}",
            62,
            "portLevelMtls.080: \"080\" is not a port; use 1 to 65535",
        ),
        (
            "selector: {matchLabels: {a: b}}, portLevelMtls: {80: {mode: ON}}",
            68,
            "portLevelMtls.80.mode: \"ON\" is not a mode; use UNSET, DISABLE, PERMISSIVE or STRICT",
        ),
    ] {
        let text = object("PeerAuthentication", spec);
        rejected(
            &text,
            &[&format!(
                "shop.yaml:4:{column}: PeerAuthentication shop/p: spec.{expected}"
            )],
        );
    }
}
