//! Credentials that no authority of ours would give out, made with the key of one.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use anyhow::Result;
use mesh_tests::{Authority, Mesh};
use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256,
    SanType,
};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, pem::PemObject as _};

pub(super) const HOUR: Duration = Duration::from_secs(3600);

/// Signs whatever is asked for.
pub(super) struct Forger {
    issuer: Issuer<'static, KeyPair>,
    /// What leads from a certificate to the root.
    authorities: Vec<CertificateDer<'static>>,
    dir: PathBuf,
}

/// Files as `hostile.py` takes them.
pub(super) struct Credentials {
    chain: PathBuf,
    key: PathBuf,
}

impl Forger {
    /// With the key of an authority.
    pub(super) fn with(authority: &Authority, mesh: &Mesh) -> Result<Self> {
        let pem = fs::read(authority.dir().join("authority.pem"))?;
        let key = PrivatePkcs8KeyDer::from_pem_slice(&pem)?;
        let key = KeyPair::from_pkcs8_der_and_sign_algo(&key, &PKCS_ECDSA_P256_SHA256)?;
        let authorities = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            issuer: Issuer::from_ca_cert_der(&authorities[0], key)?,
            authorities,
            dir: mesh.dir().to_owned(),
        })
    }

    /// A certificate for this name that is good, or made otherwise by `change`.
    pub(super) fn signed(
        &self,
        uri: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Result<Credentials> {
        let key = KeyPair::generate()?;
        let leaf = params(uri, change)?.signed_by(&key, &self.issuer)?;
        let chain = [vec![leaf.der().clone()], self.authorities.clone()].concat();
        self.write(&chain, &key)
    }

    /// A certificate for which nobody else vouches.
    pub(super) fn self_signed(&self, uri: &str) -> Result<Credentials> {
        let key = KeyPair::generate()?;
        let leaf = params(uri, |_| {})?.self_signed(&key)?;
        self.write(&[leaf.der().clone()], &key)
    }

    fn write(&self, chain: &[CertificateDer<'_>], key: &KeyPair) -> Result<Credentials> {
        let files = Credentials {
            chain: self.dir.join("forged.chain"),
            key: self.dir.join("forged.key"),
        };
        let chain: Vec<_> = chain.iter().map(|certificate| hexadecimal(certificate)).collect();
        fs::write(&files.chain, chain.join("\n"))?;
        fs::write(&files.key, hexadecimal(key.serialized_der()))?;
        Ok(files)
    }
}

impl Credentials {
    /// As arguments of `hostile.py stream`.
    pub(super) fn args(&self) -> [String; 4] {
        let file = |path: &PathBuf| path.display().to_string();
        [
            "--chain".to_owned(),
            file(&self.chain),
            "--key".to_owned(),
            file(&self.key),
        ]
    }
}

fn params(uri: &str, change: impl FnOnce(&mut CertificateParams)) -> Result<CertificateParams> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.not_before = (SystemTime::now() - HOUR).into();
    params.not_after = (SystemTime::now() + HOUR).into();
    params.subject_alt_names = vec![SanType::URI(uri.try_into()?)];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ClientAuth,
        ExtendedKeyUsagePurpose::ServerAuth,
    ];
    change(&mut params);
    Ok(params)
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
