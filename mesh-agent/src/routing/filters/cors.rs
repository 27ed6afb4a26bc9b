//! Cross-origin resource sharing (GEP-1767; the protocol is that of the Fetch standard, section 3.2).
//!
//! The filter speaks for the service: what the application says about other origins itself is replaced. A request of
//! an origin that is not allowed is sent on, and its answer says nothing that lets a browser show it.

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, HeaderName, HeaderValue, ORIGIN, VARY,
};
use http::{HeaderMap, Method, StatusCode, request, response};
use mesh_common::model::Cors;

use super::headers::append;

/// Who may ask for what.
#[derive(Debug)]
pub(super) struct CorsPolicy {
    origins: Origins,
    credentials: Credentials,
    methods: List,
    headers: List,
    exposed: List,
    max_age: HeaderValue,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Credentials {
    Allowed,
    Omitted,
}

#[derive(Debug)]
enum Origins {
    Any,
    These(Box<[Origin]>),
}

/// Names, as they stand in a header.
#[derive(Debug)]
enum List {
    None,
    Any,
    These(HeaderValue),
}

/// `scheme://host:port`; of a pattern, the host may begin with `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Origin {
    scheme: String,
    host: String,
    port: Option<u16>,
}

impl CorsPolicy {
    pub(super) fn new(cors: &Cors) -> Result<Self, String> {
        let origins = if cors.allow_origins.iter().any(|origin| origin == ANY) {
            Origins::Any
        } else {
            let origins = cors.allow_origins.iter().map(|text| {
                let origin =
                    Origin::new(text).filter(|origin| !origin.host.trim_start_matches('*').contains('*'));
                origin.ok_or_else(|| format!("{text:?} is not an origin"))
            });
            Origins::These(origins.collect::<Result<_, _>>()?)
        };
        Ok(Self {
            origins,
            credentials: if cors.allow_credentials {
                Credentials::Allowed
            } else {
                Credentials::Omitted
            },
            methods: List::new(&cors.allow_methods)?,
            headers: List::new(&cors.allow_headers)?,
            exposed: List::new(&cors.expose_headers)?,
            max_age: HeaderValue::from(cors.max_age),
        })
    }

    /// The answer to a browser that asks whether it may make a request, if this is one.
    pub(super) fn preflight(&self, request: &request::Parts) -> Option<response::Parts> {
        let method = request.headers.get(ACCESS_CONTROL_REQUEST_METHOD)?;
        let origin = request.headers.get(ORIGIN)?;
        if request.method != Method::OPTIONS {
            return None;
        }
        let (mut answer, ()) = http::Response::new(()).into_parts();
        answer.status = StatusCode::NO_CONTENT;
        let headers = &mut answer.headers;
        self.allow_origin(headers, Some(origin));
        if headers.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN) {
            let asked = [
                (&self.methods, ACCESS_CONTROL_ALLOW_METHODS, Some(method)),
                (
                    &self.headers,
                    ACCESS_CONTROL_ALLOW_HEADERS,
                    request.headers.get(ACCESS_CONTROL_REQUEST_HEADERS),
                ),
            ];
            for (list, name, asked) in asked {
                if let Some(value) = self.listed(list, asked) {
                    headers.insert(name, value);
                }
            }
            headers.insert(ACCESS_CONTROL_MAX_AGE, self.max_age.clone());
        }
        Some(answer)
    }

    /// Says who may see an answer.
    pub(super) fn apply(&self, headers: &mut HeaderMap, origin: Option<&HeaderValue>) {
        for name in SPOKEN_FOR {
            headers.remove(name);
        }
        self.allow_origin(headers, origin);
        if !headers.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN) {
            return;
        }
        let all = match (&self.exposed, self.credentials) {
            // With credentials a wildcard would be a name like any other.
            (List::Any, Credentials::Allowed) => names(headers),
            _ => None,
        };
        if let Some(value) = self.listed(&self.exposed, all.as_ref()) {
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, value);
        }
    }

    fn allow_origin(&self, headers: &mut HeaderMap, origin: Option<&HeaderValue>) {
        let any = match (&self.origins, self.credentials) {
            (Origins::Any, Credentials::Omitted) => Some(HeaderValue::from_static(ANY)),
            _ => {
                // What is kept of this answer is of no use to another origin.
                append_once(headers, VARY, "origin");
                None
            }
        };
        let Some(origin) = origin.filter(|origin| self.origins.contain(origin)) else {
            return;
        };
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, any.unwrap_or_else(|| origin.clone()));
        if self.credentials == Credentials::Allowed {
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
    }

    /// A list as it is told. Where requests carry credentials, it may not be a wildcard: then what was asked for.
    fn listed(&self, list: &List, asked: Option<&HeaderValue>) -> Option<HeaderValue> {
        match (list, self.credentials) {
            (List::None, _) => None,
            (List::These(names), _) => Some(names.clone()),
            (List::Any, Credentials::Omitted) => Some(HeaderValue::from_static(ANY)),
            (List::Any, Credentials::Allowed) => asked.cloned(),
        }
    }
}

