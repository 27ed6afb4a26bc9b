use std::{net::SocketAddr, time::SystemTime};

use super::*;
use crate::telemetry::{Cause, Direction, FlowKind, FlowLog, FlowSubject};

fn text(metrics: &Metrics) -> String {
    metrics.text(Instant::now()).unwrap()
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
    flows.push(refused(FlowKind::Reset, "broken"));
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
    assert!(text.ends_with("# EOF\n"));
}
