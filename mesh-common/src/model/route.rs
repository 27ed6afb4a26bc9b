//! How requests to a service are led: the Gateway API's HTTPRoute and GRPCRoute, as far as they concern a mesh.
//!
//! A route names its parents (services), and rules that say which requests they want, what is changed about these
//! and which backends they go to. Whether a parent or a backend exists is not known here: that is a matter of
//! conditions, which the agent computes.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ObjectKey;

/// An HTTPRoute or a GRPCRoute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Which of the two.
    pub kind: RouteKind,
    /// Its name, unique among the routes of its kind.
    pub key: ObjectKey,
    /// `metadata.creationTimestamp` in seconds since the Unix epoch. A route without one is younger than all that
    /// have one.
    pub created: Option<i64>,
    /// The services whose requests it leads. Parents of other kinds are no business of the mesh and left out.
    pub parents: Vec<ParentRef>,
    /// Kept for display: a mesh selects routes by the address that was dialled.
    pub hostnames: Vec<String>,
    /// Its rules, at least one.
    pub rules: Vec<RouteRule>,
}

/// A kind of route. The greater one has precedence on a port that both are attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum RouteKind {
    /// HTTPRoute.
    #[serde(rename = "HTTPRoute")]
    Http,
    /// GRPCRoute.
    #[serde(rename = "GRPCRoute")]
    Grpc,
}

/// A service that a route is attached to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ParentRef {
    /// The service.
    pub service: ObjectKey,
    /// Only this port of it.
    pub port: Option<u16>,
    /// Only its port of this name.
    pub section_name: Option<String>,
}

/// One rule of a route: any of `matches` is enough.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteRule {
    /// Its name, unique in the route.
    pub name: Option<String>,
    /// Which requests it wants; every request when empty. Matches of the route's own kind only.
    pub matches: Vec<RouteMatch>,
    /// What is done to a request, its answer, or instead of sending it on.
    pub filters: Vec<RouteFilter>,
    /// Where requests go, by weight.
    pub backends: Vec<BackendRef>,
    /// How long things may take.
    pub timeouts: RouteTimeouts,
    /// What is tried again.
    pub retry: Option<RouteRetry>,
}

/// What a request must be like. All parts of it are needed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RouteMatch {
    /// In an HTTPRoute.
    Http(HttpMatch),
    /// In a GRPCRoute.
    Grpc(GrpcMatch),
}

/// What an HTTP request must be like.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpMatch {
    /// Its path.
    pub path: PathMatch,
    /// Its method, in upper case.
    pub method: Option<String>,
    /// Headers that it must have, each name once.
    pub headers: Vec<NamedMatch>,
    /// Query parameters that it must have, each name once.
    pub query: Vec<NamedMatch>,
}

/// What a gRPC request must be like.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrpcMatch {
    /// The service, with its package.
    pub service: Option<TextMatch>,
    /// The method of the service.
    pub method: Option<TextMatch>,
    /// Headers that it must have, each name once.
    pub headers: Vec<NamedMatch>,
}

/// What a path must be like.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum PathMatch {
    /// This path.
    Exact(String),
    /// Whole segments of the path from its beginning. A slash at the end means nothing.
    Prefix(String),
    /// A regular expression for the whole path.
    Regex(String),
}

/// What a text must be like.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum TextMatch {
    /// This text.
    Exact(String),
    /// A regular expression for the whole text.
    Regex(String),
}

/// What a header or a query parameter must be like.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedMatch {
    /// The name; of a header in lower case.
    pub name: String,
    /// The value.
    pub value: TextMatch,
}

/// Something that happens to a request beside being sent on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RouteFilter {
    /// Changes headers of the request.
    RequestHeaders(HeaderModifier),
    /// Changes headers of the answer.
    ResponseHeaders(HeaderModifier),
    /// Answers with a redirect.
    Redirect(Redirect),
    /// Changes host and path of the request.
    Rewrite(Rewrite),
    /// Sends a copy to a further backend, whose answer nobody looks at.
    Mirror(Mirror),
    /// Answers browsers that ask across origins.
    Cors(Cors),
    /// An object that says what to do. None is known: the filter cannot be left out, so requests fail.
    Extension {
        /// Its group.
        group: String,
        /// Its kind.
        kind: String,
        /// Its name.
        name: String,
    },
}