/// What stands for everything.
const ANY: &str = "*";

/// What only the filter says.
const SPOKEN_FOR: [HeaderName; 6] = [
    ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_ALLOW_CREDENTIALS,
    ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_HEADERS,
    ACCESS_CONTROL_EXPOSE_HEADERS,
    ACCESS_CONTROL_MAX_AGE,
];

impl Origins {
    fn contain(&self, origin: &HeaderValue) -> bool {
        match self {
            Self::Any => true,
            Self::These(patterns) => {
                let origin = origin.to_str().ok().and_then(Origin::new);
                origin.is_some_and(|origin| patterns.iter().any(|pattern| pattern.holds(&origin)))
            }
        }
    }
}

impl Origin {
    fn new(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let scheme = scheme.to_ascii_lowercase();
        let (host, port) = match rest.rsplit_once(':') {
            // The colons of an IPv6 address stand in brackets.
            Some((host, port)) if !port.contains(']') => (host, Some(port.parse().ok()?)),
            _ => (rest, None),
        };
        let port = port.or(match scheme.as_str() {
            "http" => Some(80),
            "https" => Some(443),
            _ => None,
        });
        let fits = |c: char| c.is_ascii_graphic() && !matches!(c, '/' | '?' | '#' | '@' | ',');
        let host_fits = !host.is_empty() && host.chars().all(fits);
        (!scheme.is_empty() && host_fits).then(|| Self {
            scheme,
            host: host.to_ascii_lowercase(),
            port,
        })
    }

    /// Whether this, a pattern, stands for the other.
    fn holds(&self, origin: &Self) -> bool {
        let host = match self.host.strip_prefix('*') {
            Some(suffix) => origin
                .host
                .strip_suffix(suffix)
                .is_some_and(|rest| !rest.is_empty()),
            None => self.host == origin.host,
        };
        host && self.scheme == origin.scheme && self.port == origin.port
    }
}

impl List {
    fn new(names: &[String]) -> Result<Self, String> {
        if names.is_empty() {
            return Ok(Self::None);
        }
        if names.iter().any(|name| name == ANY) {
            return Ok(Self::Any);
        }
        let list = names.join(", ");
        let value = HeaderValue::from_str(&list).map_err(|_| format!("{list:?} cannot stand in a header"))?;
        Ok(Self::These(value))
    }
}

/// The names of all headers of an answer, if there are any.
fn names(headers: &HeaderMap) -> Option<HeaderValue> {
    let names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
    let list = HeaderValue::from_str(&names.join(", ")).ok()?;
    (!list.is_empty()).then_some(list)
}

/// Adds a name to a list of names, if it is not there.
fn append_once(headers: &mut HeaderMap, list: HeaderName, name: &'static str) {
    let there = headers
        .get_all(&list)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|known| known.trim().eq_ignore_ascii_case(name) || known.trim() == ANY);
    if !there {
        append(headers, &list, &HeaderValue::from_static(name));
    }
}
