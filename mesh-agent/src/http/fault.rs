//! What the mesh itself answers when a request cannot be served, mapped in one place to HTTP status, gRPC status, label and
//! words.
//!
//! Everybody on the way of a request makes a [`Fault`]; the engine writes the answer. An answer of the mesh is told from the
//! application's by its header [`HEADER`], which applications cannot send through the mesh.
//!
//! Invariant: the body names agent, side, cause and reason, and nothing that the client did not send or may not know.

use std::{borrow::Cow, fmt, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use mesh_common::model::ObjectKey;

/// The header of every answer that the mesh made.
pub static HEADER: HeaderName = HeaderName::from_static("nodemesh-error");

/// What is said of CONNECT where requests are led or judged one by one: nobody could judge what would be asked for inside.
pub const NO_CONNECT: &str = "CONNECT does not pass here";

/// Why a request is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// The request breaks the rules of HTTP.
    BadRequest,
    /// Its head is larger than is taken.
    HeadTooLarge,
    /// Its target is longer than is taken.
    TargetTooLong,
    /// Its body is larger than is taken.
    BodyTooLarge,
    /// It did not arrive in time.
    SlowRequest,
    /// It speaks a version of HTTP that is not spoken here.
    Version,
    /// A method that does not pass here.
    Method,
    /// Nobody proved who asks, and somebody must.
    Unauthenticated,
    /// A policy denies it.
    Denied,
    /// The service has routes, and none of their rules matches.
    NoRoute,
    /// The rule that matches leads nowhere.
    NoBackend,
    /// There is no such service port.
    NoPort,
    /// No endpoint is ready.
    NoEndpoint,
    /// The endpoint was not reached.
    Connect,
    /// The endpoint's connection broke before its answer.
    Reset,
    /// The endpoint's answer breaks the rules of HTTP.
    BadResponse,
    /// The time for the whole request was over.
    Timeout,
    /// The time for this try was over.
    TryTimeout,
    /// The workload, or the client, has as many requests under way as it may.
    RequestLimit,
    /// The agent is overloaded, or ends.
    Unavailable,
    /// The agent failed by itself.
    Internal,
}

/// A request that is not served, and why.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Why, as a kind.
    pub cause: Cause,
    /// Why, in words for whoever reads the answer.
    pub reason: Cow<'static, str>,
    /// The side that it is a matter of, where that is not the one of the agent that answers: on one node there is only one.
    side: Option<Side>,
    /// What `WWW-Authenticate` says.
    challenge: Option<HeaderValue>,
    judgement: Option<Box<Judgement>>,
}

/// What the policies said of a request that may not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// The reason in one word.
    pub word: &'static str,
    /// The policy that decided, if a single one did.
    pub policy: Option<ObjectKey>,
    /// Its rule that matched, from 0.
    pub rule: Option<usize>,
}

/// Where an agent stands: before the one who asks, or before the one who is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// On the node of the client.
    Source,
    /// On the node of the server.
    Destination,
}

/// An agent in one of its roles, as it signs answers.
#[derive(Clone, Debug)]
pub struct Signature {
    node: Arc<str>,
    side: Side,
}

/// An answer ready to be sent.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers, without any about length.
    pub headers: HeaderMap,
    /// Its body; empty for gRPC.
    pub body: Bytes,
}

/// What response_flags say where no cause of the mesh's own is the reason.
pub mod flag {
    /// Nothing special.
    pub const NOTHING: &str = "-";
    /// Whoever asked went away before the end.
    pub const CLIENT_GONE: &str = "DC";
    /// The agent broke it off.
    pub const CUT_HERE: &str = "LR";
}

impl Cause {
    /// All there are.
    pub const ALL: [Self; 21] = [
        Self::BadRequest,
        Self::HeadTooLarge,
        Self::TargetTooLong,
        Self::BodyTooLarge,
        Self::SlowRequest,
        Self::Version,
        Self::Method,
        Self::Unauthenticated,
        Self::Denied,
        Self::NoRoute,
        Self::NoBackend,
        Self::NoPort,
        Self::NoEndpoint,
        Self::Connect,
        Self::Reset,
        Self::BadResponse,
        Self::Timeout,
        Self::TryTimeout,
        Self::RequestLimit,
        Self::Unavailable,
        Self::Internal,
    ];

