//! Random worlds: whatever the way from one to the next, the snapshot says what its objects say, no more and no
//! less is replaced, and counters are handed on.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use mesh_common::model::{ObjectKey, Service, ServicePort, TargetPort, Workload};
use proptest::prelude::*;

use super::super::snapshot::Holder;
use super::super::{Endpoint, Family, ServiceEntry, Snapshot, Store};
use super::{labels, service, workload};
use crate::config::Change;

/// The objects that a mesh consists of at one moment, no two with one address.
#[derive(Clone, Debug, Default)]
struct World {
    workloads: BTreeMap<ObjectKey, Workload>,
    services: BTreeMap<ObjectKey, Service>,
}

impl World {
    /// The changes that lead here from another world, in no particular order.
    fn changes_from(&self, before: &Self) -> Vec<Change> {
        let mut changes = Vec::new();
        for (key, workload) in &self.workloads {
            if before.workloads.get(key) != Some(workload) {
                changes.push(Change::PutWorkload(workload.clone().into()));
            }
        }
        for (key, service) in &self.services {
            if before.services.get(key) != Some(service) {
                changes.push(Change::PutService(service.clone().into()));
            }
        }
        let gone = |key: &&ObjectKey| !self.workloads.contains_key(*key);
        changes.extend(
            before
                .workloads
                .keys()
                .filter(gone)
                .cloned()
                .map(Change::RemoveWorkload),
        );
        let gone = |key: &&ObjectKey| !self.services.contains_key(*key);
        changes.extend(
            before
                .services
                .keys()
                .filter(gone)
                .cloned()
                .map(Change::RemoveService),
        );
        changes
    }
}

/// Everything that a snapshot says, worked out from its objects the simple way.
fn expected(world: &World) -> Vec<String> {
    let mut lines = Vec::new();
    for workload in world.workloads.values() {
        lines.push(format!("{workload:?}"));
        lines.extend(
            workload
                .addresses
                .iter()
                .map(|ip| format!("{ip} workload {}", workload.key)),
        );
    }
    for service in world.services.values() {
        lines.push(format!("{service:?}"));
        lines.extend(
            service
                .cluster_ips
                .iter()
                .map(|ip| format!("{ip} service {}", service.key)),
        );
        for port in &service.ports {
            for v4 in [true, false] {
                let wanted = |ip: &IpAddr| ip.is_ipv4() == v4;
                if !service.cluster_ips.is_empty() && !service.cluster_ips.iter().any(wanted) {
                    continue;
                }
                lines.push(format!("{} {} {v4}", service.key, port.port));
                for workload in world.workloads.values() {
                    let selected = workload.key.namespace == service.key.namespace
                        && !service.selector.is_empty()
                        && service
                            .selector
                            .iter()
                            .all(|pair| workload.labels.iter().any(|label| label == pair));
                    let target = match &port.target {
                        TargetPort::Number(number) => Some(*number),
                        TargetPort::Name(name) => workload.port_named(name),
                    };
                    if let (true, true, Some(target), Some(ip)) = (
                        selected,
                        workload.ready,
                        target,
                        workload.addresses.iter().find(|ip| wanted(ip)),
                    ) {
                        let (own, addr) = (&workload.key, SocketAddr::new(*ip, target));
                        lines.push(format!("{} {} {v4} {own} {addr}", service.key, port.port));
                    }
                }
            }
        }
    }
    lines.sort();
    lines
}

