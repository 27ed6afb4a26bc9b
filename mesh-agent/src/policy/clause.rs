//! One field of a rule, compiled: what it looks at, and what it wants to see there.

use std::borrow::Cow;
use std::fmt;

use mesh_common::model::ObjectKey;

use super::facts::{Peer, Subject};
use super::networks::NetworkSet;
use super::request::RequestTest;
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
    /// It asks about the token, and the request has none.
    NoToken,
    /// It asks for the token's principal, and the token lacks an issuer or a subject.
    NoRequestPrincipal,
    /// It asks for a header that the request does not have.
    NoHeader,
    /// It asks about a request, and there is none yet.
    NoRequestYet,
    /// It asks for a header of a request that is on its way, of which none was kept.
    HeaderNotKept,
}

/// One field of a rule.
#[derive(Debug)]
pub(super) struct Clause {
    pub(super) field: Field,
    pub(super) sense: Sense,
    pub(super) test: Test,
    pub(super) effect: Effect,
}

/// What a match with the values means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sense {
    Wanted,
    Excluded,
}

/// What a match of the rule leads to. Whatever is in doubt counts against the caller: it keeps a rule of the first
/// kind from matching, and makes one of the second kind match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// The rule allows.
    Permit,
    /// The rule refuses or reports.
    Object,
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
    Request(RequestTest),
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Address {
    Source,
    Remote,
    Destination,
}

impl Clause {
    /// Whether the field holds.
    pub(super) fn check(&self, subject: Subject<'_, '_>) -> Result<(), Why> {
        let facts = subject.connection();
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
            Test::Request(test) => match (subject, self.effect) {
                (Subject::Request(request), effect) => match test.guessed(request, effect) {
                    Some(guessed) => return guessed,
                    None => test.listed(request, self.sense, effect),
                },
                // Dropped; a rule that allows with such a field was left out before.
                (Subject::Connection(_), _) => return Ok(()),
                // What is refused already must be so for every request, so each is thought of at its best.
                (Subject::Requests(_), Effect::Permit) => return Ok(()),
                (Subject::Requests(_), Effect::Object) => return Err(Why::NoRequestYet),
            },
        };
        match (self.sense, listed) {
            (Sense::Wanted, Ok(true)) | (Sense::Excluded, Ok(false)) => Ok(()),
            (Sense::Wanted, Ok(false)) => Err(Why::NotListed),
            (Sense::Excluded, Ok(true)) => Err(Why::Excluded),
            (Sense::Wanted, Err(absent)) => Err(absent),
            (Sense::Excluded, Err(unproved))
                if self.effect == Effect::Permit && unproved.is_about_the_caller() =>
            {
                Err(unproved)
            }
            (Sense::Excluded, Err(_)) => Ok(()),
        }
    }
}

impl Why {
    /// Whether what is missing would have said who calls. To have no server name or header is no secret: a field that
    /// excludes values holds then.
    fn is_about_the_caller(self) -> bool {
        matches!(self, Self::NoIdentity | Self::NoToken | Self::NoRequestPrincipal)
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
            Self::NoToken => "the request has no token",
            Self::NoRequestPrincipal => "the token lacks an issuer or a subject",
            Self::NoHeader => "the request has no such header",
            Self::NoRequestYet => "it depends on the request",
            Self::HeaderNotKept => "it depends on headers that were not kept",
        })
    }
}
