//! What was decided about a connection, and why.

use std::fmt;

use mesh_common::model::{AuthorizationPolicy, ObjectKey};

/// Whether a connection may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is delivered.
    Allow,
    /// It is refused.
    Deny,
}

/// A verdict with its reason. Shown as words such as `denied by DENY policy shop/no-db, rule 0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision<'a> {
    /// The reason; it implies the verdict.
    pub reason: Reason<'a>,
}

/// Why a connection is allowed or denied. Rules count from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason<'a> {
    /// Denied: it came in plaintext and the mode of this PeerAuthentication is STRICT.
    Plaintext(Option<&'a ObjectKey>),
    /// Denied: the workload names this policy, and it is not known.
    UnknownPolicy(&'a ObjectKey),
    /// Denied: the CUSTOM policy asks for an external authorizer, and there is none.
    NoAuthorizer(&'a ObjectKey),
    /// Denied: this rule of a DENY policy matches.
    DenyRule(&'a ObjectKey, usize),
    /// Denied: ALLOW policies concern the workload, and none of their rules matches.
    NothingAllows,
    /// Allowed: this rule of an ALLOW policy matches.
    AllowRule(&'a ObjectKey, usize),
    /// Allowed: no ALLOW policy concerns the workload.
    NoAllowPolicy,
}

/// A match with a policy that decides nothing: an AUDIT policy, or any policy in dry run.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    /// The policy.
    pub policy: &'a AuthorizationPolicy,
    /// Its rule that matches, from 0; a CUSTOM policy matches as a whole.
    pub rule: Option<usize>,
}

impl<'a> Decision<'a> {
    /// Whether the connection may be.
    pub fn verdict(&self) -> Verdict {
        match self.reason {
            Reason::AllowRule(..) | Reason::NoAllowPolicy => Verdict::Allow,
            Reason::Plaintext(_)
            | Reason::UnknownPolicy(_)
            | Reason::NoAuthorizer(_)
            | Reason::DenyRule(..)
            | Reason::NothingAllows => Verdict::Deny,
        }
    }

    /// The AuthorizationPolicy or PeerAuthentication that decided, if a single one did.
    pub fn policy(&self) -> Option<&'a ObjectKey> {
        match self.reason {
            Reason::Plaintext(key) => key,
            Reason::UnknownPolicy(key)
            | Reason::NoAuthorizer(key)
            | Reason::DenyRule(key, _)
            | Reason::AllowRule(key, _) => Some(key),
            Reason::NothingAllows | Reason::NoAllowPolicy => None,
        }
    }

    /// The rule that matched, from 0.
    pub fn rule(&self) -> Option<usize> {
        match self.reason {
            Reason::DenyRule(_, rule) | Reason::AllowRule(_, rule) => Some(rule),
            _ => None,
        }
    }
}

impl Verdict {
    /// The verdict in one word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

impl Reason<'_> {
    /// The reason in one word, for metrics and filters.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Plaintext(_) => "plaintext",
            Self::UnknownPolicy(_) => "unknown-policy",
            Self::NoAuthorizer(_) => "no-authorizer",
            Self::DenyRule(..) => "deny-rule",
            Self::NothingAllows => "nothing-allows",
            Self::AllowRule(..) => "allow-rule",
            Self::NoAllowPolicy => "no-allow-policy",
        }
    }

    /// The sentence without its names: what stands before the policy, if one decided, and what after. A rule's number
    /// comes last.
    pub fn words(&self) -> (&'static str, &'static str) {
        match self {
            Self::Plaintext(Some(_)) => ("denied: plaintext, and PeerAuthentication ", " is STRICT"),
            Self::Plaintext(None) => ("denied: plaintext, and the mode is STRICT", ""),
            Self::UnknownPolicy(_) => (
                "denied: the workload names AuthorizationPolicy ",
                ", which is not known",
            ),
            Self::NoAuthorizer(_) => (
                "denied: CUSTOM policy ",
                " asks for external authorization, and there is none",
            ),
            Self::DenyRule(..) => ("denied by DENY policy ", ", rule "),
            Self::NothingAllows => ("denied: no rule of the ALLOW policies matches", ""),
            Self::AllowRule(..) => ("allowed by ALLOW policy ", ", rule "),
            Self::NoAllowPolicy => ("allowed: no ALLOW policy concerns the workload", ""),
        }
    }
}

impl fmt::Display for Decision<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (before, after) = self.reason.words();
        f.write_str(before)?;
        if let Some(key) = self.policy() {
            key.fmt(f)?;
        }
        f.write_str(after)?;
        self.rule().map_or(Ok(()), |rule| rule.fmt(f))
    }
}
