//! What the two ends of a connection proved, kept for as long as it stands.
//!
//! Whoever completed a handshake makes [`Credentials`] of it and asks again when the roots have changed. Invariants:
//! a chain that leads to no root any more is not believed any more; that a certificate has expired meanwhile says
//! nothing about who was there when the connection was made, so it counts only for what is new
//! ([`Credentials::until`]).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::CommonState;
use rustls_pki_types::{CertificateDer, UnixTime};

use super::bundle::TrustBundle;
use super::certificate::Facts;
use super::refusal::{Expected, Refusal};
use super::tls::{Identity, algorithms};
use super::verify::{PeerVerifier, Side};

/// Both chains of one connection.
#[derive(Debug)]
pub struct Credentials {
    peer: (Vec<CertificateDer<'static>>, Side),
    own: (Vec<CertificateDer<'static>>, Side),
    /// When both were found good.
    since: UnixTime,
    until: SystemTime,
    judged: Mutex<Judgement>,
}

/// What was found last, by which roots.
#[derive(Debug)]
struct Judgement {
    version: u64,
    refusal: Option<Refusal>,
}

impl Credentials {
    /// Of a connection that somebody opened to us, who are `identity`.
    pub fn of_client(connection: &CommonState, identity: &Identity) -> Result<Arc<Self>, Refusal> {
        Self::new(connection, identity, Side::Client, Side::Server)
    }

    /// Of a connection that we opened, as `identity`.
    pub fn of_server(connection: &CommonState, identity: &Identity) -> Result<Arc<Self>, Refusal> {
        Self::new(connection, identity, Side::Server, Side::Client)
    }

    fn new(
        connection: &CommonState,
        identity: &Identity,
        theirs: Side,
        ours: Side,
    ) -> Result<Arc<Self>, Refusal> {
        let peer = connection.peer_certificates().unwrap_or_default();
        let peer: Vec<_> = peer.iter().map(|one| one.clone().into_owned()).collect();
        let mut until = Err(Refusal::NoCertificate);
        for certificate in &peer {
            let facts = Facts::of(certificate).map_err(|_| Refusal::Unreadable)?;
            until = Ok(until.map_or(facts.not_after, |until: SystemTime| until.min(facts.not_after)));
        }
        let now = identity.clock().now();
        Ok(Arc::new(Self {
            until: until?,
            peer: (peer, theirs),
            own: (identity.chain().to_vec(), ours),
            since: UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).unwrap_or_default()),
            judged: Mutex::new(Judgement {
                version: identity.bundle().version(),
                refusal: None,
            }),
        }))
    }

    /// The last moment at which something new may rely on them.
    pub fn until(&self) -> SystemTime {
        self.until
    }

    /// Whether both chains still lead to a root of `bundle`. Judged once for each version of it.
    pub fn check(&self, bundle: &Arc<TrustBundle>) -> Result<(), Refusal> {
        let mut judged = self.judged.lock().unwrap_or_else(PoisonError::into_inner);
        if judged.version != bundle.version() {
            judged.version = bundle.version();
            judged.refusal = self.judge(bundle).err();
        }
        judged.refusal.clone().map_or(Ok(()), Err)
    }

    fn judge(&self, bundle: &Arc<TrustBundle>) -> Result<(), Refusal> {
        let verifier = PeerVerifier::new(Arc::clone(bundle), Expected::OurDomain, algorithms());
        for (chain, side) in [&self.peer, &self.own] {
            let (leaf, others) = chain.split_first().ok_or(Refusal::NoCertificate)?;
            verifier.verify(leaf, others, *side, self.since)?;
        }
        Ok(())
    }
}
