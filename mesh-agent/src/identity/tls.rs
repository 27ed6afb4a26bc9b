//! TLS as a service account: its key, its certificate, and the configurations made from them.
//!
//! The store publishes an [`Identity`] for each local service account; listener and upstream take configurations from
//! it. Invariants: TLS 1.3 only, both sides prove who they are, no name is sent in the clear. Session tickets belong to
//! one `Identity`, that is to one certificate and one version of the bundle (and, for a client, to one set of expected
//! peers): a renewal or a new root makes every next handshake a full one.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::SystemTime;

use mesh_common::model::SpiffeId;
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs::{self, Ticketer, cipher_suite, kx_group};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, Error, ServerConfig, version::TLS13};
use rustls_pki_types::{CertificateDer, ServerName};

use super::bundle::TrustBundle;
use super::certificate::Facts;
use super::clock::Clock;
use super::refusal::Expected;
use super::verify::PeerVerifier;

/// The application protocols of a connection, the preferred one first.
pub type Alpn = &'static [&'static [u8]];

/// A service account that can prove who it is.
pub struct Identity {
    id: SpiffeId,
    key: Arc<CertifiedKey>,
    facts: Facts,
    bundle: Arc<TrustBundle>,
    clock: Clock,
    servers: Cache<Alpn, ServerConfig>,
    clients: Cache<(Expected, Alpn), ClientConfig>,
}

/// Servers (by address) whose tickets a client configuration keeps; 8 tickets each.
const REMEMBERED_SERVERS: usize = 32;
const TICKETS_PER_SERVER: usize = 8;
/// Each handshake uses one ticket up and brings one.
const TICKETS_PER_HANDSHAKE: usize = 1;
/// Configurations kept for one identity. A mesh with more destinations makes some of them anew, and pays with full
/// handshakes.
const MAX_CONFIGS: usize = 4096;

static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        kx_groups: vec![
            kx_group::X25519MLKEM768,
            kx_group::X25519,
            kx_group::SECP256R1,
            kx_group::SECP384R1,
        ],
        ..aws_lc_rs::default_provider()
    })
});

impl Identity {
    pub(super) fn new(
        id: SpiffeId,
        key: Arc<CertifiedKey>,
        facts: Facts,
        bundle: Arc<TrustBundle>,
        clock: Clock,
    ) -> Self {
        Self {
            id,
            key,
            facts,
            bundle,
            clock,
            servers: Cache::default(),
            clients: Cache::default(),
        }
    }

    /// The same key and certificate with other roots to believe.
    pub(super) fn with_bundle(&self, bundle: Arc<TrustBundle>) -> Self {
        let (key, clock) = (Arc::clone(&self.key), self.clock.clone());
        Self::new(self.id.clone(), key, self.facts.clone(), bundle, clock)
    }

    /// Who it is.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// What its certificate says.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The certificates that prove it, its own first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.key.cert
    }

    /// When the first of those ends that signed its certificate; none when a root did.
    pub fn signers_until(&self) -> Option<SystemTime> {
        let signers = self.chain().iter().skip(1);
        signers
            .filter_map(|signer| Some(Facts::of(signer).ok()?.not_after))
            .min()
    }

    /// The roots that its peers must lead to.
    pub fn bundle(&self) -> &Arc<TrustBundle> {
        &self.bundle
    }

    /// The clock that its certificates are judged by.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// For connections that others open: any identity of our trust domain may come.
    pub fn server_config(&self, alpn: Alpn) -> Result<Arc<ServerConfig>, Error> {
        self.servers.get_or_make(alpn, || self.make_server(alpn))
    }

    /// For connections that we open to one of the `expected`.
    pub fn client_config(&self, expected: Expected, alpn: Alpn) -> Result<Arc<ClientConfig>, Error> {
        let key = (expected, alpn);
        let expected = key.0.clone();
        self.clients.get_or_make(key, || self.make_client(expected, alpn))
    }

    fn make_server(&self, alpn: Alpn) -> Result<ServerConfig, Error> {
        let verifier = PeerVerifier::new(Arc::clone(&self.bundle), Expected::OurDomain, algorithms());
        let mut config =
            ServerConfig::builder_with_details(Arc::clone(&PROVIDER), Arc::new(self.clock.clone()))
                .with_protocol_versions(&[&TLS13])?
                .with_client_cert_verifier(Arc::new(verifier))
                .with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&self.key))));
        config.alpn_protocols = owned(alpn);
        config.ticketer = Ticketer::new()?;
        config.send_tls13_tickets = TICKETS_PER_HANDSHAKE;
        Ok(config)
    }

    fn make_client(&self, expected: Expected, alpn: Alpn) -> Result<ClientConfig, Error> {
        let verifier = PeerVerifier::new(Arc::clone(&self.bundle), expected, algorithms());
        let mut config =
            ClientConfig::builder_with_details(Arc::clone(&PROVIDER), Arc::new(self.clock.clone()))
                .with_protocol_versions(&[&TLS13])?
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(verifier))
                .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&self.key))));
        config.alpn_protocols = owned(alpn);
        config.enable_sni = false;
        config.resumption = Resumption::in_memory_sessions(REMEMBERED_SERVERS * TICKETS_PER_SERVER);
        Ok(config)
    }
}

/// What rustls is to call a server: its address, which finds tickets again and is never sent.
pub fn server_name(address: IpAddr) -> ServerName<'static> {
    ServerName::IpAddress(address.into())
}

/// How signatures in certificates and handshakes are verified.
pub(super) fn algorithms() -> WebPkiSupportedAlgorithms {
    PROVIDER.signature_verification_algorithms
}

fn owned(alpn: Alpn) -> Vec<Vec<u8>> {
    alpn.iter().map(|protocol| protocol.to_vec()).collect()
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({}, certificate {})", self.id, self.facts.serial)
    }
}

/// Configurations that were made already. The lock is held for a look-up, or while one is made the first time.
struct Cache<K, C>(Mutex<HashMap<K, Arc<C>>>);

impl<K, C> Default for Cache<K, C> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash, C> Cache<K, C> {
    fn get_or_make(&self, key: K, make: impl FnOnce() -> Result<C, Error>) -> Result<Arc<C>, Error> {
        // A panic while the lock is held leaves the map as it was.
        let mut made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(config) = made.get(&key) {
            return Ok(Arc::clone(config));
        }
        let config = Arc::new(make()?);
        if made.len() >= MAX_CONFIGS {
            made.clear();
        }
        made.insert(key, Arc::clone(&config));
        Ok(config)
    }
}
