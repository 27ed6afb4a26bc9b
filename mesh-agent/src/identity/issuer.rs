//! The issuing side: whoever turns signing requests into certificates.
//!
//! The store asks an [`Issuer`] and does not know which: the embedded authority today, a service on the network
//! later. Invariant: an issuer decides nothing about who may have which identity beyond what it was told; the agent
//! asks only for service accounts of workloads that it found on its own node.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use mesh_common::model::{SpiffeId, TrustDomain};
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer};
use thiserror::Error;

/// Signs requests, and says which roots its certificates lead to.
pub trait Issuer: Send + Sync + 'static {
    /// The chain for one request: the leaf first, without the root.
    fn issue(&self, request: Request) -> BoxFuture<'_, Result<Vec<CertificateDer<'static>>, IssueError>>;

    /// The roots that are to be believed now: one, or several while one follows another.
    fn roots(&self) -> BoxFuture<'_, Result<Roots, IssueError>>;
}

/// A wish for a certificate.
#[derive(Clone, Debug)]
pub struct Request {
    /// Whom it is to name.
    pub id: SpiffeId,
    /// For how long; an issuer may give less.
    pub lifetime: Duration,
    /// The signed request, which proves that the asker has the key.
    pub csr: CertificateSigningRequestDer<'static>,
}

/// What an issuer's certificates lead to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roots {
    /// The trust domain that these roots speak for.
    pub trust_domain: TrustDomain,
    /// The root certificates.
    pub certificates: Vec<CertificateDer<'static>>,
}

/// Why there is no certificate.
#[derive(Clone, Debug, Error)]
pub enum IssueError {
    /// The issuer cannot be used now.
    #[error("the certificate authority is not available: {source}")]
    Unavailable {
        /// Why.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// It did not answer.
    #[error("the certificate authority did not answer within {}", humantime::format_duration(*.0))]
    Silent(Duration),
    /// It will not sign this request.
    #[error("the certificate authority refuses to issue for {id}: {reason}")]
    Refused {
        /// Whom the certificate was to name.
        id: SpiffeId,
        /// What is wrong with the request.
        reason: String,
    },
    /// It answered with something that cannot be used.
    #[error("the certificate authority's answer for {id} cannot be used: {reason}")]
    Unusable {
        /// Whom the certificate was to name.
        id: SpiffeId,
        /// What is wrong with the answer.
        reason: String,
    },
}

impl IssueError {
    /// An issuer that fails for a reason of its own.
    pub fn unavailable(source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Unavailable {
            source: Arc::new(source),
        }
    }
}
