//! What would become of a connection, or of a request on one, from what the agent knows and without sending anything.
//!
//! `inspect` asks [`World::explain`]. It walks the way of a connection with the parts that real ones use: the
//! snapshot's resolution, the route table and its filters, then the destination's policies by the trace that their own
//! code writes. Invariant: nothing is decided here.

mod request;
mod routes;
mod words;

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use http::{Method, request::Parts};
use mesh_common::model::{
    Declared, Enforcement, ObjectKey, PeerMode, RouteKind, SpiffeId, TrustDomain, TunnelProtocol, Workload,
};

use self::{
    request::{Keys, Load},
    routes::{Answer, answered},
};
use crate::{
    admin::{
        ExplainError,
        proto::{
            Carriage, Destination, DestinationKind, Endpoint, ExplainReply, ExplainRequest, ExplainedPolicy,
            ExplainedRule, ExplainedSource, ExplainedWay,
        },
    },
    http::fault::{Cause, NO_CONNECT},
    listener::identity_of,
    outbound::{Unroutable, leads_without_routes},
    policy::{Channel, ConnectionFacts, Peer, PolicyTrace, Trace, Verdict},
    state::{Resolution, ServiceBackend, Snapshot},
};

/// What the agent knows.
pub(super) struct World<'a> {
    /// The mesh.
    pub(super) snapshot: &'a Snapshot,
    /// The trust domain of its identities.
    pub(super) trust_domain: &'a TrustDomain,
    /// The node of the agent.
    pub(super) node: &'a str,
    /// Whether connections between nodes are encrypted.
    pub(super) encryption: Encryption,
}

/// Whether the agent has an authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encryption {
    /// Between nodes there is mutual TLS.
    MutualTls,
    /// Nothing is encrypted.
    None,
}

/// Who dials.
struct Source {
    workload: Option<Arc<Workload>>,
    address: IpAddr,
    id: Option<SpiffeId>,
}