/// Changes of headers. No name is in two of the lists, or twice in one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeaderModifier {
    /// Replaces what there is.
    pub set: Vec<(String, String)>,
    /// Is put behind what there is, separated by a comma.
    pub add: Vec<(String, String)>,
    /// Takes away.
    pub remove: Vec<String>,
}

/// An answer that sends the client elsewhere. What is `None` stays as the client asked for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redirect {
    /// `http` or `https`.
    pub scheme: Option<String>,
    /// The host.
    pub hostname: Option<String>,
    /// The path.
    pub path: Option<PathModifier>,
    /// The port.
    pub port: Option<u16>,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
}

/// Changes of where a request goes. What is `None` stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rewrite {
    /// The host that the backend sees.
    pub hostname: Option<String>,
    /// The path that the backend sees.
    pub path: Option<PathModifier>,
}

/// A change of a path. The query is not part of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PathModifier {
    /// The whole path.
    Full(String),
    /// The part that the rule's prefix matched.
    Prefix(String),
}

/// A copy of requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mirror {
    /// Where it goes.
    pub target: BackendTarget,
    /// How many of the requests are copied: so many …
    pub numerator: u32,
    /// … of this many, at least 1.
    pub denominator: u32,
}

/// Cross-origin resource sharing (GEP-1767).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cors {
    /// `*`, or `scheme://host[:port]`, whose host may begin with `*.`.
    pub allow_origins: Vec<String>,
    /// Whether requests may carry credentials.
    pub allow_credentials: bool,
    /// Methods, or `*`.
    pub allow_methods: Vec<String>,
    /// Names of request headers, or `*`.
    pub allow_headers: Vec<String>,
    /// Names of response headers, or `*`.
    pub expose_headers: Vec<String>,
    /// For how many seconds the browser need not ask again.
    pub max_age: u32,
}

/// One of the places that requests go to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendRef {
    /// The place.
    pub target: BackendTarget,
    /// Its share of the sum of all weights, 0 to 1,000,000.
    pub weight: u32,
    /// What happens only to requests that go there.
    pub filters: Vec<RouteFilter>,
}

/// What a reference to a backend names.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum BackendTarget {
    /// A port of a service, of any namespace.
    Service {
        /// The service.
        service: ObjectKey,
        /// Its port.
        port: u16,
    },
    /// Something that the mesh does not know as a backend.
    Other {
        /// Its group.
        group: String,
        /// Its kind.
        kind: String,
        /// Its name.
        key: ObjectKey,
    },
}

/// How long a request may take. `None` is no limit of the route's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteTimeouts {
    /// From the request to the end of the answer, all tries included.
    pub request: Option<Duration>,
    /// For each try.
    pub backend_request: Option<Duration>,
}

/// What is tried again (GEP-1731).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteRetry {
    /// Status codes of answers, 400 to 599.
    pub codes: Vec<u16>,
    /// How often, beside the first try.
    pub attempts: Option<u32>,
    /// The least time between tries.
    pub backoff: Option<Duration>,
}

impl Default for PathMatch {
    fn default() -> Self {
        Self::Prefix("/".to_owned())
    }
}

impl fmt::Display for RouteKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http => "HTTPRoute",
            Self::Grpc => "GRPCRoute",
        })
    }
}

/// As `namespace/name`, with `:port` or `#section` where they are given.
impl fmt::Display for ParentRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.service)?;
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        if let Some(section) = &self.section_name {
            write!(f, "#{section}")?;
        }
        Ok(())
    }
}

impl fmt::Display for BackendTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service { service, port } => write!(f, "{service}:{port}"),
            Self::Other { group, kind, key } if group.is_empty() => write!(f, "{kind} {key}"),
            Self::Other { group, kind, key } => write!(f, "{group} {kind} {key}"),
        }
    }
}
