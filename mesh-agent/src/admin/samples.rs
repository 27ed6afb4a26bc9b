//! Fixed answers for the tests of the admin API and of the command line.

mod explained;
mod traffic;

pub(crate) use self::{
    explained::{explained, explained_dependence, explained_request},
    traffic::{connections, flows},
};
use super::proto::{
    AgentState, Certificate, CertificateHealth, CertificateProblem, CertificateStanding, Counts, Endpoint,
    Enrolment, Limited, Policy, PolicyKind, Port, ProblemSeverity, RejectedObject, Route, RouteBackend,
    RouteCondition, RouteParent, RouteRule, Service, StatusReply, TokenIssuer, Totals, WorkerStatus,
    Workload,
};

/// 2025-11-21T08:03:00.123456Z, in microseconds.
pub(crate) const NOW: u64 = 1_763_712_180_123_456;

const SECOND: u64 = 1_000_000;

/// An agent with something to tell in every field.
pub(crate) fn status() -> StatusReply {
    StatusReply {
        version: "0.1.0".into(),
        abi: 1,
        pid: 4242,
        node: "node-a".into(),
        state: AgentState::Ready.into(),
        started_at: NOW - 11_520 * SECOND,
        uptime_us: 11_520 * SECOND,
        generation: 1,
        pins_dir: "/sys/fs/bpf/nodemesh".into(),
        kernel_release: "6.18.44".into(),
        workers: vec![
            WorkerStatus {
                id: 0,
                connections: 12,
                held: 1,
            },
            WorkerStatus {
                id: 1,
                connections: 11,
                held: 0,
            },
        ],
        counts: Some(Counts {
            workloads: 5,
            workloads_local: 3,
            workloads_enrolled: 2,
            workloads_waiting: 1,
            workloads_failed: 0,
            services: 2,
            endpoints: 4,
            connections: 23,
        }),
        totals: Some(Totals {
            accepted: 20_481,
            refused: 3,
            failed: 1,
            bytes_to_upstream: 5_242_880,
            bytes_to_downstream: 3_221_225_472,
        }),
        rejected: vec![RejectedObject {
            file: "shop.yaml".into(),
            line: 12,
            column: 5,
            object: "Workload shop/web-1".into(),
            field: "spec.ports[0].port".into(),
            reason: "70000 is not a port".into(),
            remedy: "use 1 to 65535".into(),
            last_good_in_force: true,
        }],
        certificates: Some(CertificateHealth {
            accounts: 2,
            valid: 1,
            first_expiry: NOW + 3_600 * SECOND,
            authority_expiry: NOW + 8_640_000 * SECOND,
            problems: vec![
                CertificateProblem {
                    severity: ProblemSeverity::Failure.into(),
                    text: "the certificate of shop/db has expired: on fire".into(),
                    remedy: "put the fire out".into(),
                },
                CertificateProblem {
                    severity: ProblemSeverity::Warning.into(),
                    text: "the root 1a (CN=mesh) expires in 3days".into(),
                    remedy: "make a new one".into(),
                },
            ],
        }),
    }
}

/// One enrolled, one waiting, one of another node; not in order.
pub(crate) fn workloads() -> Vec<Workload> {
    let labels = |app: &str| {
        [
            ("app".to_owned(), app.to_owned()),
            ("tier".to_owned(), "front".to_owned()),
        ]
        .into()
    };
    vec![
        Workload {
            key: "shop/web-1".into(),
            labels: labels("web"),
            service_account: "web".into(),
            node: "node-a".into(),
            addresses: vec!["10.0.0.7".into(), "fd00::7".into()],
            ports: vec![Port {
                name: "http".into(),
                port: 80,
                app_protocol: "http".into(),
                ..Port::default()
            }],
            ready: true,
            local: true,
            enrolment: Enrolment::Enrolled.into(),
            netns_path: "/run/netns/web-1".into(),
            netns_cookie: 4_711,
            connections_out: 3,
            connections_in: 20,
            held_bytes: 49_152,
            requests: 7,
            worker_time_us: 75 * SECOND,
            limited: vec![
                Limited {
                    resource: "connections".into(),
                    times: 1_204,
                    last: NOW - 3 * SECOND,
                },
                Limited {
                    resource: "worker-time".into(),
                    times: 1,
                    last: NOW - 60 * SECOND,
                },
            ],
            ..Workload::default()
        },
        Workload {
            key: "shop/cart-1".into(),
            labels: labels("cart"),
            service_account: "cart".into(),
            node: "node-a".into(),
            addresses: vec!["10.0.0.8".into()],
            ready: false,
            local: true,
            enrolment: Enrolment::Waiting.into(),
            reason: "/run/netns/cart-1 is not there yet".into(),
            ..Workload::default()
        },
        Workload {
            key: "shop/db-0".into(),
            service_account: "db".into(),
            node: "node-b".into(),
            addresses: vec!["10.0.1.9".into()],
            ready: true,
            enrolment: Enrolment::Remote.into(),
            ..Workload::default()
        },
    ]
}

