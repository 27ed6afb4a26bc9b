//! Why a peer is not who we talk to.
//!
//! The verifier makes a [`Refusal`], rustls carries it through the handshake, and whoever drove the handshake gets it
//! back with [`Refusal::of`]; one label for the metric, one text for the log. Invariant: what the peer wrote into its
//! certificate is escaped and cut before it gets here.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use mesh_common::model::{SpiffeId, SpiffeIdError, TrustDomain};
use rustls::{AlertDescription, CertificateError, Error, OtherError, PeerIncompatible};
use thiserror::Error;

/// Why a handshake gave no peer identity.
#[derive(Clone, Debug, Error)]
pub enum Refusal {
    /// It sent no certificate.
    #[error("the peer has no certificate")]
    NoCertificate,
    /// It cannot do TLS 1.3, or nothing of it that we do.
    #[error("the peer does not speak TLS 1.3 as we do: {0:?}")]
    Protocol(PeerIncompatible),
    /// We share no application protocol.
    #[error("the peer speaks no application protocol of ours")]
    Alpn,
    /// What it sent is no certificate.
    #[error("the peer's certificate cannot be read")]
    Unreadable,
    /// The certificate has no URI name; other names do not count.
    #[error("the peer's certificate names no identity")]
    NoIdentity,
    /// More than one, so none.
    #[error("the peer's certificate names several identities")]
    SeveralIdentities,
    /// The URI is something else.
    #[error("the peer's certificate is for {uri}: {source}")]
    NotAnIdentity {
        /// What it names.
        uri: Claim,
        /// What is wrong with that.
        #[source]
        source: SpiffeIdError,
    },
    /// An identity of another domain.
    #[error("{found} is not in our trust domain {ours}")]
    TrustDomain {
        /// Whom the certificate names.
        found: SpiffeId,
        /// The domain that we believe.
        ours: TrustDomain,
    },
    /// Its time is over, or that of an authority on the way to the root.
    #[error("the certificate of {claim}, or of its authority, expired at {}", humantime::format_rfc3339_seconds(*.since))]
    Expired {
        /// Whom it names.
        claim: Claim,
        /// Its last moment.
        since: SystemTime,
    },
    /// Its time has not come.
    #[error("the certificate of {claim}, or of its authority, is not valid before {}", humantime::format_rfc3339_seconds(*.until))]
    NotYetValid {
        /// Whom it names.
        claim: Claim,
        /// Its first moment.
        until: SystemTime,
    },
    /// Nobody vouches for it.
    #[error("the certificate of {claim} is self-signed")]
    SelfSigned {
        /// Whom it names.
        claim: Claim,
    },
    /// Somebody vouches for it whom we do not know.
    #[error("the certificate of {claim} leads to no root that we know")]
    UnknownRoot {
        /// Whom it names.
        claim: Claim,
    },
    /// It is not for this side of a connection, or it is an authority's.
    #[error("the certificate of {claim} is not made for this use")]
    Purpose {
        /// Whom it names.
        claim: Claim,
    },
    /// Anything else that is wrong with the chain.
    #[error("the certificate of {claim} is not to be believed: {source}")]
    Chain {
        /// Whom it names.
        claim: Claim,
        /// What is wrong.
        #[source]
        source: webpki::Error,
    },
    /// It is who it says, but not who should be there.
    #[error("the peer is {found}, but {expected} should be there")]
    Unexpected {
        /// Who is there.
        found: SpiffeId,
        /// Who should be.
        expected: Expected,
    },
    /// The peer ended the handshake, perhaps because it refuses us.
    #[error("the peer refuses us: {0:?}")]
    ByPeer(AlertDescription),
    /// The peer does not follow the protocol, or something broke.
    #[error("the TLS handshake failed: {0}")]
    Handshake(Error),
}

/// Whom a peer's certificate should name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Expected {
    /// Anybody of our trust domain; who may do what is decided later.
    OurDomain,
    /// One of these.
    OneOf(Arc<[SpiffeId]>),
}

/// What an unbelieved certificate says about its holder: for people, not for decisions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim(Option<Box<str>>);

/// Longer claims are cut.
const MAX_CLAIM: usize = 300;

impl Refusal {
    /// A word for a metric's label.
    pub fn label(&self) -> &'static str {
        match self {
            Self::NoCertificate => "no-certificate",
            Self::Protocol(_) => "protocol",
            Self::Alpn => "alpn",
            Self::Unreadable => "unreadable",
            Self::NoIdentity => "no-identity",
            Self::SeveralIdentities => "several-identities",
            Self::NotAnIdentity { .. } => "not-an-identity",
            Self::TrustDomain { .. } => "trust-domain",
            Self::Expired { .. } => "expired",
            Self::NotYetValid { .. } => "not-yet-valid",
            Self::SelfSigned { .. } => "self-signed",
            Self::UnknownRoot { .. } => "unknown-root",
            Self::Purpose { .. } => "purpose",
            Self::Chain { .. } => "chain",
            Self::Unexpected { .. } => "unexpected-identity",
            Self::ByPeer(_) => "refused-by-peer",
            Self::Handshake(_) => "handshake",
        }
    }

    /// What a failed handshake tells.
    pub fn of(error: &Error) -> Self {
        match error {
            Error::NoCertificatesPresented => Self::NoCertificate,
            Error::NoApplicationProtocol => Self::Alpn,
            Error::PeerIncompatible(how) => Self::Protocol(how.clone()),
            Error::AlertReceived(AlertDescription::NoApplicationProtocol) => Self::Alpn,
            Error::AlertReceived(alert) => Self::ByPeer(*alert),
            Error::InvalidCertificate(CertificateError::BadEncoding) => Self::Unreadable,
            Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) => inner
                .downcast_ref::<Self>()
                .cloned()
                .unwrap_or_else(|| Self::Handshake(error.clone())),
            other => Self::Handshake(other.clone()),
        }
    }

    /// What a failed handshake over a stream tells; `None` when the stream itself failed.
    pub fn of_io(error: &io::Error) -> Option<Self> {
        let inner: &(dyn StdError + 'static) = error.get_ref()?;
        inner.downcast_ref::<Error>().map(Self::of)
    }

    /// For rustls, whose verifiers speak of certificates only.
    pub(super) fn into_tls(self) -> Error {
        Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(self))))
    }
}

impl Expected {
    /// Any of `ids`; without any, nobody will do.
    pub fn one_of(ids: impl IntoIterator<Item = SpiffeId>) -> Self {
        let mut ids: Vec<SpiffeId> = ids.into_iter().collect();
        ids.sort_unstable();
        ids.dedup();
        Self::OneOf(ids.into())
    }

    /// Whether `id` will do.
    pub fn accepts(&self, id: &SpiffeId) -> bool {
        match self {
            Self::OurDomain => true,
            Self::OneOf(ids) => ids.binary_search(id).is_ok(),
        }
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OurDomain => f.write_str("somebody of our trust domain"),
            Self::OneOf(ids) => match &**ids {
                [] => f.write_str("nobody"),
                [first, rest @ ..] => {
                    write!(f, "{first}")?;
                    rest.iter().try_for_each(|id| write!(f, " or {id}"))
                }
            },
        }
    }
}

impl Claim {
    /// The names in a certificate that nobody has verified.
    pub(super) fn of<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let name = names.into_iter().next();
        Self(name.map(|name| name.escape_debug().take(MAX_CLAIM).collect::<String>().into()))
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_deref().unwrap_or("somebody without a name"))
    }
}