impl World<'_> {
    /// Answers the question.
    pub(super) fn explain(&self, asked: &ExplainRequest) -> Result<ExplainReply, ExplainError> {
        let (host, port) = split(&asked.destination)?;
        let dialled = self.dialled(host)?;
        let source = self.source(&asked.source, &dialled)?;
        let dialled = dialled
            .iter()
            .find(|ip| ip.is_ipv4() == source.address.is_ipv4())
            .or_else(|| dialled.first())
            .ok_or_else(|| ExplainError::NoAddress(host.to_owned()))?;
        let request = match &asked.request {
            Some(request) => Some(request::head(request, &host_for(host, port))?),
            None => None,
        };
        let shown = request.as_ref().map(request::shown);
        let request = request.map(request::received);
        let mut reply = self.ways(&source, SocketAddr::new(*dialled, port), request);
        reply.request = shown;
        reply.port = port.into();
        reply.source = Some(ExplainedSource {
            workload: name_of(source.workload.as_deref()),
            address: source.address.to_string(),
            node: source
                .workload
                .as_ref()
                .map(|workload| workload.node.clone())
                .unwrap_or_default(),
            identity: source.id.as_ref().map(ToString::to_string).unwrap_or_default(),
        });
        Ok(reply)
    }

    fn source(&self, text: &str, dialled: &[IpAddr]) -> Result<Source, ExplainError> {
        let unknown = || ExplainError::Source(text.to_owned());
        if let Ok(address) = text.parse::<IpAddr>() {
            let workload = self.snapshot.workload_at(address);
            return Ok(self.known(workload.map(|entry| Arc::clone(&entry.workload)), address));
        }
        let workload = key(text)
            .and_then(|key| self.snapshot.workload(&key))
            .ok_or_else(unknown)?;
        let addresses = &workload.workload.addresses;
        let fits = |own: &&IpAddr| dialled.iter().any(|ip| ip.is_ipv4() == own.is_ipv4());
        let address = addresses.iter().find(fits).or_else(|| addresses.first());
        let address = address.ok_or_else(|| ExplainError::NoAddress(text.to_owned()))?;
        Ok(self.known(Some(Arc::clone(&workload.workload)), *address))
    }

    fn known(&self, workload: Option<Arc<Workload>>, address: IpAddr) -> Source {
        let id = workload
            .as_ref()
            .and_then(|workload| identity_of(self.trust_domain, workload));
        Source {
            workload,
            address,
            id,
        }
    }

    /// The addresses of what is dialled.
    fn dialled(&self, host: &str) -> Result<Vec<IpAddr>, ExplainError> {
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(vec![address.to_canonical()]);
        }
        let in_dns = || {
            let (name, rest) = host.split_once('.')?;
            let namespace = rest.split('.').next()?;
            Some(ObjectKey::new(namespace, name))
        };
        let key = key(host).or_else(in_dns);
        let service = key.as_ref().and_then(|key| self.snapshot.service(key));
        let workload = key.as_ref().and_then(|key| self.snapshot.workload(key));
        match (service, workload) {
            (Some(entry), _) => Ok(entry.service.cluster_ips.clone()),
            (None, Some(entry)) => Ok(entry.workload.addresses.clone()),
            (None, None) => Err(ExplainError::Unknown(host.to_owned())),
        }
    }

    fn ways(&self, source: &Source, dialled: SocketAddr, request: Option<Parts>) -> ExplainReply {
        let unread = match &request {
            Some(_) => UNREAD,
            None => "",
        };
        match self.snapshot.resolve(dialled) {
            Resolution::Service(backend) => self.through_service(source, backend, request),
            Resolution::ServiceWithoutPort(entry) => ExplainReply {
                destination: Some(service(&entry.service.key)),
                route: format!("refused: {}", Unroutable::NoSuchPort),
                ..ExplainReply::default()
            },
            Resolution::Workload(entry) => {
                let destination = Destination {
                    kind: DestinationKind::Workload.into(),
                    workload: entry.workload.key.to_string(),
                    ..Destination::default()
                };
                ExplainReply {
                    destination: Some(destination),
                    route: format!("the workload itself; no service is dialled{unread}"),
                    ways: vec![self.way(source, &entry.workload, dialled, Load::Bytes(request.as_ref()))],
                    ..ExplainReply::default()
                }
            }
            Resolution::Unknown => ExplainReply {
                destination: Some(Destination {
                    kind: DestinationKind::Passthrough.into(),
                    ..Destination::default()
                }),
                route: "not in the mesh: passed on as it is".to_owned(),
                ways: vec![ExplainedWay {
                    endpoints: vec![Endpoint {
                        port: dialled.port().into(),
                        address: dialled.to_string(),
                        ..Endpoint::default()
                    }],
                    carriage: Carriage::Passthrough.into(),
                    allowed: true,
                    verdict: "allowed: the mesh has no say there".to_owned(),
                    ..ExplainedWay::default()
                }],
                ..ExplainReply::default()
            },
        }
    }

    fn through_service(
        &self,
        source: &Source,
        backend: &ServiceBackend,
        request: Option<Parts>,
    ) -> ExplainReply {
        let key = &backend.service.key;
        let table = source.workload.as_ref().and_then(|client| {
            let namespace = Some(&*client.key.namespace);
            self.snapshot.routes_of(key, backend.port.port, namespace)
        });
        let reply = ExplainReply {
            destination: Some(service(key)),
            ..ExplainReply::default()
        };
        let led = source.workload.is_some() && leads_without_routes(backend);
        let is_connect = |parts: &Parts| parts.method == Method::CONNECT;
        if (led || table.is_some()) && request.as_ref().is_some_and(is_connect) {
            let answer = Answer::by(Cause::Method, NO_CONNECT.to_owned());
            return answered(reply, RouteKind::Http, answer);
        }
        if let Some(table) = table {
            return self.by_routes(source, backend, table, request);
        }
        if led && backend.endpoints.is_empty() {
            let answer = Answer::by(Cause::NoEndpoint, Unroutable::NoEndpoint.to_string());
            return answered(reply, RouteKind::Http, answer);
        }
        let (load, unread) = match (led, &request) {
            (true, Some(parts)) => (Load::Request(parts), ""),
            (true, None) => (Load::Requests, ""),
            (false, Some(parts)) => (Load::Bytes(Some(parts)), UNREAD),
            (false, None) => (Load::Bytes(None), ""),
        };
        let best = match led {
            true => "the one likely to answer first",
            false => "the less loaded one",
        };
        let route = match backend.endpoints.len() {
            0 => format!("refused: {}", Unroutable::NoEndpoint),
            1 => format!("the service's one ready endpoint{unread}"),
            ready => {
                format!("of two of its {ready} ready endpoints, drawn at random, {best}{unread}")
            }
        };
        ExplainReply {
            route,
            ways: self.ways_to(source, backend, load),
            ..reply
        }
    }

    /// The ways to the endpoints of a service port; those of which the same is true are together.
    fn ways_to(&self, source: &Source, backend: &ServiceBackend, load: Load<'_>) -> Vec<ExplainedWay> {
        let mut ways: Vec<ExplainedWay> = Vec::new();
        for endpoint in &backend.endpoints {
            let mut way = self.way(source, &endpoint.workload, endpoint.addr, load);
            for told in &mut way.endpoints {
                told.port = backend.port.port.into();
                told.connections = endpoint.load.active().into();
            }
            match ways.iter_mut().find(|known| is_same(known, &way)) {
                Some(known) => known.endpoints.append(&mut way.endpoints),
                None => ways.push(way),
            }
        }
        ways
    }

    /// The way to a workload, and what its policies say.
    fn way(&self, source: &Source, target: &Arc<Workload>, addr: SocketAddr, load: Load<'_>) -> ExplainedWay {
        let mut way = ExplainedWay {
            endpoints: vec![Endpoint {
                port: addr.port().into(),
                address: addr.to_string(),
                workload: target.key.to_string(),
                node: target.node.clone(),
                ready: target.ready,
                connections: 0,
            }],
            ..ExplainedWay::default()
        };
        let Some(entry) = self.snapshot.workload(&target.key) else {
            way.verdict = "denied: the workload is not known any more".to_owned();
            return way;
        };
        let policy = self.snapshot.policy_of(entry);
        let mode = policy.modes().at(addr.port());
        let carriage = self.carriage(source, target, mode.mode);
        let channel = match (carriage, source.id.as_ref().map(Peer::from)) {
            (Carriage::Local, Some(peer)) => Channel::SameNode(peer),
            (Carriage::MutualTls | Carriage::Hbone, Some(peer)) => Channel::MutualTls(peer),
            _ => Channel::Plaintext,
        };
        way.carriage = carriage.into();
        way.mode = mode.mode.to_string();
        way.mode_policy = mode.from.as_ref().map(ToString::to_string).unwrap_or_default();
        let address = source.address_like(addr.ip());
        let connection = ConnectionFacts {
            channel,
            source_ip: address,
            remote_ip: address,
            destination: addr,
            sni: None,
        };
        let keys = match target.node == self.node {
            true => Keys::Fetched,
            false => Keys::Elsewhere(&target.node),
        };
        match (load, carriage) {
            (Load::Request(_) | Load::Requests, Carriage::Hbone) => request::cannot_go(&mut way),
            (Load::Bytes(_), Carriage::Hbone) => fill(&mut way, &policy.trace(connection)),
            (Load::Request(parts), Carriage::Local | Carriage::MutualTls) => {
                request::judge(&mut way, &policy, connection, parts, keys);
            }
            (Load::Requests, Carriage::Local | Carriage::MutualTls) => {
                request::before(&mut way, &policy, connection);
            }
            (Load::Bytes(_), _) if self.snapshot.declared(target, addr.port()) == Declared::Bytes => {
                fill(&mut way, &policy.trace(connection));
            }
            // In the clear the destination sees bytes, whoever sent them.
            (Load::Request(parts), _) => request::admit(&mut way, &policy, connection, Some(parts), keys),
            (Load::Requests, _) => request::admit(&mut way, &policy, connection, None, keys),
            (Load::Bytes(parts), _) => request::admit(&mut way, &policy, connection, parts, keys),
        }
        way
    }

    fn carriage(&self, source: &Source, target: &Workload, mode: PeerMode) -> Carriage {
        match &source.workload {
            Some(workload) if workload.node == target.node => Carriage::Local,
            Some(_) if self.encryption == Encryption::MutualTls && mode != PeerMode::Disable => {
                match target.tunnel {
                    TunnelProtocol::Nodemesh => Carriage::MutualTls,
                    TunnelProtocol::Hbone => Carriage::Hbone,
                }
            }
            _ => Carriage::Plaintext,
        }
    }
}

