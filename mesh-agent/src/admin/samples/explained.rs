//! Answers of `explain`: for a connection, for a request, and where it depends.

use crate::admin::proto::{
    Carriage, Destination, DestinationKind, Endpoint, ExplainReply, ExplainedBackend, ExplainedPolicy,
    ExplainedRoute, ExplainedRule, ExplainedSource, ExplainedWay, RequestHead,
};

/// A service with two ways, one of them closed.
pub(crate) fn explained() -> ExplainReply {
    let endpoint = |address: &str, workload: &str, node: &str| Endpoint {
        port: 80,
        address: address.into(),
        workload: workload.into(),
        node: node.into(),
        ready: true,
        connections: 0,
    };
    let policy = |matched: bool| ExplainedPolicy {
        key: "shop/only-cart".into(),
        action: "ALLOW".into(),
        dry_run: false,
        rules: vec![ExplainedRule {
            matched,
            misses: if matched {
                Vec::new()
            } else {
                vec!["from[0] principals: no value matches".into()]
            },
        }],
    };
    ExplainReply {
        source: Some(ExplainedSource {
            workload: "shop/cart-1".into(),
            address: "10.0.0.8".into(),
            node: "node-a".into(),
            identity: "spiffe://cluster.local/ns/shop/sa/cart".into(),
        }),
        destination: Some(Destination {
            kind: DestinationKind::Service.into(),
            service: "shop/web".into(),
            ..Destination::default()
        }),
        port: 80,
        route: "of two of its 6 ready endpoints, drawn at random, the less loaded one".into(),
        ways: vec![
            ExplainedWay {
                endpoints: vec![endpoint("10.0.0.7:8080", "shop/web-1", "node-a")],
                carriage: Carriage::Local.into(),
                mode: "STRICT".into(),
                mode_policy: "nodemesh-system/strict".into(),
                policies: vec![policy(true)],
                reporting: Vec::new(),
                allowed: true,
                verdict: "allowed by ALLOW policy shop/only-cart, rule 0".into(),
                policy: "shop/only-cart".into(),
                ..ExplainedWay::default()
            },
            ExplainedWay {
                endpoints: (2..7)
                    .map(|n| endpoint(&format!("10.0.1.{n}:8080"), &format!("shop/web-{n}"), "node-b"))
                    .collect(),
                carriage: Carriage::MutualTls.into(),
                mode: "PERMISSIVE".into(),
                policies: vec![policy(false)],
                reporting: vec![ExplainedPolicy {
                    key: "shop/ask".into(),
                    action: "CUSTOM".into(),
                    dry_run: true,
                    rules: Vec::new(),
                }],
                verdict: "denied: no rule of the ALLOW policies matches".into(),
                rehearsal:
                    "denied: CUSTOM policy shop/ask asks for external authorization, and there is none".into(),
                ..ExplainedWay::default()
            },
        ],
        ..ExplainReply::default()
    }
}

/// A request that a rule leads to a backend that is open, one that denies it, and one that is not there.
pub(crate) fn explained_request() -> ExplainReply {
    let head = |path: &str| RequestHead {
        method: "POST".into(),
        path: path.into(),
        headers: vec!["host: web.shop".into(), "x-user: alice".into()],
    };
    let backend = |target: &str, weight| ExplainedBackend {
        target: target.into(),
        weight,
        ..ExplainedBackend::default()
    };
    let connection = explained();
    let mut ways = connection.ways.into_iter();
    ExplainReply {
        route: "by the rule to one of its backends, drawn by weight; there to one of the ready endpoints"
            .into(),
        request: Some(head("/api/orders?id=7")),
        rule: Some(ExplainedRoute {
            kind: "HTTPRoute".into(),
            key: "shop/web".into(),
            rule: 1,
            name: "canary".into(),
            matches: vec![
                "POST, path prefix /api, header x-user = alice".into(),
                "query beta = 1".into(),
            ],
            filters: vec!["rewrite: path prefix becomes /v1".into()],
            timeouts: vec!["the whole request: 5s".into(), "one try: 2s".into()],
            backends: vec![
                backend("shop/web-v1:80", 90),
                ExplainedBackend {
                    filters: vec!["request headers: x-canary set to 1".into()],
                    ..backend("shop/web-v2:80", 9)
                },
                ExplainedBackend {
                    fault: "500 by the mesh: the service has no such port".into(),
                    ..backend("shop/web-v3:80", 1)
                },
            ],
        }),
        ways: vec![
            ExplainedWay {
                backend: "shop/web-v1:80".into(),
                weight: 90,
                request: Some(head("/v1/orders?id=7")),
                ..ways.next().unwrap_or_default()
            },
            ExplainedWay {
                backend: "shop/web-v2:80".into(),
                weight: 9,
                request: Some(head("/v1/orders?id=7")),
                status: 403,
                ..ways.next().unwrap_or_default()
            },
        ],
        ..connection
    }
}

/// Without a request: it depends, at the route, and at the endpoint.
pub(crate) fn explained_dependence() -> [ExplainReply; 2] {
    let connection = explained();
    let way = ExplainedWay {
        policies: Vec::new(),
        allowed: false,
        verdict: "depends on the request; give --method, --path, --header".into(),
        policy: String::new(),
        depends_on: vec![
            "RequestAuthentication shop/tokens: the token".into(),
            "ALLOW shop/readers: methods, paths".into(),
        ],
        ..connection.ways[0].clone()
    };
    let reply = ExplainReply {
        ways: Vec::new(),
        ..connection
    };
    [
        ExplainReply {
            route: "by HTTPRoute shop/web; depends on the request; give --method, --path, --header".into(),
            depends_on: vec!["HTTPRoute shop/web: path, header x-user".into()],
            ..reply.clone()
        },
        ExplainReply {
            route: "the service's one ready endpoint".into(),
            ways: vec![way],
            ..reply
        },
    ]
}