/// One in order, one that could not be had; not in order.
pub(crate) fn certificates() -> Vec<Certificate> {
    vec![
        Certificate {
            account: "shop/web".into(),
            id: "spiffe://cluster.local/ns/shop/sa/web".into(),
            standing: CertificateStanding::Valid.into(),
            serial: "0a1b2c".into(),
            not_before: 1_700_000_000_000_000,
            not_after: 1_700_086_400_000_000,
            renewal_due: 1_700_043_200_000_000,
            failures: 0,
            last_error: String::new(),
        },
        Certificate {
            account: "shop/cart".into(),
            id: "spiffe://cluster.local/ns/shop/sa/cart".into(),
            standing: CertificateStanding::Missing.into(),
            failures: 3,
            last_error: "the certificate authority is not available".into(),
            ..Certificate::default()
        },
    ]
}

/// One service with a dead endpoint, one without any; not in order.
pub(crate) fn services() -> Vec<Service> {
    let endpoint = |address: &str, workload: &str, node: &str, ready, connections| Endpoint {
        port: 80,
        address: address.into(),
        workload: workload.into(),
        node: node.into(),
        ready,
        connections,
    };
    let port = |port, target: &str| Port {
        port,
        target_port: target.into(),
        ..Port::default()
    };
    vec![
        Service {
            key: "shop/web".into(),
            cluster_ips: vec!["10.96.0.10".into(), "fd00:96::10".into()],
            ports: vec![port(80, "8080"), port(9090, "")],
            endpoints: vec![
                endpoint("10.0.0.7:8080", "shop/web-1", "node-a", true, 3),
                endpoint("10.0.1.7:8080", "shop/web-2", "node-b", false, 0),
            ],
        },
        Service {
            key: "shop/cart".into(),
            cluster_ips: vec!["10.96.0.11".into()],
            ports: vec![port(80, "")],
            endpoints: vec![],
        },
    ]
}

