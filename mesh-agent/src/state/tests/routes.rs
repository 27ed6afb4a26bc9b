//! Routes in the snapshot: what changes when, and what stays.

use std::sync::Arc;

use mesh_common::model::{
    ObjectKey, ParentRef, Route, RouteKind, RouteRule, Service, ServicePort, TargetPort,
};

use crate::config::Change;
use crate::routing::{ConditionKind, Reason};
use crate::state::{Family, Store};

fn service(namespace: &str, name: &str, ports: &[u16]) -> Change {
    Change::PutService(
        Service {
            key: ObjectKey::new(namespace, name),
            cluster_ips: Vec::new(),
            ports: ports
                .iter()
                .map(|port| ServicePort {
                    name: Some(format!("p{port}")),
                    port: *port,
                    target: TargetPort::Number(*port),
                    app_protocol: None,
                })
                .collect(),
            selector: Default::default(),
        }
        .into(),
    )
}

fn route(namespace: &str, name: &str, parents: &[&str]) -> Route {
    Route {
        kind: RouteKind::Http,
        key: ObjectKey::new(namespace, name),
        created: None,
        parents: parents
            .iter()
            .map(|name| ParentRef {
                service: ObjectKey::new("shop", *name),
                port: None,
                section_name: None,
            })
            .collect(),
        hostnames: Vec::new(),
        rules: vec![RouteRule::default()],
    }
}

fn put(route: Route) -> Change {
    Change::PutRoute(route.into())
}

/// The routes of `shop/web` on port 80, for clients of a namespace.
fn names(store: &Store, client: &str) -> Vec<String> {
    let snapshot = store.load();
    let table = snapshot.routes_of(&ObjectKey::new("shop", "web"), 80, Some(client));
    let routes = table.map(|table| table.routes()).unwrap_or_default();
    routes.iter().map(|route| route.route().key.to_string()).collect()
}

#[test]
fn routes_and_their_services_may_come_and_go_in_any_order() {
    let store = Store::new();
    store.apply(&[put(route("shop", "a", &["web"]))]);
    assert_eq!(names(&store, "x"), [""; 0]);
    store.apply(&[service("shop", "web", &[80])]);
    assert_eq!(names(&store, "x"), ["shop/a"]);
    store.apply(&[put(route("test", "b", &["web"]))]);
    assert_eq!(names(&store, "x"), ["shop/a"]);
    assert_eq!(names(&store, "test"), ["test/b"]);
    store.apply(&[service("shop", "web", &[81])]);
    assert_eq!(names(&store, "x"), [""; 0]);
    store.apply(&[service("shop", "web", &[80, 81])]);
    assert_eq!(names(&store, "x"), ["shop/a"]);
    store.apply(&[Change::RemoveService(ObjectKey::new("shop", "web"))]);
    assert_eq!(names(&store, "x"), [""; 0]);
    store.apply(&[service("shop", "web", &[80])]);
    assert_eq!(names(&store, "test"), ["test/b"]);
    store.apply(&[Change::RemoveRoute(RouteKind::Http, ObjectKey::new("test", "b"))]);
    assert_eq!(names(&store, "test"), ["shop/a"]);
    store.apply(&[put(route("shop", "a", &["cart"]))]);
    assert_eq!(names(&store, "test"), [""; 0]);
}

#[test]
fn kinds_have_names_of_their_own() {
    let store = Store::new();
    let grpc = Route {
        kind: RouteKind::Grpc,
        ..route("shop", "a", &["web"])
    };
    store.apply(&[
        service("shop", "web", &[80]),
        put(route("shop", "a", &["web"])),
        put(grpc),
    ]);
    assert_eq!(store.load().routes().count(), 2);
    store.apply(&[Change::RemoveRoute(RouteKind::Grpc, ObjectKey::new("shop", "a"))]);
    let snapshot = store.load();
    let key = ObjectKey::new("shop", "a");
    assert!(snapshot.route(RouteKind::Http, &key).is_some());
    assert!(snapshot.route(RouteKind::Grpc, &key).is_none());
    assert_eq!(names(&store, "x"), ["shop/a"]);
}

#[test]
fn a_change_that_changes_nothing_publishes_nothing() {
    let store = Store::new();
    let version = store.apply(&[put(route("shop", "a", &["web"]))]);
    assert_eq!(store.apply(&[put(route("shop", "a", &["web"]))]), version);
    assert_eq!(
        store.apply(&[Change::RemoveRoute(RouteKind::Grpc, ObjectKey::new("shop", "a"))]),
        version
    );
    assert!(store.apply(&[Change::RemoveRoute(RouteKind::Http, ObjectKey::new("shop", "a"))]) > version);
}

#[test]
fn tables_stay_until_their_own_routes_change() {
    let store = Store::new();
    store.apply(&[
        service("shop", "web", &[80]),
        service("shop", "cart", &[80]),
        put(route("shop", "a", &["web"])),
        put(route("shop", "c", &["cart"])),
    ]);
    let table = |name: &str| {
        let snapshot = store.load();
        Arc::clone(
            snapshot
                .routes_of(&ObjectKey::new("shop", name), 80, None)
                .unwrap(),
        )
    };
    let (web, cart) = (table("web"), table("cart"));
    store.apply(&[
        put(route("shop", "d", &["cart"])),
        put(route("test", "e", &["web"])),
    ]);
    assert!(Arc::ptr_eq(&web, &table("web")));
    assert!(!Arc::ptr_eq(&cart, &table("cart")));
    store.apply(&[service("shop", "web", &[80, 81])]);
    assert!(Arc::ptr_eq(&web, &table("web")));
}

#[test]
fn conditions_follow_the_services() {
    let store = Store::new();
    store.apply(&[put(route("shop", "a", &["web"]))]);
    let reason = || {
        let snapshot = store.load();
        let route = snapshot
            .route(RouteKind::Http, &ObjectKey::new("shop", "a"))
            .unwrap();
        let conditions = snapshot.conditions_of(route);
        conditions[0].condition(ConditionKind::Accepted).unwrap().reason
    };
    assert_eq!(reason(), Reason::NoMatchingParent);
    store.apply(&[service("shop", "web", &[80])]);
    assert_eq!(reason(), Reason::Accepted);
}

#[test]
fn a_backend_is_found_by_name_and_port() {
    let store = Store::new();
    store.apply(&[service("shop", "web", &[80])]);
    let snapshot = store.load();
    let key = ObjectKey::new("shop", "web");
    assert!(
        snapshot
            .service_port(&key, 80, Family::V4)
            .is_some_and(|port| port.endpoints.is_empty())
    );
    assert!(snapshot.service_port(&key, 81, Family::V4).is_none());
    assert!(
        snapshot
            .service_port(&ObjectKey::new("shop", "gone"), 80, Family::V4)
            .is_none()
    );
}
