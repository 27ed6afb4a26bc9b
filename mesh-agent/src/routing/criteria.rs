//! What one match asks of a request, compiled.

use std::cmp::{Ordering, Reverse};

use http::Method;
use http::header::HeaderName;
use mesh_common::model::{GrpcMatch, HttpMatch, NamedMatch, PathMatch, RouteMatch, TextMatch};
use regex::bytes::{Regex, RegexBuilder};

use super::request::Asked;

/// Everything that a request must be like to match. A match in a file is one of these.
#[derive(Clone, Debug)]
pub(super) struct Criteria {
    pub(super) path: PathCriterion,
    pub(super) method: Option<Method>,
    pub(super) headers: Box<[Named<HeaderName>]>,
    pub(super) query: Box<[Named<Box<str>>]>,
}

/// What is asked of the path.
#[derive(Clone, Debug)]
pub(super) enum PathCriterion {
    Exact(Box<str>),
    /// Without a slash at the end: empty for all paths.
    Prefix(Box<str>),
    Regex(Regex),
    /// `/service/method`, for what is said of the two.
    Grpc {
        service: Option<Text>,
        method: Option<Text>,
    },
}

/// What is asked of a text.
#[derive(Clone, Debug)]
pub(super) enum Text {
    Exact(Box<str>),
    Regex(Regex),
}

/// What is asked of a header or a query parameter.
#[derive(Clone, Debug)]
pub(super) struct Named<N> {
    pub(super) name: N,
    pub(super) value: Text,
}

/// What cannot be compiled, in words.
pub(super) type Unsupported = String;

impl Criteria {
    pub(super) fn new(matched: &RouteMatch) -> Result<Self, Unsupported> {
        match matched {
            RouteMatch::Http(matched) => Self::http(matched),
            RouteMatch::Grpc(matched) => Self::grpc(matched),
        }
    }

    fn http(matched: &HttpMatch) -> Result<Self, Unsupported> {
        let path = match &matched.path {
            PathMatch::Exact(path) => PathCriterion::Exact(path.as_str().into()),
            PathMatch::Prefix(path) => PathCriterion::Prefix(path.trim_end_matches('/').into()),
            PathMatch::Regex(text) => PathCriterion::Regex(regex(text)?),
        };
        let method = match &matched.method {
            Some(name) => {
                let method = Method::from_bytes(name.as_bytes());
                Some(method.map_err(|_| format!("{name:?} is not a method"))?)
            }
            None => None,
        };
        let query = matched.query.iter().map(|asked| {
            let value = Text::new(&asked.value)?;
            let name = asked.name.as_str().into();
            Ok(Named { name, value })
        });
        Ok(Self {
            path,
            method,
            headers: headers(&matched.headers)?,
            query: query.collect::<Result<_, Unsupported>>()?,
        })
    }

    fn grpc(matched: &GrpcMatch) -> Result<Self, Unsupported> {
        let text = |text: &Option<TextMatch>| text.as_ref().map(Text::new).transpose();
        Ok(Self {
            path: PathCriterion::Grpc {
                service: text(&matched.service)?,
                method: text(&matched.method)?,
            },
            method: None,
            headers: headers(&matched.headers)?,
            query: Box::default(),
        })
    }

    /// Whether the request is like this, whatever its path.
    pub(super) fn besides_path(&self, asked: &Asked<'_>) -> bool {
        self.method.as_ref().is_none_or(|method| method == asked.method)
            && self.headers.iter().all(|wanted| {
                let value = asked.header(&wanted.name);
                value.is_some_and(|value| wanted.value.holds(&value))
            })
            && self.query.iter().all(|wanted| {
                let value = asked.parameter(&wanted.name);
                value.is_some_and(|value| wanted.value.holds(value.as_bytes()))
            })
    }

    /// Greater is asked first, among matches for one path.
    fn weight(&self) -> (bool, usize, usize) {
        (self.method.is_some(), self.headers.len(), self.query.len())
    }

    /// The order in which matches are asked.
    pub(super) fn precedence(&self, other: &Self) -> Ordering {
        let key = |criteria: &Self| (criteria.path.class(), Reverse(criteria.weight()));
        key(self).cmp(&key(other))
    }
}

impl PathCriterion {
    /// Lower is asked first.
    fn class(&self) -> (u8, u8, Reverse<usize>) {
        let text = |text: &Option<Text>| match text {
            Some(Text::Exact(_)) => 0,
            Some(Text::Regex(_)) => 1,
            None => 2,
        };
        match self {
            Self::Exact(_) => (0, 0, Reverse(0)),
            Self::Prefix(path) => (1, 0, Reverse(path.len())),
            Self::Regex(_) => (2, 0, Reverse(0)),
            Self::Grpc { service, method } => (text(service), text(method), Reverse(0)),
        }
    }

    /// Whether the path is like this.
    pub(super) fn holds(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => **exact == *path,
            Self::Prefix(prefix) => {
                let rest = path.strip_prefix(&**prefix);
                prefix.is_empty() || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
            Self::Regex(regex) => regex.is_match(path.as_bytes()),
            Self::Grpc { service, method } => {
                if service.is_none() && method.is_none() {
                    return true;
                }
                let Some((asked_service, asked_method)) = grpc(path) else {
                    return false;
                };
                let fits = |text: &Option<Text>, asked: &str| {
                    text.as_ref().is_none_or(|text| text.holds(asked.as_bytes()))
                };
                fits(service, asked_service) && fits(method, asked_method)
            }
        }
    }
}

impl Text {
    pub(super) fn new(text: &TextMatch) -> Result<Self, Unsupported> {
        Ok(match text {
            TextMatch::Exact(text) => Self::Exact(text.as_str().into()),
            TextMatch::Regex(text) => Self::Regex(regex(text)?),
        })
    }

    pub(super) fn holds(&self, text: &[u8]) -> bool {
        match self {
            Self::Exact(exact) => exact.as_bytes() == text,
            Self::Regex(regex) => regex.is_match(text),
        }
    }
}

fn headers(wanted: &[NamedMatch]) -> Result<Box<[Named<HeaderName>]>, Unsupported> {
    let wanted = wanted.iter().map(|asked| {
        let name = HeaderName::from_bytes(asked.name.as_bytes())
            .map_err(|_| format!("{:?} is not a header name", asked.name))?;
        let value = Text::new(&asked.value)?;
        Ok(Named { name, value })
    });
    wanted.collect()
}

/// Service and method of a gRPC request.
pub(super) fn grpc(path: &str) -> Option<(&str, &str)> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    (!service.is_empty() && !method.is_empty() && !method.contains('/')).then_some((service, method))
}

/// Bytes that one compiled regular expression may take, and as many for what it remembers while it runs.
const REGEX_SIZE: usize = 256 * 1024;

/// An expression that must match a text as a whole.
fn regex(text: &str) -> Result<Regex, Unsupported> {
    let build = |text: &str| {
        let mut builder = RegexBuilder::new(text);
        builder.size_limit(REGEX_SIZE).dfa_size_limit(REGEX_SIZE).build()
    };
    // Alone first: it must not close the group that is put around it.
    let whole = build(text).and_then(|_| build(&format!(r"\A(?:{text})\z")));
    whole.map_err(|error| format!("{text:?} cannot be used as a regular expression: {error}"))
}
