//! Connections, and flows of which some are of the same connection.

use super::{NOW, SECOND};
use crate::admin::proto::{
    Channel, Connection, ConnectionState, Destination, DestinationKind, Direction, Flow, FlowKind, Path,
    Process, Request,
};

/// To a service, to a stranger, and between neighbours; not in order.
pub(crate) fn connections() -> Vec<Connection> {
    vec![
        Connection {
            id: 3,
            path: Some(Path {
                direction: Direction::Local.into(),
                workload: "shop/web-1".into(),
                client: "10.0.0.7:50000".into(),
                client_workload: "shop/web-1".into(),
                original_destination: "10.0.0.8:6379".into(),
                destination: Some(Destination {
                    kind: DestinationKind::Workload.into(),
                    workload: "shop/cart-1".into(),
                    endpoint: "10.0.0.8:6379".into(),
                    ..Destination::default()
                }),
                upstream: "10.0.0.8:6379".into(),
                worker: 1,
                channel: Channel::SameNode.into(),
                peer: "spiffe://cluster.local/ns/shop/sa/web".into(),
                verdict: "allowed by ALLOW policy shop/cart, rule 0".into(),
                policy: "shop/cart".into(),
                ..Path::default()
            }),
            state: ConnectionState::HalfClosed.into(),
            opened_at: NOW - 90 * SECOND,
            bytes_to_upstream: 17,
            bytes_to_downstream: 1 << 30,
            requests: 0,
        },
        Connection {
            id: 1,
            path: Some(to_service()),
            state: ConnectionState::Open.into(),
            opened_at: NOW - 4 * 3_600 * SECOND,
            bytes_to_upstream: 2_048,
            bytes_to_downstream: 123_456,
            requests: 42,
        },
        Connection {
            id: 2,
            path: Some(Path {
                direction: Direction::Outbound.into(),
                workload: "shop/web-1".into(),
                client: "[fd00::7]:40001".into(),
                client_workload: "shop/web-1".into(),
                original_destination: "[2001:db8::1]:443".into(),
                destination: Some(Destination {
                    kind: DestinationKind::Passthrough.into(),
                    ..Destination::default()
                }),
                ..Path::default()
            }),
            state: ConnectionState::Held.into(),
            opened_at: NOW - 200_000,
            ..Connection::default()
        },
    ]
}

/// A life in order, and a refusal.
pub(crate) fn flows() -> Vec<Flow> {
    vec![
        Flow {
            time: NOW,
            kind: FlowKind::Opened.into(),
            connection: 1,
            path: Some(to_service()),
            duration_us: 412,
            ..Flow::default()
        },
        Flow {
            time: NOW + 2 * SECOND,
            kind: FlowKind::Closed.into(),
            connection: 1,
            path: Some(to_service()),
            duration_us: 2 * SECOND,
            bytes_to_upstream: 78,
            bytes_to_downstream: 853,
            ..Flow::default()
        },
        Flow {
            time: NOW + 3 * SECOND,
            kind: FlowKind::Refused.into(),
            path: Some(Path {
                direction: Direction::Inbound.into(),
                workload: "shop/web-1".into(),
                client: "10.0.1.9:51000".into(),
                client_workload: "shop/db-0".into(),
                original_destination: "10.0.0.7:81".into(),
                destination: Some(Destination {
                    kind: DestinationKind::Workload.into(),
                    workload: "shop/web-1".into(),
                    ..Destination::default()
                }),
                verdict: "allowed: no ALLOW policy concerns the workload".into(),
                ..Path::default()
            }),
            duration_us: 95,
            reason: "nobody listens on 10.0.0.7:81".into(),
            ..Flow::default()
        },
        Flow {
            time: NOW + 4 * SECOND,
            kind: FlowKind::Denied.into(),
            connection: 1,
            path: Some(Path {
                verdict: "denied by DENY policy shop/no-admin, rule 0".into(),
                policy: "shop/no-admin".into(),
                ..to_service()
            }),
            duration_us: 310,
            bytes_to_downstream: 120,
            reason: "denied by DENY policy shop/no-admin, rule 0".into(),
            request: Some(Request {
                method: "GET".into(),
                host: "cart.shop".into(),
                path: "/admin".into(),
                status: 403,
                grpc_status: None,
                cause: "deny-rule".into(),
                flags: "UAEX".into(),
            }),
            ..Flow::default()
        },
    ]
}

/// By curl, to a service on the other node.
fn to_service() -> Path {
    Path {
        direction: Direction::Outbound.into(),
        workload: "shop/web-1".into(),
        client: "10.0.0.7:40000".into(),
        client_workload: "shop/web-1".into(),
        original_destination: "10.96.0.10:80".into(),
        destination: Some(Destination {
            kind: DestinationKind::Service.into(),
            service: "shop/web".into(),
            workload: "shop/web-2".into(),
            endpoint: "10.0.1.7:8080".into(),
        }),
        upstream: "10.0.1.7:8080".into(),
        process: Some(Process {
            pid: 991,
            comm: "curl".into(),
        }),
        worker: 0,
        channel: Channel::MutualTls.into(),
        peer: "spiffe://cluster.local/ns/shop/sa/web".into(),
        ..Path::default()
    }
}
