//! Where the requests of one captured connection go.
//!
//! Each request is looked at by one snapshot: the routes of the port that was dialled, their backends and their endpoints
//! belong together. Without routes it goes to the service that was dialled.
//!
//! Invariant: no request sees half a change of the configuration; one whose route cannot be followed is not sent on.

use std::{net::SocketAddr, pin::pin, sync::Arc};

use super::{
    account,
    copies::Copies,
    led::Led,
    name_host,
    server::Target,
    ways::{Across, Counted, Ways},
};
use crate::{
    http::{
        course::{Course, Deadline, Onward},
        exchange::{Hop, Message, Steer},
        fault::{Cause, Fault, Side, Signature},
        trail::Trail,
    },
    listener::data_path::DataPath,
    node::Pod,
    outbound::{self, Chosen},
    routing::{BackendPort, FilterFailure, RouteTable, Rule},
    state::{Family, Resolution, ServiceBackend, Snapshot},
    telemetry::{Claim, Connection},
};

/// Steers the requests of one connection.
pub(super) struct Outbound {
    ways: Arc<Ways>,
    /// What was dialled.
    dialled: SocketAddr,
    signature: Signature,
    /// As it is told of.
    pub(super) connection: Option<Arc<Connection>>,
}

/// What one snapshot says of a request.
enum Plan {
    Onward {
        chosen: Chosen,
        led: Led,
        deadline: Option<Deadline>,
    },
    Answer(Box<http::response::Parts>),
}

impl Outbound {
    /// For a connection from `pod`.
    pub(super) fn new(path: &Arc<DataPath>, pod: &Arc<Pod>, client: SocketAddr, dialled: SocketAddr) -> Self {
        Self {
            ways: Arc::new(Ways::new(path, pod, client)),
            dialled,
            signature: Signature::new(pod.workload.node.as_str().into(), Side::Source),
            connection: None,
        }
    }

    /// Whose places and time its requests take.
    pub(super) fn claim(&self) -> Arc<Claim> {
        Arc::clone(&self.ways.claim)
    }

    fn plan(&self, message: &mut Message) -> Result<Plan, Fault> {
        let snapshot = self.ways.path.store.load();
        let Resolution::Service(dialled) = snapshot.resolve(self.dialled) else {
            return Err(Fault::new(
                Cause::NoPort,
                format!("{} is no port of a service any more", self.dialled),
            ));
        };
        let namespace = &*self.ways.pod.workload.key.namespace;
        match snapshot.routes_of(&dialled.service.key, dialled.port.port, Some(namespace)) {
            Some(table) => self.follow(&snapshot, dialled, table, message),
            None => Ok(Plan::Onward {
                chosen: self.endpoint(dialled)?,
                led: Led::default(),
                deadline: None,
            }),
        }
    }

    /// Does what the routes say.
    fn follow(
        &self,
        snapshot: &Snapshot,
        dialled: &ServiceBackend,
        table: &RouteTable,
        message: &mut Message,
    ) -> Result<Plan, Fault> {
        let Some(matched) = table.select(&message.parts) else {
            let (service, port) = (&dialled.service.key, dialled.port.port);
            return Err(Fault::new(
                Cause::NoRoute,
                format!("no rule of the routes of service {service}, port {port}, wants this request"),
            ));
        };
        let rule = matched.rule;
        let mut led = Led::default();
        let mut copies = Copies::new(&self.ways, self.family());
        let failed = |failure| unfollowed(rule, &failure);
        if let Some(answer) = led
            .follow(&rule.filters, &mut message.parts, matched.path)
            .map_err(failed)?
        {
            return Ok(Plan::Answer(answer));
        }
        copies.take(snapshot, &rule.filters, message);
        let backend = rule
            .backends
            .pick(outbound::lot())
            .map_err(|none| Fault::new(Cause::NoBackend, format!("{}: {none}", Named(rule))))?;
        if let Some(answer) = led
            .follow(&backend.filters, &mut message.parts, matched.path)
            .map_err(failed)?
        {
            return Ok(Plan::Answer(answer));
        }
        copies.take(snapshot, &backend.filters, message);
        let Some(port) = backend_of(snapshot, &backend.port, self.family()) else {
            return Err(Fault::new(
                Cause::NoBackend,
                format!("{}: there is no service port {}", Named(rule), backend.port),
            ));
        };
        let chosen = self.endpoint(port)?;
        copies.send();
        Ok(Plan::Onward {
            chosen,
            led,
            deadline: Deadline::of(&rule.timeouts),
        })
    }

    fn endpoint(&self, backend: &ServiceBackend) -> Result<Chosen, Fault> {
        outbound::choose(backend, &self.ways.path.pods).map_err(|unroutable| {
            let service = &backend.service.key;
            Fault::new(
                Cause::NoEndpoint,
                format!("service {service}, port {}: {unroutable}", backend.port.port),
            )
        })
    }

    fn family(&self) -> Family {
        Family::of(self.dialled.ip().to_canonical())
    }
}

impl Steer for Outbound {
    type Server = Target;
    type Agent = Across;
    type Escort = Led;

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn connection(&self) -> Option<&Arc<Connection>> {
        self.connection.as_ref()
    }

    fn over(&self, trail: &Trail) {
        let none = || self.ways.no_ends(self.dialled);
        let ends = trail.ends().map_or_else(none, Arc::clone);
        account::over(&self.ways.path, self.connection(), trail, &ends);
    }

    async fn steer(&self, message: &mut Message) -> Result<Course<Hop<Target, Across>, Led>, Fault> {
        name_host(message, self.dialled)?;
        let (chosen, led, deadline) = match self.plan(message)? {
            Plan::Answer(answer) => return Ok(Course::Answer(answer)),
            Plan::Onward {
                chosen,
                led,
                deadline,
            } => (chosen, led, deadline),
        };
        let Chosen {
            way,
            peer,
            service,
            active,
        } = chosen;
        let counted = Counted::new(&service, &active);
        message.attached.load = Some(active);
        let way = way.map_err(|unroutable| Fault::new(Cause::NoEndpoint, unroutable.to_string()))?;
        let opening = pin!(self.ways.open(way, &peer, Some(counted), message));
        let hop = Deadline::bound(deadline, opening).await??;
        Ok(Course::Onward(Onward {
            hop,
            escort: led,
            deadline,
        }))
    }
}

/// The port that a backend of a route means. Its service need not have addresses of the family that was dialled.
pub(crate) fn backend_of<'s>(
    snapshot: &'s Snapshot,
    port: &BackendPort,
    family: Family,
) -> Option<&'s Arc<ServiceBackend>> {
    let other = match family {
        Family::V4 => Family::V6,
        Family::V6 => Family::V4,
    };
    let of = |family| snapshot.service_port(&port.service, port.port, family);
    of(family).or_else(|| of(other))
}

/// A rule as answers name it.
struct Named<'r>(&'r Rule);

impl std::fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self(rule) = self;
        write!(f, "{} {}, rule {}", rule.route.kind, rule.route.key, rule.index)?;
        match rule.name() {
            Some(name) => write!(f, " ({name})"),
            None => Ok(()),
        }
    }
}

fn unfollowed(rule: &Rule, failure: &FilterFailure) -> Fault {
    let cause = match failure {
        FilterFailure::NoHost => Cause::BadRequest,
        FilterFailure::Extension(_) | FilterFailure::Target(_) => Cause::Internal,
    };
    Fault::new(cause, format!("{}: {failure}", Named(rule)))
}
