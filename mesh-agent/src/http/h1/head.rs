//! From the bytes of a complete head to its parts.
//!
//! [`super::Reader`] finds the end of the head and hands over its bytes; values become slices of them, without a copy.
//!
//! Invariant: httparse takes the head apart, and what it lets pass that is not strict was refused before ([`super::scan`]: bare LF) or is
//! refused behind it ([`super::facts`], [`super::target`]).

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};

use super::facts::{Declared, Facts};
use super::{
    Asked, Framing, KeepAlive, Kind, Limits, MOST_HEADERS, ReadError, RequestHead, ResponseHead, Switch,
    Target, Wish, target,
};

/// So many headers are usually added to a message before it goes on; room for them spares growing the map.
const ROOM_FOR_MORE: usize = 4;

/// Reads a request head.
pub(super) fn request(head: &Bytes, limits: &Limits) -> Result<RequestHead, ReadError> {
    let mut slots = [const { MaybeUninit::uninit() }; MOST_HEADERS];
    let mut parsed = httparse::Request::new(&mut []);
    let result = httparse::ParserConfig::default().parse_request_with_uninit_headers(
        &mut parsed,
        head,
        room(&mut slots, limits),
    );
    check(result, head, limits, ReadError::BadRequestLine)?;
    let (Some(method), Some(path), Some(version)) = (parsed.method, parsed.path, parsed.version) else {
        return Err(ReadError::BadRequestLine);
    };
    if path.len() > limits.target_bytes {
        return Err(ReadError::TargetTooLong {
            limit: limits.target_bytes,
        });
    }
    let method = Method::from_bytes(method.as_bytes()).map_err(|_| ReadError::BadRequestLine)?;
    let version = version_of(version);
    let (mut headers, facts) = gather(head, parsed.headers)?;
    facts.check_host(version)?;
    let (uri, form) = target::parse(&method, head.slice_ref(path.as_bytes()))?;
    if form == Target::Absolute
        && let Some(authority) = uri.authority()
    {
        let host = HeaderValue::from_str(authority.as_str()).map_err(|_| ReadError::BadTarget)?;
        headers.insert(header::HOST, host);
    }
    let body = match facts.declared(version)? {
        Declared::Nothing => Framing::None,
        Declared::Length(length) => bounded(length, limits)?,
        Declared::Chunked => Framing::Chunked,
    };
    let switch = if method != Method::CONNECT {
        facts.upgrade(version)
    } else if matches!(body, Framing::None | Framing::Length(0)) {
        Switch::Tunnel
    } else {
        // What follows would be the tunnel's bytes for one reader and a body for another.
        return Err(ReadError::BodyNotAllowed);
    };
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.method = method;
    parts.uri = uri;
    parts.version = version;
    parts.headers = headers;
    Ok(RequestHead {
        parts,
        target: form,
        body,
        keep_alive: facts.keep_alive(version),
        expect: facts.expect(version, body),
        switch,
    })
}

/// Reads a response head.
pub(super) fn response(head: &Bytes, limits: &Limits, asked: Asked) -> Result<ResponseHead, ReadError> {
    let mut slots = [const { MaybeUninit::uninit() }; MOST_HEADERS];
    let mut parsed = httparse::Response::new(&mut []);
    let result = httparse::ParserConfig::default().parse_response_with_uninit_headers(
        &mut parsed,
        head,
        room(&mut slots, limits),
    );
    check(result, head, limits, ReadError::BadStatusLine)?;
    let (Some(code), Some(version)) = (parsed.code, parsed.version) else {
        return Err(ReadError::BadStatusLine);
    };
    let status = StatusCode::from_u16(code).map_err(|_| ReadError::BadStatusLine)?;
    let version = version_of(version);
    let (headers, facts) = gather(head, parsed.headers)?;
    let declared = facts.declared(version)?;
    let switch = match status {
        StatusCode::SWITCHING_PROTOCOLS => match facts.upgrade(version) {
            Switch::Upgrade(to) if asked.upgrade == Wish::Upgrade => Switch::Upgrade(to),
            _ => return Err(ReadError::UnaskedSwitch),
        },
        _ if asked.kind == Kind::Connect && status.is_success() => Switch::Tunnel,
        _ => Switch::Stay,
    };
    let body = if switch != Switch::Stay || status.is_informational() || status == StatusCode::NO_CONTENT {
        match declared {
            Declared::Nothing | Declared::Length(0) => Framing::None,
            Declared::Length(_) | Declared::Chunked => return Err(ReadError::BodyNotAllowed),
        }
    } else if asked.kind == Kind::Head || status == StatusCode::NOT_MODIFIED {
        // The headers say what the body would be; there is none.
        Framing::None
    } else {
        match declared {
            Declared::Nothing => Framing::UntilClose,
            Declared::Length(length) => bounded(length, limits)?,
            Declared::Chunked => Framing::Chunked,
        }
    };
    let keep_alive = match body {
        Framing::UntilClose => KeepAlive::Close,
        _ => facts.keep_alive(version),
    };
    let (mut parts, ()) = Response::new(()).into_parts();
    parts.status = status;
    parts.version = version;
    parts.headers = headers;
    Ok(ResponseHead {
        parts,
        body,
        keep_alive,
        switch,
    })
}

