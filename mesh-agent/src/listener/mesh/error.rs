//! Why a connection of another agent, or a stream in it, is refused.

use std::{io, net::SocketAddr};

use mesh_common::model::{ServiceAccountKey, SpiffeId, SpiffeIdError};
use thiserror::Error;

use crate::{identity, listener::admission::Full, telemetry, upstream::tunnel::tuning};

/// Why a connection from another agent, or a stream in it, is refused.
#[derive(Debug, Error)]
pub(super) enum MeshError {
    #[error("the TLS handshake failed: {0}")]
    Tls(#[source] io::Error),
    #[error("the handshake did not finish in time")]
    TimedOut,
    #[error("too many at once: {0}")]
    Full(#[from] Full),
    #[error("{0}")]
    Limit(#[from] telemetry::Full),
    #[error("the handshake agreed on no protocol that we know: offer ALPN h2 on port 15008")]
    NoProtocol,
    #[error("it is not TLS, and port 15008 takes nothing else")]
    Plaintext,
    #[error("HTTP/2: {0}")]
    Http(#[from] h2::Error),
    #[error("{0}")]
    Peer(#[from] identity::Refusal),
    #[error("the certificate names {found}, but the workload at {address} is {expected}")]
    Impostor {
        found: SpiffeId,
        expected: SpiffeId,
        address: SocketAddr,
    },
    #[error("service account {0} has no certificate (yet)")]
    NoCertificate(ServiceAccountKey),
    #[error("{0} is no workload's address any more")]
    Unknown(SocketAddr),
    #[error("{0}")]
    Identity(#[from] SpiffeIdError),
    #[error("a stream asks for {0}, which is no address of this pod's")]
    NotThisPod(SocketAddr),
    #[error("a stream asks for the agent's own listener")]
    OwnListener,
    #[error("a stream is not a CONNECT to an address and a port")]
    NotConnect,
    #[error("the headers of a stream have {0} bytes, more than {max}", max = tuning::HEADER_LIST)]
    Headers(usize),
}

impl MeshError {
    /// Why a handshake failed.
    pub(super) fn handshake(error: io::Error) -> Self {
        match identity::Refusal::of_io(&error) {
            Some(refusal) => Self::Peer(refusal),
            None => Self::Tls(error),
        }
    }

    /// The reason in one word, for metrics.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Tls(_) => "handshake",
            Self::TimedOut => "handshake-timed-out",
            Self::NoProtocol => "no-protocol",
            Self::Plaintext => "plaintext",
            Self::Http(_) => "http2",
            Self::Peer(refusal) => refusal.label(),
            Self::Impostor { .. } => "unexpected-identity",
            Self::NoCertificate(_) => "no-own-certificate",
            Self::Unknown(_) => "unknown-workload",
            Self::Identity(_) => "no-identity",
            Self::Full(_) => "too-many-handshakes",
            Self::Limit(full) => full.word(),
            Self::NotThisPod(_) => "unknown-target",
            Self::OwnListener => "own-listener",
            Self::NotConnect => "bad-request",
            Self::Headers(_) => "headers-too-large",
        }
    }
}
