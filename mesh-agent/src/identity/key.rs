//! Private keys of leaves: made here, used here, gone when dropped.
//!
//! The store makes a [`LeafKey`] for each certificate it asks for; the issuer sees only the signing request.
//! Invariant: the key never leaves memory, and the copies that Rust holds are overwritten when they are dropped. The
//! copy inside AWS-LC is overwritten by AWS-LC.

use std::sync::Arc;

use mesh_common::model::SpiffeId;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use rustls::crypto::aws_lc_rs::sign::any_ecdsa_type;
use rustls::sign::SigningKey;
use rustls_pki_types::{CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use thiserror::Error;
use zeroize::Zeroizing;

/// A fresh P-256 key.
pub struct LeafKey(Zeroizing<KeyPair>);

/// The cryptography library refuses; nothing in the request can cause this.
#[derive(Debug, Error)]
pub enum KeyError {
    /// Making the key or the request.
    #[error("cannot make a key or a signing request: {0}")]
    Make(#[from] rcgen::Error),
    /// Handing it to TLS.
    #[error("cannot use the key for TLS: {0}")]
    Use(#[from] rustls::Error),
}

impl LeafKey {
    /// Makes a key.
    pub fn generate() -> Result<Self, KeyError> {
        Ok(Self(Zeroizing::new(KeyPair::generate_for(
            &PKCS_ECDSA_P256_SHA256,
        )?)))
    }

    /// Asks for a certificate for `id`: an empty subject and the identity as the only name.
    pub fn request(&self, id: &SpiffeId) -> Result<CertificateSigningRequestDer<'static>, KeyError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(id.as_str().try_into()?)];
        Ok(params.serialize_request(&*self.0)?.into())
    }

    /// The key for handshakes.
    pub(super) fn signing_key(&self) -> Result<Arc<dyn SigningKey>, KeyError> {
        let mut copy = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.0.serialized_der().to_vec()));
        let key = any_ecdsa_type(&copy);
        zeroize::Zeroize::zeroize(&mut copy);
        Ok(key?)
    }

    /// The key as text, for `ca issue`, whose user wants it in a file.
    pub fn to_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(super::pem::encode(
            super::pem::PRIVATE_KEY,
            self.0.serialized_der(),
        ))
    }
}