/// Reads header lines that follow no start line, up to and including their empty line.
pub(super) fn lines(
    block: &Bytes,
    limits: &Limits,
    mut each: impl FnMut(HeaderName, HeaderValue),
) -> Result<(), ReadError> {
    let mut slots = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let most = limits.headers.min(MOST_HEADERS);
    match httparse::parse_headers(block, &mut slots[..most]) {
        Ok(httparse::Status::Complete((length, headers))) if length == block.len() => {
            for line in headers {
                let (name, value) = owned(block, line)?;
                each(name, value);
            }
            Ok(())
        }
        Ok(_) => Err(ReadError::BadHeader),
        Err(httparse::Error::TooManyHeaders) => Err(ReadError::TooManyHeaders { limit: most }),
        Err(_) => Err(blame(block, ReadError::BadHeader)),
    }
}

fn room<'s, 'h, 'b>(
    slots: &'s mut [MaybeUninit<httparse::Header<'b>>; MOST_HEADERS],
    limits: &Limits,
) -> &'h mut [MaybeUninit<httparse::Header<'b>>]
where
    's: 'h,
{
    &mut slots[..limits.headers.min(MOST_HEADERS)]
}

fn version_of(minor: u8) -> Version {
    match minor {
        0 => Version::HTTP_10,
        _ => Version::HTTP_11,
    }
}

fn bounded(length: u64, limits: &Limits) -> Result<Framing, ReadError> {
    if length > limits.body_bytes {
        return Err(ReadError::BodyTooLarge {
            limit: limits.body_bytes,
        });
    }
    Ok(Framing::Length(length))
}

fn gather(head: &Bytes, lines: &[httparse::Header<'_>]) -> Result<(HeaderMap, Facts), ReadError> {
    let mut headers = HeaderMap::with_capacity(lines.len() + ROOM_FOR_MORE);
    let mut facts = Facts::default();
    for line in lines {
        let (name, value) = owned(head, line)?;
        facts.note(&name, &value);
        headers.append(name, value);
    }
    Ok((headers, facts))
}

fn owned(head: &Bytes, line: &httparse::Header<'_>) -> Result<(HeaderName, HeaderValue), ReadError> {
    let name = HeaderName::from_bytes(line.name.as_bytes()).map_err(|_| ReadError::BadHeaderName)?;
    let value = HeaderValue::from_maybe_shared(head.slice_ref(line.value))
        .map_err(|_| ReadError::ControlCharacter)?;
    Ok((name, value))
}

/// Turns what httparse says into the rule that was broken.
fn check(
    result: httparse::Result<usize>,
    head: &[u8],
    limits: &Limits,
    bad_start: ReadError,
) -> Result<(), ReadError> {
    match result {
        Ok(httparse::Status::Complete(length)) if length == head.len() => Ok(()),
        // The end of the head was found already: who sees another is not to be followed.
        Ok(_) => Err(ReadError::BadHeader),
        Err(httparse::Error::TooManyHeaders) => Err(ReadError::TooManyHeaders {
            limit: limits.headers.min(MOST_HEADERS),
        }),
        Err(error) => {
            let first = memchr::memchr(b'\n', head).map_or(head.len(), |lf| lf + 1);
            let (start, lines) = head.split_at(first);
            Err(match (error, start, lines) {
                (_, [b' ' | b'\t', ..], _) => ReadError::LeadingSpace,
                _ if let Some(stray) = control(start) => stray,
                (httparse::Error::Version, ..) => ReadError::BadVersion,
                (httparse::Error::HeaderName | httparse::Error::HeaderValue, _, [b' ' | b'\t', ..]) => {
                    ReadError::LeadingSpace
                }
                (httparse::Error::HeaderName | httparse::Error::HeaderValue, _, lines) => {
                    blame(lines, ReadError::BadHeader)
                }
                (httparse::Error::NewLine, _, lines) => blame(lines, bad_start),
                _ => bad_start,
            })
        }
    }
}

/// Finds the first header line that breaks a rule.
fn blame(lines: &[u8], otherwise: ReadError) -> ReadError {
    for line in lines.split_inclusive(|byte| *byte == b'\n') {
        if let Some(error) = control(line) {
            return error;
        }
        let text = line.strip_suffix(b"\r\n").unwrap_or(line);
        if text.is_empty() {
            break;
        }
        if matches!(text, [b' ' | b'\t', ..]) {
            return ReadError::FoldedHeader;
        }
        let Some(colon) = memchr::memchr(b':', text) else {
            return ReadError::BadHeader;
        };
        match &text[..colon] {
            [.., b' ' | b'\t'] => return ReadError::SpaceBeforeColon,
            name if HeaderName::from_bytes(name).is_err() => return ReadError::BadHeaderName,
            _ => {}
        }
    }
    otherwise
}

/// A control character or a stray CR in a line that ends with CRLF.
fn control(line: &[u8]) -> Option<ReadError> {
    let text = line.strip_suffix(b"\r\n").unwrap_or(line);
    text.iter().find_map(|byte| match byte {
        b'\r' => Some(ReadError::BareCr),
        b'\t' => None,
        byte if byte.is_ascii_control() => Some(ReadError::ControlCharacter),
        _ => None,
    })
}