    /// The status of the answer.
    pub fn status(self) -> StatusCode {
        match self {
            Self::BadRequest => StatusCode::BAD_REQUEST,
            Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::SlowRequest => StatusCode::REQUEST_TIMEOUT,
            Self::Version => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Unauthenticated => StatusCode::UNAUTHORIZED,
            Self::Denied => StatusCode::FORBIDDEN,
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::NoBackend | Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::NoPort | Self::NoEndpoint | Self::Connect | Self::RequestLimit | Self::Unavailable => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Reset | Self::BadResponse => StatusCode::BAD_GATEWAY,
            Self::Timeout | Self::TryTimeout => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// The status of a gRPC answer, by its number.
    pub fn grpc_status(self) -> u16 {
        match self {
            // INVALID_ARGUMENT is the application's word; what is no gRPC at all is INTERNAL.
            Self::BadRequest | Self::Version | Self::Method | Self::Internal => 13,
            Self::HeadTooLarge | Self::TargetTooLong | Self::BodyTooLarge => 8,
            Self::SlowRequest | Self::Timeout | Self::TryTimeout => 4,
            Self::Unauthenticated => 16,
            Self::Denied => 7,
            Self::NoRoute => 12,
            Self::NoBackend
            | Self::NoPort
            | Self::NoEndpoint
            | Self::Connect
            | Self::Reset
            | Self::BadResponse
            | Self::RequestLimit
            | Self::Unavailable => 14,
        }
    }

    /// What response_flags of metrics say, in the words of other meshes.
    pub fn flag(self) -> &'static str {
        match self {
            // The client breaks the protocol.
            Self::BadRequest
            | Self::HeadTooLarge
            | Self::TargetTooLong
            | Self::BodyTooLarge
            | Self::Version
            | Self::Method => "DPE",
            // It was idle in the middle.
            Self::SlowRequest => "SI",
            Self::Unauthenticated | Self::Denied => "UAEX",
            Self::NoRoute | Self::NoPort => "NR",
            Self::NoBackend => "NC",
            Self::NoEndpoint => "UH",
            Self::Connect => "UF",
            Self::Reset => "UC",
            Self::BadResponse => "UPE",
            Self::Timeout | Self::TryTimeout => "UT",
            Self::RequestLimit | Self::Unavailable => "UO",
            Self::Internal => flag::CUT_HERE,
        }
    }

    /// Whether it says something about the endpoint that the request went to.
    pub fn is_of_endpoint(self) -> bool {
        matches!(
            self,
            Self::Connect
                | Self::Reset
                | Self::BadResponse
                | Self::TryTimeout
                | Self::RequestLimit
                | Self::Unavailable
        )
    }

    /// The cause of that word.
    fn of_label(label: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|cause| cause.label() == label)
    }

    /// The word for it in the header, in metrics and in logs.
    pub fn label(self) -> &'static str {
        match self {
            Self::BadRequest => "bad-request",
            Self::HeadTooLarge => "head-too-large",
            Self::TargetTooLong => "target-too-long",
            Self::BodyTooLarge => "body-too-large",
            Self::SlowRequest => "slow-request",
            Self::Version => "version",
            Self::Method => "method",
            Self::Unauthenticated => "unauthenticated",
            Self::Denied => "denied",
            Self::NoRoute => "no-route",
            Self::NoBackend => "no-backend",
            Self::NoPort => "no-port",
            Self::NoEndpoint => "no-endpoint",
            Self::Connect => "connect",
            Self::Reset => "reset",
            Self::BadResponse => "bad-response",
            Self::Timeout => "timeout",
            Self::TryTimeout => "try-timeout",
            Self::RequestLimit => "request-limit",
            Self::Unavailable => "unavailable",
            Self::Internal => "internal",
        }
    }
}

impl Fault {
    /// A fault with its reason.
    pub fn new(cause: Cause, reason: impl Into<Cow<'static, str>>) -> Self {
        Self {
            cause,
            reason: reason.into(),
            side: None,
            challenge: None,
            judgement: None,
        }
    }

    /// As a matter of that side.
    #[must_use]
    pub fn at(mut self, side: Side) -> Self {
        self.side = Some(side);
        self
    }

    /// By this judgement of the policies.
    #[must_use]
    pub fn judged(mut self, judgement: Judgement) -> Self {
        self.judgement = Some(Box::new(judgement));
        self
    }

    /// What the policies said.
    pub fn judgement(&self) -> Option<&Judgement> {
        self.judgement.as_deref()
    }

    /// The reason in one word, for metrics: that of the policies where they decided.
    pub fn word(&self) -> &'static str {
        self.judgement()
            .map_or(self.cause.label(), |judgement| judgement.word)
    }

    /// With this value for `WWW-Authenticate`.
    #[must_use]
    pub fn challenge(mut self, challenge: Option<HeaderValue>) -> Self {
        self.challenge = challenge;
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.cause.label(), self.reason)
    }
}

impl Signature {
    /// Of the agent of `node` on that side of requests.
    pub fn new(node: Arc<str>, side: Side) -> Self {
        Self { node, side }
    }

    /// The side.
    pub fn side(&self) -> Side {
        self.side
    }

