//! What the headers of a head say about the message and its connection: framing, keep-alive, upgrade, host.
//!
//! [`super::head`] shows each header once, in order; the judgement follows when all were seen.
//!
//! Invariant: framing is judged from all `Content-Length` and `Transfer-Encoding` headers at once; the first does not win.

use http::header::{self, HeaderName};
use http::{HeaderValue, Version};

use super::target::{self, Port};
use super::{Expect, Framing, KeepAlive, ReadError, Switch};

/// Gathered from the headers.
#[derive(Debug, Default)]
pub(super) struct Facts {
    length: Length,
    coding: Coding,
    hosts: usize,
    host_is_bad: bool,
    says_close: bool,
    says_keep_alive: bool,
    lists_upgrade: bool,
    upgrade: Option<HeaderValue>,
    waits: bool,
}

#[derive(Debug, Default, Clone, Copy)]
enum Length {
    #[default]
    Absent,
    Is(u64),
    Many,
    Bad,
}

#[derive(Debug, Default, Clone, Copy)]
enum Coding {
    #[default]
    Absent,
    Chunked,
    /// `gzip, chunked`: well-formed, not spoken here.
    Unknown,
    Bad,
}

/// The body that the headers declare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Declared {
    Nothing,
    Length(u64),
    Chunked,
}

impl Facts {
    /// Takes note of one header.
    pub(super) fn note(&mut self, name: &HeaderName, value: &HeaderValue) {
        if *name == header::CONTENT_LENGTH {
            self.length = match self.length {
                Length::Absent => parse_length(value.as_bytes()),
                _ => Length::Many,
            };
        } else if *name == header::TRANSFER_ENCODING {
            self.coding = match self.coding {
                Coding::Absent => parse_coding(value.as_bytes()),
                _ => Coding::Bad,
            };
        } else if *name == header::HOST {
            self.hosts += 1;
            self.host_is_bad |= !target::is_host(value.as_bytes(), Port::Optional);
        } else if *name == header::CONNECTION {
            for token in tokens(value.as_bytes()) {
                self.says_close |= token.eq_ignore_ascii_case(b"close");
                self.says_keep_alive |= token.eq_ignore_ascii_case(b"keep-alive");
                self.lists_upgrade |= token.eq_ignore_ascii_case(b"upgrade");
            }
        } else if *name == header::UPGRADE {
            self.upgrade.get_or_insert_with(|| value.clone());
        } else if *name == header::EXPECT {
            self.waits |= value.as_bytes().eq_ignore_ascii_case(b"100-continue");
        }
    }

    /// The body that is declared.
    pub(super) fn declared(&self, version: Version) -> Result<Declared, ReadError> {
        match (self.coding, self.length) {
            (Coding::Absent, Length::Absent) => Ok(Declared::Nothing),
            (Coding::Absent, Length::Is(length)) => Ok(Declared::Length(length)),
            (Coding::Absent, Length::Many) => Err(ReadError::ManyLengths),
            (Coding::Absent, Length::Bad) => Err(ReadError::BadLength),
            (_, Length::Is(_) | Length::Many | Length::Bad) => Err(ReadError::LengthAndChunked),
            (_, Length::Absent) if version == Version::HTTP_10 => Err(ReadError::ChunkedInHttp10),
            (Coding::Chunked, Length::Absent) => Ok(Declared::Chunked),
            (Coding::Unknown, Length::Absent) => Err(ReadError::UnknownTransferEncoding),
            (Coding::Bad, Length::Absent) => Err(ReadError::BadTransferEncoding),
        }
    }

    /// Checks `Host` of a request.
    pub(super) fn check_host(&self, version: Version) -> Result<(), ReadError> {
        match self.hosts {
            0 if version == Version::HTTP_10 => Ok(()),
            0 => Err(ReadError::NoHost),
            1 if self.host_is_bad => Err(ReadError::BadHost),
            1 => Ok(()),
            _ => Err(ReadError::ManyHosts),
        }
    }

    /// What is said about the connection (RFC 9112 9.3).
    pub(super) fn keep_alive(&self, version: Version) -> KeepAlive {
        if self.says_close || (version == Version::HTTP_10 && !self.says_keep_alive) {
            KeepAlive::Close
        } else {
            KeepAlive::Keep
        }
    }

    /// The wish or the agreement to another protocol. HTTP/2 in clear text is not agreed on this way: its bytes would pass by the
    /// routes and policies of requests.
    pub(super) fn upgrade(&self, version: Version) -> Switch {
        match &self.upgrade {
            Some(value)
                if self.lists_upgrade
                    && version == Version::HTTP_11
                    && !value.is_empty()
                    && !tokens(value.as_bytes()).any(|token| token.eq_ignore_ascii_case(b"h2c")) =>
            {
                Switch::Upgrade(value.clone())
            }
            _ => Switch::Stay,
        }
    }

    /// Whether the client waits before it sends its body. Nobody waits in HTTP/1.0, or with nothing to send.
    pub(super) fn expect(&self, version: Version, body: Framing) -> Expect {
        match body {
            Framing::None | Framing::Length(0) => Expect::Nothing,
            _ if self.waits && version == Version::HTTP_11 => Expect::Continue,
            _ => Expect::Nothing,
        }
    }
}

/// The elements of a list header, without the white space around them.
pub(super) fn tokens(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|byte| *byte == b',')
        .map(trim)
        .filter(|token| !token.is_empty())
}

/// Without the spaces and tabs around it: other white space is no white space in HTTP.
fn trim(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = text {
        text = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

fn parse_length(text: &[u8]) -> Length {
    if text.contains(&b',') {
        return Length::Many;
    }
    if text.is_empty() {
        return Length::Bad;
    }
    text.iter()
        .try_fold(0u64, |number, byte| match byte {
            b'0'..=b'9' => number.checked_mul(10)?.checked_add(u64::from(byte - b'0')),
            _ => None,
        })
        .map_or(Length::Bad, Length::Is)
}

fn parse_coding(text: &[u8]) -> Coding {
    if text.eq_ignore_ascii_case(b"chunked") {
        return Coding::Chunked;
    }
    let mut codings: Vec<&[u8]> = text.split(|byte| *byte == b',').map(trim).collect();
    let is_final = codings
        .pop()
        .is_some_and(|last| last.eq_ignore_ascii_case(b"chunked"));
    let are_known = codings.iter().all(|coding| {
        ["gzip", "x-gzip", "deflate", "compress", "x-compress"]
            .iter()
            .any(|known| coding.eq_ignore_ascii_case(known.as_bytes()))
    });
    match is_final && are_known {
        true => Coding::Unknown,
        false => Coding::Bad,
    }
}
