//! What the application is told of a token, and what it must not be told by anybody else.

use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue};
use mesh_common::model::{JwtRule, OriginalToken};

use super::Proved;
use crate::policy::token::Token;
use crate::policy::workload::WorkloadPolicy;

/// The headers that a rule writes.
#[derive(Debug)]
pub(crate) struct OutputHeaders {
    payload: Option<HeaderName>,
    claims: Vec<(HeaderName, Vec<String>)>,
}

impl OutputHeaders {
    pub(super) fn new(rule: &JwtRule) -> Self {
        let name = |name: &String| name.parse::<HeaderName>().ok();
        Self {
            payload: rule.payload_header.as_ref().and_then(name),
            claims: rule
                .claim_headers
                .iter()
                .filter_map(|output| Some((name(&output.header)?, output.claim.clone())))
                .collect(),
        }
    }

    fn names(&self) -> impl Iterator<Item = &HeaderName> {
        self.payload
            .iter()
            .chain(self.claims.iter().map(|(name, _)| name))
    }

    /// What they say of a token: the payload as it came, in base64url, and claims as texts, several with commas.
    pub(super) fn values(&self, token: &Token, payload: &str) -> Vec<(HeaderName, HeaderValue)> {
        let payload = self
            .payload
            .iter()
            .map(|name| (name, payload.trim_end_matches('=').to_owned()));
        let claims = self.claims.iter().filter_map(|(name, claim)| {
            let texts: Vec<&str> = token.claim(claim).collect();
            (!texts.is_empty()).then(|| (name, texts.join(",")))
        });
        payload
            .chain(claims)
            .filter_map(|(name, text)| Some((name.clone(), HeaderValue::from_str(&text).ok()?)))
            .collect()
    }
}

impl WorkloadPolicy {
    /// Whether some RequestAuthentication writes headers, which nobody else may then write.
    pub fn writes_headers(&self) -> bool {
        let mut rules = self.authentications().iter().flat_map(|policy| policy.rules());
        rules.any(|rule| rule.outputs.names().next().is_some())
    }

    /// Takes out the headers that only a token may cause, and writes those that this one causes.
    pub fn write_headers(&self, proved: Option<&Proved>, headers: &mut HeaderMap) {
        let rules = || self.authentications().iter().flat_map(|policy| policy.rules());
        for name in rules().flat_map(|rule| rule.outputs.names()) {
            headers.remove(name);
            while let Some(other) = headers.keys().find(|other| are_alike(other, name)) {
                let other = other.clone();
                headers.remove(other);
            }
        }
        for (name, value) in proved.iter().flat_map(|proved| &proved.verified.outputs) {
            headers.insert(name, value.clone());
        }
    }
}

/// Whether servers that know no difference between `_` and `-` take one for the other.
fn are_alike(one: &HeaderName, other: &HeaderName) -> bool {
    one.as_str()
        .bytes()
        .map(dashed)
        .eq(other.as_str().bytes().map(dashed))
}

fn dashed(byte: u8) -> u8 {
    if byte == b'_' { b'-' } else { byte }
}

impl Proved {
    /// Takes the token out of its request, unless the application is to get it.
    pub fn remove_token(&self, request: &mut Parts) {
        if self.rule.rule.original == OriginalToken::Removed {
            self.rule.places.iter().for_each(|place| place.clear(request));
        }
    }
}
