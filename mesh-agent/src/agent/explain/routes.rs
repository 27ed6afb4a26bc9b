//! The rule that leads the request that is asked about, and the ways behind its backends.
//!
//! Rules are chosen and filters applied by the code that leads real requests. Only the lot is not drawn: every backend
//! with a weight is shown.

use std::fmt;

use http::{Request, StatusCode, header::LOCATION, request::Parts};
use mesh_common::model::{BackendRef, BackendTarget, RouteKind};

use super::{
    Source, World,
    request::{DEPENDS, Load},
    service, words,
};
use crate::{
    admin::proto::{ExplainReply, ExplainedWay},
    http::fault::Cause,
    listener::backend_of,
    outbound::Unroutable,
    routing::{Backend, FilterFailure, FilterOutcome, Filters, MatchedPath, NoBackend, RouteTable, Rule},
    state::ServiceBackend,
};

/// Why requests are answered by the mesh.
pub(super) struct Answer {
    status: StatusCode,
    /// The status of an answer to gRPC, where that differs.
    grpc: Option<u16>,
    text: String,
}

/// The request that is led.
struct Led {
    parts: Parts,
    asked: Asked,
}

/// Whether a request was asked about.
#[derive(Clone, Copy)]
enum Asked {
    /// This one.
    This,
    /// None, and the routes do the same with all.
    Any,
}

impl Led {
    fn load(&self) -> Load<'_> {
        match self.asked {
            Asked::This => Load::Request(&self.parts),
            Asked::Any => Load::Requests,
        }
    }
}

impl World<'_> {
    /// What becomes of requests to a service port that has routes.
    pub(super) fn by_routes(
        &self,
        source: &Source,
        dialled: &ServiceBackend,
        table: &RouteTable,
        request: Option<Parts>,
    ) -> ExplainReply {
        let reply = ExplainReply {
            destination: Some(service(&dialled.service.key)),
            ..ExplainReply::default()
        };
        let depends_on = words::asked_by(table);
        let led = match request {
            Some(parts) => Led {
                parts,
                asked: Asked::This,
            },
            None if depends_on.is_empty() => Led {
                parts: Request::new(()).into_parts().0,
                asked: Asked::Any,
            },
            None => {
                return ExplainReply {
                    route: format!("by {}; {DEPENDS}", words::routes(table)),
                    depends_on,
                    ..reply
                };
            }
        };
        self.by_route(source, dialled, table, led, reply)
    }

    fn by_route(
        &self,
        source: &Source,
        dialled: &ServiceBackend,
        table: &RouteTable,
        mut led: Led,
        mut reply: ExplainReply,
    ) -> ExplainReply {
        let Some(matched) = table.select(&led.parts) else {
            let text = format!("no rule of {} wants the request", words::routes(table));
            return answered(reply, table.kind(), Answer::by(Cause::NoRoute, text));
        };
        let rule = matched.rule;
        let mut told = words::ruled(rule);
        if let Err(answer) = apply(&rule.filters, &mut led.parts, matched.path) {
            reply.rule = Some(told);
            return answered(reply, table.kind(), answer);
        }
        let mut refused = None;
        let mut services = rule.backends.iter();
        for reference in weighted(rule) {
            let mut backend = words::backend(reference);
            let found = match &reference.target {
                BackendTarget::Service { .. } => services.next(),
                BackendTarget::Other { .. } => None,
            };
            let ways = match found {
                Some(found) => self.to_backend(source, dialled, found, &led, matched.path),
                None => {
                    let none = NoBackend::NotAService(reference.target.clone());
                    Err(Answer::by(Cause::NoBackend, none.to_string()))
                }
            };
            match ways {
                Ok(ways) => reply.ways.extend(ways.into_iter().map(|way| ExplainedWay {
                    backend: backend.target.clone(),
                    weight: backend.weight,
                    ..way
                })),
                Err(answer) => {
                    backend.fault = answer.to_string();
                    refused = refused.or(Some(answer));
                }
            }
            told.backends.push(backend);
        }
        let backends = told.backends.len();
        reply.rule = Some(told);
        if backends == 0 {
            let answer = Answer::by(Cause::NoBackend, NoBackend::None.to_string());
            return answered(reply, table.kind(), answer);
        }
        match refused {
            Some(answer) if reply.ways.is_empty() => answered(reply, table.kind(), answer),
            _ => {
                let how = match backends {
                    1 => "to its backend",
                    _ => "to one of its backends, drawn by weight",
                };
                reply.route = format!("by the rule {how}; there to one of the ready endpoints");
                reply
            }
        }
    }

    fn to_backend(
        &self,
        source: &Source,
        dialled: &ServiceBackend,
        backend: &Backend,
        led: &Led,
        path: MatchedPath,
    ) -> Result<Vec<ExplainedWay>, Answer> {
        let mut led = Led {
            parts: led.parts.clone(),
            asked: led.asked,
        };
        apply(&backend.filters, &mut led.parts, path)?;
        let port = &backend.port;
        let missing = |cause, reason: Unroutable| Answer::by(cause, reason.to_string());
        let found = backend_of(self.snapshot, port, dialled.family)
            .ok_or_else(|| missing(Cause::NoBackend, Unroutable::NoSuchPort))?;
        let ways = self.ways_to(source, found, led.load());
        match ways.is_empty() {
            true => Err(missing(Cause::NoEndpoint, Unroutable::NoEndpoint)),
            false => Ok(ways),
        }
    }
}

impl Answer {
    pub(super) fn by(cause: Cause, text: String) -> Self {
        Self {
            status: cause.status(),
            grpc: Some(cause.grpc_status()),
            text,
        }
    }
}

/// As part of a sentence: `404 by the mesh: …`.
impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} by the mesh: {}", self.status.as_str(), self.text)
    }
}

/// What the filters make of the request.
fn apply(filters: &Filters, parts: &mut Parts, path: MatchedPath) -> Result<(), Answer> {
    let answer = |status, text| Answer {
        status,
        grpc: None,
        text,
    };
    Err(match filters.apply_request(parts, path) {
        FilterOutcome::Continue => return Ok(()),
        FilterOutcome::Redirect(to) => {
            let location = to.headers.get(LOCATION).map(|value| value.as_bytes());
            let location = String::from_utf8_lossy(location.unwrap_or_default());
            answer(to.status, format!("a redirect to {location}"))
        }
        FilterOutcome::CorsPreflight(to) => answer(to.status, "what a browser asks beforehand".to_owned()),
        FilterOutcome::Failed(failure) => {
            let cause = match &failure {
                FilterFailure::NoHost => Cause::BadRequest,
                FilterFailure::Extension(_) | FilterFailure::Target(_) => Cause::Internal,
            };
            Answer::by(cause, failure.to_string())
        }
    })
}

/// The reply when the mesh answers by itself.
pub(super) fn answered(reply: ExplainReply, kind: RouteKind, answer: Answer) -> ExplainReply {
    let grpc = match (kind, answer.grpc) {
        (RouteKind::Grpc, Some(status)) => format!(", for gRPC with grpc-status {status}"),
        _ => String::new(),
    };
    ExplainReply {
        route: format!(
            "answered by the mesh with {}{grpc}: {}",
            answer.status.as_str(),
            answer.text
        ),
        status: answer.status.as_u16().into(),
        ..reply
    }
}

/// The backends that can be drawn.
fn weighted(rule: &Rule) -> impl Iterator<Item = &BackendRef> {
    let written = rule.route.rules.get(rule.index);
    let backends = written.into_iter().flat_map(|rule| &rule.backends);
    backends.filter(|backend| backend.weight > 0)
}
