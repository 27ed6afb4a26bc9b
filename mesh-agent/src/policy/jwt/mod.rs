//! Tokens of requests: which are looked for, what makes one good, and what is told to the application.
//!
//! `state` compiles each RequestAuthentication ([`CompiledAuthentication`]); the inbound side hands requests to
//! [`authenticate`] before it asks the policies about them. Keys come from a [`KeyCell`], which `identity` fills for
//! those that are fetched. A verified token is remembered in a [`TokenCache`].
//!
//! A request without a token passes without a principal; policies decide what it may. One with a token that is not
//! good is refused, whatever the policies say.
//!
//! Invariant: nothing that a token says about itself chooses how it is verified: the key decides on the algorithm, the
//! rule on the issuer. Without keys no token is good.

mod cache;
mod keys;
mod output;
mod place;
#[cfg(test)]
pub(crate) mod signer;
#[cfg(test)]
mod tests;
mod verify;

use std::sync::Arc;
use std::time::SystemTime;

use http::request::Parts;
use mesh_common::model::{JwtKeys, JwtRule, RequestAuthentication};
use thiserror::Error;

pub use cache::TokenCache;
pub use keys::{KeyCell, KeySet, KeySetError, KeyStanding};
pub(crate) use output::OutputHeaders;
pub use verify::{TokenFault, Verified};

use super::workload::WorkloadPolicy;
use place::Place;

/// A RequestAuthentication in the form that requests need.
#[derive(Debug)]
pub struct CompiledAuthentication {
    policy: Arc<RequestAuthentication>,
    rules: Vec<Arc<CompiledJwtRule>>,
}

/// One issuer's tokens.
#[derive(Debug)]
pub struct CompiledJwtRule {
    rule: JwtRule,
    places: Vec<Place>,
    outputs: OutputHeaders,
    keys: Arc<KeyCell>,
}

/// A good token, and the rule that it is good by.
#[derive(Clone, Debug)]
pub struct Proved {
    pub(super) rule: Arc<CompiledJwtRule>,
    /// What it says.
    pub verified: Arc<Verified>,
}

/// A request whose token is not good.
#[derive(Debug, Error)]
pub enum Unproved {
    /// For good.
    #[error("{0}")]
    Bad(TokenFault),
    /// As far as the keys go that are known; the cell can be asked for newer ones.
    #[error("{0}")]
    UnknownKey(TokenFault, Arc<KeyCell>),
    /// There are no keys to verify it with.
    #[error("the keys of issuer {issuer} are not known: {reason}")]
    NoKeys {
        /// The issuer.
        issuer: String,
        /// Why not.
        reason: String,
        /// Can be asked for them.
        keys: Arc<KeyCell>,
    },
}

impl CompiledAuthentication {
    /// Compiles a policy. `fetched` gives the cell for a URL, one for all rules that name it.
    pub fn new(
        policy: Arc<RequestAuthentication>,
        mut fetched: impl FnMut(&JwtRule, &str) -> Arc<KeyCell>,
    ) -> Self {
        let rules = policy
            .rules
            .iter()
            .map(|rule| {
                Arc::new(CompiledJwtRule {
                    places: rule.places.iter().filter_map(Place::new).collect(),
                    outputs: OutputHeaders::new(rule),
                    keys: match &rule.keys {
                        JwtKeys::Inline(text) => Arc::new(KeyCell::inline(text)),
                        JwtKeys::Url(url) => fetched(rule, url),
                    },
                    rule: rule.clone(),
                })
            })
            .collect();
        Self { policy, rules }
    }

    /// The policy.
    pub fn policy(&self) -> &Arc<RequestAuthentication> {
        &self.policy
    }

    /// The keys of each rule.
    pub fn keys(&self) -> impl Iterator<Item = &Arc<KeyCell>> {
        self.rules.iter().map(|rule| &rule.keys)
    }

    /// Each issuer with its keys.
    pub fn issuers(&self) -> impl Iterator<Item = (&JwtRule, &KeyCell)> {
        self.rules.iter().map(|rule| (&rule.rule, &*rule.keys))
    }

    pub(super) fn rules(&self) -> impl Iterator<Item = &Arc<CompiledJwtRule>> {
        self.rules.iter()
    }
}

/// Looks for a token in a request and verifies it. `Ok(None)` if there is none.
///
/// A request has one token at the most: with two different ones, nobody could say who its sender is.
pub fn authenticate(
    policy: &WorkloadPolicy,
    request: &Parts,
    cache: &TokenCache,
    now: SystemTime,
) -> Result<Option<Proved>, Unproved> {
    let mut found: Vec<(&str, &Arc<CompiledJwtRule>)> = Vec::new();
    for rule in policy.authentications().iter().flat_map(|policy| policy.rules()) {
        for place in &rule.places {
            place.tokens(request, &mut |token| found.push((token, rule)));
        }
    }
    let Some(&(token, _)) = found.first() else {
        return Ok(None);
    };
    if found.iter().any(|(other, _)| *other != token) {
        return Err(Unproved::Bad(TokenFault::Several));
    }
    for (_, rule) in &found {
        if let Some(verified) = cache.get(token, rule, now) {
            let rule = Arc::clone(rule);
            return Ok(Some(Proved { rule, verified }));
        }
    }
    let claimed = verify::Claimed::read(token).map_err(Unproved::Bad)?;
    let mut refusal = None;
    for (_, rule) in &found {
        if claimed.issuer() != Some(rule.rule.issuer.as_str()) {
            continue;
        }
        match rule.prove(token, &claimed, now) {
            Ok((keys, verified)) => {
                let verified = Arc::new(verified);
                cache.put(token, rule, keys, &verified);
                let rule = Arc::clone(rule);
                return Ok(Some(Proved { rule, verified }));
            }
            Err(unproved) => refusal = refusal.or(Some(unproved)),
        }
    }
    Err(refusal.unwrap_or(Unproved::Bad(TokenFault::Issuer)))
}

impl CompiledJwtRule {
    fn prove(
        &self,
        token: &str,
        claimed: &verify::Claimed,
        now: SystemTime,
    ) -> Result<(Arc<KeySet>, Verified), Unproved> {
        let keys = match self.keys.load() {
            Ok(keys) => keys,
            Err(reason) => {
                return Err(Unproved::NoKeys {
                    issuer: self.rule.issuer.clone(),
                    reason,
                    keys: Arc::clone(&self.keys),
                });
            }
        };
        match claimed.verify(token, &self.rule, &self.outputs, &keys, now) {
            Ok(verified) => Ok((keys, verified)),
            Err(fault @ TokenFault::Key) => Err(Unproved::UnknownKey(fault, Arc::clone(&self.keys))),
            Err(fault) => Err(Unproved::Bad(fault)),
        }
    }
}
