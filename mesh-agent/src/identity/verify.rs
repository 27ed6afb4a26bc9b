//! Who a peer is: the verifier that rustls asks in every full handshake.
//!
//! `tls` gives each configuration a [`PeerVerifier`]; whoever completed a handshake takes the [`PeerIdentity`] from the
//! connection. Invariants: a path ends in a root of the bundle that is valid now; exactly one URI names the peer and
//! it is an identity of our trust domain; DNS names never matter; a resumed connection is as good as the first one
//! only while the certificates of the first are valid.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mesh_common::model::SpiffeId;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CommonState, DigitallySignedStruct, DistinguishedName, Error, HandshakeKind, PeerIncompatible,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::{EndEntityCert, KeyUsage};

use super::bundle::TrustBundle;
use super::certificate::Facts;
use super::clock::Clock;
use super::refusal::{Claim, Expected, Refusal};

/// The proven identity of whoever is at the other end.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PeerIdentity(SpiffeId);

/// Which side of a connection the peer is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// It dialled us.
    Client,
    /// We dialled it.
    Server,
}

/// Judges certificates against one bundle.
#[derive(Debug)]
pub(super) struct PeerVerifier {
    bundle: Arc<TrustBundle>,
    expected: Expected,
    algorithms: WebPkiSupportedAlgorithms,
}

impl PeerIdentity {
    /// The peer of a connection whose handshake is complete.
    pub fn of(connection: &CommonState, clock: &Clock) -> Result<Self, Refusal> {
        let chain = connection.peer_certificates().unwrap_or_default();
        let leaf = chain.first().ok_or(Refusal::NoCertificate)?;
        let parsed = EndEntityCert::try_from(leaf).map_err(|_| Refusal::Unreadable)?;
        if connection.handshake_kind() == Some(HandshakeKind::Resumed) {
            let now = clock.now();
            for certificate in chain {
                still_valid(certificate, Claim::of(parsed.valid_uri_names()), now)?;
            }
        }
        named(&parsed).map(Self)
    }

    /// Who it is.
    pub fn id(&self) -> &SpiffeId {
        &self.0
    }
}

impl PeerVerifier {
    pub(super) fn new(
        bundle: Arc<TrustBundle>,
        expected: Expected,
        algorithms: WebPkiSupportedAlgorithms,
    ) -> Self {
        Self {
            bundle,
            expected,
            algorithms,
        }
    }

    /// Who the certificate proves its holder to be.
    pub(super) fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        side: Side,
        now: UnixTime,
    ) -> Result<SpiffeId, Refusal> {
        let parsed = EndEntityCert::try_from(leaf).map_err(|_| Refusal::Unreadable)?;
        let usage = match side {
            Side::Client => KeyUsage::client_auth(),
            Side::Server => KeyUsage::server_auth(),
        };
        let time = UNIX_EPOCH + Duration::from_secs(now.as_secs());
        // Also while the path is sought: another root may do when the first one found has expired.
        let root_is_valid = |path: &webpki::VerifiedPath<'_>| {
            if self.bundle.is_valid_at(path.anchor(), time) {
                Ok(())
            } else {
                Err(webpki::Error::UnknownIssuer)
            }
        };
        parsed
            .verify_for_usage(
                self.algorithms.all,
                self.bundle.anchors(),
                others,
                now,
                usage,
                None,
                Some(&root_is_valid),
            )
            .map_err(|error| chain_refusal(error, &parsed, leaf))?;
        let found = named(&parsed)?;
        if !found.is_in(self.bundle.trust_domain()) {
            let ours = self.bundle.trust_domain().clone();
            return Err(Refusal::TrustDomain { found, ours });
        }
        if !self.expected.accepts(&found) {
            let expected = self.expected.clone();
            return Err(Refusal::Unexpected { found, expected });
        }
        Ok(found)
    }

    fn verify_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }
}

/// The one identity that a certificate names.
fn named(certificate: &EndEntityCert<'_>) -> Result<SpiffeId, Refusal> {
    let mut uris = certificate.valid_uri_names();
    let uri = uris.next().ok_or(Refusal::NoIdentity)?;
    if uris.next().is_some() {
        return Err(Refusal::SeveralIdentities);
    }
    uri.parse().map_err(|source| Refusal::NotAnIdentity {
        uri: Claim::of([uri]),
        source,
    })
}

fn still_valid(certificate: &CertificateDer<'_>, claim: Claim, now: SystemTime) -> Result<(), Refusal> {
    let facts = Facts::of(certificate).map_err(|_| Refusal::Unreadable)?;
    if now > facts.not_after {
        let since = facts.not_after;
        return Err(Refusal::Expired { claim, since });
    }
    Ok(())
}

fn chain_refusal(error: webpki::Error, parsed: &EndEntityCert<'_>, leaf: &CertificateDer<'_>) -> Refusal {
    let claim = Claim::of(parsed.valid_uri_names());
    let time = |at: UnixTime| UNIX_EPOCH + Duration::from_secs(at.as_secs());
    let is_self_issued = || Facts::of(leaf).is_ok_and(|facts| facts.is_self_issued);
    match error {
        webpki::Error::CertExpired { not_after, .. } => Refusal::Expired {
            claim,
            since: time(not_after),
        },
        webpki::Error::CertNotValidYet { not_before, .. } => Refusal::NotYetValid {
            claim,
            until: time(not_before),
        },
        webpki::Error::UnknownIssuer if is_self_issued() => Refusal::SelfSigned { claim },
        webpki::Error::UnknownIssuer => Refusal::UnknownRoot { claim },
        webpki::Error::RequiredEkuNotFoundContext(_)
        | webpki::Error::EmptyEkuExtension
        | webpki::Error::CaUsedAsEndEntity => Refusal::Purpose { claim },
        source => Refusal::Chain { claim, source },
    }
}

impl ClientCertVerifier for PeerVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Every peer has one identity; there is nothing for it to choose.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify(end_entity, intermediates, Side::Client, now)
            .map(|_| ClientCertVerified::assertion())
            .map_err(Refusal::into_tls)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::SupportedVersionsExtensionRequired.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(end_entity, intermediates, Side::Server, now)
            .map(|_| ServerCertVerified::assertion())
            .map_err(Refusal::into_tls)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::SupportedVersionsExtensionRequired.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
