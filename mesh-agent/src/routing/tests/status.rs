//! Conditions: each reason once.

use std::collections::HashMap;

use mesh_common::model::{
    BackendTarget, Mirror, ObjectKey, ParentRef, PathModifier, Redirect, Rewrite, Route, RouteFilter,
    RouteKind, RouteRetry, RouteRule, Service,
};

use super::kit::Also;
use super::kit::{backend, compiled, exact, filtered, key, parent, regex, route, rule, service};
use crate::routing::{Attached, ConditionKind, ParentStatus, Reason, Surroundings, conditions};

struct World {
    services: HashMap<ObjectKey, Service>,
    attached: HashMap<ObjectKey, Attached>,
}

impl Surroundings for World {
    fn service(&self, key: &ObjectKey) -> Option<&Service> {
        self.services.get(key)
    }

    fn attached(&self, key: &ObjectKey) -> Option<&Attached> {
        self.attached.get(key)
    }
}

/// The conditions of the first of the routes.
fn status(routes: &[Route]) -> Vec<ParentStatus> {
    let services = [
        service("shop/web", &[("http", 80), ("admin", 8080)]),
        service("shop/cart", &[("http", 80)]),
    ];
    let routes: Vec<_> = routes.iter().cloned().map(compiled).collect();
    let attached = services
        .iter()
        .map(|service| (service.key.clone(), Attached::new(service, &routes, None)));
    let world = World {
        attached: attached.collect(),
        services: services
            .iter()
            .map(|service| (service.key.clone(), service.clone()))
            .collect(),
    };
    conditions(&routes[0], &world)
}

/// `Accepted=True/Accepted: message`, each on a line.
fn lines(status: &ParentStatus) -> Vec<String> {
    let conditions = status.conditions.iter().map(|condition| {
        let holds = if condition.holds { "True" } else { "False" };
        let words = format!(
            "{}={holds}/{}: {}",
            condition.kind, condition.reason, condition.message
        );
        words.trim_end_matches([':', ' ']).to_owned()
    });
    conditions.collect()
}

fn one(route: Route) -> Vec<String> {
    lines(&status(&[route])[0])
}

fn http(rules: Vec<RouteRule>) -> Route {
    route(RouteKind::Http, "shop/r", rules)
}

fn to(service: &str, port: u16) -> RouteRule {
    RouteRule {
        backends: vec![backend(service, port, 1)],
        ..RouteRule::default()
    }
}

const FINE: [&str; 2] = ["Accepted=True/Accepted", "ResolvedRefs=True/ResolvedRefs"];

#[test]
fn a_route_in_force_names_its_ports() {
    let route = http(vec![to("shop/cart", 80)]);
    let status = &status(&[route])[0];
    assert_eq!(lines(status), FINE);
    assert_eq!(status.ports, [80, 8080]);
}

#[test]
fn a_parent_that_is_not_there_is_no_match() {
    let parents = [
        (parent("shop/gone"), "the service shop/gone is not known"),
        (
            ParentRef {
                port: Some(81),
                ..parent("shop/web")
            },
            "the service shop/web has no TCP port 81",
        ),
        (
            ParentRef {
                port: Some(80),
                section_name: Some("admin".to_owned()),
                ..parent("shop/web")
            },
            "the service shop/web has no TCP port 80 with the name admin",
        ),
    ];
    let mut route = http(vec![to("shop/cart", 80)]);
    route.parents = parents.iter().map(|(parent, _)| parent.clone()).collect();
    for (status, (parent, message)) in status(&[route]).iter().zip(parents) {
        assert_eq!(status.parent, parent);
        assert_eq!(
            lines(status),
            [
                format!("Accepted=False/NoMatchingParent: {message}"),
                FINE[1].to_owned()
            ]
        );
        assert_eq!(status.ports, [0; 0]);
    }
}

