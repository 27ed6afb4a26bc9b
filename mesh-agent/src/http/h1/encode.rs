//! Heads, chunk sizes and trailers as bytes.
//!
//! [`super::Writer`] decides what is said; this file says it.
//!
//! Invariant: only checked types go in ([`HeaderName`], [`HeaderValue`], [`Method`], [`Uri`], [`StatusCode`]), so no line can hold another.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode, Uri};

use super::{Target, WriteError, trailers};

/// `GET /path HTTP/1.1`.
pub(super) fn request_line(
    out: &mut Vec<u8>,
    method: &Method,
    uri: &Uri,
    target: Target,
) -> Result<(), WriteError> {
    out.extend_from_slice(method.as_str().as_bytes());
    out.push(b' ');
    match (target, uri.authority()) {
        (Target::Asterisk, _) => out.push(b'*'),
        (Target::Authority, Some(authority)) => out.extend_from_slice(authority.as_str().as_bytes()),
        (Target::Authority, None) => return Err(WriteError::BadHead("CONNECT without an authority")),
        (Target::Absolute, Some(authority)) => {
            out.extend_from_slice(uri.scheme_str().unwrap_or("http").as_bytes());
            out.extend_from_slice(b"://");
            out.extend_from_slice(authority.as_str().as_bytes());
            path(out, uri);
        }
        (Target::Absolute, None) => {
            return Err(WriteError::BadHead("an absolute target without an authority"));
        }
        (Target::Origin, _) => path(out, uri),
    }
    out.extend_from_slice(b" HTTP/1.1\r\n");
    Ok(())
}

/// Always begins with a slash: a path that does not is one of a URI without any.
fn path(out: &mut Vec<u8>, uri: &Uri) {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    if !path.starts_with('/') {
        out.push(b'/');
    }
    out.extend_from_slice(path.as_bytes());
}

/// `HTTP/1.1 200 OK`. The reason is the usual one for the status, or empty.
pub(super) fn status_line(out: &mut Vec<u8>, status: StatusCode) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// All headers but those the writer owns, and `Host`, which comes first in a request.
pub(super) fn headers(out: &mut Vec<u8>, headers: &HeaderMap) {
    for (name, value) in headers {
        if *name != header::CONTENT_LENGTH
            && *name != header::TRANSFER_ENCODING
            && *name != header::CONNECTION
            && *name != header::HOST
        {
            line(out, name, value.as_bytes());
        }
    }
}

/// The trailers that may be sent, and the empty line.
pub(super) fn trailer_lines(out: &mut Vec<u8>, trailers: &HeaderMap) {
    for (name, value) in trailers::allowed(trailers) {
        line(out, name, value.as_bytes());
    }
}

/// `Name: value`, the name in Title-Case.
pub(super) fn line(out: &mut Vec<u8>, name: &HeaderName, value: &[u8]) {
    let start = out.len();
    out.extend_from_slice(name.as_str().as_bytes());
    let mut begins = true;
    for byte in &mut out[start..] {
        if begins {
            byte.make_ascii_uppercase();
        }
        begins = *byte == b'-';
    }
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// `Content-Length: 5`.
pub(super) fn content_length(out: &mut Vec<u8>, length: u64) {
    out.extend_from_slice(b"Content-Length: ");
    let mut digits = [0; 20];
    let mut at = digits.len();
    let mut left = length;
    loop {
        at -= 1;
        digits[at] = b'0' + (left % 10) as u8;
        left /= 10;
        if left == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
    out.extend_from_slice(b"\r\n");
}

/// `1a` and CRLF.
pub(super) fn chunk_size(out: &mut Vec<u8>, size: usize) {
    let mut digits = [0; 16];
    let mut at = digits.len();
    let mut left = size;
    loop {
        at -= 1;
        digits[at] = b"0123456789abcdef"[left & 15];
        left >>= 4;
        if left == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
    out.extend_from_slice(b"\r\n");
}

/// The length of what [`headers`] writes, about.
pub(super) fn room_for(headers: &HeaderMap) -> usize {
    headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 4)
        .sum()
}

/// The only value of a header, if it is a valid length.
pub(super) fn length_in(headers: &HeaderMap) -> Option<u64> {
    let mut values = headers.get_all(header::CONTENT_LENGTH).iter();
    let value: &HeaderValue = values.next()?;
    if values.next().is_some() || !value.as_bytes().iter().all(u8::is_ascii_digit) {
        return None;
    }
    value.to_str().ok()?.parse().ok()
}
