//! Tunnels: TCP connections carried as HTTP/2 `CONNECT` streams over one mutually authenticated TLS connection.
//!
//! [`client`] dials a tunnel and opens streams in it, [`pool`] keeps tunnels for one data worker, [`carry`] moves the
//! bytes between a stream and a TCP connection, [`duplex`] gives them to somebody who reads them, [`tuning`] has the bounds; the accepting side stands in `listener`. On
//! the wire this is HBONE's shape (RFC 9113, 8.5): `:authority` is the destination, 200 means joined, anything else
//! says why not. Our agents speak it on the port that is dialled, under a name of their own, others on port 15008: see
//! [`protocol`].
//!
//! Invariant: a stream belongs to the identity of its tunnel, and a tunnel to one source pod and one destination.

pub(crate) mod baggage;
pub mod carry;
pub mod client;
pub mod duplex;
pub(crate) mod keepalive;
pub mod pool;
pub mod protocol;
pub(crate) mod tuning;
mod window;
mod wire;

use std::{io, net::SocketAddr};

use bytes::Bytes;
use h2::SendStream;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

pub(crate) use self::{
    window::{AGAIN, Together, Windows},
    wire::Wire,
};
use super::{Refusal, incoming::Incoming};

/// Why a stream was not joined, in words that the other agent understands: see [`Refusal`].
static REFUSAL: HeaderName = HeaderName::from_static("nodemesh-refusal");

/// The two ways of one stream.
#[derive(Debug)]
pub struct Stream {
    /// Towards the other end of the tunnel.
    pub send: SendStream<Bytes>,
    /// From the other end of the tunnel.
    pub recv: Incoming,
}

/// Says in an answer how the client is to be refused.
pub(crate) fn write_refusal(headers: &mut HeaderMap, refusal: Refusal) {
    let word = match refusal {
        Refusal::Refused => "refused",
        Refusal::HostUnreachable => "host-unreachable",
        Refusal::NetworkUnreachable => "network-unreachable",
        Refusal::Silent => "silent",
    };
    headers.insert(REFUSAL.clone(), HeaderValue::from_static(word));
}

/// How the client is to be refused, as an answer says. Others than our agents only have a status: 400, 401 and 503
/// are refusals, and 504 says that the destination was silent.
pub(crate) fn read_refusal(status: StatusCode, headers: &HeaderMap) -> Refusal {
    match headers.get(&REFUSAL).map(HeaderValue::as_bytes) {
        None if status == StatusCode::GATEWAY_TIMEOUT => Refusal::Silent,
        Some(b"host-unreachable") => Refusal::HostUnreachable,
        Some(b"network-unreachable") => Refusal::NetworkUnreachable,
        Some(b"silent") => Refusal::Silent,
        _ => Refusal::Refused,
    }
}

/// `for="ip:port"` of a `Forwarded` header (RFC 7239): the client as its own agent saw it.
pub(crate) fn write_forwarded(headers: &mut HeaderMap, client: SocketAddr) {
    if let Ok(value) = HeaderValue::from_str(&format!("for=\"{client}\"")) {
        headers.insert(http::header::FORWARDED, value);
    }
}

/// The client that a `Forwarded` header names.
pub(crate) fn read_forwarded(headers: &HeaderMap) -> Option<SocketAddr> {
    let value = headers.get(http::header::FORWARDED)?.to_str().ok()?;
    value
        .split([';', ','])
        .find_map(|pair| pair.trim().strip_prefix("for="))
        .and_then(|client| client.trim_matches('"').parse().ok())
}

/// What a TCP connection of the same fate would say.
fn broken(error: h2::Error) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_survive_the_tunnel() {
        for refusal in [
            Refusal::Refused,
            Refusal::HostUnreachable,
            Refusal::NetworkUnreachable,
            Refusal::Silent,
        ] {
            let mut headers = HeaderMap::new();
            write_refusal(&mut headers, refusal);
            assert_eq!(read_refusal(StatusCode::SERVICE_UNAVAILABLE, &headers), refusal);
        }
    }

    #[test]
    fn a_bare_status_is_a_refusal_unless_it_says_that_time_ran_out() {
        for (status, refusal) in [
            (StatusCode::BAD_REQUEST, Refusal::Refused),
            (StatusCode::UNAUTHORIZED, Refusal::Refused),
            (StatusCode::SERVICE_UNAVAILABLE, Refusal::Refused),
            (StatusCode::GATEWAY_TIMEOUT, Refusal::Silent),
        ] {
            assert_eq!(read_refusal(status, &HeaderMap::new()), refusal, "{status}");
        }
    }

    #[test]
    fn clients_survive_the_tunnel() {
        for client in ["10.0.0.1:4711", "[fd00::1]:65535"] {
            let client: SocketAddr = client.parse().unwrap();
            let mut headers = HeaderMap::new();
            write_forwarded(&mut headers, client);
            assert_eq!(read_forwarded(&headers), Some(client));
        }
        let mut headers = HeaderMap::new();
        headers.insert(
            http::header::FORWARDED,
            HeaderValue::from_static("by=x; for=\"10.0.0.1:1\";host=y"),
        );
        assert_eq!(read_forwarded(&headers), Some("10.0.0.1:1".parse().unwrap()));
        headers.insert(http::header::FORWARDED, HeaderValue::from_static("for=unknown"));
        assert_eq!(read_forwarded(&headers), None);
    }
}
