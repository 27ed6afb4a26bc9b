//! Authorities, identities and a wire without sockets.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mesh_common::model::{SpiffeId, TrustDomain};
use rcgen::{CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, KeyPair, SanType};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, ServerConfig, ServerConnection};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::identity::authority::Authority;
use crate::identity::{
    Clock, Credentials, Expected, Facts, Identity, LeafKey, PeerIdentity, Refusal, Roots, TrustBundle,
    server_name,
};

pub(crate) const HOUR: Duration = Duration::from_secs(3600);
pub(crate) const ALPN: &[&[u8]] = &[b"nodemesh/test"];

/// A clock that tests move.
#[derive(Clone)]
pub(crate) struct Hand {
    moved: Arc<AtomicU64>,
    /// Where tokio's clock, which is paused, stood at noon.
    origin: Option<tokio::time::Instant>,
}

impl Hand {
    pub(crate) fn at_noon() -> Self {
        Self {
            moved: Arc::default(),
            origin: None,
        }
    }

    /// Moves when the test sleeps.
    pub(crate) fn with_tokio() -> Self {
        Self {
            origin: Some(tokio::time::Instant::now()),
            ..Self::at_noon()
        }
    }

    pub(crate) fn advance(&self, by: Duration) {
        self.moved.fetch_add(by.as_millis() as u64, Ordering::SeqCst);
    }

    pub(crate) fn now(&self) -> SystemTime {
        let slept = self.origin.map(|origin| origin.elapsed()).unwrap_or_default();
        let moved = Duration::from_millis(self.moved.load(Ordering::SeqCst));
        UNIX_EPOCH + Duration::from_secs(1_700_000_000) + moved + slept
    }

    pub(crate) fn clock(&self) -> Clock {
        let hand = self.clone();
        Clock::new(move || hand.now())
    }
}

pub(crate) fn domain(name: &str) -> TrustDomain {
    name.parse().unwrap()
}

pub(crate) fn id(text: &str) -> SpiffeId {
    format!("spiffe://{text}").parse().unwrap()
}

/// A mesh with one root and one intermediate.
pub(crate) struct Mesh {
    pub(crate) hand: Hand,
    pub(crate) root: Authority,
    pub(crate) node: Authority,
}

impl Mesh {
    pub(crate) fn new(trust_domain: &str, hand: &Hand) -> Self {
        let root = Authority::new_root(&domain(trust_domain), 1000 * HOUR, hand.now()).unwrap();
        let node = root.intermediate("n1", 500 * HOUR, hand.now()).unwrap();
        Self {
            hand: hand.clone(),
            root,
            node,
        }
    }

    pub(crate) fn bundle(&self) -> Arc<TrustBundle> {
        bundle(&[&self.root], 1)
    }

    /// As the store makes it.
    pub(crate) fn identity(&self, name: &str) -> Identity {
        self.identity_for(name, 24 * HOUR, self.bundle())
    }

    pub(crate) fn identity_for(&self, name: &str, lifetime: Duration, bundle: Arc<TrustBundle>) -> Identity {
        let (id, key) = (id(name), LeafKey::generate().unwrap());
        let csr = key.request(&id).unwrap();
        let chain = self.node.leaf(&csr, &id, lifetime, self.hand.now()).unwrap();
        let key = CertifiedKey::new(chain, key.signing_key().unwrap());
        with_key(id, key, bundle, self.hand.clock())
    }

    /// With a certificate that our authority would not sign.
    pub(crate) fn odd_identity(&self, change: impl FnOnce(&mut CertificateParams)) -> Identity {
        let key = KeyPair::generate().unwrap();
        let mut chain = self.node.sign_anything(&self.odd_params(change), &key);
        chain.push(self.node.certificate().clone());
        self.present(&key, chain)
    }

    pub(crate) fn odd_params(&self, change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.not_before = (self.hand.now() - HOUR).into();
        params.not_after = (self.hand.now() + HOUR).into();
        params.subject_alt_names = vec![uri("spiffe://mesh/ns/a/sa/odd")];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ClientAuth,
            ExtendedKeyUsagePurpose::ServerAuth,
        ];
        change(&mut params);
        params
    }

    pub(crate) fn present(&self, key: &KeyPair, chain: Vec<CertificateDer<'static>>) -> Identity {
        let der = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let signing = rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&der).unwrap();
        let key = CertifiedKey::new(chain, signing);
        with_key(id("mesh/ns/a/sa/odd"), key, self.bundle(), self.hand.clock())
    }
}

