//! How connections, flows and routes look in the admin API.

use std::{
    net::SocketAddr,
    time::{SystemTime, UNIX_EPOCH},
};

use super::proto;
use crate::config::Rejection;
use crate::http;
use crate::routing::{CONTROLLER, CompiledRoute, ParentStatus};
use crate::telemetry::{
    Cause, Channel, Connection, ConnectionState, Destination, Direction, Flow, FlowKind, FlowSubject,
    Limited, Process, RequestFlow, Side,
};

impl From<&Connection> for proto::Connection {
    fn from(connection: &Connection) -> Self {
        Self {
            id: connection.id,
            path: Some(path_of(connection)),
            state: match connection.state() {
                ConnectionState::Held => proto::ConnectionState::Held,
                ConnectionState::Connecting => proto::ConnectionState::Connecting,
                ConnectionState::Open => proto::ConnectionState::Open,
                ConnectionState::HalfClosed => proto::ConnectionState::HalfClosed,
            }
            .into(),
            opened_at: micros(connection.opened_at),
            bytes_to_upstream: connection.bytes(Side::ToUpstream),
            bytes_to_downstream: connection.bytes(Side::ToDownstream),
            requests: connection.requests(),
        }
    }
}

impl From<&Limited> for proto::Limited {
    fn from(limited: &Limited) -> Self {
        Self {
            resource: limited.resource.word().to_owned(),
            times: limited.times,
            last: micros(limited.last),
        }
    }
}

impl From<&Flow> for proto::Flow {
    fn from(flow: &Flow) -> Self {
        let kind = match flow.kind {
            FlowKind::Opened => proto::FlowKind::Opened,
            FlowKind::Closed => proto::FlowKind::Closed,
            FlowKind::Refused => proto::FlowKind::Refused,
            FlowKind::Unreachable => proto::FlowKind::Unreachable,
            FlowKind::TimedOut => proto::FlowKind::TimedOut,
            FlowKind::Reset => proto::FlowKind::Reset,
            FlowKind::Abandoned => proto::FlowKind::Abandoned,
            FlowKind::Dropped => proto::FlowKind::Dropped,
            FlowKind::Denied => proto::FlowKind::Denied,
            FlowKind::Failed => proto::FlowKind::Failed,
        };
        let mut view = Self {
            time: micros(flow.time),
            kind: kind.into(),
            duration_us: flow.duration.map_or(0, |duration| {
                u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
            }),
            reason: flow.cause.as_ref().map(ToString::to_string).unwrap_or_default(),
            ..Self::default()
        };
        match &flow.subject {
            FlowSubject::Connection(connection) => {
                view.connection = connection.id;
                view.path = Some(path_of(connection));
                // Of a connection just opened these are zero at that moment, whatever they are by now.
                if flow.kind != FlowKind::Opened {
                    view.bytes_to_upstream = connection.bytes(Side::ToUpstream);
                    view.bytes_to_downstream = connection.bytes(Side::ToDownstream);
                }
            }
            FlowSubject::Http(connection, request) => {
                view.connection = connection.id;
                view.path = Some(path_of_request(connection, request, flow.cause.as_ref()));
                view.bytes_to_upstream = request.spent.request_bytes;
                view.bytes_to_downstream = request.spent.response_bytes;
                view.request = Some(proto::Request {
                    method: request.method.clone(),
                    host: request.host.clone(),
                    path: request.path.clone(),
                    status: request.outcome.code.into(),
                    grpc_status: request.outcome.grpc.map(u32::from),
                    cause: request.word.to_owned(),
                    flags: request.outcome.flags.to_owned(),
                });
            }
            FlowSubject::Request {
                workload,
                direction,
                client,
                original_destination,
                process,
            } => {
                view.path = Some(proto::Path {
                    direction: direction_of(*direction).into(),
                    workload: workload
                        .as_ref()
                        .map(|workload| workload.key.to_string())
                        .unwrap_or_default(),
                    client: address(*client),
                    original_destination: address(*original_destination),
                    process: process.as_ref().map(process_of),
                    ..proto::Path::default()
                });
            }
        }
        view
    }
}

/// Whether a last good version is in force is for the caller to say: it knows the snapshot.
impl From<&Rejection> for proto::RejectedObject {
    fn from(rejection: &Rejection) -> Self {
        Self {
            file: rejection.file.display().to_string(),
            line: rejection.line,
            column: rejection.column,
            object: rejection
                .object
                .as_ref()
                .map(|(kind, key)| format!("{kind} {key}"))
                .unwrap_or_default(),
            field: rejection.field.clone().unwrap_or_default(),
            reason: rejection.reason.clone(),
            remedy: rejection.remedy.clone(),
            last_good_in_force: false,
        }
    }
}

