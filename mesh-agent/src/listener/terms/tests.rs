//! Open connections when the configuration changes: which of them are not permitted any more, and why.

use mesh_common::model::{PeerAuthentication, PeerMode, SpiffeId, Workload};

use super::*;
use crate::{
    config::Change,
    samples,
    state::Store,
    telemetry::{ConnectionState, Destination, Opening, Registry},
};

fn workload(name: &str, account: &str, address: &str) -> Workload {
    Workload {
        service_account: account.to_owned(),
        addresses: vec![address.parse().unwrap()],
        ..samples::workload("shop", name)
    }
}

fn client(account: &str) -> Workload {
    workload("client", account, "10.0.0.1")
}

fn web(account: &str) -> Workload {
    workload("web", account, "10.0.0.2")
}

/// A connection in the view of the agent of `workload`.
fn connection(direction: Direction, workload: Workload, peer: Option<&str>) -> crate::telemetry::Entry {
    let entry = Registry::new(
        0,
        crate::telemetry::Budgets::new(crate::telemetry::Limits::default()),
    )
    .open(Opening {
        direction,
        workload: Arc::new(workload),
        client: "10.0.0.1:1000".parse().unwrap(),
        client_workload: Some(ObjectKey::new("shop", "client")),
        original_destination: "10.0.0.2:80".parse().unwrap(),
        destination: Destination::Workload(ObjectKey::new("shop", "web")),
        process: None,
        peer: peer.map(|account| -> SpiffeId {
            format!("spiffe://cluster.local/ns/shop/sa/{account}")
                .parse()
                .unwrap()
        }),
        ruling: None,
        state: ConnectionState::Open,
    });
    entry.connection().set_upstream("10.0.0.2:80".parse().unwrap());
    entry
}

/// What is said of a connection that was opened under `before` after `change`.
fn after(entry: &crate::telemetry::Entry, change: Change) -> Option<String> {
    let store = Store::new();
    store.apply(&[
        Change::PutWorkload(client("client").into()),
        Change::PutWorkload(web("web").into()),
    ]);
    let terms = Terms::of(&store.load(), entry.connection(), None, None);
    assert_eq!(terms.check(&store.load(), None), Ok(()));
    store.apply(&[change]);
    terms.check(&store.load(), None).err().map(|cause| cause.text)
}

#[test]
fn both_ends_must_stay_who_they_proved_to_be() {
    let entries = [
        connection(Direction::Outbound, client("client"), Some("web")),
        connection(Direction::Inbound, web("web"), Some("client")),
    ];
    for entry in &entries {
        for (change, said) in [
            (
                Change::PutWorkload(client("other").into()),
                "is service account shop/other now",
            ),
            (
                Change::PutWorkload(web("other").into()),
                "is service account shop/other now",
            ),
            (Change::RemoveWorkload(client("client").key), "is nobody now"),
            (Change::RemoveWorkload(web("web").key), "is nobody now"),
        ] {
            let text = after(entry, change.clone()).unwrap_or_default();
            assert!(text.contains(said), "{change:?}: {text}");
        }
        let mut labelled = web("web");
        labelled.labels.insert("a".to_owned(), "b".to_owned());
        assert_eq!(
            after(entry, Change::PutWorkload(labelled.into())),
            None,
            "other changes"
        );
    }
}

#[test]
fn who_proved_nothing_is_held_to_nothing() {
    let entry = connection(Direction::Inbound, web("web"), None);
    assert_eq!(after(&entry, Change::PutWorkload(client("other").into())), None);
}

#[test]
fn a_peer_let_in_from_another_address_than_its_workloads_is_not_held_to_it() {
    let entry = connection(Direction::Inbound, web("web"), Some("gateway"));
    assert_eq!(after(&entry, Change::PutWorkload(client("other").into())), None);
    assert!(after(&entry, Change::PutWorkload(web("other").into())).is_some());
}

#[test]
fn a_change_is_told_of_the_connection_that_it_concerns() {
    let entry = connection(Direction::Inbound, web("web"), None);
    let store = Store::new();
    store.apply(&[Change::PutWorkload(web("web").into())]);
    let guard = Guard {
        workload: Arc::new(web("web")),
        proof: crate::inbound::Proof::None,
        client: "10.0.0.1:1000".parse().unwrap(),
        addressed: "10.0.0.2:80".parse().unwrap(),
    };
    let terms = Terms::of(&store.load(), entry.connection(), Some(&guard), None);
    let said = || entry.connection().ruling().map(|ruling| ruling.to_string());
    assert_eq!(said(), None);
    assert_eq!(terms.check(&store.load(), None), Ok(()));
    assert_eq!(
        said().as_deref(),
        Some("allowed: no ALLOW policy concerns the workload")
    );
    store.apply(&[Change::PutPeerAuthentication(
        PeerAuthentication {
            key: ObjectKey::new("shop", "strict"),
            selector: Default::default(),
            mode: Some(PeerMode::Strict),
            ports: Default::default(),
        }
        .into(),
    )]);
    let cause = terms.check(&store.load(), None).err().map(|cause| cause.text);
    assert_eq!(
        said().as_deref(),
        Some("denied: plaintext, and PeerAuthentication shop/strict is STRICT")
    );
    assert_eq!(said(), cause);
    let policy = entry.connection().ruling().and_then(|ruling| ruling.policy);
    assert_eq!(policy, Some(ObjectKey::new("shop", "strict")));
}
