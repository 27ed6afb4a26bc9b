//! The embedded certificate authority: keys that sign, kept in a directory.
//!
//! An [`Authority`] is a signing key with its certificate; a [`CaDirectory`] keeps one on disk for `mesh-agent ca`;
//! [`EmbeddedCa`] lets the agent issue from such a directory. A root signs intermediates, one for each node, and an
//! intermediate signs leaves; a root signs leaves too, for a machine that is its own mesh.
//!
//! Invariant: what is signed is made here from scratch. Of a request only the public key is taken, and nothing is
//! signed that outlives its signer.

mod directory;
mod embedded;

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mesh_common::model::{SpiffeId, TrustDomain};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType,
};
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer};
use thiserror::Error;
use zeroize::Zeroizing;

use super::certificate::{Facts, Unreadable, hexadecimal};
pub use directory::{CaDirectory, DirectoryError, Rotation};
pub use embedded::EmbeddedCa;

/// How long a leaf is valid unless somebody says otherwise.
pub const LEAF_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// How far a verifier's clock may be behind ours.
pub const CLOCK_SKEW: Duration = Duration::from_secs(300);

/// A key that signs certificates.
pub struct Authority {
    key: Zeroizing<KeyPair>,
    certificate: CertificateDer<'static>,
    facts: Facts,
    trust_domain: TrustDomain,
    /// What leads from this authority to roots that verifiers may know instead of ours.
    bridges: Vec<CertificateDer<'static>>,
}