#[test]
fn each_parent_has_its_own_conditions() {
    let mut route = http(vec![to("shop/cart", 80)]);
    route.parents.push(parent("shop/gone"));
    let reasons: Vec<_> = status(&[route])
        .iter()
        .map(|status| status.condition(ConditionKind::Accepted).unwrap().reason)
        .collect();
    assert_eq!(reasons, [Reason::Accepted, Reason::NoMatchingParent]);
}

#[test]
fn backends_that_are_not_there_are_named() {
    let lines = one(http(vec![
        to("shop/gone", 80),
        to("shop/cart", 81),
        to("shop/gone", 80),
    ]));
    assert_eq!(lines[0], FINE[0]);
    assert_eq!(
        lines[1],
        "ResolvedRefs=False/BackendNotFound: the service shop/gone is not known; \
         the service shop/cart has no TCP port 81"
    );
}

#[test]
fn backends_filters_and_copies_of_other_kinds_are_named() {
    let other = BackendTarget::Other {
        group: "example.com".to_owned(),
        kind: "Bucket".to_owned(),
        key: key("shop/b"),
    };
    let mut bucket = to("shop/cart", 80);
    bucket.backends[0].target = other.clone();
    assert_eq!(
        one(http(vec![bucket]))[1],
        "ResolvedRefs=False/InvalidKind: example.com Bucket shop/b is not a service"
    );
    let mut mirrored = to("shop/cart", 80);
    mirrored.backends[0].filters = vec![RouteFilter::Mirror(Mirror {
        target: backend("shop/gone", 80, 1).target,
        numerator: 1,
        denominator: 1,
    })];
    assert_eq!(
        one(http(vec![mirrored]))[1],
        "ResolvedRefs=False/BackendNotFound: the service shop/gone is not known"
    );
    let extension = RouteFilter::Extension {
        group: "example.com".to_owned(),
        kind: "Auth".to_owned(),
        name: "a".to_owned(),
    };
    assert_eq!(
        one(http(vec![filtered(vec![extension])])),
        [
            FINE[0],
            "ResolvedRefs=False/InvalidKind: example.com Auth a is not a filter that is known, so requests are \
             answered 500",
        ]
    );
}

fn redirect() -> RouteFilter {
    RouteFilter::Redirect(Redirect {
        scheme: None,
        hostname: None,
        path: None,
        port: None,
        status: 302,
    })
}

fn rewrite(path: Option<PathModifier>) -> RouteFilter {
    RouteFilter::Rewrite(Rewrite {
        hostname: Some("web".to_owned()),
        path,
    })
}

#[test]
fn filters_that_exclude_each_other_are_not_accepted() {
    let both = || filtered(vec![redirect(), rewrite(None)]);
    assert_eq!(
        one(http(vec![both()])),
        [
            "Accepted=False/IncompatibleFilters: no rule can be in force: \
             spec.rules[0]: RequestRedirect and URLRewrite exclude each other",
            FINE[1],
        ]
    );
    let full = || rewrite(Some(PathModifier::Full("/x".to_owned())));
    let mut twice = to("shop/cart", 80);
    twice.filters = vec![full()];
    twice.backends[0].filters = vec![full()];
    let mut nowhere = to("shop/cart", 80);
    nowhere.filters = vec![redirect()];
    for (rule, words) in [
        (twice, "the rule and one of its backends both replace the path"),
        (nowhere, "RequestRedirect leaves nothing to send to backends"),
        (
            filtered(vec![redirect(), redirect()]),
            "RequestRedirect stands there more than once",
        ),
    ] {
        let line = &one(http(vec![rule]))[0];
        assert!(
            line.contains("False/IncompatibleFilters") && line.ends_with(words),
            "{line}"
        );
    }
}