impl Source {
    /// Its address of the family of another.
    fn address_like(&self, other: IpAddr) -> IpAddr {
        let more = self.workload.iter().flat_map(|workload| &workload.addresses);
        let mut own = std::iter::once(&self.address).chain(more);
        let fits = own.find(|own| own.is_ipv4() == other.is_ipv4());
        *fits.unwrap_or(&self.address)
    }
}

/// Said where somebody asks about a request, and connections go as a whole.
const UNREAD: &str = "; all requests on a connection go there";

/// The way's part that the policies decide.
fn fill(way: &mut ExplainedWay, trace: &Trace<'_>) {
    way.policies = trace.considered.iter().map(explained).collect();
    way.reporting = trace.reported.iter().map(explained).collect();
    way.allowed = trace.decision.verdict() == Verdict::Allow;
    way.verdict = trace.decision.to_string();
    way.policy = trace
        .decision
        .policy()
        .map(ToString::to_string)
        .unwrap_or_default();
    way.rehearsal = trace
        .rehearsal
        .as_ref()
        .map(ToString::to_string)
        .unwrap_or_default();
}

/// The host that a client names who dials `host`: for `namespace/name` the name in DNS.
fn host_for(host: &str, port: u16) -> String {
    let host = match key(host) {
        Some(key) => format!("{}.{}", key.name, key.namespace),
        None if host.contains(':') => format!("[{host}]"),
        None => host.to_owned(),
    };
    match port {
        80 => host,
        _ => format!("{host}:{port}"),
    }
}