/// Why something is not signed.
#[derive(Debug, Error)]
pub enum SignError {
    /// The cryptography library refuses.
    #[error("cannot sign: {0}")]
    Library(#[from] rcgen::Error),
    /// A certificate of our own cannot be read.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// The signer is outside of the time it is valid.
    #[error("the authority's own certificate {serial} is not valid now: it is for {from} to {to}")]
    SignerExpired {
        /// Its number.
        serial: String,
        /// Its first moment.
        from: humantime::Rfc3339Timestamp,
        /// Its last moment.
        to: humantime::Rfc3339Timestamp,
    },
    /// An intermediate was to sign another authority.
    #[error("an intermediate signs leaves only")]
    NotARoot,
    /// The identity is of another trust domain.
    #[error("{id} is not in the trust domain {ours}")]
    TrustDomain {
        /// The identity asked for.
        id: SpiffeId,
        /// The authority's domain.
        ours: TrustDomain,
    },
    /// The request does not ask for what the caller may have.
    #[error("the signing request {0}")]
    Request(&'static str),
    /// The certificate and the key do not belong to each other, or it is none of ours.
    #[error("the authority's certificate {0}")]
    Certificate(&'static str),
    /// Nothing can be valid for no time.
    #[error("the lifetime is less than a second")]
    NoLifetime,
}

impl Authority {
    /// Makes a root.
    pub fn new_root(
        trust_domain: &TrustDomain,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Self, SignError> {
        let key = new_key()?;
        let mut params = authority_params(trust_domain, "root", BasicConstraints::Unconstrained)?;
        set_validity(&mut params, now, lifetime, None)?;
        let certificate = params.self_signed(&*key)?.into();
        Self::assemble(key, certificate, Vec::new())
    }

    /// Puts a stored authority together again.
    pub(super) fn assemble(
        key: Zeroizing<KeyPair>,
        certificate: CertificateDer<'static>,
        bridges: Vec<CertificateDer<'static>>,
    ) -> Result<Self, SignError> {
        let facts = Facts::of(&certificate)?;
        if !facts.is_authority {
            return Err(SignError::Certificate("may not sign"));
        }
        let held = webpki::EndEntityCert::try_from(&certificate)
            .map_err(|_| SignError::Certificate("cannot be used"))?
            .subject_public_key_info();
        if *held != *key.subject_public_key_info() {
            return Err(SignError::Certificate("is not for its key"));
        }
        let [uri] = &*facts.uris else {
            return Err(SignError::Certificate("does not name one trust domain"));
        };
        let trust_domain = uri
            .strip_prefix("spiffe://")
            .and_then(|domain| domain.parse().ok())
            .ok_or(SignError::Certificate("does not name a trust domain"))?;
        Ok(Self {
            key,
            certificate,
            facts,
            trust_domain,
            bridges,
        })
    }

    /// Makes the intermediate of a node: it signs leaves and no further authorities.
    pub fn intermediate(&self, node: &str, lifetime: Duration, now: SystemTime) -> Result<Self, SignError> {
        if !self.is_root() {
            return Err(SignError::NotARoot);
        }
        let key = new_key()?;
        let what = format!("node {node}");
        let mut params = authority_params(&self.trust_domain, &what, BasicConstraints::Constrained(0))?;
        let certificate = self.sign(&mut params, &*key, lifetime, now)?;
        Self::assemble(key, certificate, self.bridges.clone())
    }

    /// Certifies another root, so that whoever believes only this one believes the other too.
    pub(super) fn bridge_to(
        &self,
        other: &Self,
        now: SystemTime,
    ) -> Result<CertificateDer<'static>, SignError> {
        let mut params = authority_params(&self.trust_domain, "", BasicConstraints::Unconstrained)?;
        params.distinguished_name = other.distinguished_name()?;
        let lifetime = other.facts.not_after.duration_since(now).unwrap_or_default();
        self.sign(&mut params, &*other.key, lifetime, now)
    }

    /// Signs a leaf for `id`. The chain begins with it and does not contain the root.
    pub fn leaf(
        &self,
        csr: &CertificateSigningRequestDer<'_>,
        id: &SpiffeId,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Vec<CertificateDer<'static>>, SignError> {
        if !id.is_in(&self.trust_domain) {
            return Err(SignError::TrustDomain {
                id: id.clone(),
                ours: self.trust_domain.clone(),
            });
        }
        let request = CertificateSigningRequestParams::from_der(csr)?;
        check_request(&request, id)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(id.as_str().try_into()?)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let mut chain = vec![self.sign(&mut params, &request.public_key, lifetime, now)?];
        if !self.is_root() {
            chain.push(self.certificate.clone());
        }
        chain.extend(self.bridges.iter().cloned());
        Ok(chain)
    }

    /// Whether this is a root, which can sign intermediates.
    pub fn is_root(&self) -> bool {
        self.facts.is_self_issued
    }

    /// The domain it signs for.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// What its certificate says.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Its certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Signs whatever a test wants.
    #[cfg(test)]
    pub(super) fn sign_anything(
        &self,
        params: &CertificateParams,
        key: &impl PublicKeyData,
    ) -> Vec<CertificateDer<'static>> {
        let issuer = rcgen::Issuer::from_ca_cert_der(&self.certificate, &*self.key).unwrap();
        vec![params.signed_by(key, &issuer).unwrap().into()]
    }

    fn sign(
        &self,
        params: &mut CertificateParams,
        key: &impl PublicKeyData,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<CertificateDer<'static>, SignError> {
        let facts = &self.facts;
        if !facts.is_valid_at(now) {
            return Err(SignError::SignerExpired {
                serial: facts.serial.clone(),
                from: humantime::format_rfc3339_seconds(facts.not_before),
                to: humantime::format_rfc3339_seconds(facts.not_after),
            });
        }
        params.use_authority_key_identifier_extension = true;
        set_validity(params, now, lifetime, Some(facts.not_after))?;
        let issuer = rcgen::Issuer::from_ca_cert_der(&self.certificate, &*self.key)?;
        Ok(params.signed_by(key, &issuer)?.into())
    }

    fn distinguished_name(&self) -> Result<DistinguishedName, SignError> {
        let mut name = DistinguishedName::new();
        let (_, parsed) = x509_parser::parse_x509_certificate(&self.certificate)
            .map_err(|_| SignError::Certificate("cannot be read"))?;
        let texts =
            |mut names: Box<dyn Iterator<Item = &x509_parser::x509::AttributeTypeAndValue<'_>> + '_>| {
                names
                    .next()
                    .and_then(|attribute| attribute.as_str().ok())
                    .unwrap_or_default()
                    .to_owned()
            };
        name.push(
            DnType::OrganizationName,
            texts(Box::new(parsed.subject().iter_organization())),
        );
        name.push(
            DnType::CommonName,
            texts(Box::new(parsed.subject().iter_common_name())),
        );
        Ok(name)
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Authority({})", self.facts.subject)
    }
}

fn new_key() -> Result<Zeroizing<KeyPair>, SignError> {
    Ok(Zeroizing::new(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?))
}

/// What roots and intermediates have in common. The name ends in random letters: authorities that follow one another
/// must not be mistaken for each other.
fn authority_params(
    trust_domain: &TrustDomain,
    what: &str,
    constraints: BasicConstraints,
) -> Result<CertificateParams, SignError> {
    let mut params = CertificateParams::default();
    let tag = hexadecimal(&rand::random::<[u8; 4]>());
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, "Nodemesh");
    params
        .distinguished_name
        .push(DnType::CommonName, format!("{trust_domain} {what} {tag}"));
    params.subject_alt_names = vec![SanType::URI(trust_domain.uri().as_str().try_into()?)];
    params.is_ca = IsCa::Ca(constraints);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

/// Sets number and times. Certificates begin a little in the past, and end with their signer at the latest.
fn set_validity(
    params: &mut CertificateParams,
    now: SystemTime,
    lifetime: Duration,
    latest: Option<SystemTime>,
) -> Result<(), SignError> {
    if lifetime < Duration::from_secs(1) {
        return Err(SignError::NoLifetime);
    }
    let far = UNIX_EPOCH + END;
    let end = now.checked_add(lifetime).unwrap_or(far).min(far);
    params.not_before = now.checked_sub(CLOCK_SKEW).unwrap_or(now).into();
    params.not_after = latest.map_or(end, |latest| latest.min(end)).into();
    let mut serial = rand::random::<[u8; 16]>();
    // Positive, and never shorter for a leading zero.
    serial[0] = serial[0] & 0x7f | 0x40;
    params.serial_number = Some(serial.to_vec().into());
    Ok(())
}

/// The last second of the year 9999 since 1970, the last that a certificate can express.
const END: Duration = Duration::from_secs(253_402_300_799);

fn check_request(request: &CertificateSigningRequestParams, id: &SpiffeId) -> Result<(), SignError> {
    if *request.public_key.algorithm() != PKCS_ECDSA_P256_SHA256 {
        return Err(SignError::Request("is not for a P-256 key"));
    }
    let asked = &request.params;
    match &*asked.subject_alt_names {
        [SanType::URI(uri)] if uri.as_str() == id.as_str() => {}
        _ => {
            return Err(SignError::Request(
                "does not name exactly the identity it is made for",
            ));
        }
    }
    if matches!(asked.is_ca, IsCa::Ca(_)) {
        return Err(SignError::Request("asks for an authority"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
