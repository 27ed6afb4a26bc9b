//! A field about requests, compiled: what it looks at in a request, and how values are compared there.

use http::HeaderName;
use http::header::HOST;
use mesh_common::model::{PathPattern, Pattern, RequestField};

use super::clause::{Effect, Sense, Why};
use super::facts::{Headers, RequestFacts};
use super::path::canonical;
use super::template::Template;
use super::text::{Case, TextSet};

/// What is compared with which values.
#[derive(Debug)]
pub(super) enum RequestTest {
    Method(TextSet),
    Host(TextSet),
    Path(TextSet, Vec<Template>),
    /// No header has a name that is none.
    Header(Option<HeaderName>, TextSet),
    Principal(TextSet),
    Audiences(TextSet),
    Presenter(TextSet),
    Claim(Vec<String>, TextSet),
}

impl RequestTest {
    pub(super) fn methods(patterns: &[Pattern]) -> Self {
        Self::Method(TextSet::new(patterns, Case::Sensitive))
    }

    pub(super) fn hosts(patterns: &[Pattern]) -> Self {
        Self::Host(TextSet::new(patterns, Case::Ignored))
    }

    pub(super) fn principals(patterns: &[Pattern]) -> Self {
        Self::Principal(TextSet::new(patterns, Case::Sensitive))
    }

    /// The patterns are brought to the form that paths have when they are compared.
    pub(super) fn paths(patterns: &[PathPattern]) -> Self {
        let mut texts = Vec::new();
        let mut templates = Vec::new();
        for pattern in patterns {
            match pattern {
                PathPattern::Template(template) => templates.push(Template::new(template)),
                PathPattern::Text(Pattern::Exact(text)) => {
                    texts.push(Pattern::Exact(canonical(text).into_owned()));
                }
                PathPattern::Text(Pattern::Prefix(text)) => {
                    texts.push(Pattern::Prefix(canonical(text).into_owned()));
                }
                PathPattern::Text(Pattern::Suffix(text)) => {
                    texts.push(Pattern::Suffix(canonical(text).into_owned()));
                }
                PathPattern::Text(Pattern::Present) => texts.push(Pattern::Present),
            }
        }
        Self::Path(TextSet::new(&texts, Case::Sensitive), templates)
    }

    pub(super) fn condition(field: &RequestField, patterns: &[Pattern]) -> Self {
        let texts = TextSet::new(patterns, Case::Sensitive);
        match field {
            RequestField::Header(name) => Self::Header(name.parse().ok(), texts),
            RequestField::Principal => Self::Principal(texts),
            RequestField::Audiences => Self::Audiences(texts),
            RequestField::Presenter => Self::Presenter(texts),
            RequestField::Claim(path) => Self::Claim(path.clone(), texts),
        }
    }

    /// Whether the field holds for a request of which it cannot be known; `None` when it can.
    pub(super) fn guessed(&self, request: &RequestFacts<'_>, effect: Effect) -> Option<Result<(), Why>> {
        let Self::Header(Some(name), _) = self else {
            return None;
        };
        if name == HOST && !request.host.is_empty() {
            return None;
        }
        match (request.headers, effect) {
            (Headers::Known(_), _) => None,
            (Headers::AtBest, Effect::Permit) | (Headers::AtWorst, Effect::Object) => Some(Ok(())),
            (Headers::AtBest, Effect::Object) | (Headers::AtWorst, Effect::Permit) => {
                Some(Err(Why::HeaderNotKept))
            }
        }
    }

    /// Whether the request has one of the values; the error says what it lacks to have any.
    pub(super) fn listed(
        &self,
        request: &RequestFacts<'_>,
        sense: Sense,
        effect: Effect,
    ) -> Result<bool, Why> {
        let token = || request.token.ok_or(Why::NoToken);
        Ok(match self {
            Self::Method(methods) => methods.matches(&[request.method]),
            Self::Host(hosts) => has_host(hosts, request.host),
            Self::Path(texts, templates) => {
                texts.matches(&[request.path])
                    || templates.iter().any(|template| template.matches(request.path))
            }
            Self::Header(name, texts) => {
                let name = name.as_ref().ok_or(Why::NoHeader)?;
                if name == HOST && !request.host.is_empty() {
                    return Ok(texts.matches(&[request.host]));
                }
                let Headers::Known(headers) = request.headers else {
                    return Err(Why::HeaderNotKept);
                };
                // Of several values the application may take any: all of them must speak for the request.
                let mut values = headers.get_all(name).iter().peekable();
                values.peek().ok_or(Why::NoHeader)?;
                match (effect, sense) {
                    (Effect::Permit, Sense::Wanted) | (Effect::Object, Sense::Excluded) => {
                        values.all(|value| texts.matches(&[value]))
                    }
                    (Effect::Permit, Sense::Excluded) | (Effect::Object, Sense::Wanted) => {
                        values.any(|value| texts.matches(&[value]))
                    }
                }
            }
            Self::Principal(texts) => texts.matches(&token()?.principal().ok_or(Why::NoRequestPrincipal)?),
            Self::Audiences(texts) => token()?.audiences().any(|text| texts.matches(&[text])),
            Self::Presenter(texts) => token()?.presenter().is_some_and(|text| texts.matches(&[text])),
            Self::Claim(path, texts) => token()?.claim(path).any(|text| texts.matches(&[text])),
        })
    }
}

/// Whether a host is listed as it was written, or without its port and the dot that may end a name: a policy about a
/// host means it in all of these spellings.
fn has_host(hosts: &TextSet, written: &str) -> bool {
    if hosts.matches(&[written]) {
        return true;
    }
    let name = match written.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.ends_with(':') => name,
        _ => written,
    };
    let bare = name.strip_suffix('.').unwrap_or(name);
    (name.len() < written.len() && hosts.matches(&[name]))
        || (bare.len() < name.len() && hosts.matches(&[bare, &written[name.len()..]]))
        || (bare.len() < name.len() && hosts.matches(&[bare]))
}
