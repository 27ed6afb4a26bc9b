//! Where a token may stand in a request.

use http::header::COOKIE;
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Uri};
use mesh_common::model::TokenPlace;

/// One place.
#[derive(Debug)]
pub(super) enum Place {
    /// In a header, behind a prefix whose letters may be of any case.
    Header(HeaderName, String),
    Parameter(String),
    Cookie(String),
}

impl Place {
    /// `None` for a header whose name is none.
    pub(super) fn new(place: &TokenPlace) -> Option<Self> {
        Some(match place {
            TokenPlace::Header(name, prefix) => Self::Header(name.parse().ok()?, prefix.clone()),
            TokenPlace::Parameter(name) => Self::Parameter(name.clone()),
            TokenPlace::Cookie(name) => Self::Cookie(name.clone()),
        })
    }

    /// Every token that stands here. Bytes that are no text count as an empty token, which is never good.
    pub(super) fn tokens<'r>(&self, request: &'r Parts, found: &mut dyn FnMut(&'r str)) {
        match self {
            Self::Header(name, prefix) => request
                .headers
                .get_all(name)
                .iter()
                .filter_map(|value| behind(value.as_bytes(), prefix))
                .for_each(|token| found(std::str::from_utf8(token).unwrap_or_default().trim())),
            Self::Parameter(name) => request
                .uri
                .query()
                .into_iter()
                .flat_map(|query| query.split('&'))
                .filter_map(|pair| parameter(pair, name))
                .for_each(found),
            Self::Cookie(name) => cookies(request)
                .filter_map(|pair| named(pair, name))
                .for_each(found),
        }
    }

    /// Takes the tokens out.
    pub(super) fn clear(&self, request: &mut Parts) {
        match self {
            Self::Header(name, prefix) => {
                let all = request.headers.get_all(name).iter();
                let kept: Vec<HeaderValue> = all
                    .filter(|value| behind(value.as_bytes(), prefix).is_none())
                    .cloned()
                    .collect();
                request.headers.remove(name);
                for value in kept {
                    request.headers.append(name, value);
                }
            }
            Self::Parameter(name) => {
                if let Some(uri) = without_parameter(&request.uri, name) {
                    request.uri = uri;
                }
            }
            Self::Cookie(name) => {
                let kept: Vec<&str> = cookies(request)
                    .filter(|pair| named(pair, name).is_none())
                    .collect();
                let value = (!kept.is_empty()).then(|| HeaderValue::try_from(kept.join("; ")));
                request.headers.remove(COOKIE);
                if let Some(Ok(value)) = value {
                    request.headers.insert(COOKIE, value);
                }
            }
        }
    }
}

/// What stands behind a prefix. Where that ends in a blank it is a scheme, and whatever cannot be part of its name ends it:
/// applications differ in what they take for white space.
fn behind<'v>(value: &'v [u8], prefix: &str) -> Option<&'v [u8]> {
    let value = value.trim_ascii_start();
    let scheme = prefix.trim_ascii_end();
    let (head, rest) = value.split_at_checked(scheme.len())?;
    let is_ended = scheme.len() == prefix.len()
        || rest
            .first()
            .is_some_and(|next| !next.is_ascii_alphanumeric() && !b"!#$%&'*+-.^_`|~".contains(next));
    (is_ended && head.eq_ignore_ascii_case(scheme.as_bytes())).then_some(rest)
}

/// The value of a cookie of this name.
fn named<'p>(pair: &'p str, name: &str) -> Option<&'p str> {
    let (own, value) = pair.split_once('=')?;
    (own == name).then_some(value)
}

/// The value of a query parameter of this name, however that is spelled.
fn parameter<'p>(pair: &'p str, name: &str) -> Option<&'p str> {
    let (own, value) = pair.split_once('=')?;
    plain(own).eq(name.bytes()).then_some(value)
}

/// A name in a query without its escapes (`application/x-www-form-urlencoded`).
fn plain(text: &str) -> impl Iterator<Item = u8> {
    let mut left = text.as_bytes();
    std::iter::from_fn(move || {
        let digit = |byte: u8| {
            char::from(byte)
                .to_digit(16)
                .and_then(|digit| u8::try_from(digit).ok())
        };
        if let [b'%', high, low, rest @ ..] = left
            && let (Some(high), Some(low)) = (digit(*high), digit(*low))
        {
            left = rest;
            return Some(high << 4 | low);
        }
        let (first, rest) = left.split_first()?;
        left = rest;
        Some(if *first == b'+' { b' ' } else { *first })
    })
}

fn cookies(request: &Parts) -> impl Iterator<Item = &str> {
    let values = request.headers.get_all(COOKIE).iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .map(str::trim)
}

fn without_parameter(uri: &Uri, name: &str) -> Option<Uri> {
    let query = uri.query()?;
    let kept: Vec<&str> = query
        .split('&')
        .filter(|pair| parameter(pair, name).is_none())
        .collect();
    let target = match kept.is_empty() {
        true => uri.path().to_owned(),
        false => format!("{}?{}", uri.path(), kept.join("&")),
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(target).ok()?);
    Uri::from_parts(parts).ok()
}