/// One in force with trouble, one in conflict, one that wins, one without a parent; not in order.
pub(crate) fn routes() -> Vec<Route> {
    let condition = |kind: &str, status, reason: &str, message: &str| RouteCondition {
        r#type: kind.into(),
        status,
        reason: reason.into(),
        message: message.into(),
    };
    let parent = |service: &str, port, ports: &[u32], conditions| RouteParent {
        service: service.into(),
        port,
        controller_name: "nodemesh.io/mesh".into(),
        conditions,
        ports: ports.to_vec(),
        ..RouteParent::default()
    };
    let rule = |name: &str, matches, backends: &[(&str, u32)]| RouteRule {
        name: name.into(),
        matches,
        backends: backends
            .iter()
            .map(|(target, weight)| RouteBackend {
                target: (*target).into(),
                weight: *weight,
            })
            .collect(),
    };
    let fine = || {
        vec![
            condition("Accepted", true, "Accepted", ""),
            condition("ResolvedRefs", true, "ResolvedRefs", ""),
        ]
    };
    vec![
        Route {
            key: "shop/web".into(),
            kind: "HTTPRoute".into(),
            created_at: NOW - 86_400 * SECOND,
            parents: vec![
                parent(
                    "shop/web",
                    80,
                    &[80],
                    vec![
                        condition("Accepted", true, "Accepted", ""),
                        condition(
                            "ResolvedRefs",
                            false,
                            "BackendNotFound",
                            "the service shop/web-v3 is not known",
                        ),
                        condition(
                            "PartiallyInvalid",
                            true,
                            "IncompatibleFilters",
                            "Dropped Rule spec.rules[1]: RequestRedirect and URLRewrite exclude each other",
                        ),
                    ],
                ),
                parent(
                    "shop/gone",
                    0,
                    &[],
                    vec![
                        condition(
                            "Accepted",
                            false,
                            "NoMatchingParent",
                            "the service shop/gone is not known",
                        ),
                        condition("ResolvedRefs", true, "ResolvedRefs", ""),
                    ],
                ),
            ],
            rules: vec![
                rule(
                    "canary",
                    1,
                    &[
                        ("shop/web-v1:80", 90),
                        ("shop/web-v2:80", 9),
                        ("shop/web-v3:80", 1),
                    ],
                ),
                rule("", 2, &[]),
            ],
        },
        Route {
            key: "shop/cart".into(),
            kind: "HTTPRoute".into(),
            parents: vec![parent(
                "shop/cart",
                0,
                &[],
                vec![
                    condition(
                        "Accepted",
                        false,
                        "Conflicted",
                        "GRPCRoute shop/cart leads port 9090",
                    ),
                    condition("ResolvedRefs", true, "ResolvedRefs", ""),
                ],
            )],
            rules: vec![rule("", 0, &[("shop/cart:9090", 1)])],
            ..Route::default()
        },
        Route {
            key: "shop/cart".into(),
            kind: "GRPCRoute".into(),
            parents: vec![parent("shop/cart", 0, &[9090], fine())],
            rules: vec![rule("", 3, &[("shop/cart:9090", 1)])],
            ..Route::default()
        },
        Route {
            key: "edge/public".into(),
            kind: "HTTPRoute".into(),
            rules: vec![rule("", 1, &[("shop/web:80", 1)])],
            ..Route::default()
        },
    ]
}

/// One that decides, one in dry run, one about plaintext; not in order.
pub(crate) fn policies() -> Vec<Policy> {
    vec![
        Policy {
            kind: PolicyKind::PeerAuthentication.into(),
            key: "nodemesh-system/strict".into(),
            action: "STRICT".into(),
            scope: "mesh".into(),
            workloads: vec!["shop/cart-1".into(), "shop/web-1".into()],
            ..Policy::default()
        },
        Policy {
            kind: PolicyKind::Authorization.into(),
            key: "shop/only-cart".into(),
            action: "ALLOW".into(),
            scope: "namespace shop, app=web".into(),
            rules: 2,
            workloads: vec!["shop/web-1".into()],
            ..Policy::default()
        },
        Policy {
            kind: PolicyKind::Authorization.into(),
            key: "shop/ask".into(),
            action: "CUSTOM".into(),
            dry_run: true,
            scope: "namespace shop".into(),
            rules: 1,
            remark: "no external authorizer: denies what it selects".into(),
            ..Policy::default()
        },
        Policy {
            kind: PolicyKind::RequestAuthentication.into(),
            key: "shop/tokens".into(),
            scope: "namespace shop".into(),
            rules: 3,
            workloads: vec!["shop/web-1".into()],
            issuers: vec![
                TokenIssuer {
                    issuer: "https://accounts.test".into(),
                    url: "https://accounts.test/keys".into(),
                    keys: 2,
                    fetched_at: NOW - 90 * SECOND,
                    ..TokenIssuer::default()
                },
                TokenIssuer {
                    issuer: "ci".into(),
                    keys: 1,
                    ..TokenIssuer::default()
                },
                TokenIssuer {
                    issuer: "https://away.test".into(),
                    url: "https://away.test/keys".into(),
                    error: "https://away.test/keys: answered with 503".into(),
                    ..TokenIssuer::default()
                },
            ],
            ..Policy::default()
        },
    ]
}
