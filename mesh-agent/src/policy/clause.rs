//! One field of a rule, compiled: what it looks at, and what it wants to see there.

use std::borrow::Cow;
use std::fmt;

use mesh_common::model::ObjectKey;

use super::facts::{ConnectionFacts, Peer};
use super::networks::NetworkSet;
use super::text::TextSet;

/// The name of a field as a policy writes it, such as `notPrincipals` or `source.ip`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field(pub(super) Cow<'static, str>);

/// What keeps an entry, and with it perhaps the rule, from matching.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Miss<'a> {
    /// The whole rule: it asks for something of a request, and a TCP connection has none.
    NoRequest(&'a Field),
    /// One entry of one part of the rule, by its first field that does not hold.
    Field {
        /// The part.
        part: Part,
        /// Which entry of it, from 0.
        entry: usize,
        /// The field.
        field: &'a Field,
        /// Why it does not hold.
        why: Why,
    },
}

/// A part of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// `from`, alternatives.
    From,
    /// `to`, alternatives.
    To,
    /// `when`, all of them needed.
    When,
}

/// Why a field does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// None of its values matches.
    NotListed,
    /// One of the values that it excludes matches.
    Excluded,
    /// It asks about the peer, who has proved no identity.
    NoIdentity,
    /// It asks for a server name, and the client sent none.
    NoServerName,
}

/// One field of a rule.
#[derive(Debug)]
pub(super) struct Clause {
    pub(super) field: Field,
    pub(super) sense: Sense,
    pub(super) test: Test,
    pub(super) stranger: Stranger,
}

/// What a match with the values means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sense {
    Wanted,
    Excluded,
}

/// Whether an excluding field about the peer holds for one without identity, who has none of the values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stranger {
    /// In rules that refuse or report.
    Holds,
    /// In rules that allow: not being known is no merit.
    Fails,
}

/// What is compared with which values.
#[derive(Debug)]
pub(super) enum Test {
    Address(Address, NetworkSet),
    /// In order, for binary search.
    Port(Vec<u16>),
    ServerName(TextSet),
    Principal(TextSet),
    Namespace(TextSet),
    ServiceAccount(Vec<ObjectKey>),
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Address {
    Source,
    Remote,
    Destination,
}

impl Clause {
    /// Whether the field holds.
    pub(super) fn check(&self, facts: &ConnectionFacts<'_>) -> Result<(), Why> {
        let about = |peer: &dyn Fn(Peer<'_>) -> bool| match facts.channel.peer() {
            Some(known) => Ok(peer(known)),
            None => Err(Why::NoIdentity),
        };
        let listed = match &self.test {
            Test::Address(address, networks) => Ok(networks.contains(match address {
                Address::Source => facts.source_ip,
                Address::Remote => facts.remote_ip,
                Address::Destination => facts.destination.ip(),
            })),
            Test::Port(ports) => Ok(ports.binary_search(&facts.destination.port()).is_ok()),
            Test::ServerName(names) => match facts.sni {
                Some(name) => Ok(names.matches(&[name])),
                None => Err(Why::NoServerName),
            },
            Test::Principal(names) => about(&|peer| names.matches(&peer.principal())),
            Test::Namespace(names) => about(&|peer| names.matches(&[peer.namespace])),
            Test::ServiceAccount(accounts) => about(&|peer| {
                accounts.iter().any(|account| {
                    *account.namespace == *peer.namespace && *account.name == *peer.service_account
                })
            }),
        };
        match (self.sense, listed) {
            (Sense::Wanted, Ok(true)) | (Sense::Excluded, Ok(false)) => Ok(()),
            (Sense::Wanted, Ok(false)) => Err(Why::NotListed),
            (Sense::Excluded, Ok(true)) => Err(Why::Excluded),
            (Sense::Wanted, Err(absent)) => Err(absent),
            (Sense::Excluded, Err(Why::NoIdentity)) if self.stranger == Stranger::Fails => {
                Err(Why::NoIdentity)
            }
            (Sense::Excluded, Err(_)) => Ok(()),
        }
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Miss<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRequest(field) => write!(f, "{field} is about requests, and this is TCP"),
            Self::Field {
                part,
                entry,
                field,
                why,
            } => write!(f, "{part}[{entry}] {field}: {why}"),
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::From => "from",
            Self::To => "to",
            Self::When => "when",
        })
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotListed => "no value matches",
            Self::Excluded => "an excluded value matches",
            Self::NoIdentity => "the peer has no identity",
            Self::NoServerName => "the client sent no server name",
        })
    }
}
