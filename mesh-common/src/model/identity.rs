//! Who a workload is to its peers: a name that a certificate can carry and a policy can match.
//!
//! Certificates, configuration and peers hand in text; the parsers here are the only way to a [`SpiffeId`] or a
//! [`TrustDomain`]. Invariant: a value is exactly what it prints, so equal identities are equal text. Nothing is
//! folded or decoded: what SPIFFE calls invalid (upper case in the domain, empty or dot segments, escapes, a port, a
//! query) is refused, not mended.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

use super::ObjectKey;

/// Namespace and name of a service account: what an identity means inside its trust domain.
pub type ServiceAccountKey = ObjectKey;

/// The part of the world whose certificate authority we believe, `cluster.local` for example.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(Arc<str>);

/// The identity of a service account: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
#[derive(Clone)]
pub struct SpiffeId {
    uri: Arc<str>,
    trust_domain_end: usize,
    namespace_end: usize,
}

/// Why text is no trust domain.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TrustDomainError {
    /// Nothing is there.
    #[error("the trust domain is empty")]
    Empty,
    /// Longer than 255 bytes.
    #[error("the trust domain is longer than 255 characters")]
    TooLong,
    /// Something other than a to z, 0 to 9, dot, hyphen and underscore.
    #[error("{0:?} must not be in a trust domain: use a-z, 0-9, `.`, `-` and `_`")]
    Character(char),
}

/// Why text is no identity of ours.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SpiffeIdError {
    /// Longer than SPIFFE allows.
    #[error("the identity is longer than 2048 characters")]
    TooLong,
    /// Another scheme, or none.
    #[error("the identity does not begin with `spiffe://`")]
    Scheme,
    /// The first part is wrong.
    #[error(transparent)]
    TrustDomain(#[from] TrustDomainError),
    /// The path has another shape.
    #[error("the path of the identity is not `/ns/<namespace>/sa/<service account>`")]
    Shape,
    /// A name in the path is empty, a dot segment, or has a character that SPIFFE does not allow.
    #[error("{0:?} is no segment of an identity's path: use a-z, A-Z, 0-9, `.`, `-` and `_`")]
    Segment(String),
}

const SCHEME: &str = "spiffe://";
const NAMESPACE: &str = "/ns/";
const SERVICE_ACCOUNT: &str = "/sa/";
/// SPIFFE-ID section 2.3.
const MAX_URI: usize = 2048;
/// SPIFFE-ID section 2.1.
const MAX_TRUST_DOMAIN: usize = 255;

impl TrustDomain {
    /// The domain as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The domain as a URI, which is what a certificate authority's own certificate carries.
    pub fn uri(&self) -> String {
        format!("{SCHEME}{self}")
    }
}

impl FromStr for TrustDomain {
    type Err = TrustDomainError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        check_trust_domain(text)?;
        Ok(Self(text.into()))
    }
}

impl SpiffeId {
    /// The identity of a service account.
    pub fn new(domain: &TrustDomain, account: &ServiceAccountKey) -> Result<Self, SpiffeIdError> {
        let ObjectKey { namespace, name } = account;
        format!("{SCHEME}{domain}{NAMESPACE}{namespace}{SERVICE_ACCOUNT}{name}").parse()
    }

    /// The whole URI.
    pub fn as_str(&self) -> &str {
        &self.uri
    }

    /// The identity without `spiffe://`, as policies write it.
    pub fn principal(&self) -> &str {
        &self.uri[SCHEME.len()..]
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> &str {
        &self.uri[SCHEME.len()..self.trust_domain_end]
    }

    /// The namespace of the service account.
    pub fn namespace(&self) -> &str {
        &self.uri[self.trust_domain_end + NAMESPACE.len()..self.namespace_end]
    }

    /// The name of the service account.
    pub fn service_account(&self) -> &str {
        &self.uri[self.namespace_end + SERVICE_ACCOUNT.len()..]
    }

    /// The service account that has this identity.
    pub fn account(&self) -> ServiceAccountKey {
        ObjectKey::new(self.namespace(), self.service_account())
    }

    /// Whether the identity belongs to `domain`.
    pub fn is_in(&self, domain: &TrustDomain) -> bool {
        self.trust_domain() == domain.as_str()
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeIdError;

    fn from_str(uri: &str) -> Result<Self, Self::Err> {
        if uri.len() > MAX_URI {
            return Err(SpiffeIdError::TooLong);
        }
        let rest = uri.strip_prefix(SCHEME).ok_or(SpiffeIdError::Scheme)?;
        let (domain, path) = match rest.find('/') {
            Some(slash) => rest.split_at(slash),
            None => (rest, ""),
        };
        check_trust_domain(domain)?;
        let names = path.strip_prefix(NAMESPACE).ok_or(SpiffeIdError::Shape)?;
        let (namespace, account) = names.split_once('/').ok_or(SpiffeIdError::Shape)?;
        let account = account
            .strip_prefix(&SERVICE_ACCOUNT[1..])
            .ok_or(SpiffeIdError::Shape)?;
        if account.contains('/') {
            return Err(SpiffeIdError::Shape);
        }
        check_segment(namespace)?;
        check_segment(account)?;
        let trust_domain_end = SCHEME.len() + domain.len();
        Ok(Self {
            uri: uri.into(),
            trust_domain_end,
            namespace_end: trust_domain_end + NAMESPACE.len() + namespace.len(),
        })
    }
}

fn check_trust_domain(text: &str) -> Result<(), TrustDomainError> {
    let allowed = |c: &char| matches!(c, 'a'..='z' | '0'..='9' | '.' | '-' | '_');
    match text.chars().find(|c| !allowed(c)) {
        Some(character) => Err(TrustDomainError::Character(character)),
        None if text.is_empty() => Err(TrustDomainError::Empty),
        None if text.len() > MAX_TRUST_DOMAIN => Err(TrustDomainError::TooLong),
        None => Ok(()),
    }
}

fn check_segment(text: &str) -> Result<(), SpiffeIdError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    if text.is_empty() || text == "." || text == ".." || !text.bytes().all(allowed) {
        return Err(SpiffeIdError::Segment(text.to_owned()));
    }
    Ok(())
}

impl PartialEq for SpiffeId {
    fn eq(&self, other: &Self) -> bool {
        self.uri == other.uri
    }
}

impl Eq for SpiffeId {}

impl std::hash::Hash for SpiffeId {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.uri.hash(state);
    }
}

impl PartialOrd for SpiffeId {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for SpiffeId {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.uri.cmp(&other.uri)
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for SpiffeId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.uri)
    }
}

impl<'de> Deserialize<'de> for SpiffeId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

impl Serialize for TrustDomain {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for TrustDomain {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests;
