//! Whether a token is good by a rule: its signature, issuer, audience and time.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderName, HeaderValue};
use jsonwebtoken::{Algorithm, crypto, dangerous, decode_header};
use mesh_common::model::JwtRule;
use serde_json::{Map, Value};
use thiserror::Error;

use super::keys::KeySet;
use super::output::OutputHeaders;
use crate::policy::token::Token;

/// How far clocks may differ.
const LEEWAY: Duration = Duration::from_secs(60);
/// The longest token that is looked at, in bytes.
const MAX_LENGTH: usize = 16 * 1024;
/// How many keys are tried for a token that names none.
const MAX_TRIES: usize = 8;

/// What is wrong with a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum TokenFault {
    #[error("the token is longer than {MAX_LENGTH} bytes")]
    TooLong,
    #[error("the token is not a JSON Web Token")]
    Malformed,
    #[error("the token's algorithm is not one for public keys")]
    Algorithm,
    #[error("the token has critical header fields, of which none is known here")]
    Critical,
    #[error("the token's issuer is none of those that are taken here")]
    Issuer,
    #[error("the token's key is not one of its issuer")]
    Key,
    #[error("the token's signature is wrong")]
    Signature,
    #[error("the token has expired")]
    Expired,
    #[error("the token is not valid yet")]
    NotYet,
    #[error("the token's times are not numbers")]
    Times,
    #[error("the token is not meant for this audience")]
    Audience,
    #[error("the request has several different tokens")]
    Several,
}

/// A good token.
#[derive(Debug)]
pub struct Verified {
    /// What it says.
    pub token: Token,
    /// The headers that tell the application about it.
    pub(super) outputs: Vec<(HeaderName, HeaderValue)>,
    expires: Option<SystemTime>,
}

/// What a token says, before anything of it is believed.
pub(super) struct Claimed {
    algorithm: Algorithm,
    key: Option<String>,
    claims: Map<String, Value>,
}

impl Verified {
    /// Whether it is still good by its time.
    pub(super) fn is_current(&self, now: SystemTime) -> bool {
        self.expires.is_none_or(|expires| now < expires)
    }
}

impl Claimed {
    pub(super) fn read(token: &str) -> Result<Self, TokenFault> {
        if token.len() > MAX_LENGTH {
            return Err(TokenFault::TooLong);
        }
        if token.split('.').count() != 3 {
            return Err(TokenFault::Malformed);
        }
        let header = decode_header(token).map_err(|error| match error.kind() {
            // `none` and whatever else is unknown.
            jsonwebtoken::errors::ErrorKind::InvalidAlgorithmName => TokenFault::Algorithm,
            jsonwebtoken::errors::ErrorKind::Json(error) if error.to_string().contains("unknown variant") => {
                TokenFault::Algorithm
            }
            _ => TokenFault::Malformed,
        })?;
        if header.crit.is_some() {
            return Err(TokenFault::Critical);
        }
        Ok(Self {
            algorithm: header.alg,
            key: header.kid,
            claims: dangerous::insecure_decode_claims(token).map_err(|_| TokenFault::Malformed)?,
        })
    }

    pub(super) fn issuer(&self) -> Option<&str> {
        self.claims.get("iss")?.as_str()
    }

    pub(super) fn verify(
        &self,
        token: &str,
        rule: &JwtRule,
        outputs: &OutputHeaders,
        keys: &KeySet,
        now: SystemTime,
    ) -> Result<Verified, TokenFault> {
        let (message, signature) = token.rsplit_once('.').ok_or(TokenFault::Malformed)?;
        if matches!(
            self.algorithm,
            Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512
        ) {
            return Err(TokenFault::Algorithm);
        }
        let mut fitting = keys
            .fitting(self.algorithm, self.key.as_deref())
            .take(MAX_TRIES)
            .peekable();
        fitting.peek().ok_or(TokenFault::Key)?;
        let signed = fitting.any(|key| {
            crypto::verify(signature, message.as_bytes(), &key.key, self.algorithm).unwrap_or(false)
        });
        if !signed {
            return Err(TokenFault::Signature);
        }
        let expires = self.time("exp")?;
        if expires.is_some_and(|expires| now >= expires + LEEWAY) {
            return Err(TokenFault::Expired);
        }
        if self.time("nbf")?.is_some_and(|start| now + LEEWAY < start) {
            return Err(TokenFault::NotYet);
        }
        let token_for = Token::new(self.claims.clone());
        let meant = |audience: &str| rule.audiences.iter().any(|own| own == audience);
        if !rule.audiences.is_empty() && !token_for.audiences().any(meant) {
            return Err(TokenFault::Audience);
        }
        let payload = message.rsplit_once('.').map_or("", |(_, payload)| payload);
        Ok(Verified {
            outputs: outputs.values(&token_for, payload),
            token: token_for,
            expires: expires.map(|expires| expires + LEEWAY),
        })
    }

    /// A time in seconds since 1970. One too far away to be told is none.
    fn time(&self, name: &str) -> Result<Option<SystemTime>, TokenFault> {
        let Some(value) = self.claims.get(name) else {
            return Ok(None);
        };
        let seconds = value.as_f64().ok_or(TokenFault::Times)?;
        let since = Duration::try_from_secs_f64(seconds.max(0.0)).map_err(|_| TokenFault::Times)?;
        // Far enough from the end of time to add the leeway.
        match UNIX_EPOCH.checked_add(since.saturating_add(LEEWAY)) {
            Some(_) => Ok(UNIX_EPOCH.checked_add(since)),
            None => Err(TokenFault::Times),
        }
    }
}
