//! How a message breaks off, on either side and in either version.

use std::io;

use h2::Reason;
use thiserror::Error;

use super::{
    fault::{Cause, Fault},
    h1::{ReadError, WriteError},
};

/// Why no more of a message can be read or written.
#[derive(Debug, Error)]
pub(crate) enum Broken {
    /// An HTTP/1 message could not be read.
    #[error("{0}")]
    Read(#[from] ReadError),
    /// An HTTP/1 message could not be written.
    #[error("{0}")]
    Write(#[from] WriteError),
    /// An HTTP/2 stream broke.
    #[error("HTTP/2: {0}")]
    Stream(#[from] h2::Error),
    /// An HTTP/2 stream was reset by its peer.
    #[error("HTTP/2: reset by the peer: {0}")]
    Reset(Reason),
    /// A server sends interim answers, and no other.
    #[error("too many interim answers")]
    Interim,
    /// The other side is gone.
    #[error("the other side is gone")]
    Closed,
    /// It was broken off here, for this reason.
    #[error("broken off: {}", .0.label())]
    Stopped(Cause),
    /// A connection that left HTTP broke.
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl Broken {
    /// How the break is told on an HTTP/2 stream.
    pub(crate) fn reason(&self) -> Reason {
        match self {
            Self::Stream(error) => error.reason().unwrap_or(Reason::INTERNAL_ERROR),
            Self::Reset(reason) => *reason,
            Self::Stopped(_) => Reason::CANCEL,
            Self::Read(_) | Self::Write(_) | Self::Closed | Self::Interim | Self::Io(_) => {
                Reason::INTERNAL_ERROR
            }
        }
    }

    /// True when the server closed a connection without a byte of an answer.
    pub(crate) fn is_silent(&self) -> bool {
        matches!(
            self,
            Self::Read(ReadError::ClosedBeforeHead | ReadError::Io(_)) | Self::Write(WriteError::Io(_))
        )
    }

    /// True when an HTTP/2 server says that it did not look at the request, and never will (RFC 9113, 8.7): it refused the
    /// stream, or its GOAWAY leaves the stream out, for whatever reason. h2 tells no other stream of a GOAWAY.
    pub(crate) fn is_unprocessed(&self) -> bool {
        let Self::Stream(error) = self else {
            return false;
        };
        let refused = error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM);
        error.is_remote() && (refused || error.is_go_away())
    }

    /// True of a request that could not even be begun, since its connection had ended.
    pub(crate) fn is_unsent(&self) -> bool {
        matches!(self, Self::Stream(error) if error.is_io() || error.is_go_away())
    }

    /// The answer to a client whose request breaks the rules; `None` when it is gone.
    pub(crate) fn fault(&self) -> Option<Fault> {
        let Self::Read(error) = self else {
            return None;
        };
        let cause = match error {
            ReadError::HeadTooLarge { .. }
            | ReadError::TooManyHeaders { .. }
            | ReadError::TrailersTooLarge => Cause::HeadTooLarge,
            ReadError::TargetTooLong { .. } => Cause::TargetTooLong,
            ReadError::BodyTooLarge { .. } => Cause::BodyTooLarge,
            ReadError::Timeout => Cause::SlowRequest,
            ReadError::BadVersion => Cause::Version,
            other => {
                other.status()?;
                Cause::BadRequest
            }
        };
        Some(Fault::new(cause, error.to_string()))
    }

    /// The answer to a client whose server broke off before it answered.
    pub(crate) fn of_server(&self) -> Fault {
        let cause = match self {
            Self::Read(error) if error.status().is_some() => Cause::BadResponse,
            Self::Interim => Cause::BadResponse,
            Self::Stream(error) if error.reason() == Some(Reason::REFUSED_STREAM) => Cause::Unavailable,
            _ => Cause::Reset,
        };
        Fault::new(cause, format!("the server gave no answer: {self}"))
    }
}
