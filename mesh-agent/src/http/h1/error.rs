//! Why a message is refused, and how each refusal is answered and counted.
//!
//! Invariant: one variant per cause, so that a refusal in the log names the rule that was broken.

use std::io;

use http::StatusCode;

/// Why no message, or no more of it, can be read. The connection must be closed (after an answer, if one is possible).
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Reading failed.
    #[error("cannot read from the peer: {0}")]
    Io(#[from] io::Error),
    /// The connection ended within a head.
    #[error("the peer closed the connection within a head")]
    ClosedInHead,
    /// The connection ended where a response was due. Nothing of it was received.
    #[error("the peer closed the connection before it answered")]
    ClosedBeforeHead,
    /// The connection ended within a body.
    #[error("the peer closed the connection within a body")]
    ClosedInBody,
    /// The caller's clock ran out. Never made by the reader.
    #[error("the message did not arrive in time")]
    Timeout,
    /// The next head was asked for before the body was read, or after the connection failed or left HTTP.
    #[error("the connection is not at the beginning of a message")]
    OutOfTurn,

    /// The head is longer than `Limits::head_bytes`.
    #[error("the head is longer than {limit} bytes")]
    HeadTooLarge {
        /// The limit.
        limit: usize,
    },
    /// More headers than `Limits::headers`.
    #[error("there are more than {limit} headers")]
    TooManyHeaders {
        /// The limit.
        limit: usize,
    },
    /// The target is longer than `Limits::target_bytes`.
    #[error("the request target is longer than {limit} bytes")]
    TargetTooLong {
        /// The limit.
        limit: usize,
    },
    /// The body is longer than `Limits::body_bytes`.
    #[error("the body is longer than {limit} bytes")]
    BodyTooLarge {
        /// The limit.
        limit: u64,
    },

    /// A line ends with LF alone.
    #[error("a line ends without CR")]
    BareLf,
    /// A CR is not followed by LF.
    #[error("a CR is not followed by LF")]
    BareCr,
    /// NUL or another control character; in trailers and chunk extensions as well.
    #[error("there is a control character in the head")]
    ControlCharacter,
    /// A header continues on a second line (RFC 9112 5.2).
    #[error("a header is folded over two lines")]
    FoldedHeader,
    /// White space between a header's name and its colon (RFC 9112 5.1).
    #[error("there is white space before a colon")]
    SpaceBeforeColon,
    /// White space before the first header, or an empty line too many before a request.
    #[error("the head begins with white space")]
    LeadingSpace,
    /// A header's name is empty or no token.
    #[error("a header has no valid name")]
    BadHeaderName,
    /// A header line is not a name, a colon and a value.
    #[error("a header is malformed")]
    BadHeader,
    /// The request line is not method, target and version, each after one space.
    #[error("the request line is malformed")]
    BadRequestLine,
    /// The status line is malformed.
    #[error("the status line is malformed")]
    BadStatusLine,
    /// The version is neither HTTP/1.0 nor HTTP/1.1.
    #[error("the version of HTTP is not spoken here")]
    BadVersion,
    /// The target is malformed, or of a form the method does not allow.
    #[error("the request target is malformed")]
    BadTarget,
    /// An HTTP/1.1 request without `Host`.
    #[error("there is no Host header")]
    NoHost,
    /// More than one `Host`.
    #[error("there is more than one Host header")]
    ManyHosts,
    /// `Host` is no host with an optional port.
    #[error("the Host header is malformed")]
    BadHost,

    /// `Content-Length` and `Transfer-Encoding` together.
    #[error("Content-Length and Transfer-Encoding are both there")]
    LengthAndChunked,
    /// More than one `Content-Length`, or a list in one.
    #[error("there is more than one Content-Length")]
    ManyLengths,
    /// `Content-Length` is not a number of digits below 2^64.
    #[error("the Content-Length is no number")]
    BadLength,
    /// `Transfer-Encoding` is not exactly `chunked`.
    #[error("the Transfer-Encoding is not exactly `chunked`")]
    BadTransferEncoding,
    /// `Transfer-Encoding` names another coding before a final `chunked`, such as gzip.
    #[error("the Transfer-Encoding names a coding besides `chunked`")]
    UnknownTransferEncoding,
    /// `Transfer-Encoding` in HTTP/1.0.
    #[error("there is a Transfer-Encoding in HTTP/1.0")]
    ChunkedInHttp10,
    /// A message that cannot have a body (1xx, 204, CONNECT and its 2xx) declares a transfer coding or a length above 0.
    #[error("a message that cannot have a body declares one")]
    BodyNotAllowed,
    /// 101 to a request that did not ask for it, or without saying what to.
    #[error("the server switched protocols unasked")]
    UnaskedSwitch,

    /// A chunk's size is not hexadecimal digits.
    #[error("a chunk's size is malformed")]
    BadChunkSize,
    /// A chunk's size does not fit 64 bits.
    #[error("a chunk's size is too large")]
    ChunkSizeOverflow,
    /// A chunk's line is longer than `Limits::chunk_line_bytes`.
    #[error("a chunk's extensions are longer than {limit} bytes")]
    ChunkLineTooLong {
        /// The limit.
        limit: usize,
    },
    /// No CRLF after a chunk's bytes.
    #[error("a chunk does not end with CRLF")]
    BadChunkEnd,
    /// The trailers are longer than `Limits::trailer_bytes` or more than `Limits::headers`.
    #[error("the trailers are too large")]
    TrailersTooLarge,
}