/// Everything that a snapshot says, as it says it.
fn actual(snapshot: &Snapshot) -> Vec<String> {
    let mut lines = Vec::new();
    lines.extend(snapshot.workloads().map(|entry| format!("{:?}", entry.workload)));
    for entry in snapshot.services() {
        lines.push(format!("{:?}", entry.service));
        for backend in &entry.backends {
            assert!(Arc::ptr_eq(&backend.service, &entry.service));
            let v4 = backend.family == Family::V4;
            let at = format!("{} {} {v4}", entry.service.key, backend.port.port);
            lines.push(at.clone());
            for endpoint in &backend.endpoints {
                let current = snapshot.workload(&endpoint.workload.key).unwrap();
                assert!(
                    Arc::ptr_eq(&current.workload, &endpoint.workload),
                    "an endpoint of an old version"
                );
                lines.push(format!("{at} {} {}", endpoint.workload.key, endpoint.addr));
            }
            let keys = backend.endpoints.iter().map(|endpoint| &endpoint.workload.key);
            assert!(keys.is_sorted());
        }
    }
    let by_node: BTreeMap<_, _> = snapshot.nodes.values().flatten().collect();
    assert_eq!(by_node.len(), snapshot.workload_count());
    for (node, workloads) in &snapshot.nodes {
        assert!(!workloads.is_empty());
        for (key, entry) in workloads {
            assert_eq!(*entry.workload.node, **node);
            assert!(Arc::ptr_eq(entry, snapshot.workload(key).unwrap()));
        }
    }
    let selecting = snapshot.services().map(|entry| &entry.service);
    let selecting = selecting.filter(|service| !service.selector.is_empty());
    let listed: BTreeSet<_> = snapshot.selectors.services().collect();
    assert_eq!(listed, selecting.map(|service| &service.key).collect());
    for (ip, holder) in &snapshot.addresses {
        lines.push(match holder {
            Holder::Workload(entry) => {
                assert!(Arc::ptr_eq(
                    entry,
                    snapshot.workload(&entry.workload.key).unwrap()
                ));
                format!("{ip} workload {}", entry.workload.key)
            }
            Holder::Service(entry) => {
                assert!(Arc::ptr_eq(entry, snapshot.service(&entry.service.key).unwrap()));
                format!("{ip} service {}", entry.service.key)
            }
        });
    }
    lines.sort();
    lines
}

/// What must be handed on from one snapshot to the next.
fn assert_continuity(before: &Snapshot, after: &Snapshot) {
    for new in after.workloads() {
        if let Some(old) = before.workload(&new.workload.key) {
            assert!(Arc::ptr_eq(&old.load, &new.load));
            assert_eq!(
                old.workload == new.workload,
                Arc::ptr_eq(old, new),
                "replaced without a change"
            );
        }
    }
    for new in after.services() {
        let Some(old) = before.service(&new.service.key) else {
            continue;
        };
        for backend in &new.backends {
            let Some(old) = old.backend(backend.port.port, backend.family) else {
                continue;
            };
            for endpoint in &backend.endpoints {
                let same = |old: &&Arc<Endpoint>| {
                    old.workload.key == endpoint.workload.key && old.addr == endpoint.addr
                };
                if let Some(old) = old.endpoints.iter().find(same) {
                    assert!(Arc::ptr_eq(&old.load, &endpoint.load), "the count was lost");
                    assert_eq!(old.workload == endpoint.workload, Arc::ptr_eq(old, endpoint));
                }
            }
        }
        let serves = |entry: &ServiceEntry| -> Vec<Workload> {
            let all = entry.backends.iter().flat_map(|backend| &backend.endpoints);
            all.map(|endpoint| Workload::clone(&endpoint.workload)).collect()
        };
        if old.service == new.service && serves(old) == serves(new) {
            assert!(
                Arc::ptr_eq(old, new),
                "{} was replaced without a change",
                new.service.key
            );
        }
    }
}

/// One of a few namespaced names.
fn any_key() -> impl Strategy<Value = ObjectKey> {
    (0..2, 0..4).prop_map(|(namespace, name)| ObjectKey::new(format!("n{namespace}"), format!("o{name}")))
}

fn any_labels() -> impl Strategy<Value = BTreeMap<String, String>> {
    prop_oneof![
        Just("app=a"),
        Just("app=b"),
        Just("app=a tier=x"),
        Just("app=b tier=x"),
        Just("tier=x"),
        Just("")
    ]
    .prop_map(labels)
}

