//! The chunked transfer coding (RFC 9112 7.1), one step at a time.
//!
//! [`super::Reader`] gives what it has read and takes data, trailers and the end from it.
//!
//! Invariant: a size is hexadecimal digits and nothing else, each line ends with CRLF, and no line grows without bound.

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;
use memchr::memchr;

use super::scan::Scan;
use super::{Limits, ReadError, trailers};

/// Where in the coding the reader stands.
#[derive(Debug)]
pub(super) struct Chunks {
    at: At,
    /// Bytes of data so far, those of the current chunk included.
    total: u64,
}

/// What came of a step.
#[derive(Debug)]
pub(super) enum Step {
    /// Read more.
    More,
    /// A piece of data, never empty.
    Data(Bytes),
    /// The trailers that were left after filtering, never empty. The body has ended.
    Trailers(HeaderMap),
    /// The body has ended.
    End,
}

#[derive(Debug)]
enum At {
    Size,
    Data(u64),
    DataEnd,
    Trailers(Scan),
    End,
}

impl Chunks {
    pub(super) fn new() -> Self {
        Self {
            at: At::Size,
            total: 0,
        }
    }

    /// Takes as much of `bytes` as makes one step.
    pub(super) fn step(&mut self, bytes: &mut BytesMut, limits: &Limits) -> Result<Step, ReadError> {
        loop {
            match &mut self.at {
                At::Size => {
                    let Some(size) = take_size(bytes, limits.chunk_line_bytes)? else {
                        return Ok(Step::More);
                    };
                    self.total = self.total.checked_add(size).ok_or(ReadError::ChunkSizeOverflow)?;
                    if self.total > limits.body_bytes {
                        return Err(ReadError::BodyTooLarge {
                            limit: limits.body_bytes,
                        });
                    }
                    self.at = match size {
                        0 => At::Trailers(Scan::default()),
                        size => At::Data(size),
                    };
                }
                At::Data(left) => {
                    if bytes.is_empty() {
                        return Ok(Step::More);
                    }
                    let data = super::read::take(bytes, *left);
                    *left -= data.len() as u64;
                    if *left == 0 {
                        self.at = At::DataEnd;
                    }
                    return Ok(Step::Data(data));
                }
                At::DataEnd => match bytes.as_ref() {
                    [b'\r', b'\n', ..] => {
                        bytes.advance(2);
                        self.at = At::Size;
                    }
                    [] | [b'\r'] => return Ok(Step::More),
                    _ => return Err(ReadError::BadChunkEnd),
                },
                At::Trailers(scan) => {
                    let visible = &bytes[..bytes.len().min(limits.trailer_bytes)];
                    let Some(end) = scan.end(visible)? else {
                        if bytes.len() >= limits.trailer_bytes {
                            return Err(ReadError::TrailersTooLarge);
                        }
                        return Ok(Step::More);
                    };
                    self.at = At::End;
                    if end == 2 {
                        bytes.advance(2);
                        return Ok(Step::End);
                    }
                    let block = bytes.split_to(end).freeze();
                    let trailers = trailers::parse(&block, limits).map_err(|error| match error {
                        ReadError::TooManyHeaders { .. } => ReadError::TrailersTooLarge,
                        other => other,
                    })?;
                    if trailers.is_empty() {
                        return Ok(Step::End);
                    }
                    return Ok(Step::Trailers(trailers));
                }
                At::End => return Ok(Step::End),
            }
        }
    }
}

/// Takes the line with the size of the next chunk, once it is complete.
fn take_size(bytes: &mut BytesMut, limit: usize) -> Result<Option<u64>, ReadError> {
    let visible = &bytes[..bytes.len().min(limit)];
    let Some(lf) = memchr(b'\n', visible) else {
        if bytes.len() >= limit {
            return Err(ReadError::ChunkLineTooLong { limit });
        }
        return Ok(None);
    };
    let line = visible[..lf].strip_suffix(b"\r").ok_or(ReadError::BareLf)?;
    let size = parse_size(line)?;
    bytes.advance(lf + 1);
    Ok(Some(size))
}

/// Reads `1a2B`, or `1a2B;extension`: extensions are checked for control characters and ignored.
fn parse_size(line: &[u8]) -> Result<u64, ReadError> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (digits, rest) = line.split_at(digits);
    if digits.is_empty() {
        return Err(ReadError::BadChunkSize);
    }
    // As many as fit 64 bits: with leading zeros beyond that, implementations differ.
    if digits.len() > 16 {
        return Err(ReadError::ChunkSizeOverflow);
    }
    if memchr(b'\r', rest).is_some() {
        return Err(ReadError::BareCr);
    }
    // White space is allowed before the semicolon, not instead of it.
    match rest.trim_ascii_start() {
        [] if rest.is_empty() => {}
        [b';', ..] => {}
        _ => return Err(ReadError::BadChunkSize),
    }
    if rest.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
        return Err(ReadError::ControlCharacter);
    }
    Ok(digits
        .iter()
        .fold(0, |size, digit| size << 4 | u64::from(hex_value(*digit))))
}

fn hex_value(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}
