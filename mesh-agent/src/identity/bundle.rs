//! The roots that we believe.
//!
//! The store makes a [`TrustBundle`] from what its issuer says and hands it to everything that verifies. Several
//! roots stand side by side while one follows another. Invariant: a bundle is never empty, all its roots are
//! authorities, and two bundles with the same version are the same bundle.

use std::sync::Arc;
use std::time::SystemTime;

use mesh_common::model::TrustDomain;
use rustls_pki_types::{CertificateDer, TrustAnchor};
use thiserror::Error;

use super::certificate::{Facts, Unreadable};
use super::issuer::Roots;

/// Roots of one trust domain.
#[derive(Clone, Debug)]
pub struct TrustBundle {
    trust_domain: TrustDomain,
    roots: Arc<[Root]>,
    /// Parallel to `roots`, in the form that path building takes.
    anchors: Arc<[TrustAnchor<'static>]>,
    version: u64,
}

/// One root.
#[derive(Clone, Debug)]
pub struct Root {
    /// What it says.
    pub facts: Facts,
    /// The certificate.
    pub certificate: CertificateDer<'static>,
}

/// Why certificates make no bundle.
#[derive(Debug, Error)]
pub enum BundleError {
    /// There are none.
    #[error("there is no root certificate")]
    Empty,
    /// One cannot be read.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// One may not sign.
    #[error("certificate {serial} ({subject}) is no certificate authority")]
    NoAuthority {
        /// Its number.
        serial: String,
        /// Whom it names.
        subject: String,
    },
    /// One does not make a trust anchor.
    #[error("root {serial} cannot be used: {source}")]
    Anchor {
        /// Its number.
        serial: String,
        /// Why.
        #[source]
        source: webpki::Error,
    },
}

impl TrustBundle {
    /// A bundle of these roots; the caller counts versions up.
    pub fn new(roots: &Roots, version: u64) -> Result<Self, BundleError> {
        let (mut read, mut anchors) = (Vec::new(), Vec::new());
        for certificate in &roots.certificates {
            let facts = Facts::of(certificate)?;
            if !facts.is_authority {
                let Facts { serial, subject, .. } = facts;
                return Err(BundleError::NoAuthority { serial, subject });
            }
            let anchor =
                webpki::anchor_from_trusted_cert(certificate).map_err(|source| BundleError::Anchor {
                    serial: facts.serial.clone(),
                    source,
                })?;
            anchors.push(anchor.to_owned());
            read.push(Root {
                facts,
                certificate: certificate.clone(),
            });
        }
        if read.is_empty() {
            return Err(BundleError::Empty);
        }
        Ok(Self {
            trust_domain: roots.trust_domain.clone(),
            roots: read.into(),
            anchors: anchors.into(),
            version,
        })
    }

    /// The trust domain that the roots speak for.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The roots.
    pub fn roots(&self) -> &[Root] {
        &self.roots
    }

    /// Counts the changes of the bundle.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Whether these are the same roots, in any order.
    pub fn holds(&self, roots: &Roots) -> bool {
        let held =
            |certificate: &CertificateDer<'_>| self.roots.iter().any(|root| root.certificate == *certificate);
        self.trust_domain == roots.trust_domain
            && self.roots.len() == roots.certificates.len()
            && roots.certificates.iter().all(held)
    }

    /// The roots as trust anchors.
    pub(super) fn anchors(&self) -> &[TrustAnchor<'static>] {
        &self.anchors
    }

    /// Whether a path may end in `anchor` now: path building does not look at how long a root is valid.
    pub(super) fn is_valid_at(&self, anchor: &TrustAnchor<'_>, now: SystemTime) -> bool {
        self.anchors
            .iter()
            .zip(&*self.roots)
            .any(|(held, root)| held == anchor && root.facts.is_valid_at(now))
    }
}
