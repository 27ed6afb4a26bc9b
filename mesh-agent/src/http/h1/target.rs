//! Request targets and hosts (RFC 9112 3.2).
//!
//! Invariant: a host that passes has no user, no space and nothing behind its port, so that what routes by it and what receives it
//! read the same name.

use bytes::Bytes;
use http::uri::{PathAndQuery, Scheme};
use http::{Method, Uri};

use super::{ReadError, Target};

/// Reads the target of a request line.
pub(super) fn parse(method: &Method, target: Bytes) -> Result<(Uri, Target), ReadError> {
    if *method == Method::CONNECT {
        return match is_host(&target, Port::Required) {
            true => Ok((uri(target)?, Target::Authority)),
            false => Err(ReadError::BadTarget),
        };
    }
    // A fragment is never sent; the parsers below would drop it in silence.
    if memchr::memchr(b'#', &target).is_some() {
        return Err(ReadError::BadTarget);
    }
    match target.as_ref() {
        // Not as a URI: `//host/path` is a path here.
        [b'/', ..] => {
            let path = PathAndQuery::from_maybe_shared(target).map_err(|_| ReadError::BadTarget)?;
            Ok((Uri::from(path), Target::Origin))
        }
        b"*" if *method == Method::OPTIONS => Ok((uri(target)?, Target::Asterisk)),
        b"*" => Err(ReadError::BadTarget),
        _ => {
            let uri = uri(target)?;
            let is_web = uri
                .scheme()
                .is_some_and(|scheme| *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS);
            let is_hosted = uri
                .authority()
                .is_some_and(|authority| is_host(authority.as_str().as_bytes(), Port::Optional));
            match is_web && is_hosted {
                true => Ok((uri, Target::Absolute)),
                false => Err(ReadError::BadTarget),
            }
        }
    }
}

fn uri(target: Bytes) -> Result<Uri, ReadError> {
    Uri::from_maybe_shared(target).map_err(|_| ReadError::BadTarget)
}

/// Whether a host must say its port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Port {
    /// `host:port`.
    Required,
    /// `host`, `host:` or `host:port`.
    Optional,
}

/// True for a name, an IPv4 address or a bracketed IPv6 address, with a port behind it as asked (RFC 3986 3.2.2 and 3.2.3).
pub(super) fn is_host(text: &[u8], port: Port) -> bool {
    let (name_is_good, rest) = match text {
        [b'[', inside @ ..] => {
            let Some(end) = memchr::memchr(b']', inside) else {
                return false;
            };
            let (address, rest) = inside.split_at(end);
            let is_good = address.len() >= 2
                && address
                    .iter()
                    .all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.'))
                && address.contains(&b':');
            (is_good, &rest[1..])
        }
        _ => {
            let end = memchr::memchr(b':', text).unwrap_or(text.len());
            let (name, rest) = text.split_at(end);
            let is_good = !name.is_empty() && name.iter().all(|byte| is_name_byte(*byte));
            (is_good, rest)
        }
    };
    let port_is_good = match rest {
        [] => port == Port::Optional,
        [b':'] => port == Port::Optional,
        [b':', digits @ ..] => {
            digits.len() <= 5
                && digits.iter().all(u8::is_ascii_digit)
                && digits
                    .iter()
                    .fold(0u32, |number, digit| number * 10 + u32::from(digit - b'0'))
                    <= u32::from(u16::MAX)
        }
        _ => false,
    };
    name_is_good && port_is_good
}

/// RFC 3986: unreserved, sub-delims and the percent sign.
fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'-' | b'.'
                | b'_'
                | b'~'
                | b'%'
                | b'!'
                | b'$'
                | b'&'
                | b'\''
                | b'('
                | b')'
                | b'*'
                | b'+'
                | b','
                | b';'
                | b'='
        )
}