impl ReadError {
    /// The status that answers a request refused for this; `None` when nobody is there to read it.
    #[must_use]
    pub fn status(&self) -> Option<StatusCode> {
        Some(match self {
            Self::Io(_)
            | Self::ClosedInHead
            | Self::ClosedBeforeHead
            | Self::ClosedInBody
            | Self::OutOfTurn => {
                return None;
            }
            Self::Timeout => StatusCode::REQUEST_TIMEOUT,
            Self::HeadTooLarge { .. } | Self::TooManyHeaders { .. } | Self::TrailersTooLarge => {
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
            }
            Self::TargetTooLong { .. } => StatusCode::URI_TOO_LONG,
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnknownTransferEncoding => StatusCode::NOT_IMPLEMENTED,
            Self::BadVersion => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            _ => StatusCode::BAD_REQUEST,
        })
    }

    /// The word for it in metrics and logs.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Io(_) => "io",
            Self::ClosedInHead => "closed_in_head",
            Self::ClosedBeforeHead => "closed_before_head",
            Self::ClosedInBody => "closed_in_body",
            Self::Timeout => "timeout",
            Self::OutOfTurn => "out_of_turn",
            Self::HeadTooLarge { .. } => "head_too_large",
            Self::TooManyHeaders { .. } => "too_many_headers",
            Self::TargetTooLong { .. } => "target_too_long",
            Self::BodyTooLarge { .. } => "body_too_large",
            Self::BareLf => "bare_lf",
            Self::BareCr => "bare_cr",
            Self::ControlCharacter => "control_character",
            Self::FoldedHeader => "folded_header",
            Self::SpaceBeforeColon => "space_before_colon",
            Self::LeadingSpace => "leading_space",
            Self::BadHeaderName => "bad_header_name",
            Self::BadHeader => "bad_header",
            Self::BadRequestLine => "bad_request_line",
            Self::BadStatusLine => "bad_status_line",
            Self::BadVersion => "bad_version",
            Self::BadTarget => "bad_target",
            Self::NoHost => "no_host",
            Self::ManyHosts => "many_hosts",
            Self::BadHost => "bad_host",
            Self::LengthAndChunked => "length_and_chunked",
            Self::ManyLengths => "many_lengths",
            Self::BadLength => "bad_length",
            Self::BadTransferEncoding => "bad_transfer_encoding",
            Self::UnknownTransferEncoding => "unknown_transfer_encoding",
            Self::ChunkedInHttp10 => "chunked_in_http10",
            Self::BodyNotAllowed => "body_not_allowed",
            Self::UnaskedSwitch => "unasked_switch",
            Self::BadChunkSize => "bad_chunk_size",
            Self::ChunkSizeOverflow => "chunk_size_overflow",
            Self::ChunkLineTooLong { .. } => "chunk_line_too_long",
            Self::BadChunkEnd => "bad_chunk_end",
            Self::TrailersTooLarge => "trailers_too_large",
        }
    }
}

/// Why a message cannot be written. The connection must be closed.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// Writing failed.
    #[error("cannot write to the peer: {0}")]
    Io(#[from] io::Error),
    /// A head was given before the last message was finished, or data without a head.
    #[error("the writer is not at this point of a message")]
    OutOfTurn,
    /// More data than the length that was announced.
    #[error("the body is longer than announced")]
    BodyTooLong,
    /// Less data than the length that was announced.
    #[error("the body ended {missing} bytes before its announced length")]
    BodyTooShort {
        /// So much is missing.
        missing: u64,
    },
    /// The head cannot be said in HTTP/1.1: no authority for CONNECT, or a body where none may be.
    #[error("the head cannot be written as HTTP/1.1: {0}")]
    BadHead(&'static str),
}
