//! What is known of one connection, and of one request on it, when it must be decided on.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;
use mesh_common::model::SpiffeId;

use super::token::Token;

/// Who the peer is, proved by its certificate or by the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer<'a> {
    /// Its trust domain.
    pub trust_domain: &'a str,
    /// Its namespace.
    pub namespace: &'a str,
    /// Its service account.
    pub service_account: &'a str,
}

impl<'a> From<&'a SpiffeId> for Peer<'a> {
    fn from(id: &'a SpiffeId) -> Self {
        Self {
            trust_domain: id.trust_domain(),
            namespace: id.namespace(),
            service_account: id.service_account(),
        }
    }
}

/// How a connection arrived. There is no identity without a proof, and no mutual TLS without an identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel<'a> {
    /// In the clear, from anyone.
    Plaintext,
    /// By mutual TLS; the certificate names the peer.
    MutualTls(Peer<'a>),
    /// From a workload of this node, without a network between; the kernel names the peer.
    SameNode(Peer<'a>),
}

/// One connection to a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionFacts<'a> {
    /// How it arrived, and from whom.
    pub channel: Channel<'a>,
    /// The address that it comes from.
    pub source_ip: IpAddr,
    /// The address of the original client: the same, unless a trusted proxy tells another one.
    pub remote_ip: IpAddr,
    /// The workload's address and port.
    pub destination: SocketAddr,
    /// The server name of the TLS handshake, if there was one.
    pub sni: Option<&'a str>,
}

/// One request to a workload. It holds nothing of its own: a request is judged where it lies.
#[derive(Clone, Copy, Debug)]
pub struct RequestFacts<'a> {
    /// The connection that it came on.
    pub connection: ConnectionFacts<'a>,
    /// Its method.
    pub method: &'a str,
    /// Its path, as [`normalize`](super::normalize) leaves it.
    pub path: &'a str,
    /// The host that it names, as the client wrote it: in any case, with or without a port.
    pub host: &'a str,
    /// Its headers.
    pub headers: Headers<'a>,
    /// What it says of its sender, proved; `None` when it carries no token, for a bad one is refused before.
    pub token: Option<&'a Token>,
}

/// The headers of a request, or what is to be thought of headers that nobody knows any more.
#[derive(Clone, Copy, Debug)]
pub enum Headers<'a> {
    /// They are known.
    Known(&'a HeaderMap),
    /// They are not, and speak for the request wherever a rule asks about them: what is denied so is denied whatever they were.
    AtBest,
    /// They are not, and speak against it: what is allowed so is allowed whatever they were.
    AtWorst,
}

/// What is judged.
#[derive(Clone, Copy, Debug)]
pub(super) enum Subject<'s, 'f> {
    /// A connection as TCP, whose bytes nobody reads.
    Connection(&'s ConnectionFacts<'f>),
    /// A connection whose requests will be judged one by one, before there is any.
    Requests(&'s ConnectionFacts<'f>),
    /// A request.
    Request(&'s RequestFacts<'f>),
}

/// What kind of [`Subject`] is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Connection,
    Requests,
    Request,
}

impl Kind {
    /// How many there are.
    pub(super) const COUNT: usize = Self::Request as usize + 1;
}

impl<'s, 'f> Subject<'s, 'f> {
    pub(super) fn kind(self) -> Kind {
        match self {
            Self::Connection(_) => Kind::Connection,
            Self::Requests(_) => Kind::Requests,
            Self::Request(_) => Kind::Request,
        }
    }

    pub(super) fn connection(self) -> &'s ConnectionFacts<'f> {
        match self {
            Self::Connection(facts) | Self::Requests(facts) => facts,
            Self::Request(facts) => &facts.connection,
        }
    }
}

impl<'a> Channel<'a> {
    /// The proved identity of the peer.
    pub fn peer(&self) -> Option<Peer<'a>> {
        match self {
            Self::Plaintext => None,
            Self::MutualTls(peer) | Self::SameNode(peer) => Some(*peer),
        }
    }
}

/// As policies write it: `<trust domain>/ns/<namespace>/sa/<service account>`.
impl fmt::Display for Peer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.principal().iter().try_for_each(|piece| f.write_str(piece))
    }
}

impl<'a> Peer<'a> {
    /// The principal in pieces, so that it can be matched without being put together.
    pub(super) fn principal(&self) -> [&'a str; 5] {
        [
            self.trust_domain,
            "/ns/",
            self.namespace,
            "/sa/",
            self.service_account,
        ]
    }
}
