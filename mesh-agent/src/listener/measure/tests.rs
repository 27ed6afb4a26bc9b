//! Which labels connections are counted under, in a small mesh whose configuration changes.

use std::time::Instant;

use super::*;
use crate::{config::Change, samples, state::Store, telemetry::metrics::NodeFacts};

fn workload(name: &str, version: &str) -> Workload {
    Workload {
        labels: [("version".to_owned(), version.to_owned())].into(),
        addresses: vec![
            if name == "web" { "10.0.0.2" } else { "10.0.0.1" }
                .parse()
                .unwrap(),
        ],
        ..samples::workload("shop", name)
    }
}

struct Mesh {
    store: Store,
    meters: Meters,
    client: Workload,
}

impl Mesh {
    fn new() -> Self {
        let store = Store::new();
        store.apply(&[
            Change::PutWorkload(workload("client", "v1").into()),
            Change::PutWorkload(workload("web", "v1").into()),
        ]);
        Self {
            store,
            meters: Meters::new(Arc::default(), "cluster.local".parse().unwrap()),
            client: workload("client", "v1"),
        }
    }

    /// A connection of `client` to the other workload.
    fn open(&self, direction: Direction, peer: Option<&str>) -> Arc<TcpMeter> {
        let peer = peer.map(|peer| peer.parse().unwrap());
        let destination = Destination::Workload(ObjectKey::new("shop", "web"));
        let ends = Ends {
            direction,
            workload: &self.client,
            client: Some(&self.client.key),
            destination: &destination,
            service: None,
            peer: peer.as_ref(),
        };
        self.meters.tcp(&self.store.load(), &ends)
    }

    fn opened(&self) -> String {
        let text = self.meters.metrics().text(Instant::now(), NodeFacts::default());
        let text = text.unwrap();
        let opened = |line: &&str| line.starts_with("istio_tcp_connections_opened_total");
        text.lines().filter(opened).collect::<Vec<_>>().join("\n")
    }
}

#[test]
fn between_nodes_both_identities_are_told_when_the_peer_proved_its_own() {
    let mesh = Mesh::new();
    let _secured = mesh.open(Direction::Outbound, Some("spiffe://cluster.local/ns/shop/sa/web"));
    let told = mesh.opened();
    for label in [
        r#"reporter="source""#,
        r#"source_principal="spiffe://cluster.local/ns/shop/sa/client""#,
        r#"destination_principal="spiffe://cluster.local/ns/shop/sa/web""#,
        r#"destination_version="v1""#,
        r#"connection_security_policy="mutual_tls""#,
    ] {
        assert!(told.contains(label), "{label} is not in {told}");
    }
    let mesh = Mesh::new();
    let _plain = mesh.open(Direction::Outbound, None);
    let told = mesh.opened();
    assert!(
        told.contains(r#"source_principal="unknown""#)
            && told.contains(r#"connection_security_policy="none""#),
        "{told}"
    );
}

#[test]
fn between_pods_of_one_node_the_agent_tells_for_both_sides() {
    let mesh = Mesh::new();
    let _local = mesh.open(Direction::Local, Some("spiffe://cluster.local/ns/shop/sa/client"));
    let told = mesh.opened();
    assert_eq!(told.lines().count(), 2, "{told}");
    assert!(told.contains(r#"reporter="source""#) && told.contains(r#"reporter="destination""#));
    assert!(told.contains(r#"connection_security_policy="same_node""#));
    assert!(told.contains(r#"destination_principal="spiffe://cluster.local/ns/shop/sa/web""#));
}

#[test]
fn the_same_ends_have_one_meter_until_the_configuration_changes() {
    let mesh = Mesh::new();
    let first = mesh.open(Direction::Outbound, None);
    assert!(Arc::ptr_eq(&first, &mesh.open(Direction::Outbound, None)));
    mesh.store
        .apply(&[Change::PutWorkload(workload("web", "v2").into())]);
    let second = mesh.open(Direction::Outbound, None);
    assert!(!Arc::ptr_eq(&first, &second));
    assert!(mesh.opened().contains(r#"destination_version="v2""#));
}
