//! Which tokens a workload takes from the senders of requests: Istio's RequestAuthentication.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{ObjectKey, Target};

/// A RequestAuthentication. It says which tokens are good; whether a request needs one, AuthorizationPolicies say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestAuthentication {
    /// Its name. In the mesh's root namespace it concerns the whole mesh, elsewhere its namespace.
    pub key: ObjectKey,
    /// Which workloads of its scope it concerns.
    pub target: Target,
    /// The issuers whose tokens are taken.
    pub rules: Vec<JwtRule>,
}

/// Tokens of one issuer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JwtRule {
    /// The claim `iss` of its tokens, exactly. Not empty.
    pub issuer: String,
    /// A token must be meant for one of these; for anybody if there are none.
    pub audiences: Vec<String>,
    /// What its tokens are verified with.
    pub keys: JwtKeys,
    /// Where tokens are looked for.
    pub places: Vec<TokenPlace>,
    /// The header that tells the application the claims.
    pub payload_header: Option<String>,
    /// Headers that tell the application single claims.
    pub claim_headers: Vec<ClaimHeader>,
    /// What becomes of the token.
    pub original: OriginalToken,
    /// How long a fetch of keys may take.
    pub timeout: Duration,
}

/// The public keys of an issuer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum JwtKeys {
    /// A JSON Web Key Set, as text.
    Inline(String),
    /// Where to fetch one: an `http` or `https` URL.
    Url(String),
}

/// Where a token may stand in a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum TokenPlace {
    /// In a header of this name (in lower case), behind this prefix.
    Header(String, String),
    /// In a query parameter.
    Parameter(String),
    /// In a cookie.
    Cookie(String),
}

/// A header made of a claim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimHeader {
    /// Its name, in lower case.
    pub header: String,
    /// The claim, from the outermost name inwards.
    pub claim: Vec<String>,
}

/// What becomes of the token of a request that goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum OriginalToken {
    /// It is taken out.
    Removed,
    /// The application gets it.
    Forwarded,
}
