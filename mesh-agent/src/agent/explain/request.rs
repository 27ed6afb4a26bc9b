//! The request that is asked about: read from the question, and judged as the data path judges one.

use http::{HeaderName, HeaderValue, Method, Request, header::HOST, request::Parts};

use super::fill;
use crate::{
    admin::{
        ExplainError,
        proto::{ExplainedWay, RequestHead},
    },
    http::{
        fault::{Cause, NO_CONNECT},
        h1::{self, Framing},
        wire,
    },
    identity::Clock,
    inbound::{Judged, RequestDenied},
    policy::{
        BeforeRequests, ConnectionFacts, Entrance, Interest, WorkloadPolicy,
        jwt::{self, TokenCache, Unproved},
    },
};

/// What is known of what goes over a connection.
#[derive(Clone, Copy, Debug)]
pub(super) enum Load<'r> {
    /// Bytes on their way, and this request in them, if one was asked about. The destination reads them if its policies
    /// are about requests.
    Bytes(Option<&'r Parts>),
    /// Requests, each led by itself; which ones nobody said.
    Requests,
    /// This request, led by itself.
    Request(&'r Parts),
}

/// Where the keys of token issuers are, of those that are fetched.
#[derive(Clone, Copy, Debug)]
pub(super) enum Keys<'n> {
    /// With this agent, which judges the requests itself.
    Fetched,
    /// With the agent of this node.
    Elsewhere(&'n str),
}

/// What is said where only a request could tell.
pub(super) const DEPENDS: &str = "depends on the request; give --method, --path, --header";

/// The head of the request that is asked about. Without a header of its own it is for `host`.
pub(super) fn head(asked: &RequestHead, host: &str) -> Result<Parts, ExplainError> {
    let bad = |text: &str| ExplainError::Request(text.to_owned());
    let method = match asked.method.as_str() {
        "" => Method::GET,
        name => Method::from_bytes(name.as_bytes()).map_err(|_| bad(name))?,
    };
    let path = match asked.path.as_str() {
        "" => "/",
        path if path.starts_with('/') => path,
        path => return Err(bad(path)),
    };
    let request = Request::builder().method(method).uri(path).body(());
    let (mut parts, ()) = request.map_err(|_| bad(path))?.into_parts();
    for line in &asked.headers {
        let (name, value) = line.split_once(':').ok_or_else(|| bad(line))?;
        let name: HeaderName = name.trim().parse().map_err(|_| bad(line))?;
        let value = HeaderValue::from_bytes(value.trim().as_bytes()).map_err(|_| bad(line))?;
        parts.headers.append(name, value);
    }
    if !parts.headers.contains_key(HOST) {
        parts
            .headers
            .insert(HOST, HeaderValue::from_str(host).map_err(|_| bad(host))?);
    }
    Ok(parts)
}

/// A request as it is judged and goes on: without what belongs to its connection, and without what only agents say.
pub(super) fn received(mut parts: Parts) -> Parts {
    let wish = h1::wish(&parts);
    // Nobody asks about a body.
    wire::receive(&mut parts, wish, Framing::None);
    parts
}

/// A request as it is shown.
pub(super) fn shown(parts: &Parts) -> RequestHead {
    let headers = parts.headers.iter().map(|(name, value)| {
        let value = String::from_utf8_lossy(value.as_bytes());
        format!("{name}: {value}")
    });
    RequestHead {
        method: parts.method.to_string(),
        path: parts.uri.to_string(),
        headers: headers.collect(),
    }
}

/// What the policies say of a connection whose bytes come as they are, and of the request in them, if one was asked about.
pub(super) fn admit(
    way: &mut ExplainedWay,
    policy: &WorkloadPolicy,
    connection: ConnectionFacts<'_>,
    parts: Option<&Parts>,
    keys: Keys<'_>,
) {
    match (policy.admit(&connection), parts) {
        (Entrance::Closed(_) | Entrance::Open(_, Interest::None), _) | (Entrance::Open(..), None) => {
            fill(way, &policy.trace(connection));
        }
        (Entrance::Requests(_) | Entrance::Open(_, Interest::Tokens), Some(parts))
            if parts.method == Method::CONNECT =>
        {
            way.request = Some(shown(parts));
            way.verdict = format!("denied: {NO_CONNECT}");
            way.status = Cause::Method.status().as_u16().into();
        }
        (Entrance::Requests(_) | Entrance::Open(..), Some(parts)) => {
            judge(way, policy, connection, parts, keys);
        }
        (Entrance::Requests(decision), None) => {
            way.depends_on = asked_by(policy);
            way.verdict = format!("{DEPENDS}; what is none is {decision}");
        }
    }
}

/// Requests in tunnels are our own agents' language.
pub(super) fn cannot_go(way: &mut ExplainedWay) {
    way.verdict = "not sent: requests that are led one by one do not go by HBONE".to_owned();
    way.status = Cause::Connect.status().as_u16().into();
}

/// What the policies say of requests on a connection, none of which is known.
pub(super) fn before(way: &mut ExplainedWay, policy: &WorkloadPolicy, connection: ConnectionFacts<'_>) {
    let depends_on = asked_by(policy);
    if depends_on.is_empty() {
        return fill(way, &policy.trace(connection));
    }
    match policy.decide_connection_for_http(&connection) {
        BeforeRequests::Ask => {
            way.depends_on = depends_on;
            way.verdict = DEPENDS.to_owned();
        }
        BeforeRequests::Deny(decision) => {
            way.verdict = decision.to_string();
            way.policy = decision.policy().map(ToString::to_string).unwrap_or_default();
            way.status = denied(&RequestDenied::unless_allowed(&decision));
        }
    }
}

/// What the policies that decide look at in requests, for each of them.
fn asked_by(policy: &WorkloadPolicy) -> Vec<String> {
    let tokens = policy.authentications().iter().map(|authentication| {
        let key = &authentication.policy().key;
        format!("RequestAuthentication {key}: the token")
    });
    let policies = policy
        .policies()
        .filter(|policy| policy.decides())
        .filter_map(|policy| {
            let mut fields: Vec<String> = Vec::new();
            for field in policy.request_fields().map(ToString::to_string) {
                if !fields.contains(&field) {
                    fields.push(field);
                }
            }
            let source = policy.policy();
            (!fields.is_empty()).then(|| format!("{} {}: {}", source.action, source.key, fields.join(", ")))
        });
    tokens.chain(policies).collect()
}

/// What the policies say of a request. Its token counts, if it has one and this agent knows the keys.
pub(super) fn judge(
    way: &mut ExplainedWay,
    policy: &WorkloadPolicy,
    connection: ConnectionFacts<'_>,
    parts: &Parts,
    keys: Keys<'_>,
) {
    way.request = Some(shown(parts));
    let mut refuse = |denied: &RequestDenied| {
        way.verdict = denied.to_string();
        way.status = denied.status().as_u16().into();
    };
    let proved = match policy.authentications() {
        [] => None,
        _ => match jwt::authenticate(policy, parts, &TokenCache::new(), Clock::system().now()) {
            Ok(proved) => proved,
            Err(Unproved::NoKeys { issuer, .. }) if let Keys::Elsewhere(node) = keys => {
                way.verdict =
                    format!("depends on the token; ask the agent of node {node}, which has the keys");
                way.depends_on = vec![format!("the keys of issuer {issuer}")];
                return;
            }
            Err(unproved) => return refuse(&RequestDenied::from(&unproved)),
        },
    };
    match Judged::of(policy, proved.as_ref(), parts) {
        Ok(judged) => {
            let facts = judged.facts(connection);
            let reported = judged.reported_facts(connection);
            let trace = policy.trace_request(*reported.as_ref().unwrap_or(&facts));
            way.status = denied(&RequestDenied::unless_allowed(&trace.decision));
            fill(way, &trace);
            if let Err(bad) = reported {
                way.reporting.clear();
                way.rehearsal = format!("policies that decide nothing see no such request: {bad}");
            }
        }
        Err(bad) => refuse(&RequestDenied::from(bad)),
    }
}

/// The status of the answer to a request that was judged.
fn denied(judgement: &Result<(), RequestDenied>) -> u32 {
    match judgement {
        Ok(()) => 0,
        Err(denied) => denied.status().as_u16().into(),
    }
}
