//! The words the API's enumerations and times have in JSON, on the command line and in tables.
//!
//! The generated messages call [`enumeration`] and [`time`] when they are serialized; the command line offers
//! [`Words::ALL`] as arguments. Invariant: a word, once released, keeps its meaning.

use std::{
    fmt::Write as _,
    time::{Duration, UNIX_EPOCH},
};

use serde::Serializer;

use super::proto::{
    AgentState, Carriage, CertificateStanding, Channel, ConnectionState, DestinationKind, Direction,
    Enrolment, FlowKind, PolicyKind, ProblemSeverity,
};

/// An enumeration whose values have names.
pub trait Words: Copy + TryFrom<i32> + 'static {
    /// Every value but "unspecified".
    const ALL: &'static [Self];

    /// The name of this value.
    fn word(self) -> &'static str;

    /// The name of a value as it came over the wire.
    fn word_of(raw: i32) -> &'static str {
        Self::try_from(raw).map_or(UNKNOWN, Self::word)
    }

    /// The value of that name.
    fn from_word(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|value| value.word() == word)
    }
}

const UNKNOWN: &str = "unknown";

macro_rules! words {
    ($($enumeration:ident { $($variant:ident = $word:literal),+ $(,)? })+) => {$(
        impl Words for $enumeration {
            const ALL: &'static [Self] = &[$(Self::$variant),+];

            fn word(self) -> &'static str {
                match self {
                    Self::Unspecified => UNKNOWN,
                    $(Self::$variant => $word,)+
                }
            }
        }
    )+};
}

words! {
    AgentState { Starting = "starting", Ready = "ready", Draining = "draining" }
    Enrolment { Remote = "remote", Waiting = "waiting", Enrolled = "enrolled", Failed = "failed" }
    CertificateStanding { Missing = "missing", Valid = "valid", ExpiresSoon = "expires-soon", Expired = "expired" }
    ProblemSeverity { Warning = "warning", Failure = "failure" }
    PolicyKind { Authorization = "AuthorizationPolicy", PeerAuthentication = "PeerAuthentication",
        RequestAuthentication = "RequestAuthentication" }
    Carriage {
        Local = "local",
        MutualTls = "mutual-tls",
        Plaintext = "plaintext",
        Passthrough = "passthrough",
        Hbone = "hbone",
    }
    Direction { Outbound = "outbound", Inbound = "inbound", Local = "local" }
    Channel { Plaintext = "plaintext", MutualTls = "mutual-tls", SameNode = "same-node", Direct = "direct" }
    DestinationKind { Service = "service", Workload = "workload", Passthrough = "passthrough" }
    ConnectionState {
        Held = "held",
        Connecting = "connecting",
        Open = "open",
        HalfClosed = "half-closed",
    }
    FlowKind {
        Opened = "opened",
        Closed = "closed",
        Refused = "refused",
        Unreachable = "unreachable",
        TimedOut = "timed-out",
        Reset = "reset",
        Abandoned = "abandoned",
        Dropped = "dropped",
        Denied = "denied",
        Failed = "failed",
    }
}

/// Serializes the raw value of an enumeration as its word.
pub(super) fn enumeration<E: Words, S: Serializer>(raw: &i32, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(E::word_of(*raw))
}

/// Serializes microseconds since the epoch as RFC 3339 text, and 0 or a time beyond the year 9999 as null.
pub(super) fn time<S: Serializer>(micros: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    let mut text = String::new();
    let time = UNIX_EPOCH
        .checked_add(Duration::from_micros(*micros))
        .filter(|_| *micros != 0);
    match time.map(|time| write!(text, "{}", humantime::format_rfc3339_micros(time))) {
        Some(Ok(())) => serializer.serialize_str(&text),
        Some(Err(_)) | None => serializer.serialize_none(),
    }
}
