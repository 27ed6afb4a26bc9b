//! The text of metrics: names, labels and counts, after connections, requests and refusals of fixed kinds.

use std::{
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use mesh_common::model::Workload;

use super::*;
use crate::{
    samples,
    telemetry::{
        Cause, ConnectionState, Destination, Direction, FlowKind, FlowLog, FlowSubject, Opening, Registry,
        Side,
    },
};

fn text(metrics: &Metrics) -> String {
    metrics.text(Instant::now(), NodeFacts::default()).unwrap()
}

/// The lines of one metric.
fn lines<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    text.lines()
        .filter(|line| line.starts_with(&format!("{name}{{")) || line.starts_with(&format!("{name} ")))
        .collect()
}

fn refused(kind: FlowKind, word: &'static str) -> Flow {
    let addr: SocketAddr = "10.0.0.1:80".parse().unwrap();
    Flow {
        time: SystemTime::now(),
        kind,
        subject: FlowSubject::Request {
            workload: None,
            direction: Direction::Inbound,
            client: addr,
            original_destination: addr,
            process: None,
        },
        duration: None,
        cause: Some(Cause::new(word, "a sentence")),
    }
}

#[test]
fn every_refusal_is_counted_by_its_reason() {
    let metrics = Arc::new(Metrics::new());
    let flows = FlowLog::new(Arc::clone(&metrics));
    for word in ["expired", "deny-rule", "expired"] {
        flows.push(refused(FlowKind::Refused, word));
    }
    flows.push(refused(FlowKind::Reset, BROKEN));
    flows.push(refused(FlowKind::Reset, "identity-changed"));
    let text = text(&metrics);
    let mut found = lines(&text, "nodemesh_connections_refused_total");
    found.sort_unstable();
    assert_eq!(
        found,
        [
            r#"nodemesh_connections_refused_total{direction="inbound",reason="deny-rule",workload="unknown",workload_namespace="unknown"} 1"#,
            r#"nodemesh_connections_refused_total{direction="inbound",reason="expired",workload="unknown",workload_namespace="unknown"} 2"#,
        ]
    );
    let revoked = lines(&text, "nodemesh_connections_revoked_total");
    assert_eq!(revoked.len(), 1);
    assert!(revoked[0].contains(r#"reason="identity-changed""#));
    assert!(text.ends_with("# EOF\n"));
}

fn traffic(reporter: Reporter) -> Traffic {
    let client = workload("client", &[("app", "front"), ("version", "v1")]);
    let id = "spiffe://cluster.local/ns/shop/sa/client".parse().unwrap();
    Traffic {
        reporter,
        source: Party::new(Some(&client), Some(&id)),
        destination: Party::new(None, None),
        service: Some(ObjectKey::new("shop", "web")),
        protocol: Protocol::Tcp,
        security: Security::MutualTls,
    }
}

fn workload(name: &str, labels: &[(&str, &str)]) -> Workload {
    let labels = labels
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Workload {
        labels: labels.collect(),
        service_account: "client".to_owned(),
        addresses: vec!["10.0.0.1".parse().unwrap()],
        ..samples::workload("shop", name)
    }
}

fn opening() -> Opening {
    Opening {
        direction: Direction::Outbound,
        workload: Arc::new(workload("client", &[])),
        client: "10.0.0.1:1".parse().unwrap(),
        client_workload: None,
        original_destination: "10.0.0.2:2".parse().unwrap(),
        destination: Destination::Passthrough,
        process: None,
        peer: None,
        ruling: None,
        state: ConnectionState::Held,
    }
}

/// The value of the only series of a metric that has this label.
fn value(text: &str, name: &str, label: &str) -> Option<f64> {
    let mut found = lines(text, name).into_iter().filter(|line| line.contains(label));
    let line = found.next()?;
    assert_eq!(found.next(), None);
    Some(line.rsplit_once(' ').unwrap().1.parse().unwrap())
}

#[test]
fn labels_are_those_that_dashboards_know() {
    let metrics = Arc::new(Metrics::new());
    let registry = Registry::new(
        0,
        crate::telemetry::Budgets::new(crate::telemetry::Limits::default()),
    );
    let entry = registry.open(opening());
    let meter = metrics.tcp(vec![traffic(Reporter::Source)]);
    entry.connection().measure(Arc::new(meter));
    let text = text(&metrics);
    assert_eq!(
        lines(&text, "istio_tcp_connections_opened_total"),
        [concat!(
            r#"istio_tcp_connections_opened_total{reporter="source","#,
            r#"source_workload="client",source_workload_namespace="shop","#,
            r#"source_principal="spiffe://cluster.local/ns/shop/sa/client",source_app="front",source_version="v1","#,
            r#"destination_workload="unknown",destination_workload_namespace="unknown","#,
            r#"destination_principal="unknown",destination_app="unknown",destination_version="unknown","#,
            r#"destination_service="web.shop.svc.cluster.local",destination_service_name="web","#,
            r#"destination_service_namespace="shop",request_protocol="tcp","#,
            r#"connection_security_policy="mutual_tls",response_flags="-"} 1"#
        )]
    );
}

#[test]
fn bytes_are_told_while_a_connection_is_open_and_once() {
    let metrics = Arc::new(Metrics::new());
    let registry = Registry::new(
        0,
        crate::telemetry::Budgets::new(crate::telemetry::Limits::default()),
    );
    let entry = registry.open(opening());
    let connection = entry.connection();
    let both = vec![traffic(Reporter::Source), traffic(Reporter::Destination)];
    connection.measure(Arc::new(metrics.tcp(both)));
    let told = |name: &str| {
        let text = text(&metrics);
        let by = |reporter: &str| value(&text, name, &format!("reporter=\"{reporter}\"")).unwrap();
        assert_eq!(by("source"), by("destination"));
        by("source")
    };
    connection.count(Side::ToUpstream, 10);
    connection.count(Side::ToDownstream, 5);
    assert_eq!(told("istio_tcp_received_bytes_total"), 0.0);
    connection.tell_bytes();
    connection.tell_bytes();
    assert_eq!(told("istio_tcp_received_bytes_total"), 10.0);
    assert_eq!(told("istio_tcp_sent_bytes_total"), 5.0);
    connection.count(Side::ToUpstream, 1);
    assert_eq!(told("istio_tcp_connections_closed_total"), 0.0);
    drop(entry);
    assert_eq!(told("istio_tcp_received_bytes_total"), 11.0);
    assert_eq!(told("istio_tcp_connections_closed_total"), 1.0);
}

#[test]
fn a_connection_that_is_not_permitted_any_more_is_marked() {
    let metrics = Arc::new(Metrics::new());
    let entry = Registry::new(
        0,
        crate::telemetry::Budgets::new(crate::telemetry::Limits::default()),
    )
    .open(opening());
    let meter = metrics.tcp(vec![traffic(Reporter::Source)]);
    entry.connection().measure(Arc::new(meter));
    entry.connection().set_unauthorized();
    drop(entry);
    let text = text(&metrics);
    let closed = |flags: &str| {
        value(
            &text,
            "istio_tcp_connections_closed_total",
            &format!("response_flags=\"{flags}\""),
        )
    };
    assert_eq!((closed("-"), closed("UAEX")), (Some(0.0), Some(1.0)));
}

#[test]
fn requests_are_told_by_how_they_ended() {
    let metrics = Arc::new(Metrics::new());
    let meter = metrics.requests(vec![traffic(Reporter::Destination)]);
    let spent = Spent {
        duration: Duration::from_millis(7),
        request_bytes: 0,
        response_bytes: 1500,
    };
    let ok = Outcome {
        code: 200,
        grpc: None,
        flags: "-",
    };
    let denied = Outcome {
        code: 200,
        grpc: Some(7),
        flags: "UAEX",
    };
    for outcome in [ok, ok, denied] {
        meter.observe(outcome, &spent);
    }
    let text = text(&metrics);
    let ok = r#"response_code="200",grpc_response_status="",response_flags="-""#;
    let denied = r#"response_code="200",grpc_response_status="7",response_flags="UAEX""#;
    assert_eq!(value(&text, "istio_requests_total", ok), Some(2.0));
    assert_eq!(value(&text, "istio_requests_total", denied), Some(1.0));
    let duration = "istio_request_duration_milliseconds";
    assert_eq!(value(&text, &format!("{duration}_sum"), ok), Some(14.0));
    let buckets = lines(&text, &format!("{duration}_bucket"))
        .into_iter()
        .filter(|line| line.contains(ok))
        .collect::<Vec<_>>()
        .join("\n");
    let below = |bound: &str| {
        value(
            &buckets,
            &format!("{duration}_bucket"),
            &format!("le=\"{bound}\""),
        )
    };
    assert_eq!(
        [below("5.0"), below("10.0"), below("+Inf")],
        [0.0, 2.0, 2.0].map(Some)
    );
    assert_eq!(value(&text, "istio_response_bytes_sum", ok), Some(3000.0));
}

#[test]
fn the_node_is_told_as_it_is() {
    let metrics = Metrics::new();
    let facts = NodeFacts {
        pods: vec![("enrolled", 3), ("failed", 0)],
        certificates: vec![CertificateFacts {
            account: "shop/client".to_owned(),
            until: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)),
            failures: 2,
        }],
        shares: vec![ShareFacts {
            workload: ObjectKey::new("shop", "client"),
            worker_time: Duration::from_millis(1500),
            limited: vec![("connections", 7)],
        }],
        ..NodeFacts::default()
    };
    let text = metrics.text(Instant::now(), facts).unwrap();
    assert_eq!(value(&text, "nodemesh_pods", "state=\"enrolled\""), Some(3.0));
    let workload = "workload=\"client\",workload_namespace=\"shop\"";
    assert_eq!(
        value(&text, "nodemesh_workload_worker_seconds_total", workload),
        Some(1.5)
    );
    let denied = "workload=\"client\",workload_namespace=\"shop\",resource=\"connections\"";
    assert_eq!(value(&text, "nodemesh_workload_limited_total", denied), Some(7.0));
    let account = "service_account=\"shop/client\"";
    assert_eq!(
        value(&text, "nodemesh_certificate_expiry_seconds", account),
        Some(1_700_000_000.0)
    );
    assert_eq!(
        value(&text, "nodemesh_certificate_renewal_failures_total", account),
        Some(2.0)
    );
    assert!(text.contains(concat!(
        "nodemesh_build_info{version=\"",
        env!("CARGO_PKG_VERSION"),
        "\"} 1"
    )));
}
