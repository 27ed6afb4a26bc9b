//! The one place where the host of a request stands.
//!
//! HTTP/2 has two for it, `:authority` and the Host header, and applications differ in which of them they read. The server gives
//! each request that came over HTTP/2 to [`settle`] before anybody looks at it.
//!
//! Invariant: who judges a request, who routes it and who serves it read the same host.

use std::net::SocketAddr;

use http::{
    HeaderValue, Uri, header,
    request::Parts,
    uri::{Authority, Scheme},
};

use super::{
    fault::{Cause, Fault},
    h1::is_host,
    wire::Spoken,
};

/// Leaves one host in a request that came over HTTP/2 (RFC 9113, 8.3.1): that of its target. One whose client speaks HTTP/1 may have it in
/// its header instead.
///
/// # Errors
/// What makes the request malformed: several hosts, or one that is none.
pub(super) fn settle(parts: &mut Parts, spoken: Spoken) -> Result<(), Fault> {
    let bad = |reason: &'static str| Err(Fault::new(Cause::BadRequest, reason));
    let mut named = parts.headers.get_all(header::HOST).iter();
    let (host, another) = (named.next(), named.next());
    if another.is_some() {
        return bad("more than one Host header");
    }
    match (parts.uri.authority(), host) {
        (Some(authority), _) if !is_host(authority.as_str().as_bytes()) => bad(":authority is no host"),
        (_, Some(host)) if !is_host(host.as_bytes()) => bad("the Host header is no host"),
        (Some(authority), Some(host)) => {
            if !authority
                .as_str()
                .as_bytes()
                .eq_ignore_ascii_case(host.as_bytes())
            {
                return bad(":authority and the Host header name different hosts");
            }
            parts.headers.remove(header::HOST);
            Ok(())
        }
        (None, Some(host)) if spoken == Spoken::Http2 => {
            let host = host.clone();
            parts.headers.remove(header::HOST);
            into_target(parts, host.as_bytes())
        }
        (None, Some(_)) | (_, None) => Ok(()),
    }
}

/// Gives `host` to a request that names none: where it belongs in the version that goes on being spoken.
///
/// # Errors
/// That it is no host after all.
pub fn name(parts: &mut Parts, spoken: Spoken, host: SocketAddr) -> Result<(), Fault> {
    if parts.uri.authority().is_some() || parts.headers.contains_key(header::HOST) {
        return Ok(());
    }
    let host = host.to_string();
    match spoken {
        Spoken::Http2 => into_target(parts, host.as_bytes()),
        Spoken::Http1 => {
            let host = HeaderValue::try_from(host)
                .map_err(|_| Fault::new(Cause::Internal, "an address that is no host"))?;
            parts.headers.insert(header::HOST, host);
            Ok(())
        }
    }
}

/// Makes `host` the authority of a target that has none.
pub(super) fn into_target(parts: &mut Parts, host: &[u8]) -> Result<(), Fault> {
    let bad = |reason: &'static str| Fault::new(Cause::BadRequest, reason);
    let mut uri = parts.uri.clone().into_parts();
    uri.scheme.get_or_insert(Scheme::HTTP);
    uri.authority = Some(Authority::try_from(host).map_err(|_| bad("the Host header is malformed"))?);
    parts.uri = Uri::from_parts(uri).map_err(|_| bad("the request target is malformed"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(uri: &str, hosts: &[&str]) -> Parts {
        let mut request = http::Request::builder().uri(uri);
        for host in hosts {
            request = request.header(header::HOST, *host);
        }
        request.body(()).unwrap().into_parts().0
    }

    /// The target and the Host header that are left; `None` when the request is refused.
    fn settled(spoken: Spoken, uri: &str, hosts: &[&str]) -> Option<(String, Option<String>)> {
        let mut parts = parts(uri, hosts);
        match settle(&mut parts, spoken) {
            Ok(()) => {
                let host = parts.headers.get(header::HOST);
                let host = host.map(|host| host.to_str().unwrap().to_owned());
                Some((parts.uri.to_string(), host))
            }
            Err(fault) => {
                assert_eq!(fault.cause, Cause::BadRequest);
                None
            }
        }
    }

    #[test]
    fn a_request_has_one_host_or_is_refused() {
        for spoken in [Spoken::Http1, Spoken::Http2] {
            let target = |uri: &str| Some((uri.to_owned(), None));
            assert_eq!(
                settled(spoken, "http://ok.example/x", &[]),
                target("http://ok.example/x")
            );
            let same = settled(spoken, "http://ok.example/x", &["OK.example"]);
            assert_eq!(same, target("http://ok.example/x"));
            for (uri, hosts) in [
                ("http://ok.example/", &["admin.example"][..]),
                ("http://ok.example/", &["ok.example:80"]),
                ("http://ok.example/", &["ok.example", "ok.example"]),
                ("http://ok.example/", &[""]),
                ("http://admin@ok.example/", &[]),
                ("/", &["ok.example", "admin.example"]),
                ("/", &["me@ok.example"]),
                ("/", &["ok.example/admin"]),
            ] {
                assert_eq!(settled(spoken, uri, hosts), None, "{uri} {hosts:?}");
            }
        }
    }

    #[test]
    fn a_host_that_stands_in_the_header_alone_moves_where_its_version_has_it() {
        let target = Some(("http://web:8080/x?y".to_owned(), None));
        assert_eq!(settled(Spoken::Http2, "/x?y", &["web:8080"]), target);
        let header = Some(("/x?y".to_owned(), Some("web:8080".to_owned())));
        assert_eq!(settled(Spoken::Http1, "/x?y", &["web:8080"]), header);
        assert_eq!(settled(Spoken::Http2, "/x", &[]), Some(("/x".to_owned(), None)));
    }

    #[test]
    fn a_request_without_a_host_is_for_the_one_that_is_given() {
        for (spoken, uri, host) in [
            (Spoken::Http2, "http://[fd00::7]:80/x", None),
            (Spoken::Http1, "/x", Some("[fd00::7]:80")),
        ] {
            let mut parts = parts("/x", &[]);
            name(&mut parts, spoken, "[fd00::7]:80".parse().unwrap()).unwrap();
            assert_eq!(parts.uri.to_string(), uri);
            let named = parts.headers.get(header::HOST);
            assert_eq!(named.map(HeaderValue::as_bytes), host.map(str::as_bytes));
            // Once is enough.
            name(&mut parts, spoken, "10.0.0.7:80".parse().unwrap()).unwrap();
            assert_eq!(parts.uri.to_string(), uri);
        }
        let mut asterisk = parts("*", &[]);
        name(&mut asterisk, Spoken::Http2, "10.0.0.7:80".parse().unwrap()).unwrap();
        assert_eq!(asterisk.uri.path(), "*");
    }
}