    /// The answer to a request of this kind.
    pub fn answer(&self, fault: &Fault, dialect: Dialect) -> Answer {
        let mut headers = HeaderMap::with_capacity(4);
        let side = fault.side.unwrap_or(self.side).word();
        let (cause, node) = (fault.cause.label(), &self.node);
        let said = format!("side={side}; cause={cause}; node={node}");
        if let Ok(value) = HeaderValue::try_from(said) {
            headers.insert(HEADER.clone(), value);
        }
        match dialect {
            Dialect::Http => {
                headers.insert(
                    header::CONTENT_TYPE,
                    HeaderValue::from_static("text/plain; charset=utf-8"),
                );
                if fault.cause == Cause::Unauthenticated {
                    let challenge = fault.challenge.clone();
                    let challenge = challenge.unwrap_or(HeaderValue::from_static("Bearer"));
                    headers.insert(header::WWW_AUTHENTICATE, challenge);
                }
                let body = format!(
                    "nodemesh: {cause}, says the agent of node {node} on the {side}'s side: {}\n",
                    fault.reason
                );
                Answer {
                    status: fault.cause.status(),
                    headers,
                    body: body.into(),
                }
            }
            Dialect::Grpc => {
                headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
                headers.extend(self.grpc_status(fault));
                Answer {
                    status: StatusCode::OK,
                    headers,
                    body: Bytes::new(),
                }
            }
        }
    }
}

/// The cause that another agent's answer names; `None` of an application's answer.
pub(super) fn told(headers: &HeaderMap) -> Option<Cause> {
    let said = headers.get(&HEADER)?.to_str().ok()?;
    let cause = said.split("; ").find_map(|part| part.strip_prefix("cause="))?;
    Cause::of_label(cause)
}

impl Signature {
    /// How an answer of gRPC ends that cannot go on.
    pub fn grpc_status(&self, fault: &Fault) -> HeaderMap {
        let mut status = HeaderMap::with_capacity(2);
        status.insert(
            HeaderName::from_static("grpc-status"),
            fault.cause.grpc_status().into(),
        );
        let (cause, side) = (fault.cause.label(), fault.side.unwrap_or(self.side).word());
        let message = percent_encoded(&format!("nodemesh: {cause} ({side}): {}", fault.reason));
        if let Ok(value) = HeaderValue::try_from(message) {
            status.insert(HeaderName::from_static("grpc-message"), value);
        }
        status
    }
}

/// What kind of answer a client understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// A status and a text.
    Http,
    /// `grpc-status` and `grpc-message`, with no body (gRPC over HTTP/2, "Trailers-Only").
    Grpc,
}

impl Dialect {
    /// That of a request with these headers.
    pub fn of(headers: &HeaderMap) -> Self {
        let grpc = headers
            .get(header::CONTENT_TYPE)
            .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
        if grpc { Self::Grpc } else { Self::Http }
    }
}

impl Side {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
        }
    }
}

/// Printable ASCII as it is, everything else and `%` as `%XX`, as `grpc-message` wants it.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'%' => encoded.push_str("%25"),
            b' '..=b'~' => encoded.push(char::from(byte)),
            _ => {
                const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
                encoded.push('%');
                encoded.push(char::from(DIGITS[usize::from(byte >> 4)]));
                encoded.push(char::from(DIGITS[usize::from(byte & 15)]));
            }
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(dialect: Dialect) -> Answer {
        let fault = Fault::new(Cause::Denied, "policy shop/é 100%");
        Signature::new("node-1".into(), Side::Destination).answer(&fault, dialect)
    }

    #[test]
    fn an_answer_says_who_where_and_why() {
        let answer = answer(Dialect::Http);
        assert_eq!(answer.status, StatusCode::FORBIDDEN);
        assert_eq!(
            answer.headers[&HEADER],
            "side=destination; cause=denied; node=node-1"
        );
        assert_eq!(
            std::str::from_utf8(&answer.body).unwrap(),
            "nodemesh: denied, says the agent of node node-1 on the destination's side: policy shop/é 100%\n"
        );
    }

    #[test]
    fn a_grpc_client_gets_a_status_it_understands() {
        let answer = answer(Dialect::Grpc);
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(answer.headers["grpc-status"], "7");
        assert_eq!(
            answer.headers["grpc-message"],
            "nodemesh: denied (destination): policy shop/%C3%A9 100%25"
        );
        assert!(answer.body.is_empty());
    }

    #[test]
    fn the_documented_table_is_this_one() {
        let documented = include_str!("../../../docs/errors.md");
        let rows: Vec<Vec<&str>> = documented
            .lines()
            .filter(|line| line.starts_with("| `") && !line.contains("cause"))
            .map(|line| line.split('|').map(str::trim).collect())
            .collect();
        assert_eq!(rows.len(), Cause::ALL.len());
        for (row, cause) in rows.iter().zip(Cause::ALL) {
            let expected = [
                format!("`{}`", cause.label()),
                cause.status().as_u16().to_string(),
                cause.grpc_status().to_string(),
                cause.flag().to_owned(),
            ];
            assert_eq!(row[1..5], expected, "{row:?}");
        }
    }

    #[test]
    fn one_agent_understands_what_another_one_says() {
        for cause in Cause::ALL {
            for dialect in [Dialect::Http, Dialect::Grpc] {
                let fault = Fault::new(cause, "for some reason");
                let answer = Signature::new("node-1".into(), Side::Destination).answer(&fault, dialect);
                assert_eq!(told(&answer.headers), Some(cause));
            }
        }
        assert_eq!(told(&HeaderMap::new()), None);
    }
}
