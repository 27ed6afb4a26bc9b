//! Which routes hold for whom.

use std::sync::Arc;

use mesh_common::model::{ParentRef, Route, RouteKind, Service};

use super::kit::{compiled, parent, route, rule, service};
use crate::routing::{Attached, CompiledRoute};

fn web() -> Service {
    service("shop/web", &[("http", 80), ("admin", 8080)])
}

fn attached(routes: &[Arc<CompiledRoute>]) -> Attached {
    Attached::new(&web(), routes, None)
}

fn any(kind: RouteKind, name: &str) -> Arc<CompiledRoute> {
    compiled(route(kind, name, vec![rule(Vec::new())]))
}

fn names(attached: &Attached, port: u16, namespace: Option<&str>) -> Vec<String> {
    let table = attached.table(port, namespace);
    let routes = table.map(|table| table.routes()).unwrap_or_default();
    routes.iter().map(|route| route.route().key.to_string()).collect()
}

#[test]
fn producer_routes_are_for_all_and_consumer_routes_replace_them_for_their_own() {
    let attached = attached(&[
        any(RouteKind::Http, "shop/a"),
        any(RouteKind::Http, "shop/b"),
        any(RouteKind::Http, "test/c"),
    ]);
    for (client, routes) in [
        (Some("shop"), vec!["shop/a", "shop/b"]),
        (Some("other"), vec!["shop/a", "shop/b"]),
        (None, vec!["shop/a", "shop/b"]),
        (Some("test"), vec!["test/c"]),
    ] {
        assert_eq!(names(&attached, 80, client), routes, "{client:?}");
    }
}

#[test]
fn consumer_routes_alone_leave_other_clients_without_a_table() {
    let attached = attached(&[any(RouteKind::Http, "test/c")]);
    assert!(attached.table(80, Some("test")).is_some());
    assert!(attached.table(80, Some("shop")).is_none() && attached.table(80, None).is_none());
}

#[test]
fn a_parent_may_mean_a_port_by_number_or_name() {
    let on = |port, section: Option<&str>| {
        let parents = vec![ParentRef {
            port,
            section_name: section.map(str::to_owned),
            ..parent("shop/web")
        }];
        let mut one = route(RouteKind::Http, "shop/a", vec![rule(Vec::new())]);
        one.parents = parents;
        let attached = attached(&[compiled(one)]);
        [80, 8080, 81].map(|port| attached.table(port, None).is_some())
    };
    assert_eq!(on(None, None), [true, true, false]);
    assert_eq!(on(Some(80), None), [true, false, false]);
    assert_eq!(on(None, Some("admin")), [false, true, false]);
    assert_eq!(on(Some(8080), Some("admin")), [false, true, false]);
    assert_eq!(on(Some(80), Some("admin")), [false, false, false]);
    assert_eq!(on(Some(81), None), [false, false, false]);
}

#[test]
fn a_route_that_names_a_port_twice_is_attached_once() {
    let mut twice = route(RouteKind::Http, "shop/a", vec![rule(Vec::new())]);
    twice.parents.push(ParentRef {
        port: Some(80),
        ..parent("shop/web")
    });
    assert_eq!(names(&attached(&[compiled(twice)]), 80, None), ["shop/a"]);
}

#[test]
fn grpc_routes_of_a_group_silence_its_http_routes_on_their_port() {
    let mut grpc = route(RouteKind::Grpc, "shop/g", vec![rule(Vec::new())]);
    grpc.parents[0].port = Some(80);
    let attached = attached(&[
        any(RouteKind::Http, "shop/a"),
        compiled(grpc),
        any(RouteKind::Http, "test/c"),
    ]);
    assert_eq!(names(&attached, 80, None), ["shop/g"]);
    assert_eq!(names(&attached, 8080, None), ["shop/a"]);
    assert_eq!(names(&attached, 80, Some("test")), ["test/c"]);
}

#[test]
fn a_route_without_a_usable_rule_is_not_attached() {
    let mut broken = route(
        RouteKind::Grpc,
        "shop/g",
        vec![rule(vec![super::kit::grpc(Some(super::kit::like("(")), None)])],
    );
    let route = compiled(broken.clone());
    assert!(attached(&[route]).is_empty());
    broken.rules.push(rule(Vec::new()));
    assert!(!attached(&[compiled(broken)]).is_empty());
}

#[test]
fn tables_are_made_once_and_kept_while_their_routes_stay() {
    let routes = [any(RouteKind::Http, "shop/a"), any(RouteKind::Http, "test/c")];
    let first = attached(&routes);
    let producer = Arc::clone(first.table(80, None).unwrap());
    let consumer = Arc::clone(first.table(80, Some("test")).unwrap());
    assert!(Arc::ptr_eq(&producer, first.table(80, Some("shop")).unwrap()));
    let changed = [Arc::clone(&routes[0]), any(RouteKind::Http, "test/c")];
    let second = Attached::new(&web(), &changed, Some(&first));
    assert!(Arc::ptr_eq(&producer, second.table(80, None).unwrap()));
    assert!(!Arc::ptr_eq(&consumer, second.table(80, Some("test")).unwrap()));
}

#[test]
fn routes_of_other_services_are_not_attached() {
    let other = Route {
        parents: vec![parent("shop/other")],
        ..route(RouteKind::Http, "shop/a", vec![rule(Vec::new())])
    };
    assert!(attached(&[compiled(other)]).is_empty());
}