/// Addresses from a small pool, so that they change hands.
fn any_addresses() -> impl Strategy<Value = Vec<IpAddr>> {
    let pool: Vec<IpAddr> = (1..8)
        .flat_map(|n| [format!("10.0.0.{n}"), format!("fd00::{n}")])
        .map(|ip| ip.parse().unwrap())
        .collect();
    prop::sample::subsequence(pool, 0..3).prop_shuffle()
}

fn any_world() -> impl Strategy<Value = World> {
    let port = (0..3).prop_map(|kind| match kind {
        0 => TargetPort::Number(9000),
        1 => TargetPort::Name("http".to_owned()),
        _ => TargetPort::Name("absent".to_owned()),
    });
    let workload_parts = (
        any_key(),
        any_labels(),
        any_addresses(),
        any::<bool>(),
        8080u16..8082,
    );
    let service_parts = (
        any_key(),
        any_labels(),
        any_addresses(),
        prop::collection::vec(port, 0..3),
    );
    (
        prop::collection::vec(workload_parts, 0..8),
        prop::collection::vec(service_parts, 0..6),
    )
        .prop_map(|(workloads, services)| {
            let mut world = World::default();
            let mut taken = Vec::new();
            let mut free = |wanted: Vec<IpAddr>| -> Vec<IpAddr> {
                let free: Vec<_> = wanted.into_iter().filter(|ip| !taken.contains(ip)).collect();
                taken.extend(&free);
                free
            };
            for (key, pairs, addresses, ready, port) in workloads {
                let mut workload = workload(&key.to_string(), "", "");
                workload.labels = pairs.into();
                workload.addresses = free(addresses);
                workload.ready = ready;
                workload.node = format!("node-{}", port % 2);
                workload.ports[0].port = port;
                world.workloads.insert(key, workload);
            }
            for (key, selector, addresses, targets) in services {
                let mut service = service(&key.to_string(), "", "");
                service.selector = selector;
                service.cluster_ips = free(addresses);
                let ports = (80u16..).zip(targets);
                let port = |(port, target)| ServicePort {
                    name: None,
                    port,
                    target,
                    app_protocol: None,
                };
                service.ports = ports.map(port).collect();
                world.services.insert(key, service);
            }
            world
        })
}

proptest! {
    #[test]
    fn any_path_leads_to_the_same_snapshot(
        worlds in prop::collection::vec(any_world(), 1..5),
        order in any::<prop::sample::Index>(),
    ) {
        let store = Store::new();
        let mut now = World::default();
        for world in worlds {
            let before = Arc::clone(&store.load());
            let mut changes = world.changes_from(&now);
            if !changes.is_empty() {
                let by = order.index(changes.len());
                changes.rotate_left(by);
            }
            store.apply(&changes);
            let after = Arc::clone(&store.load());
            prop_assert_eq!(actual(&after), expected(&world));
            prop_assert_eq!(after.version() - before.version(), u64::from(!changes.is_empty()));
            assert_continuity(&before, &after);
            now = world;
        }
    }

    #[test]
    fn one_change_at_a_time_leads_there_too(worlds in prop::collection::vec(any_world(), 1..4)) {
        let store = Store::new();
        let mut now = World::default();
        for world in worlds {
            // Removals first: so no address has two holders at any moment.
            let changes = world.changes_from(&now);
            let (gone, come): (Vec<_>, Vec<_>) = changes.into_iter().partition(|change| {
                matches!(change, Change::RemoveWorkload(_) | Change::RemoveService(_))
            });
            let gone_first = gone.into_iter().chain(come);
            for change in gone_first {
                store.apply(&[change]);
            }
            prop_assert_eq!(actual(&store.load()), expected(&world));
            now = world;
        }
    }
}
