//! Tests of snapshots: what addresses mean, and that an update does exactly what its changes ask for.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use mesh_common::model::{ObjectKey, Service, ServicePort, TargetPort, Workload, WorkloadPort};
use proptest::prelude::*;

use super::*;
use crate::balance::Active;
use crate::config::{Change, Rejection};

fn labels(text: &str) -> BTreeMap<String, String> {
    text.split_whitespace()
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

fn ips(text: &str) -> Vec<IpAddr> {
    text.split_whitespace().map(|ip| ip.parse().unwrap()).collect()
}

fn key(text: &str) -> ObjectKey {
    let (namespace, name) = text.split_once('/').unwrap();
    ObjectKey::new(namespace, name)
}

fn workload(name: &str, pairs: &str, addresses: &str) -> Workload {
    Workload {
        key: key(name),
        labels: labels(pairs),
        service_account: "default".to_owned(),
        node: "node-a".to_owned(),
        addresses: ips(addresses),
        ports: vec![WorkloadPort {
            name: Some("http".to_owned()),
            port: 8080,
            app_protocol: None,
        }],
        ready: true,
        locate: None,
    }
}

fn service(name: &str, selector: &str, addresses: &str) -> Service {
    let port = |name: &str, port, target| ServicePort {
        name: Some(name.to_owned()),
        port,
        target,
        app_protocol: None,
    };
    Service {
        key: key(name),
        cluster_ips: ips(addresses),
        ports: vec![
            port("http", 80, TargetPort::Name("http".to_owned())),
            port("admin", 81, TargetPort::Number(9000)),
        ],
        selector: labels(selector),
    }
}

fn put_workload(name: &str, pairs: &str, addresses: &str) -> Change {
    Change::PutWorkload(workload(name, pairs, addresses))
}

fn put_service(name: &str, selector: &str, addresses: &str) -> Change {
    Change::PutService(service(name, selector, addresses))
}

/// What an address stands for, in words.
fn means(store: &Store, dst: &str) -> String {
    match store.load().resolve(dst.parse().unwrap()) {
        Resolution::Service(backend) => {
            let endpoints: Vec<_> = backend.endpoints.iter().map(|at| at.addr.to_string()).collect();
            format!(
                "{} {}: {}",
                backend.service.key,
                backend.port.port,
                endpoints.join(" ")
            )
        }
        Resolution::ServiceWithoutPort(entry) => format!("{} without this port", entry.service.key),
        Resolution::Workload(entry) => format!("workload {}", entry.workload.key),
        Resolution::Unknown => "unknown".to_owned(),
    }
}

fn backend(store: &Store, dst: &str) -> Arc<ServiceBackend> {
    match store.load().resolve(dst.parse().unwrap()) {
        Resolution::Service(backend) => Arc::clone(backend),
        other => panic!("{dst} is {other:?}"),
    }
}

#[test]
fn addresses_mean_services_workloads_or_nothing() {
    let store = Store::new();
    store.apply(&[
        put_service("shop/web", "app=web", "10.96.0.1 fd00:96::1"),
        put_workload("shop/web-2", "app=web", "10.1.0.2 fd00::2"),
        put_workload("shop/web-1", "app=web v=1", "10.1.0.1 fd00::1"),
        put_workload("shop/db", "app=db", "10.1.0.3"),
        put_workload("other/web", "app=web", "10.1.0.4"),
    ]);
    for (dst, meaning) in [
        ("10.96.0.1:80", "shop/web 80: 10.1.0.1:8080 10.1.0.2:8080"),
        ("10.96.0.1:81", "shop/web 81: 10.1.0.1:9000 10.1.0.2:9000"),
        (
            "[::ffff:10.96.0.1]:81",
            "shop/web 81: 10.1.0.1:9000 10.1.0.2:9000",
        ),
        ("[fd00:96::1]:80", "shop/web 80: [fd00::1]:8080 [fd00::2]:8080"),
        ("10.96.0.1:82", "shop/web without this port"),
        ("10.1.0.3:5432", "workload shop/db"),
        ("[::ffff:10.1.0.3]:5432", "workload shop/db"),
        ("[fd00::2]:1", "workload shop/web-2"),
        ("10.96.0.2:80", "unknown"),
        ("192.0.2.1:80", "unknown"),
    ] {
        assert_eq!(means(&store, dst), meaning, "{dst}");
    }
    let snapshot = store.load();
    assert_eq!(
        snapshot
            .workload_at("10.96.0.1".parse().unwrap())
            .map(|entry| &entry.workload.key),
        None
    );
    let db = snapshot.workload_at("::ffff:10.1.0.3".parse().unwrap()).unwrap();
    assert_eq!(db.workload.key, key("shop/db"));
    let names: Vec<_> = snapshot
        .workloads()
        .map(|entry| entry.workload.key.to_string())
        .collect();
    assert_eq!(names, ["other/web", "shop/db", "shop/web-1", "shop/web-2"]);
    assert_eq!(snapshot.services().count(), 1);
}

#[test]
fn only_ready_workloads_with_the_port_and_the_family_serve() {
    let store = Store::new();
    let mut unready = workload("shop/unready", "app=web", "10.1.0.1");
    unready.ready = false;
    let mut nameless = workload("shop/nameless", "app=web", "10.1.0.2");
    nameless.ports.clear();
    let mut other_port = workload("shop/other-port", "app=web", "10.1.0.3");
    other_port.ports[0].port = 3000;
    store.apply(&[
        put_service("shop/web", "app=web", "10.96.0.1"),
        Change::PutWorkload(unready.clone()),
        Change::PutWorkload(nameless),
        Change::PutWorkload(other_port),
        put_workload("shop/v6-only", "app=web", "fd00::4"),
        put_workload("shop/two-addresses", "app=web", "fd00::5 10.1.0.5 10.1.0.6"),
    ]);
    assert_eq!(
        means(&store, "10.96.0.1:80"),
        "shop/web 80: 10.1.0.3:3000 10.1.0.5:8080"
    );
    assert_eq!(
        means(&store, "10.96.0.1:81"),
        "shop/web 81: 10.1.0.2:9000 10.1.0.3:9000 10.1.0.5:9000"
    );
    unready.ready = true;
    store.apply(&[Change::PutWorkload(unready)]);
    assert_eq!(
        means(&store, "10.96.0.1:80"),
        "shop/web 80: 10.1.0.3:3000 10.1.0.5:8080 10.1.0.1:8080"
    );
}

#[test]
fn an_empty_selector_selects_nothing_and_a_headless_service_has_both_families() {
    let store = Store::new();
    store.apply(&[
        put_service("shop/none", "", "10.96.0.1"),
        put_service("shop/headless", "app=web", ""),
        put_workload("shop/web", "app=web", "10.1.0.1 fd00::1"),
    ]);
    assert_eq!(means(&store, "10.96.0.1:80"), "shop/none 80: ");
    let snapshot = store.load();
    let headless = snapshot.service(&key("shop/headless")).unwrap();
    let at = |family| {
        headless.backend(80, family).unwrap().endpoints[0]
            .addr
            .to_string()
    };
    assert_eq!(
        (at(Family::V4), at(Family::V6)),
        ("10.1.0.1:8080".to_owned(), "[fd00::1]:8080".to_owned())
    );
}

#[test]
fn workloads_join_and_leave_services_with_their_labels() {
    let store = Store::new();
    store.apply(&[
        put_service("shop/web", "app=web", "10.96.0.1"),
        put_service("shop/api", "app=api", "10.96.0.2"),
        put_workload("shop/a", "app=web", "10.1.0.1"),
    ]);
    assert_eq!(means(&store, "10.96.0.1:80"), "shop/web 80: 10.1.0.1:8080");
    store.apply(&[put_workload("shop/a", "app=api", "10.1.0.1")]);
    assert_eq!(means(&store, "10.96.0.1:80"), "shop/web 80: ");
    assert_eq!(means(&store, "10.96.0.2:80"), "shop/api 80: 10.1.0.1:8080");
    store.apply(&[Change::RemoveWorkload(key("shop/a"))]);
    assert_eq!(means(&store, "10.96.0.2:80"), "shop/api 80: ");
    assert_eq!(means(&store, "10.1.0.1:80"), "unknown");
    store.apply(&[put_workload("shop/a", "app=api", "10.1.0.9")]);
    store.apply(&[
        Change::RemoveService(key("shop/api")),
        put_service("shop/web", "app=api", "10.96.0.3"),
    ]);
    assert_eq!(means(&store, "10.96.0.1:80"), "unknown");
    assert_eq!(means(&store, "10.96.0.2:80"), "unknown");
    assert_eq!(means(&store, "10.96.0.3:80"), "shop/web 80: 10.1.0.9:8080");
}

#[test]
fn counters_survive_what_leaves_the_endpoint_alone() {
    let store = Store::new();
    store.apply(&[
        put_service("shop/web", "app=web", "10.96.0.1"),
        put_workload("shop/a", "app=web", "10.1.0.1"),
        put_workload("shop/b", "app=web", "10.1.0.2"),
    ]);
    let before = backend(&store, "10.96.0.1:80");
    let _connections = (
        Active::on(&*before.endpoints[0]),
        Active::on(&*before.endpoints[0]),
    );
    let active = |at: usize| backend(&store, "10.96.0.1:80").endpoints[at].load.active();

    store.apply(&[put_workload("shop/c", "app=web", "10.1.0.3")]);
    let after = backend(&store, "10.96.0.1:80");
    assert!(
        Arc::ptr_eq(&before.endpoints[0], &after.endpoints[0]),
        "another endpoint came"
    );
    assert_eq!((active(0), active(1), active(2)), (2, 0, 0));

    store.apply(&[put_service("shop/web", "app=web", "10.96.0.1 10.96.0.9")]);
    assert!(Arc::ptr_eq(
        &before.endpoints[0],
        &backend(&store, "10.96.0.9:80").endpoints[0]
    ));

    store.apply(&[put_workload("shop/a", "app=web v=2", "10.1.0.1")]);
    let after = backend(&store, "10.96.0.1:80");
    assert!(
        !Arc::ptr_eq(&before.endpoints[0], &after.endpoints[0]),
        "it shows the new labels"
    );
    assert_eq!(active(0), 2);

    store.apply(&[
        Change::RemoveWorkload(key("shop/a")),
        put_workload("shop/a", "app=web", "10.1.0.1"),
    ]);
    assert_eq!(active(0), 2, "removed and put back in one step");

    store.apply(&[put_workload("shop/a", "app=web", "10.1.0.7")]);
    assert_eq!(active(0), 0, "another address is another endpoint");
}

#[test]
fn a_workloads_own_counter_survives_any_change_of_it() {
    let store = Store::new();
    store.apply(&[put_workload("shop/a", "app=web", "10.1.0.1")]);
    let entry = Arc::clone(store.load().workload(&key("shop/a")).unwrap());
    let _connection = Active::on(&*entry);
    store.apply(&[put_workload("shop/a", "app=api", "10.1.0.7")]);
    assert_eq!(store.load().workload(&key("shop/a")).unwrap().load.active(), 1);
}

#[test]
fn addresses_can_change_hands_in_one_update() {
    let store = Store::new();
    store.apply(&[
        put_workload("shop/a", "", "10.1.0.1"),
        put_workload("shop/b", "", "10.1.0.2"),
    ]);
    store.apply(&[
        put_workload("shop/a", "", "10.1.0.2"),
        put_workload("shop/b", "", "10.1.0.1"),
    ]);
    assert_eq!(means(&store, "10.1.0.1:1"), "workload shop/b");
    assert_eq!(means(&store, "10.1.0.2:1"), "workload shop/a");
    store.apply(&[
        put_service("shop/a", "", "10.1.0.2"),
        Change::RemoveWorkload(key("shop/a")),
    ]);
    assert_eq!(means(&store, "10.1.0.2:80"), "shop/a 80: ");
}

#[test]
fn an_update_touches_nothing_else() {
    let store = Store::new();
    let mut changes = Vec::new();
    for namespace in 0..20 {
        for name in 0..20 {
            let app = format!("app=a{name}");
            changes.push(put_service(
                &format!("n{namespace}/s{name}"),
                &app,
                &format!("10.96.{namespace}.{name}"),
            ));
            for replica in 0..3 {
                let address = format!("10.{}.{namespace}.{name}", replica + 1);
                changes.push(put_workload(
                    &format!("n{namespace}/w{name}-{replica}"),
                    &app,
                    &address,
                ));
            }
        }
    }
    store.apply(&changes);
    let before = Arc::clone(&store.load());
    store.apply(&[put_workload("n7/w7-1", "app=a7 v=2", "10.2.7.7")]);
    let after = Arc::clone(&store.load());
    let mut replaced = Vec::new();
    for (old, new) in before.workloads().zip(after.workloads()) {
        if !Arc::ptr_eq(old, new) {
            replaced.push(new.workload.key.to_string());
        }
    }
    for (old, new) in before.services().zip(after.services()) {
        if !Arc::ptr_eq(old, new) {
            replaced.push(new.service.key.to_string());
        }
        let Resolution::Service(found) = after.resolve(SocketAddr::new(new.service.cluster_ips[0], 80))
        else {
            panic!("{} has no address", new.service.key)
        };
        assert!(
            Arc::ptr_eq(found, &new.backends[0]),
            "the address leads to the current entry"
        );
    }
    assert_eq!(replaced, ["n7/w7-1", "n7/s7"]);
    let changed = after.service(&key("n7/s7")).unwrap();
    let same: Vec<_> = before.service(&key("n7/s7")).unwrap().backends[0]
        .endpoints
        .iter()
        .zip(&changed.backends[0].endpoints)
        .map(|(old, new)| Arc::ptr_eq(old, new))
        .collect();
    assert_eq!(same, [true, false, true]);
}

#[test]
fn subscribers_learn_of_real_changes_only() {
    let store = Store::new();
    let mut versions = store.subscribe();
    assert_eq!(*versions.borrow_and_update(), 0);
    assert_eq!(store.apply(&[put_workload("shop/a", "", "10.1.0.1")]), 1);
    assert!(versions.has_changed().unwrap());
    assert_eq!(*versions.borrow_and_update(), 1);
    let nothing = [
        put_workload("shop/a", "", "10.1.0.1"),
        Change::RemoveService(key("shop/a")),
    ];
    assert_eq!(store.apply(&nothing), 1);
    assert!(!versions.has_changed().unwrap());
    assert_eq!(store.load().version(), 1);
}

#[test]
fn rejections_stand_beside_the_snapshot() {
    let store = Store::new();
    assert!(store.rejections().is_empty());
    let rejection = Rejection {
        file: "shop.yaml".into(),
        line: 12,
        column: 5,
        object: Some(("Workload".to_owned(), key("shop/web-1"))),
        field: Some("spec.ports[0].port".to_owned()),
        reason: "70000 is not a port".to_owned(),
        remedy: "use 1 to 65535".to_owned(),
    };
    store.set_rejections(vec![rejection]);
    assert_eq!(
        store.rejections()[0].to_string(),
        "shop.yaml:12:5: Workload shop/web-1: spec.ports[0].port: 70000 is not a port; use 1 to 65535"
    );
    assert_eq!(store.load().version(), 0);
}

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
                changes.push(Change::PutWorkload(workload.clone()));
            }
        }
        for (key, service) in &self.services {
            if before.services.get(key) != Some(service) {
                changes.push(Change::PutService(service.clone()));
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
    for (ip, holder) in &snapshot.addresses {
        lines.push(match holder {
            snapshot::Holder::Workload(entry) => {
                assert!(Arc::ptr_eq(
                    entry,
                    snapshot.workload(&entry.workload.key).unwrap()
                ));
                format!("{ip} workload {}", entry.workload.key)
            }
            snapshot::Holder::Service(entry) => {
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
    let workload = (
        any_key(),
        any_labels(),
        any_addresses(),
        any::<bool>(),
        8080u16..8082,
    );
    let service = (
        any_key(),
        any_labels(),
        any_addresses(),
        prop::collection::vec(port, 0..3),
    );
    (
        prop::collection::vec(workload, 0..8),
        prop::collection::vec(service, 0..6),
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
                if !world.workloads.contains_key(&key) {
                    let mut workload = super::tests::workload(&key.to_string(), "", "");
                    workload.labels = pairs;
                    workload.addresses = free(addresses);
                    workload.ready = ready;
                    workload.ports[0].port = port;
                    world.workloads.insert(key, workload);
                }
            }
            for (key, selector, addresses, targets) in services {
                if !world.services.contains_key(&key) {
                    let mut service = super::tests::service(&key.to_string(), "", "");
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
