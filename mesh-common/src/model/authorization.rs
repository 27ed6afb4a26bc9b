//! Who may talk to a workload: Istio's AuthorizationPolicy with every field, those of requests included.
//!
//! A policy is an OR of rules; a rule is its sources AND its operations AND its conditions; the entries of sources
//! and of operations are alternatives; the fields of one entry must all hold.
//!
//! Invariant: networks have no bits behind their prefix and no IPv4-mapped form, ports are never 0, principals
//! carry no `spiffe://`, and no text to match is empty.

use std::collections::BTreeMap;
use std::fmt;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::ObjectKey;

/// An AuthorizationPolicy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorizationPolicy {
    /// Its name. In the mesh's root namespace it concerns the whole mesh, elsewhere its namespace.
    pub key: ObjectKey,
    /// What a match means.
    pub action: Action,
    /// Whether it decides or only reports what it would decide.
    pub enforcement: Enforcement,
    /// Which workloads of its scope it concerns.
    pub target: Target,
    /// One of them must match; without any the policy never matches.
    pub rules: Vec<Rule>,
    /// The external authorizer of a [`Action::Custom`] policy.
    pub provider: Option<String>,
}

/// What a policy does with what it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Action {
    /// Lets it pass, and by existing refuses everything that no policy lets pass.
    Allow,
    /// Refuses it.
    Deny,
    /// Reports it.
    Audit,
    /// Leaves it to an external authorizer.
    Custom,
}

/// Whether a policy decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Enforcement {
    /// It decides.
    Enforced,
    /// It is evaluated and reported, never enforced.
    DryRun,
}

/// Which workloads of its scope a policy concerns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Target {
    /// All of them.
    All,
    /// Those with all of these labels, at least one.
    Labels(BTreeMap<String, String>),
    /// Those that one of these services selects.
    Services(Vec<ObjectKey>),
}

/// One way to match. An empty rule matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Who calls, alternatives; anyone when empty.
    pub from: Vec<Source>,
    /// What is asked for, alternatives; anything when empty.
    pub to: Vec<Operation>,
    /// What must hold besides, all of it.
    pub when: Vec<Condition>,
}

/// The values that a field may have, and those that it must not have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Values<T> {
    /// One of these must match, unless there are none.
    pub any: Vec<T>,
    /// None of these may match; `notX` in a policy.
    pub none: Vec<T>,
}

/// Who calls.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// `<trust domain>/ns/<namespace>/sa/<service account>` of the peer.
    pub principals: Values<Pattern>,
    /// `<issuer>/<subject>` of the request's token. HTTP only.
    pub request_principals: Values<Pattern>,
    /// The namespace of the peer.
    pub namespaces: Values<Pattern>,
    /// The service account of the peer in any trust domain.
    pub service_accounts: Values<ObjectKey>,
    /// The address that the connection comes from.
    pub ip_blocks: Values<IpNet>,
    /// The address of the original client, as a trusted proxy tells it.
    pub remote_ip_blocks: Values<IpNet>,
}

/// What is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// The host of the request. HTTP only.
    pub hosts: Values<Pattern>,
    /// The workload's port.
    pub ports: Values<u16>,
    /// The method of the request; `POST` for gRPC. HTTP only.
    pub methods: Values<Pattern>,
    /// The path of the request, for gRPC `/package.Service/Method`. HTTP only.
    pub paths: Values<PathPattern>,
}

/// One more thing that must hold: an entry of `when`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Condition {
    /// `source.ip`
    SourceIp(Values<IpNet>),
    /// `remote.ip`
    RemoteIp(Values<IpNet>),
    /// `source.namespace`
    SourceNamespace(Values<Pattern>),
    /// `source.principal`
    SourcePrincipal(Values<Pattern>),
    /// `source.serviceAccount`
    SourceServiceAccount(Values<ObjectKey>),
    /// `destination.ip`
    DestinationIp(Values<IpNet>),
    /// `destination.port`
    DestinationPort(Values<u16>),
    /// `connection.sni`
    Sni(Values<Pattern>),
    /// Something of the request. HTTP only.
    Request(RequestField, Values<Pattern>),
}

/// What a condition may ask of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RequestField {
    /// `request.headers[name]`
    Header(String),
    /// `request.auth.principal`
    Principal,
    /// `request.auth.audiences`
    Audiences,
    /// `request.auth.presenter`
    Presenter,
    /// `request.auth.claims[a][b]`, from the outermost claim inwards.
    Claim(Vec<String>),
}

/// How a text is matched.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Pattern {
    /// This text.
    Exact(String),
    /// `abc*`
    Prefix(String),
    /// `*abc`
    Suffix(String),
    /// `*`: any text, as long as there is one.
    Present,
}

/// How a path is matched.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PathPattern {
    /// As any text.
    Text(Pattern),
    /// By segment, where `{*}` is one segment and `{**}` any number of them.
    Template(String),
}

impl<T> Values<T> {
    /// Whether the field is not used at all.
    pub fn is_empty(&self) -> bool {
        self.any.is_empty() && self.none.is_empty()
    }
}

impl<T> Default for Values<T> {
    fn default() -> Self {
        Self {
            any: Vec::new(),
            none: Vec::new(),
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Allow => "ALLOW",
            Self::Deny => "DENY",
            Self::Audit => "AUDIT",
            Self::Custom => "CUSTOM",
        })
    }
}

/// As a condition's key is written in a policy.
impl fmt::Display for RequestField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(name) => write!(f, "request.headers[{name}]"),
            Self::Principal => f.write_str("request.auth.principal"),
            Self::Audiences => f.write_str("request.auth.audiences"),
            Self::Presenter => f.write_str("request.auth.presenter"),
            Self::Claim(path) => {
                f.write_str("request.auth.claims")?;
                path.iter().try_for_each(|step| write!(f, "[{step}]"))
            }
        }
    }
}