/// Host and port. The colons of an IPv6 address stand in brackets.
fn split(text: &str) -> Result<(&str, u16), ExplainError> {
    let parts = || {
        let (host, port) = text.rsplit_once(':')?;
        let port: u16 = port.parse().ok().filter(|port| *port != 0)?;
        let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host = match inner {
            Some(host) => host,
            None if host.contains(':') => return None,
            None => host,
        };
        (!host.is_empty()).then_some((host, port))
    };
    parts().ok_or_else(|| ExplainError::Destination(text.to_owned()))
}

fn key(text: &str) -> Option<ObjectKey> {
    let (namespace, name) = text.split_once('/')?;
    Some(ObjectKey::new(namespace, name))
}

fn name_of(workload: Option<&Workload>) -> String {
    workload
        .map(|workload| workload.key.to_string())
        .unwrap_or_default()
}

fn service(key: &ObjectKey) -> Destination {
    Destination {
        kind: DestinationKind::Service.into(),
        service: key.to_string(),
        ..Destination::default()
    }
}

/// Whether two ways differ in their endpoints only.
fn is_same(a: &ExplainedWay, b: &ExplainedWay) -> bool {
    let bare = |way: &ExplainedWay| ExplainedWay {
        endpoints: Vec::new(),
        ..way.clone()
    };
    bare(a) == bare(b)
}

fn explained(trace: &PolicyTrace<'_>) -> ExplainedPolicy {
    ExplainedPolicy {
        key: trace.policy.key.to_string(),
        action: trace.policy.action.to_string(),
        dry_run: trace.policy.enforcement == Enforcement::DryRun,
        rules: trace
            .rules
            .iter()
            .map(|rule| ExplainedRule {
                matched: rule.matched,
                misses: rule.misses.iter().map(ToString::to_string).collect(),
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests;
