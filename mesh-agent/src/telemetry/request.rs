//! Requests as they are told of: between whom, and what became of one.
//!
//! Invariant: what a client chose is bounded and escaped before it is kept.

use std::{fmt::Write as _, net::SocketAddr};

use mesh_common::model::{ObjectKey, SpiffeId};

use super::{
    Destination, Direction,
    metrics::{Outcome, Protocol, RequestMeter, Spent},
};

/// Of a path or a host that a client sent, so much is told.
const TOLD: usize = 256;

/// Between whom requests go: shared by those of one workload to one destination.
#[derive(Debug)]
pub struct RequestEnds {
    /// Which way.
    pub direction: Direction,
    /// What the request is for, and the endpoint chosen.
    pub destination: Destination,
    /// The endpoint's address.
    pub upstream: Option<SocketAddr>,
    /// Who the other end proved to be.
    pub peer: Option<SpiffeId>,
    /// Counts requests of HTTP.
    pub http: RequestMeter,
    /// Counts calls of gRPC.
    pub grpc: RequestMeter,
}

/// What became of one request.
#[derive(Clone, Debug)]
pub struct RequestFlow {
    /// Which way it ran.
    pub direction: Direction,
    /// What it was for.
    pub destination: Destination,
    /// The endpoint's address, if one was chosen.
    pub upstream: Option<SocketAddr>,
    /// Who the other end proved to be.
    pub peer: Option<SpiffeId>,
    /// Its method; empty of what was no request.
    pub method: String,
    /// Its path without the query, bounded and escaped.
    pub path: String,
    /// The host that it names, bounded and escaped.
    pub host: String,
    /// The word for why it ended as it did.
    pub word: &'static str,
    /// The policy that denied it, if a single one did.
    pub policy: Option<ObjectKey>,
    /// How it ended.
    pub outcome: Outcome,
    /// What it took.
    pub spent: Spent,
}

impl RequestEnds {
    /// The meter for what is spoken.
    pub fn meter(&self, protocol: Protocol) -> &RequestMeter {
        match protocol {
            Protocol::Grpc => &self.grpc,
            Protocol::Http | Protocol::Tcp => &self.http,
        }
    }
}

/// What a client sent, so that it can be told: printable ASCII without spaces, quotes and backslashes as it is,
/// everything else as `%XX`, and not too much of it.
pub fn escaped(sent: &[u8]) -> String {
    let mut told = String::with_capacity(sent.len().min(TOLD));
    for byte in sent {
        if told.len() >= TOLD {
            told.push('…');
            break;
        }
        match byte {
            b'!'..=b'~' if !matches!(byte, b'"' | b'\'' | b'\\' | b'<' | b'>') => {
                told.push(char::from(*byte))
            }
            // Cannot fail: a String takes everything.
            _ => drop(write!(told, "%{byte:02X}")),
        }
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_chose_cannot_forge_a_line_or_fill_the_memory() {
        assert_eq!(escaped(b"/a%2Fb;c=1"), "/a%2Fb;c=1");
        assert_eq!(escaped(b"/a b\n\x1b[31m\"\\\xff"), "/a%20b%0A%1B[31m%22%5C%FF");
        let long = escaped(&[b'\n'; 100_000]);
        assert!(long.len() <= TOLD + 6 && long.ends_with('…'), "{}", long.len());
    }
}