/// A route with its conditions.
pub(crate) fn route(route: &CompiledRoute, parents: Vec<ParentStatus>) -> proto::Route {
    let route = route.route();
    let parents = parents.into_iter().map(|status| proto::RouteParent {
        service: status.parent.service.to_string(),
        port: status.parent.port.unwrap_or_default().into(),
        section_name: status.parent.section_name.unwrap_or_default(),
        controller_name: CONTROLLER.to_owned(),
        conditions: status
            .conditions
            .into_iter()
            .map(|condition| proto::RouteCondition {
                r#type: condition.kind.to_string(),
                status: condition.holds,
                reason: condition.reason.to_string(),
                message: condition.message,
            })
            .collect(),
        ports: status.ports.into_iter().map(u32::from).collect(),
    });
    let rules = route.rules.iter().map(|rule| proto::RouteRule {
        name: rule.name.clone().unwrap_or_default(),
        matches: u32::try_from(rule.matches.len()).unwrap_or(u32::MAX),
        backends: rule
            .backends
            .iter()
            .map(|backend| proto::RouteBackend {
                target: backend.target.to_string(),
                weight: backend.weight,
            })
            .collect(),
    });
    let created = route.created.and_then(|seconds| u64::try_from(seconds).ok());
    proto::Route {
        key: route.key.to_string(),
        kind: route.kind.to_string(),
        created_at: created.unwrap_or_default().saturating_mul(1_000_000),
        parents: parents.collect(),
        rules: rules.collect(),
    }
}

fn path_of(connection: &Connection) -> proto::Path {
    let ruling = connection.ruling();
    proto::Path {
        direction: direction_of(connection.direction).into(),
        workload: connection.workload.key.to_string(),
        client: address(connection.client),
        client_workload: connection
            .client_workload
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        original_destination: address(connection.original_destination),
        destination: Some(destination_of(&connection.destination)),
        upstream: connection.upstream().map(address).unwrap_or_default(),
        process: connection.process.as_ref().map(process_of),
        worker: connection.worker,
        channel: channel_of(connection.channel()).into(),
        peer: connection.peer().map(ToString::to_string).unwrap_or_default(),
        verdict: ruling.as_ref().map(ToString::to_string).unwrap_or_default(),
        policy: ruling
            .and_then(|ruling| ruling.policy)
            .map(|policy| policy.to_string())
            .unwrap_or_default(),
    }
}

/// The way of one request, which is not that of every request on its connection.
fn path_of_request(connection: &Connection, request: &RequestFlow, cause: Option<&Cause>) -> proto::Path {
    let channel = match (request.direction, &request.peer, request.upstream) {
        (Direction::Local, ..) => Some(Channel::SameNode),
        (_, Some(_), _) => Some(Channel::MutualTls),
        (Direction::Outbound, None, None) => None,
        (_, None, _) => Some(Channel::Plaintext),
    };
    let judged = request.policy.is_some() || request.outcome.flags == http::fault::Cause::Denied.flag();
    proto::Path {
        direction: direction_of(request.direction).into(),
        destination: Some(destination_of(&request.destination)),
        upstream: request.upstream.map(address).unwrap_or_default(),
        channel: channel_of(channel).into(),
        peer: request.peer.as_ref().map(ToString::to_string).unwrap_or_default(),
        verdict: cause
            .filter(|_| judged)
            .map(ToString::to_string)
            .unwrap_or_default(),
        policy: request
            .policy
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        ..path_of(connection)
    }
}

fn destination_of(destination: &Destination) -> proto::Destination {
    match destination {
        Destination::Service { service, endpoint } => proto::Destination {
            kind: proto::DestinationKind::Service.into(),
            service: service.to_string(),
            workload: endpoint
                .as_ref()
                .map(|(workload, _)| workload.to_string())
                .unwrap_or_default(),
            endpoint: endpoint
                .as_ref()
                .map(|(_, addr)| addr.to_string())
                .unwrap_or_default(),
        },
        Destination::Workload(workload) => proto::Destination {
            kind: proto::DestinationKind::Workload.into(),
            workload: workload.to_string(),
            ..proto::Destination::default()
        },
        Destination::Passthrough => proto::Destination {
            kind: proto::DestinationKind::Passthrough.into(),
            ..proto::Destination::default()
        },
    }
}

fn direction_of(direction: Direction) -> proto::Direction {
    match direction {
        Direction::Outbound => proto::Direction::Outbound,
        Direction::Inbound => proto::Direction::Inbound,
        Direction::Local => proto::Direction::Local,
    }
}

fn channel_of(channel: Option<Channel>) -> proto::Channel {
    match channel {
        None => proto::Channel::Unspecified,
        Some(Channel::Plaintext) => proto::Channel::Plaintext,
        Some(Channel::MutualTls) => proto::Channel::MutualTls,
        Some(Channel::SameNode) => proto::Channel::SameNode,
        Some(Channel::Direct) => proto::Channel::Direct,
    }
}

fn process_of(process: &Process) -> proto::Process {
    proto::Process {
        pid: process.pid,
        comm: process.name(),
    }
}

/// An address as text; without the port where there was none yet.
fn address(addr: SocketAddr) -> String {
    if addr.port() == 0 {
        addr.ip().to_string()
    } else {
        addr.to_string()
    }
}

/// Microseconds since the Unix epoch.
pub(crate) fn micros(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
