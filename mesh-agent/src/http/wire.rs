//! What agents tell each other about a request, in headers of its own, and what is not let through from applications.
//!
//! The source's agent calls [`clean`] and then [`Told::write`] before a request enters a tunnel; the destination's calls
//! [`Told::take`] on what comes out of one.
//!
//! Invariant: a header whose name begins with `nodemesh-` was written by an agent; no application sends or sees one, but
//! for `nodemesh-error` in answers.

use std::net::SocketAddr;

use http::{HeaderMap, HeaderName, HeaderValue, Method, request};

use super::{
    h1::{Framing, Switch, hop_by_hop},
    streams::is_empty,
};

/// All headers of the mesh begin so.
const OURS: &str = "nodemesh-";
/// The version that the client spoke: `1`, or absent for HTTP/2.
static SPOKEN: HeaderName = HeaderName::from_static("nodemesh-version");
/// The client's address and port.
static CLIENT: HeaderName = HeaderName::from_static("nodemesh-client");
/// In a 200 to an extended CONNECT: the application agreed to leave HTTP, for the protocol named.
static SWITCHED: HeaderName = HeaderName::from_static("nodemesh-switched");
/// Envoy's account of the client's certificate; whoever believes it must not get it from just anybody.
static FORWARDED_CERTIFICATE: HeaderName = HeaderName::from_static("x-forwarded-client-cert");

/// The version of HTTP that a client speaks, and in which the server is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Spoken {
    /// HTTP/1.0 or 1.1.
    Http1,
    /// HTTP/2.
    Http2,
}

/// What the source's agent tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// What the client speaks.
    pub spoken: Spoken,
    /// The client, as its own agent sees it.
    pub client: Option<SocketAddr>,
}

impl Told {
    /// Writes what is told. `client` is from [`client_value`].
    pub fn write(headers: &mut HeaderMap, spoken: Spoken, client: &HeaderValue) {
        if spoken == Spoken::Http1 {
            headers.insert(SPOKEN.clone(), HeaderValue::from_static("1"));
        }
        headers.insert(CLIENT.clone(), client.clone());
    }

    /// Takes out what was told.
    pub fn take(headers: &mut HeaderMap) -> Self {
        let spoken = match headers.remove(&SPOKEN) {
            Some(_) => Spoken::Http1,
            None => Spoken::Http2,
        };
        let client = headers
            .remove(&CLIENT)
            .and_then(|value| value.to_str().ok()?.parse().ok());
        Self { spoken, client }
    }
}

/// A client's address as [`Told::write`] takes it. Written once a connection; HPACK keeps it out of its table, which is
/// for values that requests of several clients share.
pub fn client_value(client: SocketAddr) -> HeaderValue {
    let mut value =
        HeaderValue::try_from(client.to_string()).unwrap_or_else(|_| HeaderValue::from_static(""));
    value.set_sensitive(true);
    value
}

/// Takes from a request that came over HTTP/1 what belongs to its connection, and what only agents say. Returns what goes on of
/// its wish to leave HTTP: a body, and what is not a GET, cannot be carried into another protocol, and every server may pass
/// over such a wish (RFC 9110 7.8).
pub fn receive(parts: &mut request::Parts, wish: Switch, body: Framing) -> Switch {
    let switch = match wish {
        Switch::Upgrade(_) if parts.method != Method::GET || !is_empty(body) => Switch::Stay,
        other => other,
    };
    hop_by_hop::strip(&mut parts.headers, &switch);
    clean(&mut parts.headers);
    switch
}

/// Removes from an application's headers what only agents may say, and what some servers take for that or for framing: to them
/// `_` and `-` are the same.
pub fn clean(headers: &mut HeaderMap) {
    headers.remove(&FORWARDED_CERTIFICATE);
    while let Some(name) = headers.keys().find(|name| must_go(name.as_str())) {
        let name = name.clone();
        headers.remove(name);
    }
}

fn must_go(name: &str) -> bool {
    if name.starts_with(OURS) {
        return true;
    }
    if !name.contains('_') {
        return false;
    }
    let alike = name.replace('_', "-");
    alike.starts_with(OURS)
        || alike == FORWARDED_CERTIFICATE.as_str()
        || ["transfer-encoding", "content-length"].contains(&&*alike)
}

/// Says in an answer to an extended CONNECT that the application switched to `protocol`.
pub fn write_switched(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(SWITCHED.clone(), protocol);
}

/// What the application switched to, if it did.
pub fn take_switched(headers: &mut HeaderMap) -> Option<HeaderValue> {
    headers.remove(&SWITCHED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_understand_each_other() {
        for spoken in [Spoken::Http1, Spoken::Http2] {
            let client: SocketAddr = "[fd00::1]:4711".parse().unwrap();
            let mut headers = HeaderMap::new();
            headers.insert("accept", HeaderValue::from_static("*/*"));
            Told::write(&mut headers, spoken, &client_value(client));
            let told = Told::take(&mut headers);
            assert_eq!(
                told,
                Told {
                    spoken,
                    client: Some(client)
                }
            );
            assert_eq!(headers.len(), 1);
        }
    }

    #[test]
    fn applications_cannot_speak_for_agents() {
        let mut headers = HeaderMap::new();
        for name in [
            "nodemesh-client",
            "nodemesh-error",
            "nodemesh-anything",
            "x-forwarded-client-cert",
            "x-nodemesh",
            "host",
        ] {
            headers.append(name, HeaderValue::from_static("1"));
            headers.append(name, HeaderValue::from_static("2"));
        }
        clean(&mut headers);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["host", "x-nodemesh"]);
    }
}
