//! The agent's own issuer: signs with the authority in a directory.
//!
//! Invariant: the directory is the truth. It is read for every request, so that a rotation or a new intermediate needs
//! no restart and the authority's key is in memory only while it signs.

use futures_util::future::BoxFuture;
use rustls_pki_types::CertificateDer;

use super::{CaDirectory, DirectoryError, SignError};
use crate::identity::clock::Clock;
use crate::identity::issuer::{IssueError, Issuer, Request, Roots};

/// Issues from a directory that `mesh-agent ca init` or `ca intermediate` made.
#[derive(Clone, Debug)]
pub struct EmbeddedCa {
    directory: CaDirectory,
    clock: Clock,
}

impl EmbeddedCa {
    /// Issues with the authority in `directory`.
    pub fn new(directory: CaDirectory, clock: Clock) -> Self {
        Self { directory, clock }
    }

    fn sign(&self, request: &Request) -> Result<Vec<CertificateDer<'static>>, IssueError> {
        let now = self.clock.now();
        let authority = self.directory.open(now).map_err(IssueError::unavailable)?;
        let signed = authority.leaf(&request.csr, &request.id, request.lifetime, now);
        signed.map_err(|source| match source {
            // The request is at fault, and another would not be.
            SignError::TrustDomain { .. } | SignError::Request(_) | SignError::NoLifetime => {
                IssueError::Refused {
                    id: request.id.clone(),
                    reason: source.to_string(),
                }
            }
            source => IssueError::unavailable(DirectoryError::Sign {
                path: self.directory.path().to_owned(),
                source,
            }),
        })
    }
}

impl Issuer for EmbeddedCa {
    fn issue(&self, request: Request) -> BoxFuture<'_, Result<Vec<CertificateDer<'static>>, IssueError>> {
        Box::pin(async move { self.sign(&request) })
    }

    fn roots(&self) -> BoxFuture<'_, Result<Roots, IssueError>> {
        Box::pin(async {
            self.directory
                .roots(self.clock.now())
                .map_err(IssueError::unavailable)
        })
    }
}