#[test]
fn values_that_are_not_supported_are_not_accepted() {
    let line = &one(http(vec![rule(vec![regex("(?=a)").one()])]))[0];
    assert!(
        line.starts_with("Accepted=False/UnsupportedValue: no rule can be in force: spec.rules[0]: "),
        "{line}"
    );
    let mut prefixed = rule(vec![exact("/a").one()]);
    prefixed.filters = vec![rewrite(Some(PathModifier::Prefix("/x".to_owned())))];
    let line = &one(http(vec![prefixed]))[0];
    assert!(
        line.ends_with("ReplacePrefixMatch needs matches of type PathPrefix"),
        "{line}"
    );
}

#[test]
fn a_route_with_good_and_bad_rules_is_partially_invalid() {
    let mut bad = filtered(vec![redirect(), rewrite(None)]);
    bad.name = Some("away".to_owned());
    assert_eq!(
        one(http(vec![to("shop/cart", 80), bad])),
        [
            FINE[0],
            FINE[1],
            "PartiallyInvalid=True/IncompatibleFilters: Dropped Rule spec.rules[1] (away): \
             RequestRedirect and URLRewrite exclude each other",
        ]
    );
}

#[test]
fn the_weaker_kind_is_conflicted_where_it_loses_everything() {
    let grpc = |port, name| {
        let mut grpc = route(RouteKind::Grpc, name, vec![to("shop/cart", 80)]);
        grpc.parents[0].port = port;
        grpc
    };
    let http = || http(vec![to("shop/cart", 80)]);
    assert_eq!(
        lines(&status(&[http(), grpc(None, "shop/g")])[0])[0],
        "Accepted=False/Conflicted: GRPCRoute shop/g leads port 80, GRPCRoute shop/g leads port 8080"
    );
    let part = &status(&[http(), grpc(Some(80), "shop/g")])[0];
    assert_eq!(
        lines(part)[0],
        "Accepted=True/Accepted: GRPCRoute shop/g leads port 80"
    );
    assert_eq!(part.ports, [8080]);
    assert_eq!(lines(&status(&[grpc(None, "shop/g"), http()])[0]), FINE);
    assert_eq!(
        lines(&status(&[http(), grpc(None, "test/g")])[0]),
        FINE,
        "another group"
    );
}

#[test]
fn a_port_that_is_declared_opaque_is_not_led() {
    let status = |protocols: [Option<&str>; 2]| {
        let mut web = service("shop/web", &[("http", 80), ("admin", 8080)]);
        for (port, protocol) in web.ports.iter_mut().zip(protocols) {
            port.app_protocol = protocol.map(str::to_owned);
        }
        let route = compiled(http(vec![rule(Vec::new())]));
        let attached = Attached::new(&web, [&route], None);
        let led = [80, 8080].map(|port| attached.table(port, None).is_some());
        let world = World {
            attached: [(web.key.clone(), attached)].into(),
            services: [(web.key.clone(), web)].into(),
        };
        let status = conditions(&route, &world).remove(0);
        (lines(&status)[0].clone(), status.ports, led)
    };
    let bytes = "port 80 is carried as bytes, as its appProtocol TLS says";
    assert_eq!(
        status([Some("TLS"), Some("grpc")]),
        (
            format!("Accepted=True/Accepted: {bytes}"),
            vec![8080],
            [false, true]
        )
    );
    assert_eq!(
        status([Some("TLS"), Some("tcp")]),
        (
            format!(
                "Accepted=False/UnsupportedValue: {bytes}, port 8080 is carried as bytes, as its appProtocol tcp says"
            ),
            vec![],
            [false, false]
        )
    );
    assert_eq!(status([None, Some("x")]).2, [true, true]);
}

#[test]
fn what_has_no_effect_yet_is_told() {
    let mut retried = to("shop/cart", 80);
    retried.retry = Some(RouteRetry::default());
    let said = one(http(vec![to("shop/cart", 80), retried]));
    assert_eq!(
        said[0],
        "Accepted=True/Accepted: spec.rules[1].retry without effect: requests are not tried again yet"
    );
}
