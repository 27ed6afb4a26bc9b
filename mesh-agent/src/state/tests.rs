//! Tests of snapshots: what addresses mean, and that an update does exactly what its changes ask for.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use mesh_common::model::{
    ObjectKey, Service, ServicePort, TargetPort, TunnelProtocol, Workload, WorkloadPort,
};

use super::*;
use crate::balance::Active;
use crate::config::{Change, Rejection};

mod policies;
mod random;
mod routes;

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
        labels: labels(pairs).into(),
        service_account: "default".to_owned(),
        node: "node-a".to_owned(),
        addresses: ips(addresses),
        ports: vec![WorkloadPort {
            name: Some("http".to_owned()),
            port: 8080,
            app_protocol: None,
        }],
        ready: true,
        policies: Vec::new(),
        tunnel: TunnelProtocol::default(),
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
    Change::PutWorkload(workload(name, pairs, addresses).into())
}

fn put_service(name: &str, selector: &str, addresses: &str) -> Change {
    Change::PutService(service(name, selector, addresses).into())
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
        Change::PutWorkload(unready.clone().into()),
        Change::PutWorkload(nameless.into()),
        Change::PutWorkload(other_port.into()),
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
    store.apply(&[Change::PutWorkload(unready.into())]);
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