fn with_key(id: SpiffeId, key: CertifiedKey, bundle: Arc<TrustBundle>, clock: Clock) -> Identity {
    let facts = Facts::of(&key.cert[0]).unwrap();
    Identity::new(id, Arc::new(key), facts, bundle, clock)
}

pub(crate) fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

pub(crate) fn bundle(roots: &[&Authority], version: u64) -> Arc<TrustBundle> {
    let roots = Roots {
        trust_domain: roots[0].trust_domain().clone(),
        certificates: roots.iter().map(|root| root.certificate().clone()).collect(),
    };
    Arc::new(TrustBundle::new(&roots, version).unwrap())
}

/// What each side made of the other.
#[derive(Debug)]
pub(crate) struct Met {
    pub(crate) by_client: Result<PeerIdentity, Refusal>,
    pub(crate) by_server: Result<PeerIdentity, Refusal>,
    pub(crate) resumed: bool,
    pub(crate) alpn: Option<Vec<u8>>,
    pub(crate) group: Option<rustls::NamedGroup>,
    /// Everything the client said in the clear and sealed.
    pub(crate) first_flight: Vec<u8>,
}

/// `client` dials `server`, expecting `expected`.
pub(crate) fn meet(client: &Identity, server: &Identity, expected: Expected) -> Met {
    shake(
        client.client_config(expected, ALPN).unwrap(),
        server.server_config(ALPN).unwrap(),
        server.clock(),
    )
}

/// What each side keeps of the other when `client` has dialled `server`.
pub(crate) fn credentials(client: &Identity, server: &Identity, expected: Expected) -> [Arc<Credentials>; 2] {
    let config = client.client_config(expected, ALPN).unwrap();
    let mut dialled = ClientConnection::new(config, server_name([192, 0, 2, 1].into())).unwrap();
    let mut accepted = ServerConnection::new(server.server_config(ALPN).unwrap()).unwrap();
    while dialled.is_handshaking() || accepted.is_handshaking() {
        let mut wire = Vec::new();
        while dialled.wants_write() {
            dialled.write_tls(&mut wire).unwrap();
        }
        feed(&wire, |wire| accepted.read_tls(wire));
        accepted.process_new_packets().unwrap();
        let mut wire = Vec::new();
        while accepted.wants_write() {
            accepted.write_tls(&mut wire).unwrap();
        }
        feed(&wire, |wire| dialled.read_tls(wire));
        dialled.process_new_packets().unwrap();
    }
    [
        Credentials::of_server(&dialled, client).unwrap(),
        Credentials::of_client(&accepted, server).unwrap(),
    ]
}

pub(crate) fn shake(client: Arc<ClientConfig>, server: Arc<ServerConfig>, clock: &Clock) -> Met {
    let mut client = ClientConnection::new(client, server_name([192, 0, 2, 1].into())).unwrap();
    let mut server = ServerConnection::new(server).unwrap();
    let (mut client_error, mut server_error) = (None, None);
    let mut first_flight = Vec::new();
    // More flights than any handshake with its tickets and alerts has.
    for _ in 0..6 {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        if first_flight.is_empty() {
            first_flight.clone_from(&wire);
        }
        feed(&wire, |wire| server.read_tls(wire));
        server_error = server_error.or(server.process_new_packets().err());
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        feed(&wire, |wire| client.read_tls(wire));
        client_error = client_error.or(client.process_new_packets().err());
    }
    let judge = |error: Option<rustls::Error>, state: &rustls::CommonState| match error {
        Some(error) => Err(Refusal::of(&error)),
        None => PeerIdentity::of(state, clock),
    };
    Met {
        by_client: judge(client_error, &client),
        by_server: judge(server_error, &server),
        resumed: server.handshake_kind() == Some(HandshakeKind::Resumed),
        alpn: client.alpn_protocol().map(<[u8]>::to_vec),
        group: client.negotiated_key_exchange_group().map(|group| group.name()),
        first_flight,
    }
}

fn feed(mut wire: &[u8], mut read: impl FnMut(&mut dyn std::io::Read) -> std::io::Result<usize>) {
    // A side that has failed takes no more.
    while !wire.is_empty() && read(&mut wire).is_ok_and(|taken| taken > 0) {}
}
