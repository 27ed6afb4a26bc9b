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
                .filter_map(|pair| named(pair, name))
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

fn behind<'v>(value: &'v [u8], prefix: &str) -> Option<&'v [u8]> {
    let (head, rest) = value.split_at_checked(prefix.len())?;
    head.eq_ignore_ascii_case(prefix.as_bytes()).then_some(rest)
}

fn named<'p>(pair: &'p str, name: &str) -> Option<&'p str> {
    let (own, value) = pair.split_once('=')?;
    (own == name).then_some(value)
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
        .filter(|pair| named(pair, name).is_none())
        .collect();
    let target = match kept.is_empty() {
        true => uri.path().to_owned(),
        false => format!("{}?{}", uri.path(), kept.join("&")),
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(target).ok()?);
    Uri::from_parts(parts).ok()
}
