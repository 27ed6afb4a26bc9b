//! What a certificate says about itself.
//!
//! [`Facts`] are read from certificates that we made, hold or keep as roots, for display and for schedules. Whether a
//! peer's certificate is to be believed is `verify`'s business. Invariant: reading never fails half way: facts are
//! complete or there are none.

use std::fmt::Write as _;
use std::time::SystemTime;

use rustls_pki_types::CertificateDer;
use serde::Serialize;
use thiserror::Error;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

use super::clock::from_timestamp;

/// What is written in a certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Facts {
    /// Its number, in hexadecimal.
    pub serial: String,
    /// Whom it names, as a distinguished name; leaves have none.
    pub subject: String,
    /// Who signed it.
    pub issuer: String,
    /// The URIs it is for.
    pub uris: Vec<String>,
    /// When it begins to be valid.
    #[serde(skip)]
    pub not_before: SystemTime,
    /// The last moment it is valid.
    #[serde(skip)]
    pub not_after: SystemTime,
    /// Whether it may sign certificates.
    pub is_authority: bool,
    /// Whether it names itself as its issuer.
    pub is_self_issued: bool,
}

/// The bytes are no certificate.
#[derive(Clone, Debug, Error)]
#[error("not an X.509 certificate: {0}")]
pub struct Unreadable(String);

impl Facts {
    /// Reads a certificate.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, Unreadable> {
        let (rest, parsed) =
            X509Certificate::from_der(certificate).map_err(|error| Unreadable(error.to_string()))?;
        if !rest.is_empty() {
            return Err(Unreadable("something follows it".to_owned()));
        }
        let names = parsed
            .subject_alternative_name()
            .map_err(|error| Unreadable(error.to_string()))?;
        let uris = names.map(|names| {
            let uri = |name: &GeneralName<'_>| match name {
                GeneralName::URI(uri) => Some((*uri).to_owned()),
                _ => None,
            };
            names.value.general_names.iter().filter_map(uri).collect()
        });
        Ok(Self {
            serial: hexadecimal(parsed.raw_serial()),
            subject: parsed.subject().to_string(),
            issuer: parsed.issuer().to_string(),
            uris: uris.unwrap_or_default(),
            not_before: from_timestamp(parsed.validity().not_before.timestamp()),
            not_after: from_timestamp(parsed.validity().not_after.timestamp()),
            is_authority: parsed.is_ca(),
            is_self_issued: parsed.subject().as_raw() == parsed.issuer().as_raw(),
        })
    }

    /// Whether `now` is inside the time it is valid.
    pub fn is_valid_at(&self, now: SystemTime) -> bool {
        self.not_before <= now && now <= self.not_after
    }
}

/// Bytes as lower-case hexadecimal.
pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}
